//! Every state of a node, times every fault: where it stands afterwards, and whether the rollout is halted.
//!
//! The table is the test. `a` is a canary, so one failure of its own halts; a single silence does not here.

use std::time::Duration;

use fleet_rollout::{Event, Health, Kind, Standing, State, Step};

use crate::world::{NEW, OLD, World, because, policy};

/// Columns. After each, time passes or the node returns as the description says.
const FAULTS: [&str; 21] = [
    "error",        // The node says that it could not take the release.
    "self-return",  // The node says that it tried and went back by itself.
    "full disk",    // The node says that its disk is full.
    "kill",         // The agent is killed, returns in ten seconds and says where it stands.
    "power cut",    // The node is off for a minute, then runs the old release with nothing in hand.
    "hang",         // It keeps its session and says nothing for three hours.
    "away",         // Its session ends and does not return for an hour.
    "back again",   // It is away for an hour, returns, and finds its release committed.
    "lost answer",  // Its last word is said twice.
    "old word",     // A failure arrives that belongs to an order before.
    "busy",         // It says for half an hour that others are busy.
    "clock ahead",  // The controller's clock jumps ten weeks forward.
    "clock behind", // The controller's clock jumps ten weeks back.
    "fail-over",    // The controller dies; another goes on three hours later.
    "line stopped", // Somebody stops the line, and an hour passes without an answer of the node.
    "worse",        // A task of the node fails that did not before.
    "crashes",      // Its agent crashed since it last said where it stands.
    "gate closes",  // Every gate says no, twice, and then nothing for an hour.
    "long busy",    // It says for two hours that others are busy.
    "dead", // Its session stays open, and nothing is heard of it at the end of the bake, for three hours.
    "restored", // The store is an older copy: the node has seen newer orders, and says where it stands.
];

/// A cell: the state afterwards; `!` if the rollout is halted then. Columns in the order of [`FAULTS`].
#[rustfmt::skip]
const TABLE: &str = "
pending    |failed!     |rolled back!|failed!     |pending     |pending     |pending     |silent      |committed |pending     |pending     |pending     |pending     |pending     |pending     |pending!    |pending     |pending     |pending     |pending     |pending     |pending
held       |failed!     |rolled back!|failed!     |held        |held        |silent      |silent      |proving   |held        |held        |silent      |held        |held        |held        |pending!    |held        |held        |failed!     |silent      |silent      |held
offered    |failed!     |rolled back!|failed!     |offered     |offered     |silent      |silent      |committed |offered     |offered     |offered     |offered     |offered     |offered     |silent!     |offered     |offered     |silent      |silent      |silent      |offered
fetching   |failed!     |rolled back!|failed!     |fetching    |offered     |failed!     |silent      |committed |fetching    |fetching    |fetching    |fetching    |fetching    |fetching    |silent!     |fetching    |fetching    |failed!     |silent      |failed!     |fetching
on trial   |failed!     |rolled back!|failed!     |on trial    |offered     |failed!     |silent      |committed |on trial    |on trial    |on trial    |on trial    |on trial    |on trial    |failed!     |on trial    |on trial    |failed!     |silent      |failed!     |on trial
proving    |failed!     |rolled back!|failed!     |proving     |rolled back!|silent      |silent      |proving   |proving     |proving     |silent      |proving     |proving     |proving     |silent!     |failed!     |failed!     |failed!     |silent      |silent      |proving
committed  |failed!     |rolled back!|failed!     |committed   |rolled back!|committed   |silent      |committed |committed   |committed   |committed   |committed   |committed   |committed   |committed!  |failed!     |failed!     |failed!     |committed   |failed!     |committed
failed     |failed!     |rolled back!|failed!     |failed!     |failed!     |failed!     |failed!     |committed!|failed!     |failed!     |failed!     |failed!     |failed!     |failed!     |failed!     |failed!     |failed!     |failed!     |failed!     |failed!     |failed!
rolled back|rolled back!|rolled back!|rolled back!|rolled back!|rolled back!|rolled back!|rolled back!|committed!|rolled back!|rolled back!|rolled back!|rolled back!|rolled back!|rolled back!|rolled back!|rolled back!|rolled back!|rolled back!|rolled back!|rolled back!|rolled back!
silent     |failed!     |rolled back!|failed!     |fetching    |offered     |silent      |silent      |committed |fetching    |offered     |offered     |silent      |silent      |silent      |silent!     |fetching    |fetching    |silent      |silent      |silent      |fetching
catching up|failed!     |rolled back!|failed!     |catching up |catching up |catching up |silent      |committed |catching up |catching up |catching up |catching up |catching up |catching up |catching up!|catching up |catching up |catching up |catching up |catching up |catching up
";

fn world(gates: bool) -> World {
    let mut policy = policy();
    if !gates {
        policy.gates.clear();
    }
    World::new(policy, &["a", "b", "c", "d"])
}

/// A world in which `a` is in this state. Gates are asked where the state, or the fault, is about them.
fn reach(state: State, fault: &str) -> World {
    let watched = state == State::Committed && fault == "gate closes";
    let gates = matches!(state, State::Held | State::Proving) || watched;
    let mut world = world(gates);
    world.window(state != State::Pending);
    world.event(Event::Start);
    world.connect("a");
    match state {
        State::Pending | State::Held | State::Offered => {}
        State::Fetching => world.say("a", NEW, Step::Fetching),
        State::Trial => world.say("a", NEW, Step::Trial),
        State::Proving => {
            world.answer("a", "before", true);
            world.say("a", NEW, Step::Committed);
        }
        State::Committed if gates => world.update("a"),
        State::Committed => world.say("a", NEW, Step::Committed),
        State::Failed => world.say("a", NEW, Step::Failed { reason: because(Kind::Corrupt) }),
        State::RolledBack => world.say("a", NEW, Step::RolledBack { reason: because(Kind::Crashed) }),
        State::Silent => {
            world.say("a", NEW, Step::Fetching);
            world.lose("a");
            world.wait(400);
        }
        State::CatchingUp => {
            world.say("a", NEW, Step::Fetching);
            world.window(false);
            world.say("a", OLD, Step::Committed);
        }
    }
    assert_eq!(world.state("a"), state, "the way there");
    world
}

/// What the node says of itself whenever it is asked.
fn say_where_it_stands(world: &mut World, state: State) {
    let (release, step) = stands(state);
    world.say("a", release, step);
}

/// The same, and how it is.
fn say_how_it_is(world: &mut World, state: State, failing: &[&str], crashes: u64) {
    let failing = failing.iter().map(|task| ((*task).to_owned(), "why".to_owned())).collect();
    let (release, step) = stands(state);
    world.say_how("a", release, step, Health { failing, crashes: Some(crashes) });
}

fn stands(state: State) -> (&'static str, Step) {
    match state {
        State::Fetching | State::Silent => (NEW, Step::Fetching),
        State::Trial => (NEW, Step::Trial),
        State::Proving | State::Committed => (NEW, Step::Committed),
        State::Failed => (NEW, Step::Failed { reason: because(Kind::Corrupt) }),
        State::RolledBack => (NEW, Step::RolledBack { reason: because(Kind::Crashed) }),
        State::Pending | State::Held | State::Offered | State::CatchingUp => (OLD, Step::Committed),
    }
}

fn strike(world: &mut World, state: State, fault: &str) {
    let weeks = Duration::from_secs(10 * 7 * 86_400);
    match fault {
        "error" => world.say("a", NEW, Step::Failed { reason: because(Kind::Other) }),
        "self-return" => world.say("a", NEW, Step::RolledBack { reason: because(Kind::NotReady) }),
        "full disk" => world.say("a", NEW, Step::Failed { reason: because(Kind::DiskFull) }),
        "kill" => {
            world.lose("a");
            world.wait(10);
            world.connect("a");
            say_where_it_stands(world, state);
        }
        "power cut" => {
            world.lose("a");
            world.wait(60);
            world.connect("a");
            world.say("a", OLD, Step::Committed);
        }
        "hang" => world.wait(3 * 3600),
        "away" => {
            world.lose("a");
            world.wait(3600);
        }
        "back again" => {
            world.lose("a");
            world.wait(3600);
            world.connect("a");
            world.say("a", NEW, Step::Committed);
        }
        "lost answer" => {
            say_where_it_stands(world, state);
            say_where_it_stands(world, state);
        }
        "old word" => {
            let before = world.rollout.nodes[&crate::world::name("a")].order;
            if let Some(before) = before.checked_sub(1) {
                world.say_of("a", before, NEW, Step::Failed { reason: because(Kind::Crashed) });
            }
        }
        "busy" => {
            for _ in 0..180 {
                world.say("a", NEW, Step::Busy { detail: "429".into() });
                world.wait(10);
            }
        }
        "clock ahead" => {
            world.now = world.now.after(weeks);
            world.event(Event::Tick);
        }
        "clock behind" => {
            world.now = world.now.before(weeks);
            world.event(Event::Tick);
            world.wait(60);
        }
        "fail-over" => world.fail_over(Duration::from_secs(3 * 3600)),
        "worse" => {
            say_how_it_is(world, state, &[], 3);
            say_how_it_is(world, state, &["todo"], 3);
        }
        "crashes" => {
            say_how_it_is(world, state, &[], 3);
            say_how_it_is(world, state, &[], 4);
        }
        "gate closes" => {
            for _ in 0..2 {
                world.answer("a", "before", false);
                world.answer("a", "after", false);
            }
            world.wait(3600);
        }
        "long busy" => {
            for _ in 0..720 {
                world.say("a", NEW, Step::Busy { detail: "429".into() });
                world.wait(10);
            }
        }
        "dead" => {
            world.unwell.insert(crate::world::name("a"));
            world.wait(3 * 3600);
        }
        "restored" => {
            let (release, step) = stands(state);
            world.say_of("a", 9000, release, step);
            assert!(world.rollout.order < 100);
            let order = world.rollout.nodes[&crate::world::name("a")].order;
            // What failed before the switch is taken back once more.
            let told = matches!(state, State::Offered | State::Fetching | State::Trial | State::Failed);
            assert_eq!(order > 9000, told, "{state}: {order}");
        }
        "line stopped" => {
            world.event(Event::StopLine { by: "me".into(), reason: "a doubt".into() });
            world.wait(3600);
        }
        other => unreachable!("no fault {other}"),
    }
}

fn cell(state: State, fault: &str) -> String {
    let mut world = reach(state, fault);
    strike(&mut world, state, fault);
    world.replays();
    let halted = world.rollout.standing() == Standing::Halted;
    format!("{}{}", world.state("a"), if halted { "!" } else { "" })
}

#[test]
fn every_state_times_every_fault() {
    let expected: Vec<(String, Vec<String>)> = TABLE
        .trim()
        .lines()
        .map(|line| {
            let mut cells = line.split('|').map(|cell| cell.trim().to_owned());
            (cells.next().expect("a state"), cells.collect())
        })
        .collect();
    let (mut wrong, mut cases) = (Vec::new(), 0);
    for state in State::ALL {
        let row =
            expected.iter().find(|(named, _)| *named == state.to_string()).expect("every state has a row");
        assert_eq!(row.1.len(), FAULTS.len(), "{state}");
        for (fault, expected) in FAULTS.iter().zip(&row.1) {
            let found = cell(state, fault);
            cases += 1;
            if found != *expected {
                wrong.push(format!("{state} × {fault}: expected {expected}, found {found}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {cases} cases:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(cases, 231);
}
