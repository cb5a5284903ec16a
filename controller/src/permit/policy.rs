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
    /// Under which enrolment: the same name with another identity is another machine.
    #[serde(default)]
    pub enrolment: String,
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

/// What is decided on a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Grant,
    /// Yes, as before: it has it for long enough, until then.
    Held(Timestamp),
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
    /// The node's present enrolment, if that is known.
    fn enrolment(&self, node: &NodeName) -> Option<String>;
    /// Why the member's server of this cluster cannot be relied on while another one is away, in words: it has not
    /// converged in the member's present generation. One that waits for a permit itself stands still, and is none to
    /// wait for: two would wait for each other.
    fn unsteady(&self, member: &NodeName, instance: &str) -> Option<String>;
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
        let enrolment = sight.enrolment(node);
        // Before anything that is held: a lease outlives what it was given for.
        if let Permit::Found(instance) = &ask.permit
            && let Some(no) = self.founded_by_another(instance, node, enrolment.as_deref())
        {
            return no;
        }
        if let Some(held) = self.holder(&ask.permit, now) {
            if held.node == *node && enrolment.as_ref() == Some(&held.enrolment) {
                // Whatever else is the case by now: taking it back would stop nothing that was begun.
                let enough = held.until.since(now) > ask.permit.life() / 2;
                return if enough { Decision::Held(held.until) } else { Decision::Grant };
            }
            return Decision::Wait(has(held, node));
        }
        if let Some(held) = self.in_the_way(node, &ask.permit, now) {
            return Decision::Wait(has(held, node));
        }
        // A member's server only restarts. It must not wait for a seed that may itself wait for the members: so it is
        // after everybody's certificate ran out, and those who have new ones find each other only by restarting.
        if !self.is_rejoin(node, &ask.permit)
            && let Some(unmet) = sight.unmet(node, &ask.task)
        {
            return Decision::Wait(unmet);
        }
        if ask.permit == Permit::Reboot
            && let Some(absent) = sight.absent(node)
        {
            return Decision::Wait(format!("node `{absent}` is silent; no other restarts until it is back"));
        }
        let others = self.relied_on(node, &ask.permit);
        if let Some(why) = others.into_iter().find_map(|(instance, member)| sight.unsteady(member, instance))
        {
            return Decision::Wait(why);
        }
        Decision::Grant
    }

    /// Why `node` may not begin this cluster, if it may not: somebody else did, or somebody else may hold its data.
    fn founded_by_another(
        &self,
        instance: &str,
        node: &NodeName,
        enrolment: Option<&str>,
    ) -> Option<Decision> {
        let Some(enrolment) = enrolment else {
            return Some(Decision::Wait(format!(
                "the enrolment of node `{node}`, of which there is no record: without it nobody could tell later who \
                 founded the cluster; `fleetctl up` enrols it anew"
            )));
        };
        let founded = self.founded.get(instance)?;
        let others: Vec<&str> =
            founded.members.iter().filter(|member| *member != node).map(NodeName::as_str).collect();
        if !others.is_empty() {
            return Some(Decision::Refuse(format!(
                "the cluster `{instance}` was founded already, by node `{}`, and {} may hold its data; it has to be \
                 joined",
                founded.node,
                others.join(", ")
            )));
        }
        if founded.node == *node && founded.enrolment.is_empty() {
            return Some(Decision::Wait(format!(
                "the record of who founded the cluster `{instance}` to name an enrolment; it names node `{node}` \
                 alone, and whether that is this machine cannot be told; `fleetctl replace {node}` begins anew"
            )));
        }
        (founded.node != *node || founded.enrolment != enrolment).then(|| {
            Decision::Refuse(format!(
                "the cluster `{instance}` was founded already, by an earlier node `{}`; it has to be joined",
                founded.node
            ))
        })
    }

    /// Whether this is the permit to join a cluster the node was let into before.
    pub fn is_rejoin(&self, node: &NodeName, permit: &Permit) -> bool {
        let Permit::Join(instance) = permit else { return false };
        self.is_member(node, instance)
    }

    fn is_member(&self, node: &NodeName, instance: &str) -> bool {
        self.founded.get(instance).is_some_and(|founded| founded.members.contains(node))
    }

    /// Another node's lease that this one may not be beside: machines of members and servers of members are not away
    /// together. Whoever is no member yet takes nothing away from anybody.
    fn in_the_way(&self, node: &NodeName, permit: &Permit, now: Timestamp) -> Option<&Held> {
        let mut others = self.held.values().filter(|held| held.node != *node && now < held.until);
        match permit {
            Permit::Reboot => others.find(|held| match &held.permit {
                Permit::Join(instance) => self.is_member(node, instance),
                Permit::Reboot | Permit::Found(_) => false,
            }),
            Permit::Join(instance) if self.is_member(node, instance) => {
                others.find(|held| held.permit == Permit::Reboot)
            }
            Permit::Join(_) | Permit::Found(_) => None,
        }
    }

    /// Whose servers have to stand firm while `node` does this: the other members, by cluster. Nobody's, if it is no
    /// member itself.
    pub fn relied_on(&self, node: &NodeName, permit: &Permit) -> Vec<(&str, &NodeName)> {
        let concerned = self.founded.iter().filter(|(instance, founded)| {
            let asked = match permit {
                Permit::Reboot => true,
                Permit::Join(joined) => joined == *instance,
                Permit::Found(_) => false,
            };
            asked && founded.members.contains(node)
        });
        let others = concerned.flat_map(|(instance, founded)| {
            founded
                .members
                .iter()
                .filter(|member| *member != node)
                .map(move |member| (instance.as_str(), member))
        });
        others.collect()
    }

    /// What granting `permit` to `node` changes.
    pub fn grant(&self, node: &NodeName, permit: &Permit, enrolment: &str, now: Timestamp) -> Grant {
        let held = Held {
            permit: permit.clone(),
            node: node.clone(),
            enrolment: enrolment.to_owned(),
            until: now.after(permit.life()),
        };
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

    /// Forgets leases that ran out; says which. One that was given by a clock since set back lasts no longer than any.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Permit> {
        for held in self.held.values_mut() {
            held.until = held.until.min(now.after(held.permit.life()));
        }
        let over: Vec<Permit> =
            self.held.values().filter(|held| held.until <= now).map(|held| held.permit.clone()).collect();
        over.iter().for_each(|permit| drop(self.held.remove(permit)));
        over
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

/// Who has it, for whoever waits.
fn has(held: &Held, asks: &NodeName) -> String {
    let Held { permit, node, until, .. } = held;
    let who = if node == asks { "an earlier identity of node" } else { "node" };
    format!("{who} `{node}` has the permit `{permit}` until {until} at most")
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
        enrolment: Option<String>,
        unsteady: BTreeMap<&'static str, &'static str>,
    }

    impl Sight for Seen {
        fn unmet(&self, _: &NodeName, _: &str) -> Option<String> {
            self.unmet.clone()
        }
        fn absent(&self, but: &NodeName) -> Option<NodeName> {
            self.absent.clone().filter(|node| node != but)
        }
        fn enrolment(&self, _: &NodeName) -> Option<String> {
            self.enrolment.clone()
        }
        fn unsteady(&self, member: &NodeName, _: &str) -> Option<String> {
            self.unsteady.get(member.as_str()).map(|why| format!("task `db` of node `{member}`: {why}"))
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
            table.take(table.grant(&node, &ask.permit, sight.enrolment.as_deref().unwrap_or_default(), now));
        }
        decision
    }

    fn enrolled(id: &str) -> Seen {
        Seen { enrolment: Some(id.to_owned()), ..Seen::default() }
    }

    #[test]
    fn a_clock_that_is_set_back_prolongs_no_lease() {
        let (mut table, sight) = (Table::default(), enrolled("1"));
        let ahead = NOW.after(Duration::from_secs(6 * 3600));
        assert_eq!(give(&mut table, "a", "reboot", &sight, ahead), Decision::Grant);
        assert!(table.expire(NOW).is_empty());
        let life = ask("reboot").permit.life();
        assert_eq!(table.expire(NOW.after(life)), [ask("reboot").permit]);
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
            // Asked for again soon, nothing changes; later, it is held longer. A holder that restarts keeps it.
            let soon = NOW.after(ask(permit).permit.life() / 3);
            let until = NOW.after(ask(permit).permit.life());
            assert_eq!(give(&mut table, "b", permit, &sight, soon), Decision::Held(until));
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
    fn a_member_that_restarts_does_not_wait_for_the_seed() {
        let mut table = Table::default();
        assert_eq!(give(&mut table, "seed", "found/fleet", &enrolled("1"), NOW), Decision::Grant);
        let unmet = Seen { unmet: Some("task `t` of node `seed`".to_owned()), ..enrolled("2") };
        assert!(
            matches!(give(&mut table, "a", "join/fleet", &unmet, NOW), Decision::Wait(_)),
            "no member yet"
        );
        assert_eq!(give(&mut table, "a", "join/fleet", &enrolled("2"), NOW), Decision::Grant);
        assert!(table.release(&node("a"), &ask("join/fleet").permit));
        // The seed restarts, and finds nobody it may talk to.
        assert_eq!(give(&mut table, "seed", "join/fleet", &enrolled("1"), NOW), Decision::Grant);
        assert!(
            matches!(give(&mut table, "a", "join/fleet", &unmet, NOW), Decision::Wait(_)),
            "one at a time"
        );
        let over = NOW.after(ask("join/fleet").permit.life());
        assert_eq!(give(&mut table, "a", "join/fleet", &unmet, over), Decision::Grant);
        // A replaced one joins like any other.
        table.forget(&node("a"));
        let later = over.after(Duration::from_secs(3600));
        assert!(matches!(give(&mut table, "a", "join/fleet", &unmet, later), Decision::Wait(_)));
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
    fn what_was_founded_counts_before_what_is_held() {
        let mut table = Table::default();
        assert_eq!(give(&mut table, "seed", "found/fleet", &enrolled("1"), NOW), Decision::Grant);
        let held = NOW.after(ask("found/fleet").permit.life());
        assert_eq!(give(&mut table, "seed", "found/fleet", &enrolled("1"), NOW), Decision::Held(held));
        assert_eq!(give(&mut table, "a", "join/fleet", &enrolled("2"), NOW), Decision::Grant);
        // It still has the lease, and another one has the data.
        let Decision::Refuse(why) = give(&mut table, "seed", "found/fleet", &enrolled("1"), NOW) else {
            panic!("a second cluster")
        };
        assert!(why.contains("a may hold its data"), "{why}");
        let much = NOW.after(Duration::from_secs(7200));
        assert!(matches!(give(&mut table, "seed", "found/fleet", &enrolled("1"), much), Decision::Refuse(_)));
    }

    #[test]
    fn a_lease_belongs_to_an_enrolment() {
        for permit in ["reboot", "join/fleet"] {
            let mut table = Table::default();
            assert_eq!(give(&mut table, "a", permit, &enrolled("1"), NOW), Decision::Grant);
            let Decision::Wait(why) = give(&mut table, "a", permit, &enrolled("2"), NOW) else {
                panic!("another machine took it over")
            };
            assert!(why.starts_with("an earlier identity of node `a` has the permit"), "{why}");
            let over = NOW.after(ask(permit).permit.life());
            assert_eq!(give(&mut table, "a", permit, &enrolled("2"), over), Decision::Grant);
        }
    }

    #[test]
    fn who_cannot_be_told_founds_nothing() {
        let mut table = Table::default();
        let Decision::Wait(why) = give(&mut table, "seed", "found/fleet", &Seen::default(), NOW) else {
            panic!("founded by nobody knows whom")
        };
        assert!(why.contains("of which there is no record"), "{why}");
        assert_eq!(give(&mut table, "seed", "reboot", &Seen::default(), NOW), Decision::Grant);
        // Written by somebody who did not know either.
        let founded =
            Founded { node: node("seed"), enrolment: String::new(), members: [node("seed")].into() };
        let mut table = Table::new(vec![], [("fleet".to_owned(), founded)].into());
        let Decision::Wait(why) = give(&mut table, "seed", "found/fleet", &enrolled("1"), NOW) else {
            panic!("founded over what is there")
        };
        assert!(why.contains("`fleetctl replace seed`"), "{why}");
    }

    /// A cluster of these, all leases given back.
    fn members(names: &[&str]) -> Table {
        let mut table = Table::default();
        for (number, name) in names.iter().enumerate() {
            let permit = if number == 0 { "found/fleet" } else { "join/fleet" };
            assert_eq!(give(&mut table, name, permit, &enrolled("1"), NOW), Decision::Grant);
            assert!(table.release(&node(name), &ask(permit).permit));
        }
        table
    }

    #[test]
    fn machines_and_servers_of_members_are_not_away_together() {
        let waits = |decision, what: &str| match decision {
            Decision::Wait(why) => assert!(why.contains(what), "{why}"),
            other => panic!("{what}: {other:?}"),
        };
        let sight = enrolled("1");
        for (first, second) in [("reboot", "join/fleet"), ("join/fleet", "reboot")] {
            let mut table = members(&["seed", "a", "b"]);
            assert_eq!(give(&mut table, "a", first, &sight, NOW), Decision::Grant);
            waits(give(&mut table, "b", second, &sight, NOW), &format!("node `a` has the permit `{first}`"));
            // One node's restart of both is one restart.
            assert_eq!(give(&mut table, "a", second, &sight, NOW), Decision::Grant);
            assert!(table.release(&node("a"), &ask(second).permit));
            // Whoever has no data yet takes none away.
            if first == "reboot" {
                assert_eq!(give(&mut table, "new", "join/fleet", &sight, NOW), Decision::Grant);
            } else {
                assert_eq!(give(&mut table, "new", "reboot", &sight, NOW), Decision::Grant);
            }
        }
    }

    #[test]
    fn every_other_member_stands_firm_before_one_goes_away() {
        let mut table = members(&["seed", "a", "b"]);
        let shaky = Seen { unsteady: [("b", "its peers to answer")].into(), ..enrolled("1") };
        for permit in ["reboot", "join/fleet"] {
            assert_eq!(
                give(&mut table, "a", permit, &shaky, NOW),
                Decision::Wait("task `db` of node `b`: its peers to answer".to_owned()),
                "{permit}"
            );
            assert_eq!(give(&mut table, "b", permit, &shaky, NOW), Decision::Grant, "it is itself the one");
            assert!(table.release(&node("b"), &ask(permit).permit));
            assert_eq!(give(&mut table, "new", permit, &shaky, NOW), Decision::Grant, "no member: {permit}");
            table.forget(&node("new"));
            assert_eq!(give(&mut table, "a", permit, &enrolled("1"), NOW), Decision::Grant);
            assert!(table.release(&node("a"), &ask(permit).permit));
        }
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
        /// Its machine is gone.
        Forget(u8),
        /// Somebody enrols under its name.
        Enrol(u8),
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0..4_u8, 0..3_u8).prop_map(|(node, permit)| Step::Ask(node, permit)),
            3 => (0..4_u8, 0..3_u8).prop_map(|(node, permit)| Step::Release(node, permit)),
            3 => (0..500_u16).prop_map(Step::Wait),
            1 => (0..4_u8).prop_map(Step::Forget),
            1 => (0..4_u8).prop_map(Step::Enrol),
            1 => Just(Step::Restart),
        ];
        prop::collection::vec(step, 1..80)
    }

    const REBOOT: u8 = 0;
    const JOIN: u8 = 1;
    const FOUND: u8 = 2;

    proptest! {
        /// Whatever is asked, given back, forgotten, enrolled or restarted in whatever order: one holder at a time,
        /// never beyond its time; whoever holds and asks again keeps it; a cluster of which anybody but its founder
        /// may have data is never founded again; no member's machine restarts beside another one's server.
        #[test]
        fn never_two_holders(steps in steps()) {
            const PERMITS: [&str; 3] = ["reboot", "join/fleet", "found/fleet"];
            let mut table = Table::default();
            let mut now = NOW;
            // The test's own account: who (name and enrolment) believes to hold what until when, and who may hold
            // data.
            let mut believed: BTreeMap<(String, u32, u8), Timestamp> = BTreeMap::new();
            let mut enrolments = [0_u32; 4];
            let mut data: BTreeSet<String> = BTreeSet::new();
            let mut founder = None;
            for step in steps {
                match step {
                    Step::Ask(who, what) => {
                        let name = format!("n{who}");
                        let enrolment = enrolments[usize::from(who)];
                        let own = (name.clone(), enrolment, what);
                        let held = believed.get(&own).copied().filter(|until| now < *until);
                        let others = |what: u8| believed.iter().any(|((other, id, permit), until)| {
                            (other, id) != (&name, &enrolment) && *permit == what && now < *until
                        });
                        let elsewhere = |what: u8| believed.iter().any(|((other, _, permit), until)| {
                            *other != name && *permit == what && now < *until
                        });
                        let sight = enrolled(&enrolment.to_string());
                        let permit = PERMITS[usize::from(what)];
                        let member = data.contains(&name);
                        match give(&mut table, &name, permit, &sight, now) {
                            Decision::Grant => {
                                prop_assert!(!others(what), "two holders");
                                if member && held.is_none() && what != FOUND {
                                    let other = if what == REBOOT { JOIN } else { REBOOT };
                                    prop_assert!(!elsewhere(other), "a machine and a server together");
                                }
                                if what == FOUND {
                                    let again = founder == Some((name.clone(), enrolment));
                                    let alone = data.iter().all(|other| *other == name);
                                    prop_assert!(data.is_empty() || (again && alone), "founded beside data");
                                    founder = Some((name.clone(), enrolment));
                                }
                                if what == FOUND || (what == JOIN && founder.is_some()) {
                                    data.insert(name.clone());
                                }
                                believed.insert(own, now.after(ask(permit).permit.life()));
                            }
                            Decision::Held(until) => prop_assert_eq!(held, Some(until)),
                            Decision::Wait(_) => prop_assert!(held.is_none(), "a holder lost it"),
                            Decision::Refuse(_) => prop_assert!(what == FOUND && !data.is_empty()),
                        }
                    }
                    Step::Release(who, what) => {
                        let name = format!("n{who}");
                        table.release(&node(&name), &ask(PERMITS[usize::from(what)]).permit);
                        believed.retain(|(other, _, permit), _| (other, *permit) != (&name, what));
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
                        believed.retain(|(held, _, _), _| *held != name);
                        enrolments[usize::from(who)] += 1;
                        data.remove(&name);
                        if data.is_empty() {
                            founder = None;
                        }
                    }
                    Step::Enrol(who) => enrolments[usize::from(who)] += 1,
                    Step::Restart => {
                        // Through its written form.
                        let held = table.held().map(|held| serde_json::to_string(held).expect("writes"));
                        let held = held.map(|text| serde_json::from_str(&text).expect("reads")).collect();
                        table = Table::new(held, table.founded.clone());
                    }
                }
            }
        }
    }
}
