//! Rollouts through real sessions: scripted agents are told, say how it goes, and are heard.

use std::{collections::BTreeMap, time::Duration};

use fleet_controller::rollout::note;
use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    v1::{
        self, ClearLineRequest, ExplainRequest, FetchRequest, NoopRequest, RollbackRequest, Rollout,
        RolloutAct, RolloutActKind, RolloutReply, RolloutRequest, RolloutStanding, StandingReason,
        StandingStep, StartRollout, StopLineRequest, agents_client::AgentsClient, from_agent, order::Want,
        rollouts_client::RolloutsClient, to_agent,
    },
};
use tokio::time::timeout;
use tonic::{Status, transport::Channel};

use crate::{
    artifacts::artifact,
    harness::{Agent, DEADLINE, Fixture, Session, hello, kind, node, start, start_in},
    releases::{Releaser, packed, remove},
};

/// Nothing takes time here, so nobody is watched for any.
const POLICY: &str =
    r#"{"canaryBake":"0s","bake":"0s","waves":["50%"],"budgets":{"failed":2},"waveBudgets":{"failed":2}}"#;
const OLD: &str = "0000000000000000000000000000000000000000000000000000000000000001";

struct Node {
    name: String,
    agent: Agent,
    session: Session,
    order: u64,
}

impl Node {
    async fn open(fixture: &Fixture, agent: Agent) -> Self {
        let greeting = v1::Hello {
            capabilities: vec!["orders".to_owned(), "gates".to_owned()],
            ..hello(fixture, &agent.machine)
        };
        let session = agent.session_with(fixture, greeting).await.expect("opens");
        Self { name: agent.machine.clone(), agent, session, order: 0 }
    }

    async fn say(&self, step: StandingStep, release: &str, running: &str) {
        let standing = v1::Standing {
            order: self.order,
            release: release.to_owned(),
            step: step.into(),
            reason: StandingReason::StandingCrashed.into(),
            detail: "exit status 101".to_owned(),
            running_sha256: running.to_owned(),
            running_version: if running == OLD { "0.1.0" } else { "0.2.0" }.to_owned(),
            other_sha256: if running == OLD { "" } else { OLD }.to_owned(),
            other_version: if running == OLD { "" } else { "0.1.0" }.to_owned(),
            ..v1::Standing::default()
        };
        self.session.say(from_agent::Message::Standing(standing)).await;
    }

    /// The next thing a rollout has to say.
    async fn told(&mut self) -> to_agent::Message {
        loop {
            match self.session.next().await.expect("open").expect("goes on") {
                to_agent::Message::Order(order) => {
                    self.order = order.number;
                    return to_agent::Message::Order(order);
                }
                to_agent::Message::Withdraw(withdraw) => {
                    self.order = withdraw.number;
                    return to_agent::Message::Withdraw(withdraw);
                }
                to_agent::Message::Gate(ask) => return to_agent::Message::Gate(ask),
                _ => {}
            }
        }
    }

    async fn offered(&mut self) -> v1::ReleaseOffer {
        match self.told().await {
            to_agent::Message::Order(v1::Order { want: Some(Want::Release(offer)), .. }) => offer,
            other => panic!("{} expected an offer, got {other:?}", self.name),
        }
    }

    /// Does as told.
    async fn update(&mut self, release: &str) {
        self.offered().await;
        self.say(StandingStep::StandingFetching, release, OLD).await;
        self.say(StandingStep::StandingTrial, release, release).await;
        self.say(StandingStep::StandingCommitted, release, release).await;
    }

    async fn fetch(&self, fixture: &Fixture, sha256: &str) -> Result<Vec<u8>, Status> {
        let request = FetchRequest { sha256: sha256.to_owned(), offset: 0 };
        let mut chunks = AgentsClient::new(self.agent.channel(fixture)).fetch(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            bytes.extend(chunk.data);
        }
        Ok(bytes)
    }
}

struct Fleet {
    fixture: Fixture,
    nodes: BTreeMap<String, Node>,
    release: String,
    releaser: Releaser,
}

/// Some nodes that run the old release and have said so, and a new one that is published.
async fn fleet(names: &[&str]) -> Fleet {
    let (fixture, tokens) = start(names).await;
    let releaser = Releaser::new(&fixture);
    let release = releaser.publish(&fixture, "0.2.0").await.expect("kept");
    let mut nodes = BTreeMap::new();
    for (name, token) in names.iter().zip(&tokens) {
        let agent = Agent::home(&fixture, token, name).await;
        let one = Node::open(&fixture, agent).await;
        one.say(StandingStep::StandingCommitted, OLD, OLD).await;
        nodes.insert((*name).to_owned(), one);
    }
    let fleet = Fleet { fixture, nodes, release, releaser };
    fleet.heard().await;
    fleet
}

impl Fleet {
    async fn heard(&self) {
        let registry = &self.fixture.desk.registry;
        let heard = || self.nodes.keys().all(|name| registry.standing_of(&node(name)).is_some());
        self.fixture.until("everybody says where they stand", heard).await;
    }

    fn client(&self) -> RolloutsClient<Channel> {
        RolloutsClient::new(self.fixture.operator_channel())
    }

    async fn start(&self, policy: &str, preview: bool) -> Result<RolloutReply, Status> {
        let request = StartRollout { release: "0.2.0".to_owned(), policy: policy.to_owned(), preview };
        Ok(self.client().start(request).await?.into_inner())
    }

    async fn act(&self, act: RolloutActKind, retry: bool) -> Result<Rollout, Status> {
        let request = RolloutAct { act: act.into(), reason: "a doubt".to_owned(), retry, id: String::new() };
        Ok(self.client().act(request).await?.into_inner().rollout.expect("one"))
    }

    /// Watches until it is so.
    async fn until(&self, what: &str, so: impl Fn(&Rollout) -> bool) -> Rollout {
        let request = RolloutRequest { id: String::new() };
        let mut stream = self.client().watch(request).await.expect("watches").into_inner();
        let looking = async {
            loop {
                let reply = stream.message().await.expect("goes on").expect("no end");
                let rollout = reply.rollout.expect("one");
                if so(&rollout) {
                    return rollout;
                }
            }
        };
        timeout(DEADLINE, looking).await.unwrap_or_else(|_| panic!("waited in vain for: {what}"))
    }

    async fn until_standing(&self, wanted: RolloutStanding) -> Rollout {
        self.until(wanted.as_str_name(), |rollout| rollout.standing() == wanted).await
    }

    fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(name).expect("a node")
    }
}

fn state<'a>(rollout: &'a Rollout, name: &str) -> &'a str {
    &rollout.nodes.iter().find(|node| node.node == name).expect("a node").state
}

#[tokio::test]
async fn a_release_goes_to_the_canary_first_then_on_and_back() {
    let mut fleet = fleet(&["a", "b", "c", "d"]).await;
    let release = fleet.release.clone();
    let gated = POLICY.replace(
        "{\"canaryBake\"",
        r#"{"gates":[{"name":"todo","when":"after","check":"todoRoundTrip"}],"canaryBake""#,
    );
    let drawn = fleet.start(&gated, true).await.expect("drawn").rollout.expect("one");
    assert_eq!((drawn.standing(), drawn.version.as_str()), (RolloutStanding::RolloutDraft, "0.2.0"));
    assert_eq!((drawn.previous.as_str(), drawn.previous_version.as_str()), (OLD, "0.1.0"));
    let waves: Vec<Vec<String>> = drawn.waves.iter().map(|wave| wave.nodes.clone()).collect();
    assert_eq!(waves.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 1]);

    let begun = fleet.start(&gated, false).await.expect("starts").rollout.expect("one");
    assert_eq!(begun.id, "1");
    let drawn_again: Vec<Vec<String>> = begun.waves.iter().map(|wave| wave.nodes.clone()).collect();
    assert_eq!(drawn_again, waves, "what was previewed is what happens");
    let canary = waves[0][0].clone();
    let other = waves[1][0].clone();
    let offer = fleet.node(&canary).offered().await;
    assert!(!offer.manifest.is_empty() && offer.roots.len() == 1 && offer.trial.is_some());
    // The order opens the way to what it names, for this node alone.
    let wanted = artifact("", &packed("0.2.0")).sha256;
    let came = fleet.nodes[&canary].fetch(&fleet.fixture, &wanted).await.expect("comes");
    assert_eq!(came, packed("0.2.0"));
    let refused = fleet.nodes[&other].fetch(&fleet.fixture, &wanted).await.expect_err("not its turn");
    assert_eq!(kind(&refused), RefusalKind::RefusalForbidden);

    let one = fleet.node(&canary);
    one.say(StandingStep::StandingTrial, &release, &release).await;
    one.say(StandingStep::StandingCommitted, &release, &release).await;
    let to_agent::Message::Gate(ask) = one.told().await else { panic!("a gate") };
    assert_eq!((ask.gate.as_str(), ask.rollout.as_str()), ("todo", "1"));
    assert_eq!(ask.check, Some(v1::gate_ask::Check::TodoRoundTrip(5000)));
    let answer = |passed| v1::GateAnswer {
        gate: "todo".to_owned(),
        rollout: "1".to_owned(),
        passed,
        detail: "seen".to_owned(),
    };
    one.session.say(from_agent::Message::Gate(answer(true))).await;
    let rollout = fleet.until("the second wave", |rollout| rollout.wave == 2).await;
    assert_eq!(state(&rollout, &canary), "committed");
    // One at a time of four.
    for name in [&waves[1][0], &waves[1][1], &waves[2][0]] {
        let one = fleet.node(name);
        one.update(&release).await;
        let to_agent::Message::Gate(_) = one.told().await else { panic!("a gate") };
        one.session.say(from_agent::Message::Gate(answer(true))).await;
    }
    let rollout = fleet.until_standing(RolloutStanding::RolloutFinished).await;
    assert!(rollout.nodes.iter().all(|node| node.outcome == "updated"), "{:?}", rollout.nodes);
    assert!(rollout.nodes.iter().all(|node| node.running_version == "0.2.0"));

    // One node back, and then everybody.
    let back = RollbackRequest { node: other.clone() };
    let reply = fleet.client().rollback(back.clone()).await.expect("goes back").into_inner();
    assert_eq!((reply.version.as_str(), reply.connected), ("0.1.0", true));
    let to_agent::Message::Order(v1::Order { want: Some(Want::Back(why)), .. }) =
        fleet.node(&other).told().await
    else {
        panic!("the order to go back")
    };
    assert!(why.reason.starts_with("an operator sent it back"), "{why:?}");
    fleet.node(&other).say(StandingStep::StandingCommitted, OLD, OLD).await;
    let rollout = fleet.until("it is back", |rollout| state(rollout, &other) == "rolled back").await;
    assert_eq!(rollout.standing(), RolloutStanding::RolloutFinished);
    fleet.client().rollback(back).await.expect_err("it is back already");
    let rollout = fleet.act(RolloutActKind::RolloutUndo, false).await.expect("undone");
    assert_eq!(rollout.standing(), RolloutStanding::RolloutUndoing);
    for name in [&waves[0][0], &waves[1][1], &waves[2][0]] {
        let told = fleet.node(name).told().await;
        assert!(
            matches!(told, to_agent::Message::Order(v1::Order { want: Some(Want::Back(_)), .. })),
            "{told:?}"
        );
        fleet.node(name).say(StandingStep::StandingCommitted, OLD, OLD).await;
    }
    let rollout = fleet.until_standing(RolloutStanding::RolloutFinished).await;
    assert_eq!(rollout.finish, "undone");
    fleet.fixture.stop().await;
}

#[tokio::test]
async fn a_failed_canary_halts_and_nobody_else_is_touched_until_somebody_decides() {
    let mut fleet = fleet(&["a", "b", "c"]).await;
    let release = fleet.release.clone();
    let begun = fleet.start(POLICY, false).await.expect("starts").rollout.expect("one");
    let canary = begun.waves[0].nodes[0].clone();
    fleet.node(&canary).offered().await;
    fleet.node(&canary).say(StandingStep::StandingRolledBack, &release, OLD).await;
    let rollout = fleet.until_standing(RolloutStanding::RolloutHalted).await;
    assert_eq!(rollout.halted_nodes, std::slice::from_ref(&canary));
    assert!(rollout.halted.contains("of the canaries failed"), "{}", rollout.halted);
    let untouched = rollout.nodes.iter().filter(|node| node.state == "pending").count();
    assert_eq!(untouched, 2);
    let other = rollout.waves[1].nodes[0].clone();
    let why = fleet.client().explain(ExplainRequest { node: other.clone() }).await.expect("why").into_inner();
    assert!(why.obstacles.iter().any(|line| line.contains("the rollout is halted")), "{why:?}");
    // Known to be bad there, it is said before the next start; and not while this one can still go on.
    let drawn = fleet.start(POLICY, true).await.expect("drawn");
    let warning = format!("release 0.2.0 was bad on {canary} before: it crashed: exit status 101");
    assert!(drawn.warnings.contains(&warning), "{:?}", drawn.warnings);

    let rollout = fleet.act(RolloutActKind::RolloutResume, true).await.expect("goes on");
    assert_eq!(rollout.standing(), RolloutStanding::RolloutRunning);
    let again = fleet.node(&canary).offered().await;
    assert!(again.again, "it is to try what it remembers as bad");
    fleet.node(&canary).say(StandingStep::StandingCommitted, &release, &release).await;
    for wave in &begun.waves[1..] {
        for name in &wave.nodes {
            fleet.node(name).update(&release).await;
        }
    }
    fleet.until_standing(RolloutStanding::RolloutFinished).await;
    fleet.fixture.stop().await;
}

#[tokio::test]
async fn a_stopped_line_holds_those_that_come_later_and_they_catch_up_when_it_is_cleared() {
    let mut fleet = fleet(&["a", "b"]).await;
    let release = fleet.release.clone();
    let drawn = fleet.start(POLICY, true).await.expect("drawn").rollout.expect("one");
    let (canary, late) = (drawn.waves[0].nodes[0].clone(), drawn.waves[1].nodes[0].clone());
    let Node { agent, session, .. } = fleet.nodes.remove(&late).expect("a node");
    drop(session);
    let registry = fleet.fixture.desk.clone();
    fleet.fixture.until("it is gone", || registry.registry.live(&node(&late)).is_none()).await;
    fleet.start(POLICY, false).await.expect("starts");
    fleet.node(&canary).offered().await;
    let line = fleet.client().stop_line(StopLineRequest { reason: "a doubt".to_owned() }).await;
    assert!(line.expect("stopped").into_inner().stopped);
    let told = fleet.node(&canary).told().await;
    assert!(matches!(told, to_agent::Message::Withdraw(_)), "{told:?}");
    fleet.node(&canary).say(StandingStep::StandingCommitted, OLD, OLD).await;
    let refused = fleet.start(POLICY, false).await.expect_err("stopped");
    assert!(refused.message().contains("the line is stopped"), "{refused:?}");

    let mut back = Node::open(&fleet.fixture, agent).await;
    back.say(StandingStep::StandingCommitted, OLD, OLD).await;
    let rollout = fleet
        .until("it is seen", |rollout| rollout.nodes.iter().any(|node| node.node == late && node.connected))
        .await;
    assert_eq!((rollout.standing(), state(&rollout, &late)), (RolloutStanding::RolloutHalted, "pending"));
    // An order would have come before this question.
    let mut operator = fleet.fixture.operator_client();
    let asking = tokio::spawn(async move { operator.noop(NoopRequest { timeout_ms: 30_000 }).await });
    let next = back.session.next().await.expect("open").expect("goes on");
    let to_agent::Message::Command(command) = next else { panic!("{next:?}") };
    back.session.say(from_agent::Message::Answer(v1::Answer { id: command.id, error: String::new() })).await;
    asking.abort();

    fleet.client().clear_line(ClearLineRequest {}).await.expect("cleared");
    fleet.node(&canary).update(&release).await;
    back.update(&release).await;
    let rollout = fleet.until_standing(RolloutStanding::RolloutFinished).await;
    assert!(rollout.nodes.iter().all(|node| node.outcome == "updated"), "{:?}", rollout.nodes);
    fleet.fixture.stop().await;
}

#[tokio::test]
async fn what_was_damaged_on_the_controllers_disk_is_published_again_and_reaches_nodes_sound() {
    let mut fleet = fleet(&["a"]).await;
    let sha256 = artifact("", &packed("0.2.0")).sha256;
    let file = fleet.fixture.dir.path().join("artifacts").join(&sha256);
    let mut bytes = std::fs::read(&file).expect("kept");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).expect("damaged");
    fleet.releaser.publish(&fleet.fixture, "0.2.0").await.expect("brought again");
    fleet.start(POLICY, false).await.expect("starts");
    fleet.node("a").offered().await;
    let got = fleet.nodes["a"].fetch(&fleet.fixture, &sha256).await.expect("given");
    assert!(got == packed("0.2.0"));
    fleet.fixture.stop().await;
}

/// Everybody at once.
const ALL: &str = r#"{"canaries":{"named":["a","b","c"],"drawn":0},"budgets":{"inFlight":"100%","unavailable":"100%"},
    "canaryBudgets":{"inFlight":"100%","unavailable":"100%"}}"#;

#[tokio::test]
async fn leave_to_go_back_is_given_to_whom_it_names_while_it_lasts() {
    let mut fleet = fleet(&["a", "b", "c"]).await;
    for name in ["a", "b"] {
        let standing = v1::Standing {
            step: StandingStep::StandingCommitted.into(),
            running_sha256: OLD.replace('1', "2"),
            running_version: "0.2.1".to_owned(),
            ..v1::Standing::default()
        };
        fleet.node(name).session.say(from_agent::Message::Standing(standing)).await;
    }
    let newer = |name| fleet.fixture.desk.registry.standing_of(&node(name));
    let heard = || ["a", "b"].map(newer).iter().flatten().all(|said| said.running_version == "0.2.1");
    fleet.fixture.until("they say what they run", heard).await;
    // Who has to go back and may not is named before anything is touched.
    let refused = async |fleet: &Fleet, preview| {
        let refused = fleet.start(ALL, preview).await.expect_err("no leave");
        let refusal = Refusal::from_status(&refused).expect("a refusal");
        (refusal.message, refusal.hint)
    };
    for preview in [true, false] {
        let (message, hint) = refused(&fleet, preview).await;
        assert!(message.ends_with("go back to 0.2.0: a, b"), "{message}");
        assert!(hint.starts_with("`fleetctl release permit 0.2.0 --nodes a,b --reason"), "{hint}");
    }
    let minute = Duration::from_secs(60);
    let for_a = fleet.releaser.allow(&fleet.fixture, "0.2.0", &["a"], minute * 60).await;
    let (message, _) = refused(&fleet, true).await;
    assert!(message.ends_with("go back to 0.2.0: b"), "{message}");
    let for_b = fleet.releaser.allow(&fleet.fixture, "0.2.0", &["b"], minute).await;
    fleet.start(ALL, true).await.expect("everybody may");
    fleet.start(ALL, false).await.expect("starts");
    for (name, permit) in [("a", &for_a[..]), ("b", &for_b), ("c", &[])] {
        assert_eq!(fleet.node(name).offered().await.permit, permit, "{name}");
    }
    // Ordered again a minute later: what ended is not sent along, for a node refuses whatever comes with it.
    fleet.fixture.clock.advance(minute);
    for (name, permit) in [("a", &for_a[..]), ("b", &[]), ("c", &[])] {
        let Node { agent, session, .. } = fleet.nodes.remove(name).expect("a node");
        drop(session);
        let mut again = Node::open(&fleet.fixture, agent).await;
        assert_eq!(again.offered().await.permit, permit, "{name}, again");
        fleet.nodes.insert(name.to_owned(), again);
    }
    fleet.fixture.stop().await;
}

#[tokio::test]
async fn a_release_stays_while_a_rollout_or_a_node_needs_it() {
    let mut fleet = fleet(&["a", "b"]).await;
    let release = fleet.release.clone();
    let refused =
        async |fixture: &Fixture| remove(fixture, "0.2.0").await.expect_err("needed").message().to_owned();
    let begun = fleet.start(POLICY, false).await.expect("starts").rollout.expect("one");
    let said = refused(&fleet.fixture).await;
    assert_eq!(
        said,
        "release 0.2.0 is needed: rollout 1 brings it to the nodes, those that come back included"
    );
    let [canary, other] = [0, 1].map(|wave: usize| begun.waves[wave].nodes[0].clone());
    fleet.node(&canary).update(&release).await;
    fleet.node(&other).offered().await;
    fleet.act(RolloutActKind::RolloutUndo, false).await.expect("goes back");
    let said = refused(&fleet.fixture).await;
    assert_eq!(said, format!("release 0.2.0 is needed: rollout 1 of it is not over; {canary} run it"));
    fleet.node(&canary).say(StandingStep::StandingCommitted, OLD, OLD).await;
    fleet.node(&other).say(StandingStep::StandingCommitted, OLD, OLD).await;
    fleet.until_standing(RolloutStanding::RolloutFinished).await;
    // One that could go back to it is asked after also when it is away, and by a controller started anew.
    let standing = v1::Standing {
        step: StandingStep::StandingCommitted.into(),
        release: OLD.to_owned(),
        running_sha256: OLD.to_owned(),
        other_sha256: release.clone(),
        ..v1::Standing::default()
    };
    let away = fleet.node(&canary);
    away.session.say(from_agent::Message::Standing(standing.clone())).await;
    let heard = || {
        let said = fleet.fixture.desk.registry.standing_of(&node(&canary));
        said.is_some_and(|said| said.other_sha256 == release)
    };
    fleet.fixture.until("it says what it holds", heard).await;
    drop(fleet.nodes.remove(&canary));
    let gone = || fleet.fixture.desk.registry.live(&node(&canary)).is_none();
    fleet.fixture.until("it is gone", gone).await;
    let said = format!("release 0.2.0 is needed: {canary} may go back to it");
    assert_eq!(refused(&fleet.fixture).await, said);
    let dir = fleet.fixture.stop().await;
    let (fixture, _) = start_in(dir, &[], |_| {}).await;
    assert_eq!(refused(&fixture).await, said);
    fixture.stop().await;
}

#[tokio::test]
async fn word_left_for_a_controller_at_work_stops_its_line_without_a_restart() {
    let mut fleet = fleet(&["a", "b"]).await;
    let begun = fleet.start(POLICY, false).await.expect("starts").rollout.expect("one");
    let canary = begun.waves[0].nodes[0].clone();
    fleet.node(&canary).offered().await;
    let dir = fleet.fixture.dir.path().to_owned();
    note::leave(&dir, "ops", "a doubt").expect("left");
    let told = fleet.node(&canary).told().await;
    assert!(matches!(told, to_agent::Message::Withdraw(_)), "{told:?}");
    let request = RolloutRequest { id: String::new() };
    let line = fleet.client().get(request).await.expect("answers").into_inner().line.expect("said");
    assert_eq!((line.stopped, line.by.as_str(), line.reason.as_str()), (true, "ops", "a doubt"));
    assert!(!note::waits(&dir), "taken once and for all");
    fleet.client().clear_line(ClearLineRequest {}).await.expect("cleared");
    let rollout =
        fleet.until("it goes on", |rollout| rollout.standing() != RolloutStanding::RolloutHalted).await;
    assert_eq!(rollout.id, begun.id);
    fleet.fixture.stop().await;
}

#[tokio::test]
async fn a_controller_started_anew_says_its_orders_again() {
    let mut fleet = fleet(&["a", "b"]).await;
    let release = fleet.release.clone();
    let begun = fleet.start(POLICY, false).await.expect("starts").rollout.expect("one");
    let canary = begun.waves[0].nodes[0].clone();
    fleet.node(&canary).offered().await;
    let order = fleet.nodes[&canary].order;
    let agents: Vec<Agent> = std::mem::take(&mut fleet.nodes).into_values().map(|node| node.agent).collect();
    let dir = fleet.fixture.stop().await;
    let (fixture, _) = start_in(dir, &[], |_| {}).await;
    fleet.fixture = fixture;
    for agent in agents {
        let one = Node::open(&fleet.fixture, agent).await;
        one.say(StandingStep::StandingCommitted, OLD, OLD).await;
        fleet.nodes.insert(one.name.clone(), one);
    }
    fleet.node(&canary).update(&release).await;
    assert_eq!(fleet.nodes[&canary].order, order, "the same order");
    let other = begun.waves[1].nodes[0].clone();
    fleet.node(&other).update(&release).await;
    fleet.until_standing(RolloutStanding::RolloutFinished).await;
    let list = fleet.client().list(RolloutRequest { id: String::new() }).await.expect("lists").into_inner();
    assert_eq!(list.rollouts.len(), 1);
    fleet.fixture.stop().await;
}

#[tokio::test]
async fn nodes_have_no_say_in_rollouts() {
    let fleet = fleet(&["a"]).await;
    let mut client = RolloutsClient::new(fleet.nodes["a"].agent.channel(&fleet.fixture));
    let refused = client.get(RolloutRequest { id: String::new() }).await.expect_err("a node");
    assert_eq!(kind(&refused), RefusalKind::RefusalForbidden);
    let refused = client.stop_line(StopLineRequest::default()).await.expect_err("a node");
    assert_eq!(kind(&refused), RefusalKind::RefusalForbidden);
    let none = fleet.client().get(RolloutRequest { id: String::new() }).await.expect("answers").into_inner();
    assert!(none.rollout.is_none());
    let refused = fleet.client().get(RolloutRequest { id: "7".to_owned() }).await.expect_err("no such");
    assert!(refused.message().contains("there is no rollout 7"), "{refused:?}");
    fleet.fixture.stop().await;
}
