//! Every way of rolling out, on every release: the table.

use std::fmt::Write as _;

use fleet_rollout::{Outcome, Policy};

use crate::{
    agents::{Fault, Release, fleet},
    engine::{Death, Engine, PLAN, RELEASE},
    fleet::{Fleet, Run, Strategy, Time},
    peers::{Canaries, Groups, Slots},
};

pub const AGENTS: usize = 1000;
/// Nobody is away for longer than six hours unless for good; one node at a time takes days.
const HORIZON: Time = 3 * 86_400;

pub const RELEASES: [(&str, Release); 5] = [
    ("good", Release::Good),
    ("uneven", Release::Uneven),
    ("crashes", Release::Bad(Fault::Crash)),
    ("hangs", Release::Bad(Fault::Hang)),
    ("late crash", Release::Bad(Fault::LateCrash)),
];

/// Ways of rolling out by name.
pub fn strategies() -> Vec<(&'static str, Box<dyn Strategy>)> {
    vec![
        ("this engine", Box::new(Engine::new(AGENTS, Policy::default(), "r", RELEASE))),
        ("brupop, 1 at a time", Box::new(Slots::new(AGENTS, 1))),
        ("FleetLock, 20 slots", Box::new(Slots::new(AGENTS, 20))),
        ("hawkBit, 10 groups, 50/10 %", Box::new(Groups::new(AGENTS, 10, 50, 10))),
        ("Teleport, 5 canaries, 20 %", Box::new(Canaries::new(AGENTS, AGENTS / 5))),
    ]
}

/// One run: 429 storms of 15 and 25 minutes, in the first one of which the canaries are.
pub fn run(strategy: &mut dyn Strategy, release: Release, seed: u64) -> Run {
    let storms = vec![(30, 930), (4000, 5500)];
    Fleet::new(seed, fleet(AGENTS, release, seed), storms).run(strategy, HORIZON)
}

/// The table, as text.
pub fn table(seed: u64) -> String {
    let mut out = String::new();
    let time = |t: Option<Time>| t.map_or("-".to_owned(), |t| format!("{}h{:02}", t / 3600, t / 60 % 60));
    let _ = writeln!(
        out,
        "{AGENTS} agents, 20 % off at the start, 2 clones, two 429 storms, seed {seed}\n\n{:<11} {:<28} {:>8} {:>12} {:>12} {:>8} {:>10} {:>10} {:>8}",
        "release",
        "rules",
        "halted",
        "touched then",
        "touched all",
        "updated",
        "false back",
        "present by",
        "all by"
    );
    for (name, release) in RELEASES {
        for (rules, mut strategy) in strategies() {
            let run = run(strategy.as_mut(), release, seed);
            let then = run.touched_at_halt.map_or("-".to_owned(), |n| n.to_string());
            let _ = writeln!(
                out,
                "{name:<11} {rules:<28} {:>8} {then:>12} {:>12} {:>8} {:>10} {:>10} {:>8}",
                time(run.halted_at),
                run.touched,
                run.updated,
                run.false_rollbacks,
                time(run.present_by),
                time(run.all_by),
            );
        }
    }
    out
}

/// What is brought to the small fleet whose controller dies, and how.
pub fn brought() -> [([&'static str; 2], Policy); 2] {
    [(RELEASE, Policy::default()), (PLAN, Policy::of_plans())]
}

/// A small fleet under a controller that dies at `death`, for eight hours; without one, nobody dies.
pub fn run_dying((what, policy): ([&str; 2], Policy), death: Option<Death>) -> Engine {
    let mut engine = Engine::new(12, policy, "r", what);
    if let Some(death) = death {
        engine = engine.dying(death);
    }
    Fleet::new(3, fleet(12, Release::Good, 4), vec![(30, 300)]).run(&mut engine, 8 * 3600);
    engine
}

/// How every node ended.
pub fn ends(engine: &Engine) -> Vec<Option<Outcome>> {
    engine.rollout.nodes.keys().map(|name| engine.rollout.outcome(name)).collect()
}

/// Kills the controller at every step that stores something, just before and just after it is stored; gives back how
/// many deaths there were, and those after which the fleet ended otherwise than without them.
pub fn deaths(brought: &([&str; 2], Policy)) -> (u64, Vec<Death>) {
    let unharmed = run_dying(brought.clone(), None);
    let mut different = Vec::new();
    for step in 1..=unharmed.steps {
        for stored in [false, true] {
            let death = Death { step, stored };
            let engine = run_dying(brought.clone(), Some(death));
            if !engine.died || ends(&engine) != ends(&unharmed) {
                different.push(death);
            }
        }
    }
    (2 * unharmed.steps, different)
}
