//! Who may open a session: pure.

use fleet_model::{NodeName, Timestamp};
use fleet_proto::refusal::{Refusal, RefusalKind};

/// A session as far as admission is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present<'a> {
    /// The machine it comes from; see `Hello.machine`.
    pub machine: &'a str,
    /// When it last said anything.
    pub last_seen: Timestamp,
    /// Whether it has been silent for too long.
    pub silent: bool,
}

/// What happens to a newcomer.
#[derive(Clone, Debug, PartialEq)]
pub enum Admission {
    /// It gets the session; an older one ends.
    Enter,
    /// Another machine is at work under this name: the newcomer is the clone, whoever it is.
    Refuse(Refusal),
}

/// Newest wins, unless a live session comes from another machine: then the node already at work stays.
pub fn admit(node: &NodeName, present: Option<Present<'_>>, machine: &str) -> Admission {
    match present {
        Some(present) if present.machine != machine && !present.silent => Admission::Refuse(Refusal::new(
            RefusalKind::RefusalClone,
            format!("node `{node}` is at work on another machine, last heard of at {}", present.last_seen),
            "if this machine was copied from that one, delete /var/lib/fleet-agent here; \
                 if it replaces it, stop the other and run `fleetctl up`",
        )),
        _ => Admission::Enter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_wins_but_never_a_clone() {
        let node: NodeName = "web-1".parse().expect("a name");
        let present =
            |silent| Some(Present { machine: "m1", last_seen: Timestamp::from_millis(100), silent });
        let check = |present, machine, enters: bool| {
            let admitted = admit(&node, present, machine) == Admission::Enter;
            assert_eq!(admitted, enters, "{present:?} {machine}");
        };
        check(None, "m1", true);
        check(present(false), "m1", true);
        check(present(true), "m1", true);
        check(present(false), "m2", false);
        check(present(true), "m2", true);
    }
}
