//! Random lives of a fleet in a cloud where things go wrong: `up`, `up` of a changed plan, `down`.
//!
//! A schedule is drawn from a seed: a plan, a change of it, and what goes wrong when (busy resources, 5xx, connections
//! cut before or after the effect, slow answers, servers that fail to be made, refusals, restarts of the cloud and of
//! the controller). Whatever goes wrong, a run ends as planned or with reasons, and never leaves anything twice; once
//! the trouble is over, the next run ends as planned; after `down` nothing is left.
//!
//! Each life is lived by the provider against a local cloud of its own in this process. Seeds are printed. To
//! live one life again, alone and with a line for everything that happens:
//!
//! ```sh
//! FLEET_SCHEDULE=1234567 cargo test -p fleet-tests --test schedules -- --nocapture
//! ```
//!
//! `FLEET_SCHEDULES=1000` lives that many lives instead of the usual number, and `FLEET_SCHEDULES_FROM=7` others than
//! the usual ones.

mod check;
mod cloud;
mod lanes;
mod life;
mod schedule;

/// Lives lived.
const LIVES: usize = 200;

#[test]
fn the_provider_survives_random_schedules() {
    // Lives mostly wait: for pauses, for writes, for the other side.
    let lanes = 2 * std::thread::available_parallelism().map_or(2, usize::from);
    lanes::live(LIVES, lanes, life::live);
}
