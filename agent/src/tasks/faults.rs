//! Table of tasks × {error, `kill -9` of the agent, power cut of the machine, full disk}: each ends converged, or with one
//! clear reason and converged once the trouble is over.
//!
//! | column | where it strikes |
//! |---|---|
//! | error | at any program, and at any sync of a file |
//! | `kill -9` | before and after any program, and at any sync: the future is gone, and the disk remembers all |
//! | power cut | at any sync: what was not synced may be gone ([`power`]) |
//! | full disk | with so many free pages, also none |
//!
//! Every kind of task has a row ([`rows`]) that each column strikes; a new kind without one does not compile, or fails.

pub(crate) mod power;
mod rows;

use std::{collections::BTreeSet, fs, io::Write, path::Path, process::Command as Process, time::Duration};

use fleet_task::{Outcome, Report};

use super::{support::fake::Fault, tests::Rig};
use power::Strike;
use rows::{KINDS, Made, Row, rows};

/// Which kinds a column has struck.
#[derive(Default)]
struct Struck(BTreeSet<&'static str>);

impl Struck {
    fn note(&mut self, row: &Row) {
        self.0.insert(row.kind());
    }

    /// A kind the column never struck is one nobody tried.
    fn every_kind(&self) {
        assert_eq!(self.0, KINDS.iter().copied().collect());
    }
}

impl Row {
    fn kind(&self) -> &'static str {
        let kind = self.name.split(',').next().unwrap_or_default();
        KINDS.iter().find(|known| **known == kind).expect("a row is named after its kind")
    }

    /// The node with work to do, and how many programs that work takes.
    async fn ready(&self) -> Made {
        let (debian, rig, task) = (self.make)();
        if let Some(damage) = self.damage {
            let report = rig.run(task.clone()).await;
            assert!(report.is_converged(), "{}: {report:?}", self.name);
            damage(&debian, &rig);
        }
        (debian, rig, task)
    }

    async fn programs(&self) -> usize {
        let (debian, rig, task) = self.ready().await;
        let before = debian.ran("").len();
        let report = rig.run(task).await;
        assert!(matches!(report.outcome, Outcome::Changed(_)), "{}: {report:?}", self.name);
        debian.ran("").len() - before
    }

    /// Converged, or one clear reason with the next step.
    fn is_clear(&self, report: &Report, what: &str) {
        match &report.outcome {
            Outcome::Unchanged | Outcome::Changed(_) => (),
            Outcome::Failed(why) => {
                let steps = why.matches("next: ").count();
                assert!(
                    steps == 1 && !why.contains('\n') && why.len() < 1000,
                    "{}, {what}: {why}",
                    self.name
                );
            }
            other => panic!("{}, {what}: {other:?}", self.name),
        }
    }

    /// The trouble is over: one more run converges, and the one after it has nothing to do.
    async fn converges(&self, (debian, rig, task): &Made, what: &str) {
        let report = rig.run(task.clone()).await;
        assert!(report.is_converged(), "{}, after {what}: {report:?}", self.name);
        let report = rig.run(task.clone()).await;
        assert_eq!(report.outcome, Outcome::Unchanged, "{}, after {what}", self.name);
        (self.end)(debian, rig);
        let left = fs::read_dir(rig.path("/etc")).expect("list").flatten().map(|entry| entry.file_name());
        assert!(
            !left.into_iter().any(|name| name.to_string_lossy().ends_with(".fleet-new")),
            "{}",
            self.name
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_anywhere_is_survived() {
    power::be_forgetful();
    let mut struck = Struck::default();
    for row in rows() {
        for nth in 0..row.programs().await {
            let (debian, rig, task) = row.ready().await;
            debian.fault_at(nth, Fault::Fails);
            let report = rig.run(task.clone()).await;
            let what = format!("failure of `{}`", debian.ran("").last().cloned().unwrap_or_default());
            row.is_clear(&report, &what);
            (row.always)(&debian, &rig);
            debian.revive();
            row.converges(&(debian, rig, task), &what).await;
        }
        for nth in 1.. {
            let (debian, rig, task) = row.ready().await;
            power::watch(&rig.path("/"), &debian, nth, Strike::Error);
            let report = rig.run(task.clone()).await;
            if !power::is_over() {
                break;
            }
            struck.note(&row);
            let what = format!("an error at sync {nth}, last `{:?}`", debian.ran("").last());
            row.is_clear(&report, &what);
            (row.always)(&debian, &rig);
            row.converges(&(debian, rig, task), &what).await;
        }
    }
    struck.every_kind();
}

#[tokio::test(start_paused = true)]
async fn a_death_anywhere_is_survived() {
    power::be_forgetful();
    let mut struck = Struck::default();
    for row in rows() {
        for nth in 0..row.programs().await {
            for fault in [Fault::DiesBefore, Fault::DiesAfter] {
                let (debian, rig, task) = row.ready().await;
                debian.fault_at(nth, fault);
                let dies = async {
                    tokio::select! {
                        report = rig.run(task.clone()) => panic!("{}, {nth}: it lives: {report:?}", row.name),
                        () = debian.dead() => (),
                    }
                };
                tokio::time::timeout(Duration::from_secs(3600), dies).await.expect("dies in time");
                (row.always)(&debian, &rig);
                debian.revive();
                let what = format!("{fault:?} at `{}`", debian.ran("").last().cloned().unwrap_or_default());
                row.converges(&(debian, rig, task), &what).await;
            }
        }
        for nth in 1.. {
            let (debian, rig, task) = row.ready().await;
            power::watch(&rig.path("/"), &debian, nth, Strike::Death);
            tokio::select! {
                _ = rig.run(task.clone()) => (),
                () = debian.dead() => (),
            }
            if !power::is_over() {
                break;
            }
            struck.note(&row);
            let what = format!("death at sync {nth}, last `{:?}`", debian.ran("").last());
            debian.revive();
            (row.always)(&debian, &rig);
            row.converges(&(debian, rig, task), &what).await;
        }
    }
    struck.every_kind();
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_anywhere_is_survived() {
    power::be_forgetful();
    let mut struck = Struck::default();
    for row in rows() {
        for strike in [Strike::Cut, Strike::CutBehindNames] {
            for nth in 1.. {
                let (debian, rig, task) = row.ready().await;
                power::watch(&rig.path("/"), &debian, nth, strike);
                tokio::select! {
                    _ = rig.run(task.clone()) => (),
                    () = debian.dead() => (),
                }
                let was_cut = power::is_over();
                debian.boots();
                let what = format!("{strike:?} at sync {nth}, last `{:?}`", debian.ran("").last());
                (row.always)(&debian, &rig);
                if was_cut {
                    struck.note(&row);
                    row.converges(&(debian, rig, task), &what).await;
                    continue;
                }
                // It was done, and the power went a moment later: what it said is so.
                assert!(nth > 1, "{}: it changed something", row.name);
                let report = rig.run(task.clone()).await;
                assert_eq!(report.outcome, Outcome::Unchanged, "{}, after its end, {strike:?}", row.name);
                (row.end)(&debian, &rig);
                break;
            }
        }
    }
    struck.every_kind();
}

/// Set in the process that has a small disk of its own.
const INSIDE: &str = "FLEET_TEST_SMALL_DISK";
/// Bytes of a page, the unit a disk in memory is filled by.
const PAGE: usize = 4096;

/// Runs itself again with a small disk for temporary files, in a mount namespace of its own.
#[tokio::test(start_paused = true)]
async fn a_full_disk_is_survived() {
    if std::env::var_os(INSIDE).is_some() {
        return on_a_small_disk().await;
    }
    let folder = tempfile::tempdir().expect("folder");
    let script = "mount -t tmpfs -o size=4m tmpfs \"$TMPDIR\" && exec \"$@\"";
    let mut unshare = Process::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    let output = unshare
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", "tasks::faults::a_full_disk_is_survived", "--nocapture"])
        .env(INSIDE, "1")
        .env("TMPDIR", folder.path())
        .output()
        .expect("unshare of util-linux");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

async fn on_a_small_disk() {
    let mut struck = Struck::default();
    for row in rows() {
        let mut failures = 0;
        for pages in [0, 1, 2, 3, 4, 6, 8, 12] {
            let (debian, rig, task) = row.ready().await;
            let before = whole(&rig);
            let filler = fill(&rig.path("/"), pages);
            let report = rig.run(task.clone()).await;
            let what = format!("{pages} free pages");
            row.is_clear(&report, &what);
            if let Outcome::Failed(why) = &report.outcome {
                failures += 1;
                assert!(why.to_lowercase().contains("no space left"), "{}, {what}: {why}", row.name);
                assert_eq!(before, whole(&rig), "{}, {what}: existing files are intact", row.name);
            }
            (row.always)(&debian, &rig);
            fs::remove_file(filler).expect("filler");
            row.converges(&(debian, rig, task), &what).await;
        }
        // A change of mode needs no room, and a stopped service little.
        assert!(failures > 0 || row.damage.is_some(), "{}: it never ran out of space", row.name);
        if failures > 0 {
            struck.note(&row);
        }
    }
    struck.every_kind();
}

/// The contents of files that a cut write would tear.
fn whole(rig: &Rig) -> Vec<Option<Vec<u8>>> {
    let files = [
        "/srv/page",
        "/etc/hosts",
        "/etc/hostname",
        "/etc/passwd",
        "/etc/shadow",
        "/etc/ssh/sshd_config",
        "/home/fleet/.ssh/authorized_keys",
    ];
    files.iter().map(|path| fs::read(rig.path(path)).ok()).collect()
}

/// Takes all space below `folder` but so many pages.
fn fill(folder: &Path, pages: usize) -> std::path::PathBuf {
    let path = folder.join("filler");
    let mut file = fs::File::create(&path).expect("an empty file");
    let page = [0; PAGE];
    let mut taken = 0;
    while file.write_all(&page).is_ok() {
        taken += PAGE;
    }
    file.set_len((taken - pages * PAGE) as u64).expect("shorter");
    path
}
