//! Runs against the cloud in memory: the whole provider but the network.

use std::time::Duration;

use fleet_mcp::{Id, types::State as Life};
use fleet_plan::resolved::{Opening, Service};
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    event::{Event, StepState, Verb},
    fake::Fault,
    mark::Mark,
    testing::{World, any_plan, fleet, reference, small},
};

fn provisioned(events: &[Event]) -> Vec<String> {
    let mut names: Vec<String> = events
        .iter()
        .filter_map(|event| match event {
            Event::Provisioned(node, _) => Some(node.to_string()),
            Event::Step(..) => None,
        })
        .collect();
    names.sort();
    names
}

#[tokio::test(start_paused = true)]
async fn the_reference_fleet_comes_up_and_stays() {
    let (world, plan) = (World::new(), reference());
    let (outcome, events) = world.run(&plan).await;
    let outcome = outcome.expect("a run");
    assert_eq!(outcome.problems, [] as [String; 0]);
    // 4 domains, 5 networks, 5 servers, disks, monitorings, starts, translations, 4 blocks, 22 + 20 rules, 4 switches.
    assert_eq!(outcome.changing_calls, 4 + 5 * 6 + 4 + 42 + 4);
    let names = ["EU6rethink01", "EU7rethink01", "EU7rethinkSeed", "EU8rethink01", "EU9rethink01"];
    assert_eq!(provisioned(&events), names);
    for event in &events {
        if let Event::Provisioned(_, addresses) = event {
            assert!(addresses.public_ipv4.is_some() && addresses.ipv6.is_some());
        }
    }
    world.check_exact(&plan).await;
    let (_, events) = world.run(&plan).await;
    assert_eq!(provisioned(&events), names, "nodes that are fine already are told as well");
    assert_eq!(world.provider().addresses(&plan).await.expect("addresses"), outcome.addresses);
}

#[tokio::test(start_paused = true)]
async fn a_node_is_told_as_soon_as_its_own_steps_are_done() {
    let (world, plan) = (World::new(), small());
    // The second node's server fails twice, so it comes late; the first must not wait for it.
    world.cloud.state().failing.insert("EU7rethink01".into(), 2);
    let (outcome, events) = world.run(&plan).await;
    assert_eq!(outcome.expect("a run").problems, [] as [String; 0]);
    let told = |name: &str| {
        events.iter().position(|event| matches!(event, Event::Provisioned(node, _) if node.as_str() == name))
    };
    let late = events.iter().position(
        |event| matches!(event, Event::Step(step, StepState::Done) if step.kind == "server" && step.name == "EU7rethink01"),
    );
    assert!(told("EU7rethinkSeed") < late, "{:?} {late:?}", told("EU7rethinkSeed"));
}

#[tokio::test(start_paused = true)]
async fn a_preview_changes_nothing() {
    let (world, plan) = (World::new(), reference());
    let steps = world.provider().preview(&plan).await.expect("a preview");
    assert!(steps.iter().all(|step| step.verb != Verb::Destroy));
    assert_eq!(steps.iter().filter(|step| step.kind == "public ip block").count(), 4);
    assert_eq!(world.cloud.changes(), [] as [&str; 0]);
    world.apply(&plan).await;
    assert_eq!(world.provider().preview(&plan).await.expect("a preview"), []);
}

/// Each fault on each call of a run; afterwards, everything is there once.
async fn fault_everywhere(fault: Fault) {
    let plan = small();
    let calls = {
        let world = World::new();
        world.apply(&plan).await;
        world.cloud.calls()
    };
    assert!(calls > 100, "a run has {calls} calls");
    for call in 0..calls {
        let world = World::new();
        world.cloud.fault(call, fault);
        world.apply_at_last(&plan).await;
        world.check_exact(&plan).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_request_is_repeated() {
    fault_everywhere(Fault::LostRequest).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_adopted() {
    fault_everywhere(Fault::LostAnswer).await;
}

#[tokio::test(start_paused = true)]
async fn a_cloud_in_trouble_is_asked_again() {
    fault_everywhere(Fault::Trouble).await;
    fault_everywhere(Fault::TroubleAfter).await;
}

#[tokio::test(start_paused = true)]
async fn a_killed_run_is_finished_by_the_next() {
    let plan = small();
    for effect in [false, true] {
        for call in 0.. {
            let world = World::new();
            world.cloud.fault(call, Fault::Hang { effect });
            // The run is dropped where it hangs, as a kill would leave it.
            let finished = tokio::select! {
                (outcome, _) = world.run(&plan) => {
                    assert_eq!(outcome.expect("a run").problems, [] as [String; 0]);
                    true
                }
                () = world.cloud.hung() => false,
            };
            world.cloud.count_anew();
            world.apply(&plan).await;
            world.check_exact(&plan).await;
            if finished {
                assert!(call > 100, "only {call} points of death");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_destruction_is_finished_by_the_next() {
    let plan = small();
    for effect in [false, true] {
        for call in 0.. {
            let world = World::new();
            world.apply(&plan).await;
            world.cloud.count_anew();
            world.cloud.fault(call, Fault::Hang { effect });
            let finished = tokio::select! {
                _ = world.destroy() => true,
                () = world.cloud.hung() => false,
            };
            world.cloud.count_anew();
            let outcome = world.destroy().await;
            assert_eq!(outcome.problems, [] as [String; 0]);
            check_nothing_left(&world);
            if finished {
                assert!(call > 40, "only {call} points of death");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_busy_answers_is_weathered() {
    let (world, plan) = (World::new(), small());
    for call in 10..150 {
        if call % 5 != 0 {
            world.cloud.fault(call, Fault::Busy);
        }
    }
    world.apply(&plan).await;
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_to_be_made_is_cleaned_and_made_again() {
    let (world, plan) = (World::new(), small());
    world.cloud.state().failing.insert("EU7rethinkSeed".into(), 2);
    world.apply(&plan).await;
    assert_eq!(world.cloud.changes().iter().filter(|call| **call == "cleanServer").count(), 2);
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_be_made_stops_its_own_node_only() {
    let (world, plan) = (World::new(), small());
    world.cloud.state().failing.insert("EU7rethinkSeed".into(), 99);
    let (outcome, events) = world.run(&plan).await;
    let outcome = outcome.expect("a run");
    assert_eq!(
        outcome.problems,
        [
            "server `EU7rethinkSeed` in EU7: FAILED_ADD, 3 times in a row; see what the cloud says of it, and run again"
        ]
    );
    assert_eq!(provisioned(&events), ["EU6rethink01", "EU7rethink01"]);
    assert!(!outcome.stopped);
    assert_eq!(world.cloud.changes().iter().filter(|call| **call == "deployServer").count(), 5);
    world.cloud.state().failing.clear();
    world.apply(&plan).await;
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_image_names_those_there_are() {
    let (world, mut plan) = (World::new(), small());
    plan.locations[1].networks[0].nodes[0].image = "Windows".into();
    let outcome = world.run(&plan).await.0.expect("a run");
    assert_eq!(
        outcome.problems,
        ["server `EU6rethink01` in EU6: EU6 has no image whose name contains `Windows`; there are: \
          CentOS 7 64-bit 2 CPU, Debian 12 64-bit 1 CPU"]
    );
}

fn check_nothing_left(world: &World) {
    let state = world.cloud.state();
    assert!(state.domains.is_empty() && state.vlans.is_empty() && state.servers.is_empty());
    assert!(state.blocks.is_empty() && state.nats.is_empty() && state.rules.is_empty());
}

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
        let mut stranger = state.servers.values().next().expect("a server").clone();
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
    let steps = world.provider().preview(&plan).await.expect("a preview");
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
async fn changes_in_place_are_made() {
    let (world, mut plan) = (World::new(), small());
    world.apply(&plan).await;
    let node = &mut plan.locations[1].networks[0].nodes[0];
    node.disks[0].size_gb = 50;
    node.monitoring = Some(Service::Advanced);
    if let Some(internet) = &mut node.internet {
        internet.open = vec![Opening::Tcp(22, 22), Opening::Udp(53, 54)];
    }
    plan.locations[0].networks[0].nodes[0].monitoring = None;
    world.cloud.count_anew();
    world.apply(&plan).await;
    let mut changes = world.cloud.changes();
    changes.sort_unstable();
    assert_eq!(
        changes,
        [
            "changeDiskSize",
            "changeServerMonitoringPlan",
            "createFirewallRule",
            "deleteFirewallRule",
            "deleteFirewallRule",
            "deleteFirewallRule",
            "disableServerMonitoring"
        ]
    );
    world.check_exact(&plan).await;
    // Somebody turned things off behind our back.
    {
        let mut state = world.cloud.state();
        state.servers.values_mut().for_each(|server| server.started = false);
        let rule = state.rules.values_mut().find(|rule| rule.name.starts_with("EU7rethinkSeed.TCPv4_22"));
        rule.expect("the rule for ssh").enabled = false;
    }
    world.apply(&plan).await;
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_change_in_place_is_said_with_the_next_step() {
    let (world, mut plan) = (World::new(), small());
    world.apply(&plan).await;
    let node = &mut plan.locations[1].networks[0].nodes[0];
    node.cpu.count = 2;
    node.disks[0].size_gb = 9;
    plan.locations[0].networks[1].prefix = 25;
    world.cloud.count_anew();
    let outcome = world.run(&plan).await.0.expect("a run");
    insta::assert_snapshot!(outcome.problems.join("\n"));
    assert_eq!(world.cloud.changes(), [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_run_finishes_what_is_in_hand_and_begins_nothing_more() {
    let (world, plan) = (World::new(), small());
    let (sender, mut receiver) = mpsc::channel(4);
    let stop = CancellationToken::new();
    let provider = world.provider();
    let run = provider.apply(&plan, &sender, &stop);
    let watch = async {
        let mut begun = Vec::new();
        let mut ended = Vec::new();
        while let Some(event) = receiver.recv().await {
            match event {
                Event::Step(step, StepState::Started) => begun.push((step.kind, step.name)),
                Event::Step(step, StepState::Done) => {
                    stop.cancel();
                    ended.push((step.kind, step.name));
                }
                _ => {}
            }
        }
        (begun, ended)
    };
    let (outcome, (mut begun, mut ended)) = tokio::join!(
        async {
            let outcome = run.await;
            drop(sender.clone());
            outcome
        },
        async { tokio::time::timeout(Duration::from_secs(3600), watch).await.unwrap_or_default() }
    );
    let outcome = outcome.expect("a run");
    assert!(outcome.stopped);
    begun.sort();
    ended.sort();
    assert_eq!(begun, ended, "what was begun was finished");
    assert!(world.cloud.state().servers.is_empty(), "no server was begun");
    world.apply(&plan).await;
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_has_to_listen() {
    let (world, plan) = (World::new(), small());
    let (sender, receiver) = mpsc::channel(1);
    drop(receiver);
    let outcome = world.provider().apply(&plan, &sender, &CancellationToken::new()).await.expect("a run");
    assert_eq!(outcome.problems, [] as [String; 0]);
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn addresses_in_other_use_are_left_alone() {
    let (world, mut plan) = (World::new(), small());
    plan.locations[0].networks[1].nodes[0].internet = None;
    world.apply(&plan).await;
    // The second address of EU7's block is taken by something that is no translation.
    {
        let mut state = world.cloud.state();
        let block =
            state.blocks.values().find(|block| block.datacenter_id.as_str() == "EU7").expect("a block");
        let used: Vec<_> = state.nats.values().map(|nat| nat.external_ip).collect();
        let other = block.addresses().find(|address| !used.contains(address)).expect("the other one");
        state.reserved.push(other);
    }
    let plan = small();
    world.apply(&plan).await;
    assert_eq!(world.cloud.state().blocks.len(), 3, "another block was added");
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

#[tokio::test(start_paused = true)]
async fn a_server_in_need_of_support_is_a_problem_of_its_node() {
    let (world, plan) = (World::new(), small());
    world.apply(&plan).await;
    {
        let mut state = world.cloud.state();
        let server = state.servers.values_mut().find(|server| server.name == "EU6rethink01").expect("there");
        server.state = Life::RequiresSupport;
    }
    world.cloud.count_anew();
    let (outcome, events) = world.run(&plan).await;
    let outcome = outcome.expect("a run");
    assert!(outcome.problems[0].contains("REQUIRES_SUPPORT"), "{:?}", outcome.problems);
    assert_eq!(provisioned(&events), ["EU7rethink01", "EU7rethinkSeed"]);
    assert_eq!(world.cloud.changes(), [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn passwords_come_from_the_vault_and_descriptions_carry_the_mark() {
    let (world, plan) = (World::new(), small());
    world.apply(&plan).await;
    let mark = Mark::new(fleet(), "0001".into());
    let state = world.cloud.state();
    assert!(state.servers.values().all(|server| mark.is_ours(server.description.as_deref())));
    assert!(state.vlans.values().all(|vlan| mark.is_ours(vlan.description.as_deref())));
    let seed = state.servers.values().find(|server| server.name == "EU7rethinkSeed").expect("there");
    let description = seed.description.as_deref();
    assert_eq!(description, Some("Seed of the RethinkDB cluster fleet=test id=0001"));
    assert_eq!(world.vault.0.lock().expect("unlocked").len(), 3);
}

/// Removes some of what is there, behind the provider's back.
fn tamper(world: &World, bits: &[bool]) {
    let mut bits = bits.iter().copied().cycle();
    let mut hit = || bits.next().unwrap_or(false);
    let mut state = world.cloud.state();
    state.nats.retain(|_, _| !hit());
    state.rules.retain(|_, rule| rule.is_default() || !hit());
    let gone: Vec<_> = state.servers.keys().filter(|_| hit()).cloned().collect();
    for id in gone {
        let server = state.servers.remove(&id).expect("it was there");
        let internal = server.network_info.and_then(|info| info.primary_nic.private_ipv4);
        state.nats.retain(|_, nat| Some(nat.internal_ip) != internal);
    }
    for server in state.servers.values_mut() {
        if hit() {
            server.started = false;
        }
        if hit() {
            server.disk.retain(|disk| disk.scsi_id == 0);
        }
        if hit() {
            server.monitoring = None;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_plan_from_any_part_of_it(plan in any_plan(), bits in prop::collection::vec(any::<bool>(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runs");
        runtime.block_on(async {
            let world = World::new();
            world.apply(&plan).await;
            world.check_exact(&plan).await;
            tamper(&world, &bits);
            world.apply(&plan).await;
            world.check_exact(&plan).await;
        });
    }

    #[test]
    fn from_any_plan_to_any_other(before in any_plan(), after in any_plan()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runs");
        runtime.block_on(async {
            let world = World::new();
            world.apply(&before).await;
            // Nodes of one name may sit in another network of the other plan, and disks may be smaller there: both
            // are problems by design, so the second fleet gets other names.
            let mut after = after;
            for node in after.locations.iter_mut().flat_map(|location| &mut location.networks).flat_map(|n| &mut n.nodes) {
                node.name = format!("x{}", node.name).parse().expect("a name");
            }
            world.apply(&after).await;
            world.check_exact(&after).await;
            assert_eq!(world.destroy().await.problems, [] as [String; 0]);
            check_nothing_left(&world);
        });
    }
}
