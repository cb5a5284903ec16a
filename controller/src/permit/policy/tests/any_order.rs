//! Whatever happens in whatever order.

use proptest::prelude::*;

use super::*;

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
