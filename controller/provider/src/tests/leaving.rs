//! What goes, and what is not ours to take.

use std::collections::BTreeSet;

use fleet_mcp::{Id, types::Server};

use super::check_nothing_left;
use crate::{
    event::Verb,
    testing::{World, reference, small},
};

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
            "address lists: 0",
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
    let state = &mut *world.cloud.state();
    for domain in state.domains.values_mut().filter(|held| held.datacenter_id.as_str() == location) {
        domain.description = Some(description.to_owned());
        let inside =
            state.lists.values_mut().filter(|list| list.network_domain_id.as_ref() == Some(&domain.id));
        inside.for_each(|list| list.description = Some(description.to_owned()));
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
    for (description, expected, left) in [
        ("#plumbery", "exists and is not this fleet's", true),
        ("fleet=test id=9999", "belongs to another fleet `test`", false),
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
        // What nobody's mark is on, the journal still knows; what another fleet has is that one's.
        assert_eq!(!outcome.problems.is_empty(), left, "{:?}", outcome.problems);
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

/// Another server of a node's name besides its own, whose id comes before all others; and the id of the node's.
fn twin(world: &World, started: bool) -> (Id<Server>, Id<Server>) {
    let mut state = world.cloud.state();
    let own =
        state.servers.values().find(|server| server.name == "EU7rethinkSeed").expect("a server").clone();
    let mut twin = Server { id: Id::new("a-twin"), started, ..own.clone() };
    if let Some(info) = &mut twin.network_info {
        info.primary_nic.private_ipv4 = Some([10, 70, 0, 251].into());
    }
    state.servers.insert(twin.id.clone(), twin.clone());
    (own.id, twin.id)
}

#[tokio::test(start_paused = true)]
async fn a_second_server_of_one_name_is_removed() {
    // By the journal, and without it by what leads to the node's.
    for journal in [true, false] {
        let (mut world, plan) = (World::new(), small());
        world.apply(&plan).await;
        let (own, twin) = twin(&world, false);
        if !journal {
            world.store = World::new().store;
        }
        let preview = world.provider().preview(&plan, &BTreeSet::new()).await.expect("a preview");
        let goes: Vec<_> = preview.steps.iter().filter(|step| step.verb == Verb::Destroy).collect();
        assert_eq!(goes.len(), 1, "{goes:?}");
        assert_eq!(goes[0].detail, "a second server named `EU7rethinkSeed`, with nothing on it");
        world.apply(&plan).await;
        {
            let state = world.cloud.state();
            assert!(state.servers.contains_key(&own) && !state.servers.contains_key(&twin));
        }
        assert_eq!(world.vault.0.lock().expect("unlocked").len(), 3, "the node's password stays");
        if journal {
            world.check_exact(&plan).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_journal_knows_a_nodes_server_that_nothing_else_tells_apart() {
    let (world, mut plan) = (World::new(), small());
    plan.locations[0].networks[1].nodes[0].internet = None;
    world.apply(&plan).await;
    let (own, twin) = twin(&world, false);
    world.cloud.state().servers.get_mut(&own).expect("there").started = false;
    world.apply(&plan).await;
    let state = world.cloud.state();
    assert!(state.servers[&own].started && !state.servers.contains_key(&twin));
}

#[tokio::test(start_paused = true)]
async fn a_second_server_that_runs_is_a_problem_and_nothing_is_done_to_either() {
    let (world, plan) = (World::new(), small());
    world.apply(&plan).await;
    let (own, twin) = twin(&world, true);
    for _ in 0..2 {
        world.cloud.count_anew();
        let outcome = world.run(&plan).await.0.expect("a run");
        let [problem] = &outcome.problems[..] else { panic!("{:?}", outcome.problems) };
        for part in
            ["a second server named `EU7rethinkSeed` in EU7", own.as_str(), "a-twin", "delete the one"]
        {
            assert!(problem.contains(part), "{problem}");
        }
        assert_eq!(world.cloud.changes(), [] as [&str; 0]);
    }
    world.cloud.state().servers.remove(&twin);
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn what_lost_its_mark_is_not_taken_for_gone() {
    let (world, plan) = (World::new(), small());
    world.apply(&plan).await;
    let marks: Vec<_> = {
        let mut state = world.cloud.state();
        let domains = state.domains.values_mut().filter(|held| held.datacenter_id.as_str() == "EU7");
        domains.map(|held| (held.id.clone(), held.description.take())).collect()
    };
    for _ in 0..2 {
        let outcome = world.destroy().await;
        let found = outcome.problems.join("\n");
        assert!(found.contains("network domains") && found.contains("public ip blocks"), "{found}");
        assert!(found.contains("the description `fleet=test id=0001`"), "{found}");
        assert!(outcome.proof.contains(&"network domains: 1".to_owned()), "{:?}", outcome.proof);
        assert!(world.journal().index().await.expect("readable").iter().count() > 0, "the journal is kept");
    }
    for (id, mark) in marks {
        world.cloud.state().domains.get_mut(&id).expect("there").description = mark;
    }
    assert_eq!(world.destroy().await.problems, [] as [String; 0]);
    check_nothing_left(&world);
    assert_eq!(world.journal().index().await.expect("readable").iter().count(), 0);
}
