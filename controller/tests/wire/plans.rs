//! Changed plans on running fleets, through the doors that `fleetctl` uses: who gets what when, and how it ends.

use std::collections::BTreeMap;

use fleet_proto::v1::{
    self, ExplainRequest, Finished, PreviewRequest, Rollout, RolloutAct, RolloutActKind, RolloutKind,
    RolloutRequest, RolloutStanding, StepVerb, Until, progress::What, rollouts_client::RolloutsClient,
};

use crate::{
    harness::{Fixture, node, start_with},
    runs::{apply, document, finish, fresh},
    world::World,
};

/// So many nodes; `task` is what all of them do.
fn plan(nodes: usize, task: &str) -> String {
    format!(
        "fleet: Reference\nrollout: {{bake: 0s}}\ndefaults: {{image: Debian 12, internet: [22], tasks: [{task}]}}\n\
         locations:\n  - id: EU7\n    domain: Front\n    networks:\n      \
         - {{name: Front, subnet: 10.10.0.0/24, nodes: [{{name: \"n[1..{nodes}]\"}}]}}\n"
    )
}

const GOOD: &str = "{command: {args: [/bin/one], unless: [/bin/one]}, name: setup}";
const BAD: &str = "{command: {args: [/bin/two], unless: [/bin/two]}, name: setup}";

async fn up(fixture: &Fixture, text: &str) -> (Vec<What>, Finished) {
    finish(apply(fixture, text, Until::Ready).await).await
}

fn generations(fixture: &Fixture, nodes: usize) -> BTreeMap<String, u64> {
    let of = |name: &str| fixture.desk.registry.desired(&node(name)).expect("something").generation;
    (1..=nodes).map(|number| format!("n{number}")).map(|name| (name.clone(), of(&name))).collect()
}

fn changed(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Vec<String> {
    let changed = after.iter().filter(|(name, generation)| before[*name] != **generation);
    changed.map(|(name, _)| name.clone()).collect()
}

async fn rollout(fixture: &Fixture) -> Rollout {
    let mut client = RolloutsClient::new(fixture.operator_channel());
    let request = RolloutRequest { id: String::new() };
    client.get(request).await.expect("answers").into_inner().rollout.expect("one")
}

async fn act(fixture: &Fixture, act: RolloutActKind) -> Rollout {
    let mut client = RolloutsClient::new(fixture.operator_channel());
    let request = RolloutAct { act: act.into(), ..RolloutAct::default() };
    client.act(request).await.expect("done").into_inner().rollout.expect("one")
}

#[tokio::test]
async fn a_bad_plan_stops_at_the_canary_of_a_hundred_and_no_other_node_is_touched() {
    const NODES: usize = 100;
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    let (_, finished) = up(&fixture, &plan(NODES, GOOD)).await;
    assert!(finished.ok, "{finished:?}");
    let before = generations(&fixture, NODES);

    world.script(|script| script.fails_everywhere = Some("/bin/two"));
    let (told, finished) = up(&fixture, &plan(NODES, BAD)).await;
    assert!(!finished.ok && finished.halted, "{finished:?}");
    let after = generations(&fixture, NODES);
    let touched = changed(&before, &after);
    assert_eq!(touched.len(), 1, "{touched:?}");
    let canary = &touched[0];
    let problem = finished.problems.iter().find(|problem| problem.starts_with("rollout 1 is halted"));
    let problem = problem.unwrap_or_else(|| panic!("{:?}", finished.problems));
    let why = format!("{canary}: its work failed: task `setup` failed: no space left on device");
    assert!(problem.contains(&why), "{problem}");
    let failed: Vec<_> =
        finished.nodes.iter().filter(|node| node.state() != v1::NodeState::NodeReady).collect();
    assert!(failed.len() == 1 && failed[0].node == *canary, "{failed:?}");
    let notes: Vec<&String> = told
        .iter()
        .filter_map(|what| match what {
            What::Note(note) => Some(note),
            _ => None,
        })
        .collect();
    assert!(notes.iter().any(|note| note.starts_with("rollout 1: wave 1 of 4 begins")), "{notes:?}");

    let seen = rollout(&fixture).await;
    assert_eq!(
        (seen.kind(), seen.standing(), seen.version.as_str()),
        (RolloutKind::RolloutOfPlan, RolloutStanding::RolloutHalted, "plan.yaml")
    );
    let other = seen.waves[1].nodes[0].clone();
    let mut client = RolloutsClient::new(fixture.operator_channel());
    let why = client.explain(ExplainRequest { node: other }).await.expect("why").into_inner();
    assert!(why.obstacles.iter().any(|line| line.contains("the rollout is halted")), "{why:?}");

    // Another controller on the same state keeps to that.
    let fixture = start_with(fixture.stop().await, &world).await;
    assert_eq!(changed(&before, &generations(&fixture, NODES)), touched);
    assert_eq!(rollout(&fixture).await.standing(), RolloutStanding::RolloutHalted);
    fixture.stop().await;
}

#[tokio::test]
async fn a_changed_plan_reaches_everybody_and_undo_gives_back_what_was() {
    const NODES: usize = 5;
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    assert!(up(&fixture, &plan(NODES, GOOD)).await.1.ok);
    let before = generations(&fixture, NODES);

    let request = PreviewRequest { plan: Some(document(&plan(NODES, BAD))), replace: Vec::new() };
    let preview = fixture.operator_client().preview(request).await.expect("answers").into_inner();
    let steps: Vec<_> = preview.steps.iter().map(|step| (step.verb(), step.kind.as_str())).collect();
    assert_eq!(steps, [(StepVerb::StepChange, "work"); NODES]);
    assert_eq!(preview.steps[0].detail, "`setup` changes");
    let drawn = preview.rollout.expect("waves");
    assert_eq!(drawn.waves.iter().map(|wave| wave.nodes.len()).collect::<Vec<_>>(), [1, 1, 1, 2]);
    assert_eq!(generations(&fixture, NODES), before, "a preview changes nothing");

    let (_, finished) = up(&fixture, &plan(NODES, BAD)).await;
    assert!(finished.ok, "{finished:?}");
    let seen = rollout(&fixture).await;
    assert_eq!(seen.waves, drawn.waves, "what was previewed is what happened");
    assert!(seen.nodes.iter().all(|node| node.outcome == "updated"), "{:?}", seen.nodes);
    assert!(seen.nodes.iter().all(|node| node.running_version == "generation 2"), "{:?}", seen.nodes);
    let after = generations(&fixture, NODES);
    assert_eq!(changed(&before, &after).len(), NODES);
    // Nothing is left to be done.
    assert!(up(&fixture, &plan(NODES, BAD)).await.1.ok);
    assert_eq!((generations(&fixture, NODES), rollout(&fixture).await.id), (after.clone(), "1".to_owned()));

    let undoing = act(&fixture, RolloutActKind::RolloutUndo).await;
    assert_eq!(undoing.standing(), RolloutStanding::RolloutUndoing);
    let mut client = RolloutsClient::new(fixture.operator_channel());
    let mut watch = client.watch(RolloutRequest { id: String::new() }).await.expect("watches").into_inner();
    while let Some(reply) = watch.message().await.expect("goes on") {
        if reply.rollout.expect("one").finish == "undone" {
            break;
        }
    }
    let back = generations(&fixture, NODES);
    assert!(back.iter().all(|(name, generation)| *generation > after[name]), "generations only grow");
    for name in back.keys() {
        let desired = fixture.desk.registry.desired(&node(name)).expect("something");
        let kind = desired.tasks.last().and_then(|task| task.kind.clone());
        let Some(v1::task_spec::Kind::Command(command)) = kind else { panic!("{kind:?}") };
        assert_eq!(command.args, ["/bin/one"]);
    }
    fixture.stop().await;
}

#[tokio::test]
async fn who_joins_waits_for_nobody_and_a_window_of_no_known_zone_starts_nothing() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    assert!(up(&fixture, &plan(2, GOOD)).await.1.ok);
    // Two more nodes: names for all at once, and no rollout.
    let (_, finished) = up(&fixture, &plan(4, GOOD)).await;
    assert!(finished.ok, "{finished:?}");
    let mut client = RolloutsClient::new(fixture.operator_channel());
    let request = RolloutRequest { id: String::new() };
    assert_eq!(client.get(request).await.expect("answers").into_inner().rollout, None);
    assert!(generations(&fixture, 4)["n1"] > 1, "it knows of the new ones");
    // One more node, and other work: the new one has it from the start and takes no part.
    let (_, finished) = up(&fixture, &plan(5, BAD)).await;
    assert!(finished.ok, "{finished:?}");
    let seen = rollout(&fixture).await;
    let mut nodes: Vec<&str> = seen.nodes.iter().map(|node| node.node.as_str()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["n1", "n2", "n3", "n4"]);

    let before = generations(&fixture, 5);
    let windows = "rollout: {windows: {EU7: {zone: Europe/Atlantis, days: [monday], from: \"01:00\", until: \"02:00\"}}}";
    let text = plan(5, GOOD).replace("rollout: {bake: 0s}", windows);
    let request =
        v1::ApplyRequest { plan: Some(document(&text)), until: Until::Ready.into(), ..Default::default() };
    let refused = fixture.operator_client().apply(request).await.expect_err("no such zone");
    assert!(refused.message().contains("no time zone `Europe/Atlantis`"), "{refused:?}");
    assert_eq!(generations(&fixture, 5), before);
    fixture.stop().await;
}
