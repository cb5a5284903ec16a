//! chrony's files (chrony.conf(5)). Pure.

/// Before a line of the distribution's that is left out while the plan names servers.
const OUT: &str = "#fleet# ";
/// Directives that name a source of time.
const SOURCES: [&str; 3] = ["pool", "server", "peer"];
/// What has chrony read the folder with the plan's servers.
const INCLUDE: &str = "sourcedir /etc/chrony/sources.d";

/// The file with the plan's servers; `None` without any.
pub(super) fn sources(servers: &[String]) -> Option<String> {
    if servers.is_empty() {
        return None;
    }
    // Four quick questions at start: the clock is right within seconds.
    Some(servers.iter().map(|server| format!("server {server} iburst\n")).collect())
}

/// chrony's own file with the distribution's sources left out, or taken in again; what is changed, if anything.
pub(super) fn edit(now: &str, leave_out: bool) -> (String, Option<String>) {
    let mut touched = Vec::new();
    let mut new = String::with_capacity(now.len() + 64);
    for line in now.split_inclusive('\n') {
        let word = line.split_whitespace().next().unwrap_or_default();
        match line.strip_prefix(OUT) {
            None if leave_out && SOURCES.contains(&word) => {
                touched.push(line.trim().to_owned());
                new.push_str(OUT);
                new.push_str(line);
            }
            Some(theirs) if !leave_out => {
                touched.push(theirs.trim().to_owned());
                new.push_str(theirs);
            }
            _ => new.push_str(line),
        }
    }
    let verb = if leave_out { "leave out" } else { "take in again" };
    let mut change =
        (!touched.is_empty()).then(|| format!("{verb} the distribution's `{}`", touched.join("`, `")));
    if leave_out && !now.lines().any(|line| line.trim() == INCLUDE) {
        if !new.is_empty() && !new.ends_with('\n') {
            new.push('\n');
        }
        new.push_str(INCLUDE);
        new.push('\n');
        change.get_or_insert_with(|| "have chrony read /etc/chrony/sources.d".into());
    }
    (new, change)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "confdir /etc/chrony/conf.d\npool 2.debian.pool.ntp.org iburst\n# server x\n\
                          sourcedir /etc/chrony/sources.d\nmakestep 1 3\n";

    #[test]
    fn the_distributions_sources_go_and_come_back() {
        let (out, change) = edit(DEBIAN, true);
        assert!(out.contains("\n#fleet# pool 2.debian.pool.ntp.org iburst\n# server x\n"), "{out}");
        assert_eq!(
            change.as_deref(),
            Some("leave out the distribution's `pool 2.debian.pool.ntp.org iburst`")
        );
        assert_eq!(edit(&out, true), (out.clone(), None), "a second time changes nothing");
        assert_eq!(edit(&out, false).0, DEBIAN, "to the last byte");
        assert_eq!(edit(DEBIAN, false), (DEBIAN.to_owned(), None));
    }

    #[test]
    fn a_file_that_does_not_read_the_folder_is_told_to() {
        let (text, change) = edit("makestep 1 3", true);
        assert_eq!(text, "makestep 1 3\nsourcedir /etc/chrony/sources.d\n");
        assert_eq!(change.as_deref(), Some("have chrony read /etc/chrony/sources.d"));
    }

    #[test]
    fn servers_are_one_line_each() {
        assert_eq!(sources(&[]), None);
        let two = ["ntp.example".to_owned(), "2001:db8::1".to_owned()];
        assert_eq!(sources(&two).as_deref(), Some("server ntp.example iburst\nserver 2001:db8::1 iburst\n"));
    }
}
