//! Who gets a permit: pure.

use std::collections::{BTreeMap, BTreeSet};

use fleet_model::{NodeName, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Ask, Permit};

/// A permit that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What.
    pub permit: Permit,
    /// By whom.
    pub node: NodeName,
    /// Until when, unless asked for again.
    pub until: Timestamp,
}

/// A cluster that was founded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founded {
    /// Who was permitted to.
    pub node: NodeName,
    /// Under which enrolment: the same node with another identity has another disk.
    pub enrolment: String,
    /// Nodes that may hold its data: whoever was permitted to found or join it and has not been destroyed since.
    pub members: BTreeSet<NodeName>,
}

/// A question that waits for its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Who asked.
    pub node: NodeName,
    /// What.
    pub ask: Ask,
}

/// What is decided on a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Grant,
    /// Not now: what is waited for.
    Wait(String),
    /// Not ever, as things are: why.
    Refuse(String),
}

/// What the policy looks at besides its own table.
pub trait Sight {
    /// The first of the task's needs that is not met, in words.
    fn unmet(&self, node: &NodeName, task: &str) -> Option<String>;
    /// A node other than this one that should be there and is silent.
    fn absent(&self, but: &NodeName) -> Option<NodeName>;
    /// The node's present enrolment.
    fn enrolment(&self, node: &NodeName) -> Option<String>;
}

/// What is held and what was founded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    held: BTreeMap<Permit, Held>,
    founded: BTreeMap<String, Founded>,
}

/// What a grant changes; written down before it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The lease.
    pub held: Held,
    /// The cluster it is about, if that changes.
    pub founded: Option<(String, Founded)>,
}

impl Table {
    /// What was written down.
    pub fn new(held: Vec<Held>, founded: BTreeMap<String, Founded>) -> Self {
        Self { held: held.into_iter().map(|held| (held.permit.clone(), held)).collect(), founded }
    }

    /// Who holds a permit at `now`.
    pub fn holder(&self, permit: &Permit, now: Timestamp) -> Option<&Held> {
        self.held.get(permit).filter(|held| now < held.until)
    }

    /// Everything that is held, or was until it ran out.
    pub fn held(&self) -> impl Iterator<Item = &Held> {
        self.held.values()
    }

    /// Decides on a question of `node`.
    pub fn decide(&self, node: &NodeName, ask: &Ask, sight: &dyn Sight, now: Timestamp) -> Decision {
        if let Some(held) = self.holder(&ask.permit, now) {
            if held.node == *node {
                // Whatever else is the case by now: taking it back would stop nothing that was begun.
                return Decision::Grant;
            }
            let Held { permit, node, until } = held;
            return Decision::Wait(format!("node `{node}` has the permit `{permit}` until {until} at most"));
        }
        if let Permit::Found(instance) = &ask.permit
            && let Some(founded) = self.founded.get(instance)
            && (founded.node != *node || sight.enrolment(node).as_deref() != Some(&founded.enrolment))
        {
            return Decision::Refuse(format!(
                "the cluster `{instance}` was founded already, by an earlier node `{}`; it has to be joined",
                founded.node
            ));
        }
        if let Some(unmet) = sight.unmet(node, &ask.task) {
            return Decision::Wait(unmet);
        }
        if ask.permit == Permit::Reboot
            && let Some(absent) = sight.absent(node)
        {
            return Decision::Wait(format!("node `{absent}` is silent; no other restarts until it is back"));
        }
        Decision::Grant
    }

    /// What granting `permit` to `node` changes.
    pub fn grant(&self, node: &NodeName, permit: &Permit, enrolment: &str, now: Timestamp) -> Grant {
        let held = Held { permit: permit.clone(), node: node.clone(), until: now.after(permit.life()) };
        let founded = match permit {
            Permit::Reboot => None,
            Permit::Found(instance) => {
                let mut founded = self.founded.get(instance).cloned().unwrap_or_else(|| Founded {
                    node: node.clone(),
                    enrolment: enrolment.to_owned(),
                    members: BTreeSet::new(),
                });
                founded.members.insert(node.clone()).then(|| (instance.clone(), founded))
            }
            // A cluster nobody was seen to found is none of ours to keep a record of.
            Permit::Join(instance) => self.founded.get(instance).and_then(|founded| {
                let mut founded = founded.clone();
                founded.members.insert(node.clone()).then(|| (instance.clone(), founded))
            }),
        };
        Grant { held, founded }
    }

    /// Takes a grant that was written down.
    pub fn take(&mut self, grant: Grant) {
        self.held.insert(grant.held.permit.clone(), grant.held);
        self.founded.extend(grant.founded);
    }

    /// Takes a permit back, if this node has it; says whether it had.
    pub fn release(&mut self, node: &NodeName, permit: &Permit) -> bool {
        let has = self.held.get(permit).is_some_and(|held| held.node == *node);
        if has {
            self.held.remove(permit);
        }
        has
    }

    /// Forgets leases that ran out; says which.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Permit> {
        let over: Vec<Permit> =
            self.held.values().filter(|held| held.until <= now).map(|held| held.permit.clone()).collect();
        over.iter().for_each(|permit| drop(self.held.remove(permit)));
        over
    }

    /// When the next lease runs out.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.held.values().map(|held| held.until).min()
    }

    /// A node is destroyed, and all it held with it. Clusters whose data nobody holds any more may be founded
    /// anew; all others live on without it.
    pub fn forget(&mut self, node: &NodeName) -> Forgotten {
        let permits: Vec<Permit> =
            self.held.values().filter(|held| held.node == *node).map(|held| held.permit.clone()).collect();
        permits.iter().for_each(|permit| drop(self.held.remove(permit)));
        let mut forgotten = Forgotten { permits, ..Forgotten::default() };
        for (instance, founded) in &mut self.founded {
            if founded.members.remove(node) {
                forgotten.changed.insert(instance.clone(), founded.clone());
            }
        }
        let lost = |founded: &Founded| founded.members.is_empty();
        forgotten.lost = self.founded.iter().filter(|(_, f)| lost(f)).map(|(name, _)| name.clone()).collect();
        for instance in &forgotten.lost {
            self.founded.remove(instance);
            forgotten.changed.remove(instance);
        }
        forgotten
    }
}

/// What forgetting a node changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Leases it had.
    pub permits: Vec<Permit>,
    /// Clusters it was a member of.
    pub changed: BTreeMap<String, Founded>,
    /// Clusters nobody holds data of any more.
    pub lost: Vec<String>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Seen {
        unmet: Option<String>,
        absent: Option<NodeName>,
        enrolment: String,
    }

    impl Sight for Seen {
        fn unmet(&self, _: &NodeName, _: &str) -> Option<String> {
            self.unmet.clone()
        }
        fn absent(&self, but: &NodeName) -> Option<NodeName> {
            self.absent.clone().filter(|node| node != but)
        }
        fn enrolment(&self, _: &NodeName) -> Option<String> {
            Some(self.enrolment.clone())
        }
    }

    fn node(name: &str) -> NodeName {
        name.parse().expect("a name")
    }

    fn ask(permit: &str) -> Ask {
        Ask { permit: permit.parse().expect("a permit"), task: "t".to_owned() }
    }

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn give(table: &mut Table, who: &str, permit: &str, sight: &Seen, now: Timestamp) -> Decision {
        let (node, ask) = (node(who), ask(permit));
        let decision = table.decide(&node, &ask, sight, now);
        if decision == Decision::Grant {
            table.take(table.grant(&node, &ask.permit, &sight.enrolment, now));
        }
        decision
    }

    fn enrolled(id: &str) -> Seen {
        Seen { enrolment: id.to_owned(), ..Seen::default() }
    }

    #[test]
    fn one_holder_until_released_or_run_out() {
        let (mut table, sight) = (Table::default(), enrolled("1"));
        for permit in ["reboot", "join/fleet"] {
            assert_eq!(give(&mut table, "a", permit, &sight, NOW), Decision::Grant);
            let Decision::Wait(why) = give(&mut table, "b", permit, &sight, NOW) else {
                panic!("two holders")
            };
            assert!(
                why.starts_with(&format!("node `a` has the permit `{permit}` until 1970-01-01T00:")),
                "{why}"
            );
            assert!(!table.release(&node("b"), &ask(permit).permit), "not its own");
            assert!(table.release(&node("a"), &ask(permit).permit));
            assert_eq!(give(&mut table, "b", permit, &sight, NOW), Decision::Grant);
            // Asked for again, it is held longer; a holder that restarts keeps it.
            let later = NOW.after(Duration::from_secs(9 * 60));
            assert_eq!(give(&mut table, "b", permit, &sight, later), Decision::Grant);
            let old = NOW.after(ask(permit).permit.life());
            assert!(matches!(give(&mut table, "a", permit, &sight, old), Decision::Wait(_)));
            let over = later.after(ask(permit).permit.life());
            assert_eq!(give(&mut table, "a", permit, &sight, over), Decision::Grant);
        }
    }

    #[test]
    fn needs_and_silence_are_waited_for() {
        let mut table = Table::default();
        let unmet = Seen { unmet: Some("task `x` of node `s`".to_owned()), ..enrolled("1") };
        assert_eq!(
            give(&mut table, "a", "join/fleet", &unmet, NOW),
            Decision::Wait("task `x` of node `s`".to_owned())
        );
        let absent = Seen { absent: Some(node("b")), ..enrolled("1") };
        assert!(
            matches!(give(&mut table, "a", "reboot", &absent, NOW), Decision::Wait(why) if why.contains("`b`"))
        );
        assert_eq!(
            give(&mut table, "b", "reboot", &absent, NOW),
            Decision::Grant,
            "it is the silent one itself"
        );
        assert_eq!(
            give(&mut table, "a", "join/fleet", &absent, NOW),
            Decision::Grant,
            "joining is no restart"
        );
    }

    #[test]
    fn a_cluster_is_founded_once() {
        let mut table = Table::default();
        let first = enrolled("1");
        assert_eq!(give(&mut table, "seed", "found/fleet", &first, NOW), Decision::Grant);
        let later = NOW.after(Duration::from_secs(3600));
        assert_eq!(give(&mut table, "seed", "found/fleet", &first, later), Decision::Grant, "its own again");
        let much = NOW.after(Duration::from_secs(7200));
        let refused =
            |decision| matches!(decision, Decision::Refuse(why) if why.contains("was founded already"));
        assert!(refused(give(&mut table, "other", "found/fleet", &enrolled("2"), much)));
        assert!(refused(give(&mut table, "seed", "found/fleet", &enrolled("2"), much)), "another disk");
        assert_eq!(give(&mut table, "other", "found/second", &enrolled("2"), much), Decision::Grant);
    }

    #[test]
    fn a_replaced_seed_founds_again_only_if_nobody_else_may_hold_data() {
        let mut table = Table::default();
        assert_eq!(give(&mut table, "seed", "found/fleet", &enrolled("1"), NOW), Decision::Grant);
        let mut joined = table.clone();

        // Nobody had joined: what it founded is gone with it.
        assert_eq!(table.forget(&node("seed")).lost, ["fleet"]);
        assert_eq!(give(&mut table, "seed", "found/fleet", &enrolled("2"), NOW), Decision::Grant);

        assert_eq!(give(&mut joined, "a", "join/fleet", &enrolled("3"), NOW), Decision::Grant);
        let forgotten = joined.forget(&node("seed"));
        assert_eq!(forgotten.permits, [ask("found/fleet").permit]);
        assert_eq!((forgotten.lost, forgotten.changed.len()), (vec![], 1));
        let second = give(&mut joined, "seed", "found/fleet", &enrolled("2"), NOW);
        assert!(matches!(second, Decision::Refuse(_)), "{second:?}");
        // It joins; then the other one may go, and the cluster still is.
        assert!(joined.release(&node("a"), &ask("join/fleet").permit));
        assert_eq!(give(&mut joined, "seed", "join/fleet", &enrolled("2"), NOW), Decision::Grant);
        assert_eq!(joined.forget(&node("a")).lost, [] as [String; 0]);
        let second = give(&mut joined, "seed", "found/fleet", &enrolled("2"), NOW);
        assert!(matches!(second, Decision::Refuse(_)), "{second:?}");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask(u8, u8),
        Release(u8, u8),
        Wait(u16),
        Forget(u8),
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..4_u8, 0..3_u8).prop_map(|(node, permit)| Step::Ask(node, permit)),
            2 => (0..4_u8, 0..3_u8).prop_map(|(node, permit)| Step::Release(node, permit)),
            2 => (0..500_u16).prop_map(Step::Wait),
            1 => (0..4_u8).prop_map(Step::Forget),
            1 => Just(Step::Restart),
        ];
        prop::collection::vec(step, 1..80)
    }

    proptest! {
        /// Whatever is asked, given back, forgotten or restarted in whatever order: one holder at a time, never
        /// beyond its time; whoever holds and asks again keeps it; a cluster with a member is never founded again.
        #[test]
        fn never_two_holders(steps in steps()) {
            const PERMITS: [&str; 3] = ["reboot", "join/fleet", "found/fleet"];
            let mut table = Table::default();
            let mut now = NOW;
            // The test's own account: who believes to hold what until when, and who may hold data.
            let mut believed: BTreeMap<(String, u8), Timestamp> = BTreeMap::new();
            let mut enrolments = [0_u32; 4];
            let mut data: BTreeSet<String> = BTreeSet::new();
            let mut founder = None;
            for step in steps {
                match step {
                    Step::Ask(who, what) => {
                        let name = format!("n{who}");
                        let enrolment = enrolments[usize::from(who)];
                        let held = believed.get(&(name.clone(), what)).is_some_and(|until| now < *until);
                        let sight = enrolled(&enrolment.to_string());
                        let permit = PERMITS[usize::from(what)];
                        match give(&mut table, &name, permit, &sight, now) {
                            Decision::Grant => {
                                let others = believed.iter().filter(|((other, permit), until)| {
                                    *other != name && *permit == what && now < **until
                                });
                                prop_assert_eq!(others.count(), 0, "two holders");
                                if what == 2 {
                                    let again = founder == Some((name.clone(), enrolment));
                                    prop_assert!(again || data.is_empty(), "founded beside living members");
                                    founder = Some((name.clone(), enrolment));
                                }
                                if what > 0 && (what == 2 || founder.is_some()) {
                                    data.insert(name.clone());
                                }
                                believed.insert((name, what), now.after(ask(permit).permit.life()));
                            }
                            Decision::Wait(_) => prop_assert!(!held, "a holder lost it"),
                            Decision::Refuse(_) => {
                                prop_assert!(!held && what == 2 && !data.is_empty());
                            }
                        }
                    }
                    Step::Release(who, what) => {
                        let name = format!("n{who}");
                        table.release(&node(&name), &ask(PERMITS[usize::from(what)]).permit);
                        believed.remove(&(name, what));
                    }
                    Step::Wait(secs) => {
                        now = now.after(Duration::from_secs(secs.into()));
                        let over = table.expire(now);
                        for permit in over {
                            prop_assert!(table.holder(&permit, now).is_none(), "expiry frees");
                        }
                    }
                    Step::Forget(who) => {
                        let name = format!("n{who}");
                        table.forget(&node(&name));
                        believed.retain(|(held, _), _| *held != name);
                        enrolments[usize::from(who)] += 1;
                        data.remove(&name);
                        if data.is_empty() {
                            founder = None;
                        }
                    }
                    Step::Restart => {
                        // Through its written form.
                        let held = table.held().cloned().collect();
                        table = Table::new(held, table.founded.clone());
                    }
                }
            }
        }
    }
}
