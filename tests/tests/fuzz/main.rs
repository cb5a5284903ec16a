//! Whatever comes in from outside, our readers end with a value or an error: they neither panic, nor hang, nor read
//! back something else than they wrote.
//!
//! Each target feeds a reader with inputs made from good ones by random changes, and keeps as a start for more what the
//! reader answered in a way it had not before. Two targets run at once. An ordinary run of the tests is a short one;
//! `cargo xtask test` gives each target a minute:
//!
//! ```sh
//! FLEET_FUZZ_SECONDS=60 cargo test -p fleet-tests --test fuzz -- --nocapture
//! FLEET_FUZZ_TARGET=plan FLEET_FUZZ_SECONDS=600 cargo test -p fleet-tests --test fuzz   # one of them
//! FLEET_FUZZ_FROM=7 cargo test -p fleet-tests --test fuzz                                # other changes than usual
//! ```
//!
//! An input that is a finding is printed and kept in `tests/tests/fuzz/findings/TARGET/`; what lies there is tried
//! first by every run, so that it stays mended. An input that hangs, or overflows the stack, is left in the file the
//! target names when it begins.

mod engine;
mod reql;
mod targets;
mod wire;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// Targets at once: as many as the smallest machine has processors.
const AT_ONCE: usize = 2;

#[test]
fn readers_survive_what_they_are_given() {
    let wanted = std::env::var("FLEET_FUZZ_TARGET").ok();
    let targets: Vec<engine::Target> = targets::all()
        .into_iter()
        .filter(|target| wanted.as_ref().is_none_or(|wanted| target.name == wanted))
        .collect();
    assert!(!targets.is_empty(), "there is no target `{}`", wanted.unwrap_or_default());
    let (next, findings) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(finding) = engine::run(target) {
                        findings.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(finding);
                    }
                }
            });
        }
    });
    let findings = findings.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}
