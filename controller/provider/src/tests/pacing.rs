//! How long a run takes and how much it asks, in a cloud whose operations take time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    fake::{FakeCloud, Fault},
    testing::{World, reference, small},
};

const OPERATION: Duration = Duration::from_secs(5);

fn slow() -> World {
    World { cloud: Arc::new(FakeCloud::slow(OPERATION)), ..World::new() }
}

fn counted(calls: Vec<&'static str>) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    calls.into_iter().for_each(|call| *counts.entry(call).or_default() += 1);
    counts
}

#[tokio::test(start_paused = true)]
async fn a_fleet_takes_as_long_as_its_longest_chain_and_asks_little() {
    let (world, plan) = (slow(), reference());
    let started = Instant::now();
    world.apply(&plan).await;
    // Domain, network, server, disk, power: nothing waits for anything else, and each look comes as things are done.
    let took = started.elapsed();
    assert!(took >= 5 * OPERATION && took < 5 * OPERATION + Duration::from_secs(1), "{took:?}");
    assert_eq!(world.cloud.changes().len(), 74);
    let reads = [
        // Once before, then until it is known how long things take.
        ("LIST_NETWORK_DOMAIN", 1 + 5),
        ("LIST_VLAN", 1),
        // Made, with disks, started.
        ("LIST_SERVER", 3),
        ("LIST_OS_IMAGE", 1),
        // A block's addresses, and the id of a domain's own rule, are nowhere else.
        ("LIST_PUBLIC_IP_BLOCK", 4),
        ("LIST_FIREWALL_RULE", 4),
    ];
    assert_eq!(counted(world.cloud.reads()), reads.into());
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn taking_a_fleet_down_takes_as_long_as_its_longest_chain_too() {
    let (world, plan) = (slow(), reference());
    world.apply(&plan).await;
    let started = Instant::now();
    let outcome = world.destroy().await;
    assert_eq!(outcome.problems, [] as [String; 0]);
    let took = started.elapsed();
    // Power, server, network, domain; the first has to be felt for anew.
    assert!(took >= 4 * OPERATION && took < 4 * OPERATION + Duration::from_secs(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_one_thing_asks_for_it_alone() {
    let (world, mut plan) = (slow(), small());
    world.apply(&plan).await;
    plan.locations[1].networks[0].nodes[0].disks[0].size_gb += 10;
    world.cloud.count_anew();
    world.apply(&plan).await;
    let reads = counted(world.cloud.reads());
    assert_eq!((reads["LIST_SERVER"], reads["GET_SERVER"]), (1, 5));
}

#[tokio::test(start_paused = true)]
async fn a_look_that_fails_costs_nobody_but_who_looked() {
    let plan = small();
    let mut cut = 0;
    for call in 0..60 {
        let world = slow();
        // As often as a read is tried.
        (call..call + 3).for_each(|call| world.cloud.fault(call, Fault::Trouble));
        let problems = world.run(&plan).await.0.map(|outcome| outcome.problems).unwrap_or_default();
        assert!(problems.len() <= 1, "{call}: {problems:?}");
        cut += problems.len();
        world.cloud.count_anew();
        world.apply(&plan).await;
        world.check_exact(&plan).await;
    }
    assert!(cut > 2, "only {cut} looks failed for good");
}

#[tokio::test(start_paused = true)]
async fn a_cloud_that_asks_to_be_left_alone_is() {
    let plan = small();
    // The first change, and a look at what came of it.
    for call in [1, 3] {
        let check = async |asked: Duration, waits: bool| {
            let world = slow();
            world.cloud.fault(call, Fault::Throttled { after: asked });
            let started = Instant::now();
            let problems = world.run(&plan).await.0.expect("a run").problems;
            assert_eq!(
                (started.elapsed() >= asked, problems.is_empty()),
                (waits, waits),
                "{call}: {problems:?}"
            );
            world.cloud.count_anew();
            world.apply(&plan).await;
            world.check_exact(&plan).await;
            problems
        };
        check(Duration::from_secs(300), true).await;
        // For longer than anything may be busy.
        let problems = check(Duration::from_secs(3600), false).await;
        assert!(problems[0].contains("it asks to wait 3600 s"), "{problems:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_while_others_are_waited_for_is_made_anew() {
    let (world, plan) = (slow(), small());
    let vandal = async {
        // The servers are being made.
        tokio::time::sleep(OPERATION * 5 / 2).await;
        let mut state = world.cloud.state();
        let first = state.servers.keys().next().expect("one is being made").clone();
        state.servers.remove(&first);
    };
    let ((), outcome) = tokio::join!(vandal, world.apply(&plan));
    assert_eq!(outcome.addresses.len(), plan.nodes().count());
    assert_eq!(world.cloud.changes().iter().filter(|call| **call == "deployServer").count(), 4);
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_without_more_disks_starts_as_it_is_made() {
    let (world, mut plan) = (slow(), small());
    plan.locations[1].networks[0].nodes[0].disks.clear();
    world.apply(&plan).await;
    assert_eq!(world.cloud.changes().iter().filter(|call| **call == "startServer").count(), 2);
    world.check_exact(&plan).await;
}
