//! Agents and their seeded faults.

use crate::fleet::Time;

/// What is wrong with a release on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It crashes at start.
    Crash,
    /// It hangs at start.
    Hang,
    /// It crashes 90 seconds after its commit.
    LateCrash,
}

/// What an agent is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    Old,
    Fetching,
    Trial,
    New,
    /// It runs the new release, and will not for long.
    Doomed,
}

#[derive(Clone, Debug)]
pub struct Agent {
    pub fault: Fault,
    pub doing: Doing,
    pub up: bool,
    /// Off from the start until then; never back at the end of time.
    pub away_until: Option<Time>,
    /// When a clone of it is there.
    pub cloned: Option<(Time, Time)>,
    pub order: u64,
    pub turn: u64,
    pub touched: bool,
    pub returned: bool,
    pub since: Time,
}

/// SplitMix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// What a release does to the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// It is good everywhere.
    Good,
    /// On one host in two hundred it does each of the three wrong things.
    Uneven,
    /// It does this everywhere.
    Bad(Fault),
}

/// So many agents: one in five is off, of these one in ten for good and the others for one to six hours; two are cloned.
pub fn fleet(count: usize, release: Release, seed: u64) -> Vec<Agent> {
    let mut rng = Rng::new(seed);
    let clones = [rng.below(count as u64) as usize, rng.below(count as u64) as usize];
    (0..count)
        .map(|i| {
            let off = rng.below(5) == 0;
            let for_good = rng.below(10) == 0;
            let back = 3600 + rng.below(5 * 3600);
            let draw = rng.below(200);
            let fault = match (release, draw) {
                (Release::Bad(fault), _) => fault,
                (Release::Uneven, 0) => Fault::Crash,
                (Release::Uneven, 1) => Fault::Hang,
                (Release::Uneven, 2) => Fault::LateCrash,
                _ => Fault::None,
            };
            let cloned = clones.contains(&i).then(|| (60 + rng.below(600), 4000 + rng.below(4000)));
            Agent {
                fault,
                doing: Doing::Old,
                up: false,
                away_until: off.then_some(if for_good { Time::MAX } else { back }),
                cloned,
                order: 0,
                turn: 0,
                touched: false,
                returned: false,
                since: 0,
            }
        })
        .collect()
}
