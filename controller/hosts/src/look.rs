//! Looking at a machine before anything is done to it, and judging what was seen. Touches nothing there.

use std::collections::BTreeSet;

use fleet_model::NodeName;

use crate::mark::Mark;

/// Looks; what it says is read by [`Seen::read`]. Everything it says begins with a word of its own: logins say all
/// sorts of things.
pub const SCRIPT: &str = r#"
say() { printf 'fleet-look: %s %s\n' "$1" "$2"; }
say uid "$(id -u)"
say arch "$(uname -m)"
[ -d /run/systemd/system ] && say systemd yes
[ -r /etc/os-release ] && say os "$(. /etc/os-release; printf %s "${PRETTY_NAME:-$ID}")"
[ -s /etc/machine-id ] && say machine "$(cat /etc/machine-id)"
for tool in awk base64 cut df flock gunzip mktemp sed sha256sum; do
    command -v "$tool" >/dev/null || say lacks "$tool"
done
[ -f /etc/fleet-agent/host.json ] && say mark "$(cat /etc/fleet-agent/host.json)"
for path in /etc/systemd/system/fleet-agent.service /usr/local/lib/fleet /var/lib/fleet-agent; do
    [ -e "$path" ] && say agent "$path"
done
say done ""
"#;

/// What was seen of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Who looked; 0 is root.
    pub uid: Option<u32>,
    /// `x86_64`.
    pub arch: String,
    /// Whether systemd runs it.
    pub systemd: bool,
    /// The system, in its own words.
    pub os: String,
    /// The machine's own id.
    pub machine: String,
    /// Programs the seed needs and that are not there.
    pub lacks: Vec<String>,
    /// Whose it is; the text if that cannot be understood.
    pub mark: Option<Result<Mark, String>>,
    /// What there is of an agent.
    pub agent: Vec<String>,
    /// Whether it was looked at to the end.
    pub whole: bool,
}

impl Seen {
    /// Takes one line of what was said; says whether it was one of ours.
    pub fn read(&mut self, line: &str) -> bool {
        let Some(said) = line.strip_prefix("fleet-look: ") else { return false };
        let (word, rest) = said.split_once(' ').unwrap_or((said, ""));
        let rest = rest.trim();
        match word {
            "uid" => self.uid = rest.parse().ok(),
            "arch" => rest.clone_into(&mut self.arch),
            "systemd" => self.systemd = true,
            "os" => rest.clone_into(&mut self.os),
            "machine" => rest.clone_into(&mut self.machine),
            "lacks" => self.lacks.push(rest.to_owned()),
            "mark" => self.mark = Some(serde_json::from_str(rest).map_err(|_| rest.to_owned())),
            "agent" => self.agent.push(rest.to_owned()),
            "done" => self.whole = true,
            _ => {}
        }
        true
    }
}

/// What a machine is to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody's.
    Free,
    /// The node's already.
    Ours,
}

/// Judges what was seen for the node that `mark` names; `nodes` are all of its fleet's plan, `arch` is what the agent
/// runs on.
///
/// # Errors
/// Why the machine cannot be the node's, and what to do about it.
pub fn judge(seen: &Seen, mark: &Mark, nodes: &BTreeSet<NodeName>, arch: &str) -> Result<Standing, String> {
    if !seen.whole {
        return Err("looking at it broke off; try again".to_owned());
    }
    match &seen.mark {
        Some(Err(text)) => {
            return Err(format!(
                "{} there says whose it is, and cannot be understood ({text}); remove it if it is nobody's",
                crate::mark::FILE
            ));
        }
        Some(Ok(other)) if other.id != mark.id => {
            return Err(format!(
                "it belongs to another fleet `{}` as node `{}`; take it out of that fleet's plan first, or bring that \
                 fleet down from where it was brought up",
                other.fleet, other.node
            ));
        }
        Some(Ok(other))
            if other.node != mark.node && nodes.iter().any(|node| node.as_str() == other.node) =>
        {
            return Err(format!("it is node `{}` of this fleet; one machine is one node", other.node));
        }
        None if !seen.agent.is_empty() => {
            return Err(format!(
                "a fleet's agent is there already ({}) and nothing says whose; bring that fleet down where it was \
                 brought up, or remove what is there",
                seen.agent.join(", ")
            ));
        }
        _ => {}
    }
    if seen.uid != Some(0) {
        return Err(
            "whoever logs in is not root there; `login: root`, or somebody who may `sudo` without a password"
                .to_owned(),
        );
    }
    if !seen.systemd {
        return Err("systemd does not run it, and the agent is a service of systemd".to_owned());
    }
    if seen.arch != arch {
        return Err(format!("its processor is {}, and the agent here is for {arch}", seen.arch));
    }
    if !seen.lacks.is_empty() {
        return Err(format!("it lacks {}; install what brings them", seen.lacks.join(", ")));
    }
    let same = matches!(&seen.mark, Some(Ok(held)) if held.node == mark.node);
    Ok(if same { Standing::Ours } else { Standing::Free })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(id: &str, node: &str) -> Mark {
        Mark { fleet: "shop".into(), id: id.into(), node: node.into() }
    }

    fn sound() -> Seen {
        Seen {
            uid: Some(0),
            arch: "x86_64".into(),
            systemd: true,
            whole: true,
            os: "Debian".into(),
            machine: "1".into(),
            ..Seen::default()
        }
    }

    #[test]
    fn a_machine_is_free_ours_or_refused_with_the_reason() {
        let nodes: BTreeSet<NodeName> = ["a", "b"].map(|name| name.parse().expect("a name")).into();
        let check = |seen: Seen, expected: Result<Standing, &str>| {
            let judged = judge(&seen, &mark("1", "a"), &nodes, "x86_64");
            match (judged, expected) {
                (Ok(standing), Ok(wanted)) => assert_eq!(standing, wanted),
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (judged, expected) => panic!("{judged:?} {expected:?}"),
            }
        };
        let marked = |mark| Seen { mark: Some(Ok(mark)), agent: vec!["/x".into()], ..sound() };
        check(sound(), Ok(Standing::Free));
        check(marked(mark("1", "a")), Ok(Standing::Ours));
        // One that was another node before the plan said otherwise.
        check(marked(mark("1", "old")), Ok(Standing::Free));
        check(marked(mark("1", "b")), Err("is node `b` of this fleet"));
        check(marked(mark("2", "a")), Err("another fleet `shop`"));
        check(Seen { agent: vec!["/usr/local/lib/fleet".into()], ..sound() }, Err("nothing says whose"));
        check(Seen { mark: Some(Err("x".into())), ..sound() }, Err("cannot be understood"));
        check(Seen { uid: Some(1000), ..sound() }, Err("not root"));
        check(Seen { systemd: false, ..sound() }, Err("systemd"));
        check(Seen { arch: "aarch64".into(), ..sound() }, Err("aarch64"));
        check(Seen { lacks: vec!["gunzip".into()], ..sound() }, Err("lacks gunzip"));
        check(Seen { whole: false, ..sound() }, Err("broke off"));
    }

    #[test]
    fn the_script_looks_and_touches_nothing() {
        let output = std::process::Command::new("sh").arg("-c").arg(SCRIPT).output().expect("sh");
        let mut seen = Seen::default();
        for line in String::from_utf8(output.stdout).expect("text").lines() {
            assert!(seen.read(line), "{line}");
        }
        assert!(seen.whole && seen.uid.is_some() && !seen.arch.is_empty(), "{seen:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(!seen.read("Welcome"), "what logins say is nobody's business");
    }
}
