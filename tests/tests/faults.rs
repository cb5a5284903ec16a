//! What goes wrong in the cloud ends in one message with cause and next step, and leaves everything resumable.

use std::path::Path;

use fleet_peers::BRING_UP;
use fleet_tests::{Ended, Sandbox};
use serde_json::{Value, json};

fn reference_plan() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/plans/rethinkdb.yaml").display().to_string()
}

/// A cloud that serves, with `faults` switched on.
fn cloud_with(faults: &[Value]) -> Sandbox {
    let sandbox = Sandbox::with_state_only_cloud(0);
    sandbox.run(&["up", &reference_plan(), "--preview"]).expect(2);
    let cloud = sandbox.cloud().expect("the cloud serves");
    faults.iter().for_each(|fault| cloud.fault(fault));
    sandbox
}

fn up(sandbox: &Sandbox) -> Ended {
    sandbox.run(&["up", &reference_plan()])
}

/// With the faults gone, the next run ends as planned, with nothing twice.
fn resumes(sandbox: &Sandbox) {
    sandbox.cloud().expect("the cloud serves").clear_faults();
    up(sandbox).expect(0);
    let holdings = sandbox.cloud().expect("the cloud serves").holdings();
    let count = |list: &str| holdings[list].len();
    assert_eq!(
        (count("network/networkDomain"), count("network/vlan"), count("server/server")),
        (4, 5, 5),
        "{holdings:#?}"
    );
    assert_eq!((count("network/natRule"), count("network/publicIpBlock")), (5, 4), "{holdings:#?}");
    sandbox.run(&["up", &reference_plan(), "--preview"]).expect(0);
}

#[test]
fn troubles_that_pass_are_sat_out() {
    let sandbox = cloud_with(&[
        json!({ "kind": "busy", "operation": "DEPLOY_SERVER", "count": 3 }),
        json!({ "kind": "busy", "operation": "ADD_DISK", "count": 2 }),
        json!({ "kind": "server_error", "status": 503, "operation": "*", "count": 5 }),
        json!({ "kind": "slow", "millis": 300, "operation": "CREATE_NAT_RULE", "count": 2 }),
        json!({ "kind": "reset", "operation": "change", "count": 3 }),
    ]);
    up(&sandbox).expect(0);
    resumes(&sandbox);
}

#[test]
fn an_answer_lost_after_its_effect_is_adopted_not_repeated() {
    let lost = |operation: &&str| json!({ "kind": "lost_answer", "operation": operation, "count": 2 });
    let sandbox = cloud_with(&BRING_UP.iter().map(lost).collect::<Vec<_>>());
    up(&sandbox).expect(0);
    resumes(&sandbox);
}

#[test]
fn a_server_that_fails_is_cleaned_and_tried_again_a_bounded_number_of_times() {
    let once = cloud_with(&[json!({ "kind": "fail_deploy", "operation": "DEPLOY_SERVER", "count": 1 })]);
    up(&once).expect(0);
    resumes(&once);
    let always = cloud_with(&[json!({
        "kind": "fail_deploy", "operation": "DEPLOY_SERVER", "subject": "EU8rethink01", "count": 100
    })]);
    let ended = up(&always).expect(1);
    assert!(ended.err.contains("EU8rethink01"), "{}", ended.err);
    let deploys = always.cloud().expect("the cloud serves").log();
    let deploys = deploys.iter().filter(|call| call["operation"] == "DEPLOY_SERVER").count();
    assert!(
        (5..=8).contains(&deploys),
        "{deploys} deploys: four good ones and at most three of the bad one, plus one"
    );
    resumes(&always);
}

#[test]
fn wrong_credentials_are_named_and_nothing_is_made() {
    let sandbox = cloud_with(&[]);
    let file = sandbox.home().join("cloud/access.json");
    let good = std::fs::read_to_string(&file).unwrap();
    let mut access: Value = serde_json::from_str(&good).unwrap();
    access["password"] = json!("wrong");
    // The controller reads access for each run; `up` itself asks the cloud only whether it serves.
    std::fs::write(&file, access.to_string()).unwrap();
    let ended = up(&sandbox).expect(4);
    assert!(ended.err.contains("401") || ended.err.to_lowercase().contains("credential"), "{}", ended.err);
    assert!(!ended.err.contains("wrong\""), "the password is not shown: {}", ended.err);
    std::fs::write(&file, good).unwrap();
    resumes(&sandbox);
}

#[test]
fn an_image_no_cloud_has_is_one_clear_problem_before_anything_is_made() {
    let sandbox = cloud_with(&[]);
    let ended = sandbox.run(&["up", &reference_plan(), "--set", "image=BeOS 5"]).expect(1);
    assert!(ended.err.contains("BeOS 5"), "{}", ended.err);
    assert!(sandbox.cloud().expect("the cloud serves").list("server/server").is_empty());
    resumes(&sandbox);
}

#[test]
fn a_second_controller_on_the_same_state_is_refused_by_the_id_of_the_first() {
    let sandbox = cloud_with(&[]);
    let pid = sandbox.controller_pid("rethink").expect("a controller serves");
    let ended = sandbox.run(&["serve", "--fleet", "rethink"]).expect(1);
    assert!(ended.err.contains(&pid.to_string()), "{}", ended.err);
    resumes(&sandbox);
}

#[test]
fn a_foreign_resource_of_the_same_name_is_left_alone_and_named() {
    let sandbox = cloud_with(&[]);
    let cloud = sandbox.cloud().expect("the cloud serves");
    let answer = cloud.operate(
        "network/deployNetworkDomain",
        &json!({ "datacenterId": "EU8", "name": "RethinkFox", "description": "somebody else's", "type": "ESSENTIALS" }),
    );
    assert_eq!(answer["responseCode"], "IN_PROGRESS", "{answer}");
    let ended = up(&sandbox);
    assert_ne!(ended.status, Some(0), "{ended:?}");
    assert!(ended.err.contains("RethinkFox") && ended.err.contains("EU8"), "{}", ended.err);
    sandbox.run(&["down", "--yes"]);
    let left = sandbox.cloud().map(|cloud| cloud.list("network/networkDomain"));
    assert!(left.is_some_and(|domains| domains.len() == 1), "the foreign domain stays");
}
