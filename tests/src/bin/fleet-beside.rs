//! Side by side on clouds without machines whose operations take five seconds: `fleetctl up` of the reference plan,
//! and plumbery's `deploy` of the same plan in its own format. Both up to the same point: everything is there and the
//! servers are started. Times, and calls that change something or read.
//!
//! usage: fleet-beside FOLDER, where FOLDER keeps plumbery's packages; FLEET_DIST names that of the finished programs.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use fleet_local_cloud::{Access, api::Entry};
use fleet_peers::{Cloud, Python};
use fleet_tests::Sandbox;

const OPERATION: Duration = Duration::from_secs(5);
/// What fleetctl may take of plumbery's time and of its calls.
const TIME_BUDGET: f64 = 1.0 / 3.0;
const CALLS_BUDGET: f64 = 1.0 / 5.0;
/// What plumbery asks first.
const FIRST: &str = "MY_ACCOUNT";
/// The last of a fleet's servers is on its way: what the two have in common ends once it is up.
const LAST: &str = "START_SERVER";

/// What one of them took.
struct Run {
    seconds: f64,
    changing: usize,
    reading: usize,
}

impl Run {
    fn of(seconds: f64, calls: &[Entry]) -> Self {
        let changing = calls.iter().filter(|call| call.changing).count();
        Self { seconds, changing, reading: calls.len() - changing }
    }

    fn calls(&self) -> usize {
        self.changing + self.reading
    }
}

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: fleet-beside FOLDER");
        return ExitCode::from(2);
    };
    let ours = fleetctl();
    let (theirs, whole) = plumbery(&PathBuf::from(folder));
    let mut table =
        format!("{:<32}{:>12}{:>12}{:>18}\n", "reference fleet", "fleetctl", "plumbery", "its whole deploy");
    let mut row = |what: &str, of: &dyn Fn(&Run) -> String| {
        table += &format!("{what:<32}{:>12}{:>12}{:>18}\n", of(&ours), of(&theirs), of(&whole));
    };
    row("servers started after", &|run| format!("{:.1} s", run.seconds));
    row("calls that change something", &|run| run.changing.to_string());
    row("calls that read", &|run| run.reading.to_string());
    let mut share = |what: &str, share: f64, budget: f64| {
        let verdict = if share <= budget { "met" } else { "MISSED" };
        table += &format!("{what:<32}{share:>12.2}  budget ≤ {budget:.2}  {verdict}\n");
    };
    share("share of plumbery's time", ours.seconds / theirs.seconds, TIME_BUDGET);
    share("share of plumbery's calls", ours.calls() as f64 / theirs.calls() as f64, CALLS_BUDGET);
    if let Err(why) = io::stdout().write_all(table.as_bytes()) {
        eprintln!("error: print the table: {why}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn plan(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path).display().to_string()
}

/// `fleetctl up`, which ends once the servers run; their first boot would be next.
fn fleetctl() -> Run {
    let millis = u64::try_from(OPERATION.as_millis()).expect("seconds");
    let sandbox = Sandbox::with_state_only_cloud(millis);
    // The cloud is there for both: plumbery's does not start with it either.
    sandbox.run(&["up", &plan("packaging/plans/rethinkdb.yaml"), "--preview"]).expect(2);
    let before = log(&cloud_of(&sandbox)).len();
    let started = Instant::now();
    sandbox.run(&["up", &plan("packaging/plans/rethinkdb.yaml"), "--provision-only"]).expect(0);
    let seconds = started.elapsed().as_secs_f64();
    let calls = &log(&cloud_of(&sandbox))[before..];
    // Which they are, for who finds too many.
    calls.iter().for_each(|call| eprintln!("fleetctl: {} {}", call.operation, call.path));
    Run::of(seconds, calls)
}

fn cloud_of(sandbox: &Sandbox) -> Access {
    let access = Access::load(&sandbox.home().join("cloud")).expect("what the cloud wrote can be read");
    access.expect("the cloud has said how to reach it")
}

/// plumbery's `deploy`: up to its last start of a server, and as a whole. What follows the start is about what is in
/// the servers.
fn plumbery(folder: &Path) -> (Run, Run) {
    let python = Python::with(folder, "plumbery.txt");
    let cloud = Cloud::start(|settings| {
        settings.delays.default = OPERATION;
        settings.public_ipv4 = [127, 66, 0, 0].into();
    });
    let arguments = [&plan("tests/plans/plumbery/fittings.yaml"), "deploy"];
    let ended = python.run(&cloud, "plumbery_life.py", &arguments);
    assert!(ended.success, "{}", ended.output);
    let calls = log(cloud.access());
    // What the script itself asks comes before plumbery's first call, which is for its account, and after its last
    // change.
    let first =
        calls.iter().position(|call| call.operation == FIRST).expect("plumbery asked for its account");
    let started = calls.iter().rposition(|call| call.operation == LAST && call.status == 200);
    let end = calls.iter().rposition(|call| call.changing).expect("plumbery changed something");
    let run = |last: usize, more: Duration| {
        let calls = &calls[first..=last];
        Run::of(between(&calls[0], &calls[calls.len() - 1]) + more.as_secs_f64(), calls)
    };
    (run(started.expect("servers were started"), OPERATION), run(end, Duration::ZERO))
}

/// Time between two calls of one run, which is far shorter than a day.
fn between(first: &Entry, last: &Entry) -> f64 {
    const DAY: f64 = 86_400.0;
    (seconds_of_day(&last.time) - seconds_of_day(&first.time)).rem_euclid(DAY)
}

/// `2026-01-01T10:20:30.400Z` is 37230.4.
fn seconds_of_day(time: &str) -> f64 {
    let clock = time.trim_end_matches('Z').split_once('T').map_or("", |(_, clock)| clock);
    let part = |part: &str| part.parse::<f64>().expect("the log has RFC 3339, in UTC");
    clock.split(':').fold(0.0, |sum, text| sum * 60.0 + part(text))
}

fn log(access: &Access) -> Vec<Entry> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(fleet_local_cloud::log(access)).expect("the log of calls")
}
