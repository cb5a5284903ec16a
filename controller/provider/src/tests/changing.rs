//! What others changed is told apart from what the plan changes, put back or adopted; what cannot change in place is
//! made anew with consent only; and a preview is what the run does.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use fleet_model::NodeName;
use fleet_plan::{ResolvedPlan, resolved::Service};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::tamper;
use crate::{
    Leave, Pace, Turn,
    event::{Event, Step, StepState, Verb},
    fake::FakeCloud,
    provider::{Outcome, Preview},
    testing::{World, any_plan, small},
};

const NODE: &str = "EU6rethink01";

async fn preview(world: &World, plan: &ResolvedPlan, replace: &[&str]) -> Preview {
    let replace: BTreeSet<NodeName> = replace.iter().map(|name| name.parse().expect("a name")).collect();
    world.provider().preview(plan, &replace).await.expect("a preview")
}

fn told(steps: &[Step]) -> Vec<String> {
    let line = |step: &Step| {
        let outside = if step.outside { "outside! " } else { "" };
        format!("{outside}{:?} {} {}: {}", step.verb, step.kind, step.name, step.detail)
    };
    steps.iter().map(line).collect()
}

/// The node of this test in a plan.
fn node(plan: &mut ResolvedPlan) -> &mut fleet_plan::resolved::Node {
    &mut plan.locations[1].networks[0].nodes[0]
}

#[tokio::test(start_paused = true)]
async fn cpus_and_memory_change_in_place_and_the_server_is_on_again() {
    for without_tools in [false, true] {
        let (world, mut plan) = (World::new(), small());
        world.apply(&plan).await;
        world.cloud.state().without_tools = without_tools;
        node(&mut plan).cpu.count = 8;
        node(&mut plan).memory_gb = 16;
        let shown = preview(&world, &plan, &[]).await;
        let detail = "1 CPU and 1 GB becomes 8 CPU and 16 GB; the server is restarted";
        assert_eq!(told(&shown.steps), [format!("Change server size {NODE}: {detail}")]);
        world.cloud.count_anew();
        world.apply(&plan).await;
        let changes = world.cloud.changes();
        let cut = if without_tools { vec!["powerOffServer"] } else { vec![] };
        assert_eq!(changes, [vec!["shutdownServer"], cut, vec!["reconfigureServer", "startServer"]].concat());
        world.check_exact(&plan).await;
    }
}

/// A database that all nodes are members of: gives them turns, whoever is `missing` at any time and the rest only to so
/// many. Remembers what had happened at the cloud when somebody went.
#[derive(Debug)]
struct Asked {
    cloud: Arc<FakeCloud>,
    turns: Arc<tokio::sync::Semaphore>,
    left: AtomicUsize,
    missing: Option<&'static str>,
    went: Mutex<Vec<(String, Vec<&'static str>)>>,
}

#[async_trait]
impl Leave for Asked {
    async fn to_restart(&self, node: &NodeName) -> Result<Option<Turn>, String> {
        if self.missing != Some(node.as_str()) {
            // The others come first.
            tokio::time::sleep(std::time::Duration::from_secs(600)).await;
        }
        let turn = Arc::clone(&self.turns).acquire_owned().await.expect("open");
        let less = |left: usize| left.checked_sub(1);
        if self.missing != Some(node.as_str())
            && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_err()
        {
            return Err("a replica is not ready; run again".into());
        }
        self.went.lock().expect("no panic").push((node.to_string(), self.cloud.changes()));
        Ok(Some(Box::new(turn)))
    }
}

impl Asked {
    fn of(world: &World, left: usize, missing: Option<&'static str>) -> Arc<Self> {
        let (cloud, turns) = (Arc::clone(&world.cloud), Arc::new(tokio::sync::Semaphore::new(1)));
        Arc::new(Self { cloud, turns, left: left.into(), missing, went: Mutex::default() })
    }

    fn went(&self) -> Vec<(String, Vec<&'static str>)> {
        std::mem::take(&mut *self.went.lock().expect("no panic"))
    }
}

async fn run_with(world: &World, plan: &ResolvedPlan, leave: &Arc<Asked>) -> Outcome {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
    let listening = tokio::spawn(async move { while receiver.recv().await.is_some() {} });
    // One other server at a time: members that wait for their turn must not be counted there.
    let provider = world.provider().with_pace(Pace { restarts: 1, ..Pace::default() });
    let outcome = provider.with_leave(leave.clone()).apply(plan, &sender, &CancellationToken::new()).await;
    drop(sender);
    listening.await.expect("ends");
    outcome.expect("a run")
}

const RESTARTED: [&str; 3] = ["shutdownServer", "reconfigureServer", "startServer"];

/// The small fleet, and its plan with more memory for all.
async fn to_grow() -> (World, ResolvedPlan) {
    let (world, mut plan) = (World::new(), small());
    world.apply(&plan).await;
    let networks = plan.locations.iter_mut().flat_map(|location| &mut location.networks);
    networks.flat_map(|network| &mut network.nodes).for_each(|node| node.memory_gb = 8);
    world.cloud.count_anew();
    (world, plan)
}

#[tokio::test(start_paused = true)]
async fn members_of_a_database_are_restarted_one_after_the_other() {
    let (world, plan) = to_grow().await;
    let outcome = run_with(&world, &plan, &Asked::of(&world, 3, None)).await;
    assert_eq!(outcome.problems, [] as [String; 0]);
    assert_eq!(world.cloud.changes(), [RESTARTED; 3].concat());
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_goes_down_only_with_its_databases_leave() {
    let (world, plan) = to_grow().await;
    let leave = Asked::of(&world, 1, None);
    let outcome = run_with(&world, &plan, &leave).await;
    assert_eq!(outcome.problems.len(), 2, "{outcome:?}");
    assert!(outcome.problems.iter().all(|why| why.ends_with("a replica is not ready; run again")));
    assert_eq!(leave.went().len(), 1);
    assert_eq!(world.cloud.changes(), RESTARTED);
    world.apply(&plan).await;
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_off_or_missing_waits_for_nobody() {
    let (world, plan) = to_grow().await;
    let off = |state: &mut crate::fake::State| {
        let server = state.servers.values_mut().find(|server| server.name == "EU7rethink01");
        server.expect("there").started = false;
    };
    off(&mut world.cloud.state());
    let leave = Asked::of(&world, 0, None);
    let outcome = run_with(&world, &plan, &leave).await;
    assert_eq!(outcome.problems.len(), 2, "the two that are on: {outcome:?}");
    assert_eq!(world.cloud.changes(), ["reconfigureServer", "startServer"]);

    // The last of the plan is what the first waits for.
    world.cloud.count_anew();
    let leave = Asked::of(&world, 1, Some(NODE));
    let outcome = run_with(&world, &plan, &leave).await;
    assert_eq!(outcome.problems, [] as [String; 0]);
    let went = [(NODE.to_owned(), vec![]), ("EU7rethinkSeed".to_owned(), RESTARTED.to_vec())];
    assert_eq!(leave.went(), went);
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn other_servers_are_restarted_together_but_only_so_many() {
    let (world, mut plan) = (World::new(), small());
    let nodes = |plan: &mut ResolvedPlan, change: &dyn Fn(&mut fleet_plan::resolved::Node)| {
        let networks = plan.locations.iter_mut().flat_map(|location| &mut location.networks);
        networks.flat_map(|network| &mut network.nodes).for_each(change);
    };
    nodes(&mut plan, &|node| node.tasks.clear());
    world.apply(&plan).await;
    nodes(&mut plan, &|node| node.memory_gb = 8);
    world.cloud.count_anew();
    let two = Pace { restarts: 2, ..Pace::default() };
    let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
    let listening = tokio::spawn(async move {
        let mut waited = Vec::new();
        while let Some(event) = receiver.recv().await {
            if let Event::Step(step, StepState::Waiting(why)) = event
                && why == "2 other servers are being restarted"
            {
                waited.push(step.name);
            }
        }
        waited
    });
    let provider = world.provider().with_pace(two);
    let outcome = provider.apply(&plan, &sender, &tokio_util::sync::CancellationToken::new()).await;
    assert_eq!(outcome.expect("a run").problems, [] as [String; 0]);
    drop(sender);
    assert_eq!(listening.await.expect("ends"), ["EU6rethink01"]);
    let changes = world.cloud.changes();
    assert_eq!(changes[..2], ["shutdownServer"; 2], "two at once");
    let mut down = 0;
    for change in &changes {
        down += i32::from(*change == "shutdownServer") - i32::from(*change == "startServer");
        assert!(down <= 2, "{changes:?}");
    }
    assert_eq!(changes.len(), 9);
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_cannot_be_made_is_known_before_anything_goes() {
    let (world, good) = (World::new(), small());
    world.apply(&good).await;
    let unmakeable = async |plan: &ResolvedPlan| {
        let shown = preview(&world, plan, &[NODE]).await;
        let why = shown.unmakeable.into_iter().map(|(node, why)| format!("{node}: {why}"));
        why.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(unmakeable(&good).await, "");
    let mut plan = good.clone();
    node(&mut plan).image = "BeOS".into();
    let told = unmakeable(&plan).await;
    assert!(told.contains("EU6 has no image whose name contains `BeOS`; there are: CentOS 7"), "{told}");
    // Whoever previews without wanting anything replaced is not told of what is not made.
    assert!(preview(&world, &plan, &[]).await.unmakeable.is_empty());

    world.cloud.state().most_cpus = Some(4);
    let mut plan = good.clone();
    node(&mut plan).cpu.count = 8;
    let told = unmakeable(&plan).await;
    assert!(told.contains("8 CPUs are more than the 4 that EU6 allows"), "{told}");

    // Its network is somebody else's by now.
    let foreign =
        world.cloud.state().vlans.values_mut().find(|vlan| vlan.datacenter_id.as_str() == "EU6").map(
            |vlan| {
                vlan.description = None;
            },
        );
    foreign.expect("there");
    let told = unmakeable(&good).await;
    assert!(told.contains("vlan `RethinkNetwork` in EU6 exists and is not this fleet's"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_preview_says_which_servers_have_no_image() {
    let (world, mut plan) = (World::new(), small());
    node(&mut plan).image = "BeOS".into();
    let shown = preview(&world, &plan, &[]).await;
    let outcome = world.run(&plan).await.0.expect("a run");
    assert_eq!(shown.problems, outcome.problems);
    assert_eq!(shown.problems.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_others_changed_is_shown_as_such_and_put_back() {
    let (world, plan) = (World::new(), small());
    world.apply(&plan).await;
    {
        let mut state = world.cloud.state();
        let server = state.servers.values_mut().find(|server| server.name == NODE).expect("there");
        (server.started, server.cpu.count, server.monitoring) = (false, 16, None);
        let opening = state.rules.values_mut().find(|rule| rule.name == format!("{NODE}.TCPv4_22.fleet"));
        opening.expect("the rule for ssh").enabled = false;
        let mut extra = state.rules.values().find(|rule| !rule.is_default()).expect("a rule").clone();
        (extra.id, extra.name) = (fleet_mcp::Id::new("extra"), "backdoor.fleet".to_owned());
        state.rules.insert(extra.id.clone(), extra);
    }
    let shown = preview(&world, &plan, &[]).await;
    assert!(shown.steps.iter().all(|step| step.outside), "{:?}", told(&shown.steps));
    insta::assert_snapshot!(told(&shown.steps).join("\n"));
    world.apply(&plan).await;
    world.check_exact(&plan).await;
    // The plan's own change is not laid on others.
    let mut other = plan.clone();
    node(&mut other).monitoring = Some(Service::Advanced);
    let shown = preview(&world, &other, &[]).await;
    assert_eq!(told(&shown.steps), [format!("Change monitoring {NODE}: ESSENTIALS becomes ADVANCED")]);
}

#[tokio::test(start_paused = true)]
async fn what_bears_our_mark_and_the_journal_lacks_is_adopted() {
    let (mut world, plan) = (World::new(), small());
    world.apply(&plan).await;
    world.store = World::new().store;
    let shown = preview(&world, &plan, &[]).await;
    assert!(shown.steps.iter().all(|step| step.verb == Verb::Adopt), "{:?}", told(&shown.steps));
    let of = |kind: &str| shown.steps.iter().filter(|step| step.kind == kind).count();
    assert_eq!((of("network domain"), of("vlan"), of("server"), of("nat rule")), (2, 3, 3, 3));
    world.cloud.count_anew();
    world.apply(&plan).await;
    assert_eq!(world.cloud.changes(), [] as [&str; 0], "only the journal changes");
    assert_eq!(told(&preview(&world, &plan, &[]).await.steps), [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn making_anew_needs_consent() {
    let (world, before) = (World::new(), small());
    world.apply(&before).await;
    let mut plan = before.clone();
    node(&mut plan).image = "Debian".to_owned();
    node(&mut plan).disks[0].size_gb = 10;
    plan.locations[1].networks[0].name = "Elsewhere".to_owned();
    plan.locations[0].networks.iter_mut().for_each(|network| network.accept.clear());
    let shown = preview(&world, &plan, &[]).await;
    insta::assert_snapshot!(told(&shown.replacements).join("\n"));
    world.cloud.count_anew();
    let outcome = world.run(&plan).await.0.expect("a run");
    assert!(
        outcome.problems.iter().any(|line| line.contains("fleetctl up --replace EU6rethink01")),
        "{outcome:?}"
    );
    assert!(!world.cloud.changes().contains(&"deleteServer"));

    let shown = preview(&world, &plan, &[NODE]).await;
    assert_eq!(shown.replacements, []);
    let replaced = shown.steps.iter().filter(|step| step.verb == Verb::Replace);
    assert_eq!(replaced.map(|step| step.name.as_str()).collect::<Vec<_>>(), [NODE]);
    assert!(shown.steps.iter().all(|step| !step.outside), "{:?}", told(&shown.steps));
    let (sender, mut events) = tokio::sync::mpsc::channel(4);
    let listening = tokio::spawn(async move { while events.recv().await.is_some() {} });
    let (provider, stop) = (world.provider(), tokio_util::sync::CancellationToken::new());
    let name = NODE.parse().expect("a name");
    let gone = provider.destroy_node(&plan, &name, &sender, &stop).await.expect("a run");
    assert_eq!(gone.problems, [] as [String; 0]);
    drop(sender);
    listening.await.expect("ends");
    // Cut here: what the replacement took is no change of others.
    let shown = preview(&world, &plan, &[]).await;
    assert!(shown.steps.iter().all(|step| !step.outside), "{:?}", told(&shown.steps));
    world.apply(&plan).await;
    world.check_exact(&plan).await;
}

/// Verb, kind, name and place of each step, sorted: blocks are told without saying for whom.
fn sorted<'a>(steps: impl Iterator<Item = &'a Step>) -> Vec<String> {
    let mut lines: Vec<String> =
        steps.map(|step| format!("{:?} {} {} {}", step.verb, step.kind, step.name, step.location)).collect();
    lines.sort();
    lines
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_preview_is_what_the_run_does(
        before in any_plan(),
        after in any_plan(),
        other in any::<bool>(),
        bits in prop::collection::vec(any::<bool>(), 1..40),
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runs");
        runtime.block_on(async {
            let world = World::new();
            world.apply(&before).await;
            tamper(&world, &bits);
            let plan = if other { after } else { before };
            let shown = preview(&world, &plan, &[]).await;
            let (outcome, events) = world.run(&plan).await;
            let outcome = outcome.expect("a run");
            let settling = events.iter().filter_map(|event| match event {
                Event::Step(step, StepState::Started) => Some(step),
                _ => None,
            });
            prop_assert_eq!(sorted(shown.steps.iter()), sorted(settling));
            prop_assert_eq!(outcome.problems.len(), shown.problems.len() + shown.replacements.len());
            Ok(())
        })?;
    }
}
