//! The reference fleet on real machines, from nothing to nothing, through the finished programs.
//!
//! One test, because there is one local cloud with machines per host and a boot is dear: each part goes on
//! where the one before it stopped.

mod access;
mod again;
mod database;
mod drift;
mod foreign;
mod kills;
mod network;
mod nodes;
mod replace;
mod rollout;
mod todo;
mod traces;

use fleet_tests::{Sandbox, stand_in};
use nodes::Ways;
use traces::Traces;

#[test]
fn the_reference_fleet_from_nothing_to_nothing() {
    let sandbox = Sandbox::with_machines();
    let before = Traces::look(&sandbox.home());
    let plan = nodes::reference_plan();
    let package = format!("rethinkdb={}", stand_in().display());
    // Looks often, so that drift is found by the schedule within a test's time.
    let up = ["up", &plan, "--set", &package, "--set", "recheck=2m"];
    let queries = tokio::runtime::Runtime::new().expect("a runtime");

    kills::three_times(&sandbox, &up);
    let first = sandbox.run(&up).expect(0);
    assert!(
        first.out.contains("fleetctl ssh EU6rethink01"),
        "the information texts end `up`:\n{}",
        first.out
    );
    assert_eq!(Traces::look(&sandbox.home()).machines(), 5, "else their absence would prove nothing");

    let status = nodes::status_in_both_forms(&sandbox);
    nodes::disks_and_names(&sandbox, &status);
    network::ports_as_planned(&status);
    network::private_ipv6_as_accepted(&sandbox, &status, &up);
    again::nothing_to_do(&sandbox, &up);

    let ways = Ways::of(&sandbox, &status);
    access::by_the_operators_key_only(&ways);
    queries.block_on(database::is_whole_everywhere(&ways));
    foreign::is_kept_out_of_the_cluster(&sandbox, &ways, &status);
    foreign::while_the_operator_gets_in_by_name(&sandbox);
    queries.block_on(todo::lives_in_every_browser(&ways));
    rollout::reaches_everybody_unnoticed(&sandbox, &ways, &queries);
    drift::is_found_and_repaired(&sandbox);
    // It holds a replica: the table has to be brought there again.
    replace::comes_back_as_itself(&sandbox, "EU6rethink01", &ways);

    let ways = Ways::of(&sandbox, &nodes::status(&sandbox));
    queries.block_on(database::is_whole_everywhere(&ways));
    queries.block_on(todo::has_lost_nothing(&ways));
    again::restarts_are_survived(&sandbox, &up);

    let down = sandbox.run(&["down", "--yes"]).expect(0);
    for line in ["servers: 0", "vlans: 0", "network domains: 0"] {
        assert!(down.out.contains(line), "no `{line}` in\n{}", down.out);
    }
    // Keys that have signed a release are for the next fleet, and for whoever runs that release still.
    let left: Vec<_> = std::fs::read_dir(sandbox.home()).expect("keys are kept").flatten().collect();
    let left: Vec<_> = left.iter().map(std::fs::DirEntry::file_name).collect();
    assert_eq!(left, ["release-keys"], "more than keys is left of the home");
    assert_eq!(Traces::look(&sandbox.home()), before, "processes, namespaces or links are left");
}
