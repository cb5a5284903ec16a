//! Many lives side by side, their seeds printed.

use std::{
    fmt,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

/// What the seeds are drawn from.
const FIRST: u64 = 2026;

/// Lives `usual` lives, `lanes` at once; or the one of `FLEET_SCHEDULE`. `live` is given a seed and whether to say what
/// happens, and panics if that is not as it should be.
pub fn live(usual: usize, lanes: usize, live: impl Fn(u64, bool) + Sync) {
    if let Some(seed) = variable("FLEET_SCHEDULE") {
        return live(seed, true);
    }
    let count = variable("FLEET_SCHEDULES").map_or(usual, |count| usize::try_from(count).unwrap_or(usual));
    assert!(count > 0, "FLEET_SCHEDULES=0 lives nothing");
    // The same for everybody, so that a change is held against what the one before it passed; others on demand.
    let first = variable("FLEET_SCHEDULES_FROM").unwrap_or(FIRST);
    let mut random = StdRng::seed_from_u64(first);
    // Small enough to be typed.
    let seeds: Vec<u64> = (0..count).map(|_| u64::from(random.random::<u32>())).collect();
    say(format_args!("seeds: {seeds:?}"));
    let started = Instant::now();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if catch_unwind(AssertUnwindSafe(|| live(*seed, false))).is_err() {
                        say(format_args!("seed {seed} failed; alone: FLEET_SCHEDULE={seed}"));
                        failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(*seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    say(format_args!("{count} schedules in {:.1} s", started.elapsed().as_secs_f32()));
    assert!(
        failed.is_empty(),
        "{} of {count} seeds failed: {failed:?}; one alone: FLEET_SCHEDULE=SEED",
        failed.len()
    );
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}=`{text}` is no number")))
}

/// Says something whether or not the test's output is shown.
fn say(what: fmt::Arguments<'_>) {
    // Nobody listens: fine.
    let _ = writeln!(std::io::stderr(), "{what}");
}
