//! Runs against the cloud in memory: the whole provider but the network.

mod changing;
mod faults;
mod leaving;
mod orphans;
mod pacing;
mod replacing;

use std::collections::BTreeSet;

use fleet_mcp::types::State as Life;
use fleet_plan::resolved::{Opening, Service, Source, Traffic};
use proptest::prelude::*;

use crate::{
    event::{Event, StepState, Verb},
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
    // 4 domains, 5 networks, 5 servers, disks, monitorings, starts, translations, 4 blocks, 20 rules for the internet, a
    // rule and a list for each network, another rule for each of the two that are in one domain, 4 switches.
    assert_eq!(outcome.changing_calls, 4 + 5 * 6 + 4 + 20 + 5 * 2 + 2 + 4);
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
    let steps = world.provider().preview(&plan, &BTreeSet::new()).await.expect("a preview").steps;
    assert!(steps.iter().all(|step| step.verb != Verb::Destroy));
    assert_eq!(steps.iter().filter(|step| step.kind == "public ip block").count(), 4);
    assert_eq!(world.cloud.changes(), [] as [&str; 0]);
    world.apply(&plan).await;
    assert_eq!(world.provider().preview(&plan, &BTreeSet::new()).await.expect("a preview").steps, []);
}

/// Rules of one node that let TCP port 8080 in, with their sources.
fn consoles(world: &World, node: &str) -> Vec<(String, String)> {
    let state = world.cloud.state();
    let ours = state.rules.values().filter(|rule| rule.name.starts_with(&format!("{node}.TCPv4_8080")));
    let mut found: Vec<_> = ours
        .map(|rule| {
            let ip = rule.source.ip.as_ref().expect("an address");
            let prefix = ip.prefix_size.map(|size| format!("/{size}")).unwrap_or_default();
            (rule.name.clone(), format!("{}{prefix}", ip.address))
        })
        .collect();
    found.sort();
    found
}

#[tokio::test(start_paused = true)]
async fn an_opening_is_one_rule_for_each_source() {
    let (world, mut plan) = (World::new(), small());
    let from = |plan: &mut fleet_plan::ResolvedPlan, sources: Vec<Source>| {
        let internet = plan.locations[0].networks[0].nodes[0].internet.as_mut().expect("public");
        internet.open = vec![Opening { traffic: Traffic::Tcp(8080, 8080), from: sources }];
    };
    let host = Source::Cidr([192, 0, 2, 7].into(), 32);
    let network = Source::Cidr([203, 0, 113, 0].into(), 24);
    let rule =
        |tail: &str, source: &str| (format!("EU7rethinkSeed.TCPv4_8080{tail}.fleet"), source.to_owned());

    from(&mut plan, vec![Source::Any]);
    world.apply(&plan).await;
    assert_eq!(consoles(&world, "EU7rethinkSeed"), [rule("", "ANY")]);

    // Narrower: the wide rule must go, not only the narrow ones come.
    from(&mut plan, vec![host, network]);
    world.cloud.count_anew();
    world.apply(&plan).await;
    let narrow = [rule(".From_192_0_2_7_32", "192.0.2.7"), rule(".From_203_0_113_0_24", "203.0.113.0/24")];
    assert_eq!(consoles(&world, "EU7rethinkSeed"), narrow);
    let mut changes = world.cloud.changes();
    changes.sort_unstable();
    assert_eq!(changes, ["createFirewallRule", "createFirewallRule", "deleteFirewallRule"]);
    world.check_exact(&plan).await;

    // Somebody opened one of them behind our back.
    let open = |rule: &&mut fleet_mcp::types::FirewallRule| rule.name.contains("From_192_0_2_7");
    let wide = fleet_mcp::types::Endpoint::any();
    world.cloud.state().rules.values_mut().find(open).expect("the rule").source = wide;
    world.apply(&plan).await;
    assert_eq!(consoles(&world, "EU7rethinkSeed"), narrow);

    // Until somebody says where the operator is, what is for the operator stays closed.
    from(&mut plan, vec![Source::Operator]);
    world.apply(&plan).await;
    assert_eq!(consoles(&world, "EU7rethinkSeed"), []);
}

fn check_nothing_left(world: &World) {
    let state = world.cloud.state();
    assert!(state.domains.is_empty() && state.vlans.is_empty() && state.servers.is_empty());
    assert!(
        state.blocks.is_empty() && state.nats.is_empty() && state.rules.is_empty() && state.lists.is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn changes_in_place_are_made() {
    let (world, mut plan) = (World::new(), small());
    world.apply(&plan).await;
    let node = &mut plan.locations[1].networks[0].nodes[0];
    node.disks[0].size_gb = 50;
    node.monitoring = Some(Service::Advanced);
    if let Some(internet) = &mut node.internet {
        let any = |traffic| Opening { traffic, from: vec![Source::Any] };
        internet.open = vec![any(Traffic::Tcp(22, 22)), any(Traffic::Udp(53, 54))];
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
    node.disks[0].size_gb = 9;
    plan.locations[0].networks[1].prefix = 25;
    world.cloud.count_anew();
    let outcome = world.run(&plan).await.0.expect("a run");
    insta::assert_snapshot!(outcome.problems.join("\n"));
    assert_eq!(world.cloud.changes(), [] as [&str; 0]);
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
    let used: Vec<_> = state.rules.values().filter_map(|rule| rule.source.ip_address_list.as_ref()).collect();
    let used: BTreeSet<_> = used.into_iter().map(|list| list.id.clone()).collect();
    state.lists.retain(|id, _| used.contains(id) || !hit());
    state.lists.values_mut().filter(|_| hit()).for_each(|list| list.ip_address.truncate(1));
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
