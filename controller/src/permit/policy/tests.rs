//! Who gets what, case by case.

mod any_order;

use std::time::Duration;

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
    fn unsteady(&self, member: &NodeName, _: &str, _: &Permit) -> Option<String> {
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
        let Decision::Wait(why) = give(&mut table, "b", permit, &sight, NOW) else { panic!("two holders") };
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
    assert_eq!(give(&mut table, "b", "reboot", &absent, NOW), Decision::Grant, "it is the silent one itself");
    assert_eq!(give(&mut table, "a", "join/fleet", &absent, NOW), Decision::Grant, "joining is no restart");
}

#[test]
fn a_member_that_restarts_does_not_wait_for_the_seed() {
    let mut table = Table::default();
    assert_eq!(give(&mut table, "seed", "found/fleet", &enrolled("1"), NOW), Decision::Grant);
    let unmet = Seen { unmet: Some("task `t` of node `seed`".to_owned()), ..enrolled("2") };
    assert!(matches!(give(&mut table, "a", "join/fleet", &unmet, NOW), Decision::Wait(_)), "no member yet");
    assert_eq!(give(&mut table, "a", "join/fleet", &enrolled("2"), NOW), Decision::Grant);
    assert!(table.release(&node("a"), &ask("join/fleet").permit));
    // The seed restarts, and finds nobody it may talk to.
    assert_eq!(give(&mut table, "seed", "join/fleet", &enrolled("1"), NOW), Decision::Grant);
    assert!(matches!(give(&mut table, "a", "join/fleet", &unmet, NOW), Decision::Wait(_)), "one at a time");
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
    let refused = |decision| matches!(decision, Decision::Refuse(why) if why.contains("was founded already"));
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
    let founded = Founded { node: node("seed"), enrolment: String::new(), members: [node("seed")].into() };
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
