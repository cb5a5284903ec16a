//! Killed at random moments: the supervisor, in the middle of whatever it does.

use std::{thread, time::Duration};

use fleet_supervisor::record::Terms;

use crate::support::{Node, program};

const KILLS: usize = 200;

/// A generator of one's own, so that a seed means the same for ever (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % most
    }
}

#[test]
fn killed_at_random_moments_old_or_new_runs() {
    let seed = std::env::var("FLEET_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_124);
    eprintln!("FLEET_SEED={seed}");
    let mut random = Random(seed);
    let (mut node, mut version, mut updates) = (Node::new(), 0, 0);
    // Proved soon, so that the next update can follow.
    node.prepare = |command| {
        command.args(["--probation-ms", "5"]);
    };
    for kill in 0..KILLS {
        node.start();
        // Something runs, whatever the last kill cut: a trial that cannot start, or else the one that served.
        node.heard("READY=1");
        let state = node.state();
        if state.trial.is_none() && state.probation.is_none() {
            version += 1;
            let manner = if random.below(3) == 0 { "crash" } else { "good" };
            let terms = Terms { tries: 3, trial_ms: 50_000, ceiling_ms: 50_000 };
            node.install(&format!("v{version}"), &program(&format!("v{version}"), manner), terms)
                .expect("install");
            node.agent_exits();
            updates += 1;
        }
        thread::sleep(Duration::from_micros(random.below(60_000)));
        node.kill(libc::SIGKILL);
        node.drain();
        let state = node.state();
        let found = node.slots.look();
        let active = state.content(state.active);
        assert!(found.holds(state.active, active), "kill {kill}: the active slot is not whole: {state:?}");
    }
    node.start();
    node.heard("READY=1");
    node.wait("quiet", |node| node.state().trial.is_none());
    assert!(updates > KILLS / 10, "{updates} updates under {KILLS} kills: hardly anything was cut");
    eprintln!("{KILLS} kills, {updates} updates begun, now on {}", node.active().version);
}
