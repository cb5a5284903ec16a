//! A run that is killed at any moment is finished by the next one: no duplicate, no orphan.

use std::{path::Path, thread, time::Duration};

use fleet_tests::{Holdings, LocalCloud, Sandbox, eventually, runs};

const FLEET: &str = "rethink";
/// Long enough for a kill to find operations under way, short enough for many rounds.
const OPERATION_MS: u64 = 40;
/// Rounds at once; the machines this runs on have two cores.
const LANES: usize = 3;
/// Changing calls after which a round kills. A whole run sends about eighty.
const KILL_AFTER: [usize; 30] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 23, 26, 29, 32, 35, 38, 41, 45, 49, 53, 57, 61, 65,
    69,
];

fn reference_plan() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/plans/rethinkdb.yaml").display().to_string()
}

/// What an undisturbed run leaves, and how many changing calls it takes.
fn undisturbed() -> (Holdings, usize) {
    let sandbox = Sandbox::with_state_only_cloud(0);
    sandbox.run(&["up", &reference_plan()]).expect(0);
    let cloud = sandbox.cloud().expect("the cloud serves");
    (cloud.holdings(), cloud.changing_calls())
}

/// Kills `up`, its controller and, every third round, the cloud, once `after` changing calls were answered.
fn kill_and_finish(round: usize, after: usize, planned: &Holdings) {
    let sandbox = Sandbox::with_state_only_cloud(OPERATION_MS);
    let plan = reference_plan();
    let mut up = sandbox.start(&["up", &plan]);
    let cloud = eventually("the cloud serves", Duration::from_secs(60), || sandbox.cloud());
    let enough =
        |cloud: &LocalCloud| cloud.changing_calls() >= after && sandbox.controller_pid(FLEET).is_some();
    eventually("changing calls", Duration::from_secs(120), || enough(&cloud).then_some(()));
    up.kill().expect("`up` still runs");
    sandbox.kill_controller(FLEET);
    if round.is_multiple_of(3) {
        sandbox.kill_cloud();
    }
    up.wait().expect("`up` is our child");
    sandbox.run(&["up", &plan]).expect(0);
    let cloud = sandbox.cloud().expect("the cloud serves");
    assert_eq!(cloud.holdings(), *planned, "killed after {after} changing calls");
    let quiet = cloud.changing_calls();
    sandbox.run(&["up", &plan]).expect(0);
    assert_eq!(
        sandbox.cloud().expect("the cloud serves").changing_calls(),
        quiet,
        "a third run changes nothing"
    );
}

#[test]
fn killed_at_thirty_points_the_next_run_ends_as_planned() {
    let (planned, calls) = undisturbed();
    assert!(
        KILL_AFTER.iter().all(|after| *after < calls),
        "{calls} calls: a later kill would find nothing to cut"
    );
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| {
                let planned = &planned;
                scope.spawn(move || {
                    let rounds = KILL_AFTER.iter().enumerate().skip(lane).step_by(LANES);
                    rounds.for_each(|(round, after)| kill_and_finish(round, *after, planned));
                })
            })
            .collect();
        for lane in lanes {
            lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

#[test]
fn a_second_run_sends_no_changing_call_and_down_leaves_nothing() {
    let sandbox = Sandbox::with_state_only_cloud(0);
    let plan = reference_plan();
    sandbox.run(&["up", &plan, "--preview"]).expect(2);
    assert!(
        sandbox.cloud().expect("the cloud serves").holdings().values().all(Vec::is_empty),
        "a preview does nothing"
    );
    sandbox.run(&["up", &plan]).expect(0);
    let before = sandbox.cloud().expect("the cloud serves").changing_calls();
    sandbox.run(&["up", &plan, "--preview"]).expect(0);
    let second = sandbox.run(&["--output", "json", "up", &plan]).expect(0).json();
    assert_eq!(second["changing_calls"], 0, "{second}");
    assert_eq!(sandbox.cloud().expect("the cloud serves").changing_calls(), before);
    let controller = sandbox.controller_pid(FLEET).expect("it left its id");
    let cloud = sandbox.cloud_pid().expect("it left its id");
    sandbox.run(&["down"]).expect(64);
    let down = sandbox.run(&["down", "--yes"]).expect(0);
    assert!(down.out.contains("servers: 0"), "{}", down.out);
    for pid in [controller, cloud] {
        assert!(!runs(pid), "process {pid} is left");
    }
    assert!(!sandbox.home().exists(), "the home is left");
}
