//! What a server of the cluster is to be, checked, and the instance file that says so. Pure.
//!
//! Seen on RethinkDB 2.4.4: a server does not remember its peers over a restart, so its file keeps a `join` line for
//! every other member. One that answers is enough; but a server that has join lines and finds nobody takes no queries
//! until somebody connects, so the founder starts without any.

use std::{collections::BTreeSet, net::IpAddr};

use fleet_proto::v1::RethinkdbTask;
use fleet_task::TaskError;

use super::cluster::CLUSTER_PORT;

/// Copies of key, certificate and trust that the server may read.
pub(super) const TLS: [&str; 3] =
    ["/etc/rethinkdb/tls/key.pem", "/etc/rethinkdb/tls/cert.pem", "/etc/rethinkdb/tls/ca.pem"];
/// Memory for everything beside the cache: the server itself, the system, the web application.
const BESIDE_MIB: u64 = 512;
/// Less than this helps nobody.
const LEAST_CACHE_MIB: u64 = 64;
/// Caches differ in steps of this, so that a few pages more or less mean nothing.
const STEP_MIB: u64 = 64;
/// Longest name of an instance, server or tag.
const MAX_NAME: usize = 64;
/// Lines of difference shown.
const SHOWN: usize = 8;

/// Another server of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) address: IpAddr,
}

/// A server of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) instance: String,
    pub(super) name: String,
    pub(super) tags: BTreeSet<String>,
    pub(super) address: IpAddr,
    /// The others, each address once.
    pub(super) others: Vec<Member>,
    pub(super) seed: bool,
    cache_mb: u32,
}

fn refuse(why: String) -> TaskError {
    TaskError::Refused { why, next: "correct the plan".into() }
}

fn word(what: &str, text: &str) -> Result<(), TaskError> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(fine) && !text.starts_with('-') {
        return Ok(());
    }
    Err(refuse(format!("`{}` is no {what}: letters, digits, `_` and `-` make one", text.escape_debug())))
}

fn address(text: &str) -> Result<IpAddr, TaskError> {
    match text.parse::<IpAddr>() {
        Ok(address) if !address.is_unspecified() && !address.is_multicast() => Ok(address),
        _ => Err(refuse(format!("`{}` is no address of a server", text.escape_debug()))),
    }
}

impl Settings {
    /// What a plan says, checked: nothing of it may be more than one word of one line.
    pub(super) fn read(spec: &RethinkdbTask) -> Result<Self, TaskError> {
        word("name of an instance", &spec.instance)?;
        word("name of a server", &spec.server_name)?;
        spec.server_tags.iter().try_for_each(|tag| word("tag of a server", tag))?;
        let own = address(&spec.canonical_address)?;
        let mut others: Vec<Member> = Vec::new();
        let mut included = false;
        for member in &spec.members {
            word("name of a server", &member.server_name)?;
            let address = address(&member.address)?;
            match (member.server_name == spec.server_name, address == own) {
                (true, true) => included = true,
                (true, false) => {
                    return Err(refuse(format!("two servers are called `{}`", member.server_name)));
                }
                (false, true) => {
                    return Err(refuse(format!(
                        "`{}` has this node's own address {own}",
                        member.server_name
                    )));
                }
                (false, false) => {
                    if !others.iter().any(|other| other.address == address) {
                        others.push(Member { name: member.server_name.clone(), address });
                    }
                }
            }
        }
        if !included {
            return Err(refuse(format!(
                "`{}` is not among the members of its own cluster",
                spec.server_name
            )));
        }
        others.sort();
        Ok(Self {
            instance: spec.instance.clone(),
            name: spec.server_name.clone(),
            tags: spec.server_tags.iter().cloned().collect(),
            address: own,
            others,
            seed: spec.seed,
            cache_mb: spec.cache_mb,
        })
    }

    pub(super) fn unit(&self) -> String {
        format!("rethinkdb@{}.service", self.instance)
    }

    pub(super) fn file(&self) -> String {
        format!("/etc/rethinkdb/instances.d/{}.conf", self.instance)
    }

    pub(super) fn data(&self) -> String {
        format!("/var/lib/rethinkdb/{}", self.instance)
    }

    /// The instance file on a node with this much memory; `now` is the file there is.
    pub(super) fn render(&self, joins: bool, memory_kib: u64, now: Option<&str>) -> String {
        let [key, certificate, ca] = TLS;
        let mut lines = vec![
            "# Written by fleet-agent; what is changed in here by hand is changed back.".to_owned(),
            format!("server-name={}", self.name),
        ];
        lines.extend(self.tags.iter().map(|tag| format!("server-tag={tag}")));
        lines.extend([
            format!("directory={}", self.data()),
            "bind-cluster=all".into(),
            "bind-http=all".into(),
            format!("canonical-address={}", dial(self.address)),
            format!("cluster-tls-key={key}"),
            format!("cluster-tls-cert={certificate}"),
            format!("cluster-tls-ca={ca}"),
            format!("http-tls-key={key}"),
            format!("http-tls-cert={certificate}"),
            format!("cache-size={}", self.cache(memory_kib, now)),
            "no-update-check".into(),
        ]);
        if joins {
            lines.extend(self.others.iter().map(|member| format!("join={}", dial(member.address))));
        }
        lines.push(String::new());
        lines.join("\n")
    }

    /// Megabytes of cache: as asked, or a share of the memory. One chosen earlier stays while it is about right: a
    /// kernel that keeps some more memory for itself is no reason to restart a database.
    fn cache(&self, memory_kib: u64, now: Option<&str>) -> u64 {
        if self.cache_mb > 0 {
            return self.cache_mb.into();
        }
        let chosen = share(memory_kib / 1024);
        let before =
            now.and_then(|text| text.lines().find_map(|line| line.strip_prefix("cache-size=")?.parse().ok()));
        before.filter(|before| chosen.abs_diff(*before) <= STEP_MIB).unwrap_or(chosen)
    }
}

/// A third of what is left beside everything else, at least 64 MiB, at most half of all.
fn share(memory: u64) -> u64 {
    let third = memory.saturating_sub(BESIDE_MIB) / 3;
    (third / STEP_MIB * STEP_MIB).min(memory / 2).max(LEAST_CACHE_MIB)
}

fn dial(address: IpAddr) -> String {
    std::net::SocketAddr::new(address, CLUSTER_PORT).to_string()
}

/// Whether an instance file has a server dial others.
pub(super) fn joins(file: &str) -> bool {
    file.lines().any(|line| line.starts_with("join="))
}

/// What a running server has taken from its file: everything but comments, whom it dials, and what counts only when
/// its data directory is made.
pub(super) fn essence(file: &str) -> String {
    const ELSEWHERE: [&str; 4] = ["#", "join=", "server-name=", "server-tag="];
    let counts =
        |line: &&str| !line.trim().is_empty() && !ELSEWHERE.iter().any(|start| line.starts_with(start));
    file.lines().filter(counts).collect::<Vec<_>>().join("\n")
}

/// What differs between two instance files, one line each.
pub(super) fn difference(now: &str, wanted: &str) -> Vec<String> {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (now, wanted) = (lines(now), lines(wanted));
    let gone = now.difference(&wanted).map(|line| format!("without `{line}`"));
    let come = wanted.difference(&now).map(|line| format!("with `{line}`"));
    let mut all: Vec<String> = gone.chain(come).collect();
    if all.len() > SHOWN {
        let more = all.len() - SHOWN;
        all.truncate(SHOWN);
        all.push(format!("{more} lines more"));
    }
    all
}

#[cfg(test)]
pub(super) mod tests {
    use fleet_proto::v1::RethinkdbMember;

    use super::*;

    pub(in super::super) fn member(name: &str, address: &str) -> RethinkdbMember {
        RethinkdbMember { server_name: name.into(), address: address.into(), tag: "Amsterdam".into() }
    }

    pub(in super::super) fn spec() -> RethinkdbTask {
        RethinkdbTask {
            instance: "fleet".into(),
            server_name: "EU6".into(),
            server_tags: vec!["Amsterdam".into()],
            canonical_address: "2001:db8::6".into(),
            members: vec![
                member("EU7seed", "2001:db8::7"),
                member("EU6", "2001:db8::6"),
                member("EU8", "2001:db8::8"),
            ],
            ..RethinkdbTask::default()
        }
    }

    const GIB: u64 = 1 << 20;

    #[test]
    fn the_file_of_a_joiner() {
        let settings = Settings::read(&spec()).expect("fine");
        let expected = "\
# Written by fleet-agent; what is changed in here by hand is changed back.
server-name=EU6
server-tag=Amsterdam
directory=/var/lib/rethinkdb/fleet
bind-cluster=all
bind-http=all
canonical-address=[2001:db8::6]:29015
cluster-tls-key=/etc/rethinkdb/tls/key.pem
cluster-tls-cert=/etc/rethinkdb/tls/cert.pem
cluster-tls-ca=/etc/rethinkdb/tls/ca.pem
http-tls-key=/etc/rethinkdb/tls/key.pem
http-tls-cert=/etc/rethinkdb/tls/cert.pem
cache-size=576
no-update-check
join=[2001:db8::7]:29015
join=[2001:db8::8]:29015
";
        let file = settings.render(true, 2 * GIB + 200 * 1024, None);
        assert_eq!(file, expected);
        assert!(joins(&file) && !joins(&settings.render(false, GIB, None)));
        assert_eq!(essence(&file), essence(&settings.render(false, 2 * GIB, Some(&file))));
    }

    #[test]
    fn caches_leave_room_for_the_rest() {
        for (memory, expected) in
            [(256, 64), (512, 64), (980, 128), (2000, 448), (4096, 1152), (16_000, 5120)]
        {
            assert_eq!(share(memory), expected, "{memory} MiB");
            assert!(share(memory) <= (memory / 2).max(LEAST_CACHE_MIB));
        }
        let settings = Settings::read(&spec()).expect("fine");
        assert_eq!(settings.cache(980 * 1024, Some("x=1\ncache-size=192\n")), 192, "about right");
        assert_eq!(settings.cache(980 * 1024, Some("cache-size=4096\n")), 128);
        let asked = Settings { cache_mb: 300, ..settings };
        assert_eq!(asked.cache(980 * 1024, Some("cache-size=192\n")), 300);
    }

    #[test]
    fn what_would_break_a_cluster_is_refused() {
        let check = |edit: fn(&mut RethinkdbTask), expected: &str| {
            let mut spec = spec();
            edit(&mut spec);
            let error = Settings::read(&spec).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(|s| s.instance = "../x".into(), "no name of an instance");
        check(|s| s.server_name = "a.b".into(), "no name of a server");
        check(|s| s.server_name = "a\njoin=6.6.6.6".into(), "no name of a server");
        check(|s| s.server_tags.push(String::new()), "no tag of a server");
        check(|s| s.canonical_address = "::".into(), "no address of a server");
        check(|s| s.canonical_address = "2001:db8::6\n".into(), "no address of a server");
        check(|s| s.members[0].address = "seed".into(), "`seed` is no address");
        check(|s| s.members[0].server_name = "EU6".into(), "two servers are called `EU6`");
        check(|s| s.members[0].address = "2001:db8::6".into(), "has this node's own address");
        check(|s| s.members.retain(|m| m.server_name != "EU6"), "not among the members");
    }

    #[test]
    fn an_address_is_dialled_once() {
        let mut spec = spec();
        spec.members.push(member("EU7again", "2001:db8::7"));
        let settings = Settings::read(&spec).expect("fine");
        assert_eq!(settings.others.iter().filter(|other| other.address == spec_seed()).count(), 1);
    }

    fn spec_seed() -> IpAddr {
        "2001:db8::7".parse().expect("address")
    }

    #[test]
    fn differences_are_short() {
        assert_eq!(difference("a=1\nb=2\n", "a=1\nb=3\n"), ["without `b=2`", "with `b=3`"]);
        let many: String = (0..20).map(|n| format!("k{n}=1\n")).collect();
        assert_eq!(difference("", &many).last().map(String::as_str), Some("12 lines more"));
    }
}
