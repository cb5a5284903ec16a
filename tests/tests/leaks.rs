//! Nothing leaks: what nobody answers for is found, and a fleet whose state is lost still comes down.

use std::{fs, path::Path, time::Duration};

use fleet_tests::{LocalCloud, Sandbox, eventually, runs};
use serde_json::{Value, json};

const FLEET: &str = "rethink";
/// Long enough for a kill to find operations under way.
const OPERATION_MS: u64 = 40;

fn reference_plan() -> String {
    plan("rethinkdb.yaml")
}

fn plan(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/plans").join(name).display().to_string()
}

fn cloud(sandbox: &Sandbox) -> LocalCloud {
    sandbox.cloud().expect("the cloud serves")
}

/// Makes a server that nobody has marked, beside a node of the fleet.
fn server_behind_our_back(cloud: &LocalCloud, beside: &str) -> String {
    let servers = cloud.list("server/server");
    let model = servers.iter().find(|server| server["name"] == beside).expect("the node's server");
    let request = json!({
        "name": "behind-our-back", "description": "somebody's", "imageId": model["sourceImageId"], "start": false,
        "administratorPassword": "Something-2-type", "memoryGb": 1,
        "networkInfo": {
            "networkDomainId": model["networkInfo"]["networkDomainId"],
            "primaryNic": { "vlanId": model["networkInfo"]["primaryNic"]["vlanId"] },
        },
    });
    let answer = cloud.operate("server/deployServer", &request);
    assert_eq!(answer["responseCode"], "IN_PROGRESS", "{answer}");
    answer["info"][0]["value"].as_str().expect("the new id").to_owned()
}

/// Starts `up`, and kills it and its controller in the middle.
fn kill_half_way(sandbox: &Sandbox) {
    let mut up = sandbox.start(&["up", &reference_plan()]);
    let cloud = eventually("the cloud serves", Duration::from_secs(60), || sandbox.cloud());
    eventually("a server", Duration::from_secs(120), || {
        (!cloud.list("server/server").is_empty() && sandbox.controller_pid(FLEET).is_some()).then_some(())
    });
    up.kill().expect("`up` still runs");
    sandbox.kill_controller(FLEET);
    up.wait().expect("`up` is our child");
}

/// Deletes all that this home knows of the fleet.
fn lose_state(sandbox: &Sandbox) {
    fs::remove_dir_all(sandbox.home().join("fleets").join(FLEET)).expect("the fleet's folder");
}

fn holds_nothing(cloud: &LocalCloud) -> bool {
    cloud.holdings().values().all(Vec::is_empty)
}

#[test]
fn orphans_of_every_origin_are_found() {
    let sandbox = Sandbox::with_state_only_cloud(OPERATION_MS);
    sandbox.run(&["cloud", "orphans"]).expect(0);

    // A run of an older journal was killed, and the journal is no more.
    kill_half_way(&sandbox);
    lose_state(&sandbox);
    let found = sandbox.run(&["--output", "json", "cloud", "orphans"]).expect(2).json();
    let lost: Vec<&Value> = found["orphans"].as_array().expect("a list").iter().collect();
    assert!(lost.iter().any(|orphan| orphan["kind"] == "server"), "{found:#}");
    let id = lost[0]["fleet_id"].as_str().expect("marked").to_owned();
    assert!(
        lost.iter().all(|orphan| orphan["fleet"] == FLEET && orphan["fleet_id"] == id.as_str()),
        "{found:#}"
    );
    let next = lost[0]["next_step"].as_str().expect("said");
    assert!(next.contains(&format!("fleetctl down --fleet {FLEET} --id {id}")), "{next}");
    assert!(lost.iter().all(|orphan| orphan["age_s"].is_u64()), "{found:#}");

    // Another fleet of this home is not to be blamed for it, nor it for the fleet.
    sandbox.run(&["up", &plan("minimal.yaml")]).expect(0);
    let stranger = server_behind_our_back(&cloud(&sandbox), "one");
    let found = sandbox.run(&["--output", "json", "cloud", "orphans"]).expect(2).json();
    let list = found["orphans"].as_array().expect("a list");
    assert_eq!(list.len(), lost.len() + 1, "{found:#}");
    let stranger = list.iter().find(|orphan| orphan["id"] == stranger.as_str()).expect("it is listed");
    assert_eq!((&stranger["fleet"], &stranger["name"]), (&Value::Null, &json!("behind-our-back")));
    assert!(stranger["next_step"].as_str().expect("said").contains("to adopt it"), "{stranger}");
    let status = sandbox.run(&["--fleet", "minimal", "status"]).expect(3);
    assert!(status.out.contains("1 in the cloud and in no plan"), "{}", status.out);
    let text = sandbox.run(&["cloud", "orphans"]).expect(2).out;
    assert!(text.contains("behind-our-back") && text.contains(&id), "{text}");

    // As it says: the lost one goes by its mark, the stranger by hand.
    sandbox.run(&["down", "--fleet", FLEET, "--id", &id]).expect(64);
    sandbox.run(&["down", "--fleet", FLEET, "--id", &id, "--yes"]).expect(0);
    let found = sandbox.run(&["--output", "json", "cloud", "orphans"]).expect(2).json();
    assert_eq!(found["orphans"].as_array().map(Vec::len), Some(1), "{found:#}");
    let gone = cloud(&sandbox).operate("server/deleteServer", &json!({ "id": stranger["id"] }));
    assert_eq!(gone["responseCode"], "IN_PROGRESS", "{gone}");
    eventually("it is gone", Duration::from_secs(30), || {
        (sandbox.run(&["cloud", "orphans"]).status == Some(0)).then_some(())
    });
    sandbox.run(&["down", "--yes"]).expect(0);
    assert!(!sandbox.home().exists(), "the home is left");
}

#[test]
fn a_fleet_without_its_state_still_comes_down() {
    let sandbox = Sandbox::with_state_only_cloud(0);
    sandbox.run(&["up", &reference_plan()]).expect(0);
    let controller = sandbox.controller_pid(FLEET).expect("it left its id");
    lose_state(&sandbox);
    // Asked first; nobody is there to answer.
    let asked = sandbox.run(&["down"]).expect(64);
    assert!(asked.err.contains("5 × server") && asked.err.contains("--yes"), "{}", asked.err);
    assert!(!holds_nothing(&cloud(&sandbox)));
    let down = sandbox.run(&["down", "--yes"]).expect(0);
    for proof in ["servers: 0", "public ip blocks: 0", "network domains: 0"] {
        assert!(down.out.contains(proof), "{}", down.out);
    }
    assert!(!runs(controller), "its controller is left");
    assert!(!sandbox.home().exists(), "the home is left");
}

#[test]
fn a_fleet_without_its_journal_still_comes_down() {
    let sandbox = Sandbox::with_state_only_cloud(0);
    sandbox.run(&["up", &reference_plan()]).expect(0);
    sandbox.kill_controller(FLEET);
    let folder = sandbox.home().join("fleets").join(FLEET);
    fs::remove_file(folder.join("store.db")).expect("the journal");
    let down = sandbox.run(&["down", "--yes"]).expect(0);
    assert!(down.out.contains("servers: 0"), "{}", down.out);
    assert!(!sandbox.home().exists(), "nothing was left, so the home is not either");
}

#[test]
fn two_lost_fleets_of_one_name_are_told_apart() {
    let sandbox = Sandbox::with_state_only_cloud(0);
    sandbox.run(&["up", &plan("minimal.yaml")]).expect(0);
    let domains = cloud(&sandbox).list("network/networkDomain");
    let theirs = cloud(&sandbox).operate(
        "network/deployNetworkDomain",
        &json!({
            "datacenterId": "EU7", "name": "Theirs", "description": "fleet=minimal id=another", "type": "ESSENTIALS",
        }),
    );
    assert_eq!(theirs["responseCode"], "IN_PROGRESS", "{theirs}");
    sandbox.kill_controller("minimal");
    fs::remove_dir_all(sandbox.home().join("fleets/minimal")).expect("the fleet's folder");
    let refused = sandbox.run(&["down", "--fleet", "minimal", "--yes"]).expect(64);
    assert!(refused.err.contains("another") && refused.err.contains("--id"), "{}", refused.err);
    sandbox.run(&["down", "--fleet", "minimal", "--id", "another", "--yes"]).expect(0);
    assert_eq!(cloud(&sandbox).list("network/networkDomain").len(), domains.len());
    sandbox.run(&["down", "--fleet", "minimal", "--yes"]).expect(0);
    assert!(!sandbox.home().exists(), "the home is left");
}

#[test]
fn the_id_of_a_fleet_this_home_knows_is_refused() {
    let sandbox = Sandbox::with_state_only_cloud(0);
    sandbox.run(&["up", &plan("minimal.yaml")]).expect(0);
    let controller = sandbox.controller_pid("minimal").expect("it runs");
    let domains = cloud(&sandbox).list("network/networkDomain");
    let description = domains[0]["description"].as_str().expect("marked");
    let (_, id) = description.rsplit_once("id=").expect("a mark");
    let refused = sandbox.run(&["down", "--fleet", "minimal", "--id", id, "--yes"]).expect(64);
    assert!(refused.err.contains("fleet `minimal`, which this home knows"), "{}", refused.err);
    assert_eq!(sandbox.controller_pid("minimal"), Some(controller), "its controller goes on");
    assert_eq!(cloud(&sandbox).list("network/networkDomain"), domains);
    sandbox.run(&["down", "--yes"]).expect(0);
}
