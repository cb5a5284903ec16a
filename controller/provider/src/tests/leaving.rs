//! What goes, and what is not ours to take.

use std::collections::BTreeSet;

use fleet_mcp::Id;

use super::check_nothing_left;
use crate::testing::{World, reference, small};

#[tokio::test(start_paused = true)]
async fn destroy_leaves_nothing_and_proves_it() {
    let (world, plan) = (World::new(), reference());
    world.apply(&plan).await;
    let outcome = world.destroy().await;
    assert_eq!(outcome.problems, [] as [String; 0]);
    assert_eq!(
        outcome.proof,
        [
            "servers: 0",
            "nat rules: 0",
            "firewall rules: 0",
            "public ip blocks: 0",
            "vlans: 0",
            "network domains: 0"
        ]
    );
    check_nothing_left(&world);
    assert!(world.vault.0.lock().expect("unlocked").is_empty(), "passwords are forgotten");
    assert_eq!(world.journal().index().await.expect("readable").iter().count(), 0);
    assert_eq!(world.destroy().await.changing_calls, 0, "nothing is left to do");
}

#[tokio::test(start_paused = true)]
async fn destroy_needs_no_journal() {
    let (mut world, plan) = (World::new(), small());
    world.apply(&plan).await;
    world.store = World::new().store;
    assert_eq!(world.destroy().await.problems, [] as [String; 0]);
    check_nothing_left(&world);
}

/// Gives everything in a location to somebody else.
fn give_away(world: &World, location: &str, description: &str) {
    let mut state = world.cloud.state();
    for domain in state.domains.values_mut().filter(|held| held.datacenter_id.as_str() == location) {
        domain.description = Some(description.to_owned());
    }
    for vlan in state.vlans.values_mut().filter(|held| held.datacenter_id.as_str() == location) {
        vlan.description = Some(description.to_owned());
    }
    for server in state.servers.values_mut().filter(|held| held.datacenter_id.as_str() == location) {
        server.description = Some(description.to_owned());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_ours_is_neither_adopted_nor_touched() {
    let plan = small();
    for (description, expected) in [
        ("#plumbery", "exists and is not this fleet's"),
        ("fleet=test id=9999", "belongs to another fleet `test`"),
    ] {
        let world = World::new();
        world.apply(&plan).await;
        give_away(&world, "EU7", description);
        world.cloud.count_anew();
        let outcome = world.run(&plan).await.0.expect("a run");
        assert_eq!(outcome.problems.len(), 1, "{:?}", outcome.problems);
        assert!(outcome.problems[0].contains(expected), "{}", outcome.problems[0]);
        assert_eq!(world.cloud.changes(), [] as [&str; 0]);
        let outcome = world.destroy().await;
        assert_eq!(outcome.problems, [] as [String; 0]);
        let state = world.cloud.state();
        assert!(
            state.domains.values().all(|held| held.datacenter_id.as_str() == "EU7"),
            "EU6 is ours and gone"
        );
        assert_eq!((state.servers.len(), state.nats.len()), (2, 2));
        assert!(state.servers.values().all(|server| server.started), "not powered off");
    }
}

#[tokio::test(start_paused = true)]
async fn a_strangers_server_in_our_network_is_left_and_named() {
    let (world, plan) = (World::new(), small());
    world.apply(&plan).await;
    {
        let mut state = world.cloud.state();
        let seed = state.servers.values().find(|server| server.name == "EU7rethinkSeed");
        let mut stranger = seed.expect("a server").clone();
        stranger.id = Id::new("stranger");
        stranger.name = "stranger".into();
        stranger.description = None;
        if let Some(info) = &mut stranger.network_info {
            info.primary_nic.private_ipv4 = Some([10, 70, 0, 250].into());
        }
        state.servers.insert(stranger.id.clone(), stranger);
    }
    world.cloud.count_anew();
    world.apply(&plan).await;
    assert_eq!(world.cloud.changes(), [] as [&str; 0]);
    let outcome = world.destroy().await;
    assert!(outcome.problems.iter().any(|line| line.starts_with("vlans left: RethinkSeedNetwork in EU7")));
    assert_eq!(world.cloud.state().servers.len(), 1);
    assert!(outcome.proof.contains(&"servers: 0".to_owned()), "of ours there are none");
}

#[tokio::test(start_paused = true)]
async fn what_left_the_plan_is_shown_and_destroyed() {
    let (world, mut plan) = (World::new(), small());
    world.apply(&plan).await;
    // EU7 keeps one of two nodes and one of two networks; the block stays, one of its addresses is in use.
    plan.locations[0].networks.truncate(1);
    plan.locations[0].networks[0].accept.retain(|from| from.location == "EU6");
    plan.locations[1].networks[0].accept.retain(|from| from.network == "RethinkSeedNetwork");
    let steps = world.provider().preview(&plan, &BTreeSet::new()).await.expect("a preview").steps;
    let shown: Vec<String> =
        steps.iter().map(|step| format!("{:?} {} {}", step.verb, step.kind, step.name)).collect();
    insta::assert_snapshot!(shown.join("\n"));
    world.apply(&plan).await;
    world.check_exact(&plan).await;
    assert_eq!(world.vault.0.lock().expect("unlocked").len(), 2);
    // A whole location less, its block with it.
    plan.locations.truncate(1);
    plan.locations[0].networks[0].accept.clear();
    world.apply(&plan).await;
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_gives_up_its_address_gives_back_the_block() {
    let (world, mut plan) = (World::new(), small());
    world.apply(&plan).await;
    plan.locations[1].networks[0].nodes[0].internet = None;
    world.apply(&plan).await;
    world.check_exact(&plan).await;
    plan.locations[1].networks[0].nodes[0].internet = plan.locations[0].networks[0].nodes[0].internet.clone();
    world.apply(&plan).await;
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn a_second_server_of_one_name_is_removed() {
    let (world, plan) = (World::new(), small());
    world.apply(&plan).await;
    {
        let mut state = world.cloud.state();
        let mut twin = state.servers.values().next().expect("a server").clone();
        twin.id = Id::new("twin");
        twin.started = false;
        if let Some(info) = &mut twin.network_info {
            info.primary_nic.private_ipv4 = Some([10, 70, 0, 251].into());
        }
        state.servers.insert(twin.id.clone(), twin);
    }
    world.apply(&plan).await;
    assert_eq!(world.vault.0.lock().expect("unlocked").len(), 3, "the node's password stays");
    world.check_exact(&plan).await;
}
