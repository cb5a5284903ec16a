//! Where the image's packages come from: the mirror this host is configured to use.

use super::recipe::SUITE;
use crate::{backing::BackingError, machines::run::Program};

/// What `apt-get indextargets` is asked to print for each package list.
const FORMAT: &str = "$(REPO_URI) $(RELEASE) $(COMPONENT)";

/// Lines for the image's `sources.list`: from `mirror` if given, else as this host's apt has them.
pub async fn sources(mirror: Option<&str>) -> Result<String, BackingError> {
    if let Some(mirror) = mirror {
        return Ok(from_mirror(mirror));
    }
    let listed = Program::new("apt-get")
        .args(["indextargets", "--format", FORMAT, "Created-By: Packages"])
        .run("read this host's apt sources")
        .await?;
    from_host(&listed).ok_or_else(|| BackingError::Host {
        what: format!("this host's apt has no source for Debian {SUITE}, of which the machine image is made"),
        fix: "name a mirror: export FLEET_MIRROR=http://HOST/debian".into(),
    })
}

/// Proxy that apt is configured to use on this host, if any: the image's build needs the same.
pub async fn proxy() -> Result<Option<String>, BackingError> {
    let set = Program::new("apt-config")
        .args(["shell", "PROXY", "Acquire::http::Proxy"])
        .run("read this host's apt proxy")
        .await?;
    let value = set.trim().strip_prefix("PROXY=").map(|value| value.trim_matches('\''));
    Ok(value.filter(|value| !value.is_empty() && *value != "DIRECT").map(str::to_owned))
}

fn from_mirror(mirror: &str) -> String {
    let mirror = mirror.trim_end_matches('/');
    format!("deb {mirror} {SUITE} main\ndeb {mirror} {SUITE}-updates main\n")
}

/// Keeps what belongs to the suite; other repositories of the host have no business in the image.
fn from_host(listed: &str) -> Option<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut complete = false;
    for entry in listed.lines() {
        let mut words = entry.split_whitespace();
        let (Some(uri), Some(release), Some("main"), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        if release != SUITE && release.strip_prefix(SUITE).is_none_or(|rest| !rest.starts_with('-')) {
            continue;
        }
        // A third party may well call its release like Debian's; Debian's own live in these folders.
        let path = uri.trim_end_matches('/');
        if !path.ends_with("/debian")
            && !path.ends_with("/debian-security")
            && !uri.contains("/archive/debian")
        {
            continue;
        }
        let suffix = release.strip_prefix(SUITE).unwrap_or_default();
        if !["", "-updates", "-security"].contains(&suffix) {
            continue;
        }
        complete |= suffix.is_empty();
        let line = format!("deb {} {release} main", uri.trim_end_matches('/'));
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    complete.then(|| lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_suites_are_kept() {
        let listed = "http://mirror.example/debian/ bookworm main\n\
             http://mirror.example/debian/ bookworm contrib\n\
             http://mirror.example/debian/ bookworm-updates main\n\
             http://mirror.example/debian-security/ bookworm-security main\n\
             http://mirror.example/debian/ bookworm-backports main\n\
             http://mirror.example/debian/ trixie main\n\
             https://vendor.example/tool/ bookworm main\n";
        assert_eq!(
            from_host(listed).expect("has bookworm"),
            "deb http://mirror.example/debian bookworm main\n\
             deb http://mirror.example/debian bookworm-updates main\n\
             deb http://mirror.example/debian-security bookworm-security main\n"
        );
    }

    #[test]
    fn a_host_of_another_release_has_none() {
        assert_eq!(from_host("http://mirror.example/debian/ trixie main\n"), None);
        assert_eq!(from_host("http://mirror.example/debian/ bookworm-updates main\n"), None);
    }

    #[test]
    fn a_named_mirror_is_taken_as_it_is() {
        assert_eq!(
            from_mirror("http://mirror.example/debian/"),
            "deb http://mirror.example/debian bookworm main\n\
             deb http://mirror.example/debian bookworm-updates main\n"
        );
    }
}
