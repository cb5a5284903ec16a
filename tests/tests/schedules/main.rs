//! Random lives of a fleet in a cloud where things go wrong: `up`, `up` of a changed plan, `down`.
//!
//! A schedule is drawn from a seed: a plan, a change of it, and what goes wrong when (busy resources, 5xx, connections
//! cut before or after the effect, slow answers, servers that fail to be made, refusals, restarts of the cloud and of
//! the controller). Whatever goes wrong, a run ends as planned or with reasons, and never leaves anything twice; once
//! the trouble is over, the next run ends as planned; after `down` nothing is left.
//!
//! Most lives are lived by the provider against a local cloud of its own in this process, some by the finished programs,
//! where every kill is a real one. Seeds are printed. To live one life again, alone and with a line for everything that
//! happens:
//!
//! ```sh
//! FLEET_SCHEDULE=1234567 cargo test -p fleet-tests --test schedules the_provider -- --nocapture
//! ```
//!
//! `FLEET_SCHEDULES=1000` lives that many lives instead of the usual number, and `FLEET_SCHEDULES_FROM=7` others than
//! the usual ones.

mod check;
mod cloud;
mod lanes;
mod life;
mod programs;
mod schedule;

/// Lives lived.
const LIVES: usize = 200;
/// The same of the finished programs, whose lives are slower.
const PROGRAM_LIVES: usize = 8;

#[test]
fn the_provider_survives_random_schedules() {
    // Lives mostly wait: for pauses, for writes, for the other side.
    let lanes = 2 * std::thread::available_parallelism().map_or(2, usize::from);
    lanes::live(LIVES, lanes, life::live);
}

#[test]
fn the_programs_survive_random_schedules() {
    // They compute: keys, handshakes.
    lanes::live(PROGRAM_LIVES, 2, programs::live);
}
