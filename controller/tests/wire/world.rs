//! A cloud and servers that exist only here: they do as told, and count what is asked of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use fleet_controller::{
    Controller,
    first_boot::{Door, FirstBoot, FirstBootError, Target, Way},
    reconcile::provision::{Provision, ProvisionError, Provisioners},
    settings::Timing,
};
use fleet_model::{Clock, NodeName, SystemClock};
use fleet_plan::{ResolvedPlan, resolved::Cloud};
use fleet_proto::{
    tls::IdentitySlot,
    v1::{self, enrolment_client::EnrolmentClient, from_agent, to_agent},
};
use fleet_provider::{
    bootstrap::BootStage,
    event::{Addresses, Event, Step, StepState, Verb},
    orphans::Orphan,
    provider::{Outcome, Preview},
};
use rcgen::KeyPair;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::harness::{Session, channel, csr};

/// The world: what there is, and what will go wrong.
#[derive(Clone, Debug)]
pub struct World {
    pub timing: Timing,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    servers: Mutex<BTreeSet<NodeName>>,
    agents: Mutex<JoinSet<()>>,
    script: Mutex<Script>,
    pushes: Mutex<Vec<NodeName>>,
    looks: Mutex<Vec<NodeName>>,
    /// Every key that ever enrolled, PKCS#8.
    keys: Mutex<Vec<(NodeName, Vec<u8>)>>,
    calls: AtomicU64,
    /// The cloud was told to stop, and does not listen.
    told_to_stop: AtomicBool,
    /// Each server takes a permit to be made.
    gate: Semaphore,
}

/// What goes wrong, by node.
#[derive(Debug, Default)]
pub struct Script {
    /// First boot fails with this line.
    pub boot_fails: BTreeMap<&'static str, &'static str>,
    /// A successor of the node's server could not be made.
    pub unmakeable: BTreeMap<&'static str, &'static str>,
    /// The connection breaks so many times.
    pub breaks: BTreeMap<&'static str, u32>,
    /// This task fails.
    pub task_fails: BTreeMap<&'static str, &'static str>,
    /// No node can run this program.
    pub fails_everywhere: Option<&'static str>,
    /// The node's clock is off by so many milliseconds.
    pub clock_ms: BTreeMap<&'static str, i64>,
    /// The `database` task of this node has something to say for so many looks.
    pub unsettled: BTreeMap<&'static str, u32>,
    /// It is not as desired either.
    pub waits: bool,
    /// What this task of the node says though it is fine.
    pub says: BTreeMap<(&'static str, &'static str), Says>,
    /// A repair is answered with this.
    pub repair_fails: BTreeMap<&'static str, &'static str>,
    /// The cloud does not listen when it is told to stop.
    pub stubborn: bool,
    /// The cloud says no.
    pub cloud_fails: Option<&'static str>,
    /// One resource cannot be had; everything else is done.
    pub cloud_lacks: Option<&'static str>,
    /// Nodes are machines that are taken, not servers that are made.
    pub machines: bool,
    /// What is left after a destroy.
    pub left_over: Option<&'static str>,
}

/// What a task says of itself and of the database cluster.
#[derive(Clone, Debug)]
pub struct Says {
    /// In words.
    pub reason: &'static str,
    /// Servers that it misses; `None` from an older agent.
    pub missing: Option<&'static [&'static str]>,
}

impl World {
    /// A world where all goes well, with short deadlines.
    pub fn new() -> Self {
        let second = Duration::from_secs(1);
        let timing = Timing {
            boot: second,
            first_boot: Duration::from_secs(20),
            converge: Duration::from_secs(20),
            failed: Duration::from_millis(200),
            token: Duration::from_secs(3600),
            reconnect: Duration::from_millis(200),
        };
        let inner = Inner {
            servers: Mutex::default(),
            agents: Mutex::default(),
            script: Mutex::default(),
            pushes: Mutex::default(),
            looks: Mutex::default(),
            keys: Mutex::default(),
            calls: AtomicU64::new(0),
            told_to_stop: AtomicBool::new(false),
            gate: Semaphore::new(1000),
        };
        Self { timing, inner: Arc::new(inner) }
    }

    /// Changes what goes wrong.
    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.inner.script.lock().expect("no panic"));
    }

    /// Closes the gate: no server is made until it opens.
    pub fn close_gate(&self) {
        self.inner.gate.forget_permits(usize::MAX >> 3);
    }

    /// Lets so many servers be made.
    pub fn open_gate(&self, servers: usize) {
        self.inner.gate.add_permits(servers);
    }

    /// Nodes that got a first boot so far, in order.
    pub fn pushes(&self) -> Vec<NodeName> {
        self.inner.pushes.lock().expect("no panic").clone()
    }

    /// Nodes that were told to look again so far, in order.
    pub fn looks(&self) -> Vec<NodeName> {
        self.inner.looks.lock().expect("no panic").clone()
    }

    /// Keys a node enrolled with, oldest first.
    pub fn keys(&self, node: &str) -> Vec<KeyPair> {
        let keys = self.inner.keys.lock().expect("no panic");
        let of_node = keys.iter().filter(|(name, _)| name.as_str() == node);
        of_node.map(|(_, der)| KeyPair::try_from(der.as_slice()).expect("a key")).collect()
    }

    /// Whether a cloud that does not listen was told to stop.
    pub fn told_to_stop(&self) -> bool {
        self.inner.told_to_stop.load(Ordering::SeqCst)
    }

    pub fn servers(&self) -> usize {
        self.inner.servers.lock().expect("no panic").len()
    }

    pub fn put_around(&self, controller: Controller) -> Controller {
        controller.with_world(Arc::new(self.clone()), Arc::new(self.clone()))
    }
}

impl Provisioners for World {
    fn open(&self, _: &Cloud, fleet_id: &str) -> Result<Arc<dyn Provision>, ProvisionError> {
        assert!(!fleet_id.is_empty());
        Ok(Arc::new(self.clone()))
    }
}

fn addresses(plan: &ResolvedPlan, node: &NodeName) -> Addresses {
    let index = plan.nodes().position(|placed| placed.node.name == *node).expect("planned");
    let number = u8::try_from(index + 1).expect("few nodes");
    Addresses {
        public_ipv4: Some([198, 51, 100, number].into()),
        private_ipv4: Some([10, 0, 0, number].into()),
        ipv6: Some([0xfd00, 0, 0, 0, 0, 0, 0, number.into()].into()),
    }
}

fn step(verb: Verb, node: &NodeName) -> Step {
    Step {
        verb,
        kind: "server",
        name: node.to_string(),
        location: "EU7".to_owned(),
        detail: String::new(),
        outside: false,
    }
}

#[async_trait]
impl Provision for World {
    async fn preview(
        &self,
        plan: &ResolvedPlan,
        replace: &BTreeSet<NodeName>,
    ) -> Result<Preview, ProvisionError> {
        let servers = self.inner.servers.lock().expect("no panic");
        let steps = plan.nodes().map(|placed| &placed.node.name).filter_map(|node| {
            match (servers.contains(node), replace.contains(node)) {
                (false, _) => Some(step(Verb::Create, node)),
                (true, true) => Some(step(Verb::Replace, node)),
                (true, false) => None,
            }
        });
        let kind = if self.inner.script.lock().expect("no panic").machines { "host" } else { "server" };
        let steps = steps.map(|step| Step { kind, ..step });
        let unmakeable = self.inner.script.lock().expect("no panic").unmakeable.clone();
        let unmakeable =
            unmakeable.into_iter().map(|(node, why)| (node.parse().expect("a name"), why.to_owned()));
        Ok(Preview { steps: steps.collect(), unmakeable: unmakeable.collect(), ..Preview::default() })
    }

    /// Servers the plan does not have.
    async fn orphans(&self, plan: Option<&ResolvedPlan>) -> Result<Vec<Orphan>, ProvisionError> {
        let servers = self.inner.servers.lock().expect("no panic").clone();
        let left = servers.into_iter().filter(|node| plan.is_none_or(|plan| plan.node(node).is_none()));
        Ok(left
            .map(|node| Orphan {
                kind: "server",
                name: node.to_string(),
                id: format!("id-of-{node}"),
                location: "EU7".to_owned(),
                mark: None,
                within: None,
                why: "the plan does not have it".to_owned(),
                next_step: "`fleetctl up PLAN` removes it".to_owned(),
                created: None,
            })
            .collect())
    }

    async fn apply(
        &self,
        plan: &ResolvedPlan,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
    ) -> Result<Outcome, ProvisionError> {
        if let Some(why) = self.inner.script.lock().expect("no panic").cloud_fails {
            return Err(ProvisionError(why.to_owned()));
        }
        let stubborn = self.inner.script.lock().expect("no panic").stubborn;
        let mut outcome = Outcome::default();
        let all = self.inner.servers.lock().expect("no panic").clone();
        for node in all.iter().filter(|node| plan.node(node).is_none()) {
            self.inner.servers.lock().expect("no panic").remove(node);
            outcome.changing_calls += 1;
            events.send(Event::Step(step(Verb::Destroy, node), StepState::Done)).await.expect("heard");
        }
        for placed in plan.nodes() {
            let node = &placed.node.name;
            if !self.inner.servers.lock().expect("no panic").contains(node) {
                events.send(Event::Step(step(Verb::Create, node), StepState::Started)).await.expect("heard");
                tokio::select! {
                    permit = self.inner.gate.acquire() => permit.expect("open").forget(),
                    () = stop.cancelled() => {
                        if !stubborn {
                            outcome.stopped = true;
                            return Ok(outcome);
                        }
                        self.inner.told_to_stop.store(true, Ordering::SeqCst);
                        self.inner.gate.acquire().await.expect("open").forget();
                    }
                }
                self.inner.servers.lock().expect("no panic").insert(node.clone());
                self.inner.calls.fetch_add(1, Ordering::SeqCst);
                outcome.changing_calls += 1;
                events.send(Event::Step(step(Verb::Create, node), StepState::Done)).await.expect("heard");
                let provisioned = Event::Provisioned(node.clone(), addresses(plan, node));
                events.send(provisioned).await.expect("heard");
            }
            outcome.addresses.insert(node.clone(), addresses(plan, node));
        }
        outcome.problems.extend(self.inner.script.lock().expect("no panic").cloud_lacks.map(str::to_owned));
        Ok(outcome)
    }

    async fn destroy_node(
        &self,
        plan: &ResolvedPlan,
        node: &NodeName,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
    ) -> Result<Outcome, ProvisionError> {
        assert!(plan.node(node).is_some());
        if let Some(why) = self.inner.script.lock().expect("no panic").cloud_fails {
            return Err(ProvisionError(why.to_owned()));
        }
        let mut outcome = Outcome::default();
        if !self.inner.servers.lock().expect("no panic").contains(node) {
            return Ok(outcome);
        }
        events.send(Event::Step(step(Verb::Destroy, node), StepState::Started)).await.expect("heard");
        tokio::select! {
            permit = self.inner.gate.acquire() => permit.expect("open").forget(),
            () = stop.cancelled() => {
                outcome.stopped = true;
                return Ok(outcome);
            }
        }
        self.inner.servers.lock().expect("no panic").remove(node);
        outcome.changing_calls += 1;
        events.send(Event::Step(step(Verb::Destroy, node), StepState::Done)).await.expect("heard");
        Ok(outcome)
    }

    async fn destroy(
        &self,
        events: &mpsc::Sender<Event>,
        _: &CancellationToken,
    ) -> Result<Outcome, ProvisionError> {
        let servers = std::mem::take(&mut *self.inner.servers.lock().expect("no panic"));
        let mut outcome = Outcome::default();
        for node in servers {
            outcome.changing_calls += 1;
            events.send(Event::Step(step(Verb::Destroy, &node), StepState::Done)).await.expect("heard");
        }
        outcome.proof = vec!["servers: 0".to_owned()];
        outcome.problems.extend(self.inner.script.lock().expect("no panic").left_over.map(str::to_owned));
        Ok(outcome)
    }

    async fn addresses(&self, plan: &ResolvedPlan) -> Result<BTreeMap<NodeName, Addresses>, ProvisionError> {
        Ok(plan
            .nodes()
            .map(|placed| (placed.node.name.clone(), addresses(plan, &placed.node.name)))
            .collect())
    }
}

#[async_trait]
impl FirstBoot for World {
    /// Three parts, one a line: token, address, bundle.
    async fn document(&self, way: Way<'_>) -> Result<Vec<u8>, FirstBootError> {
        let (token, address) = (way.token.reveal(), &way.enrol_addresses[0]);
        Ok(format!("{token}\n{address}\n{}", way.trust_bundle_pem).into_bytes())
    }

    async fn push(
        &self,
        target: Target,
        document: &[u8],
        events: &mpsc::Sender<BootStage>,
        _: &CancellationToken,
    ) -> Result<(), FirstBootError> {
        let Door::New { addresses, password } = &target.door else { panic!("{:?}", target.door) };
        assert_eq!((password.reveal().len(), addresses.len()), (24, 1));
        let name = target.node.as_str();
        self.inner.pushes.lock().expect("no panic").push(target.node.clone());
        events.send(BootStage::Connected).await.expect("heard");
        {
            let mut script = self.inner.script.lock().expect("no panic");
            if let Some(line) = script.boot_fails.get(name) {
                return Err(FirstBootError::lasting(*line));
            }
            if let Some(left) = script.breaks.get_mut(name).filter(|left| **left > 0) {
                *left -= 1;
                return Err(FirstBootError { why: "it broke".to_owned(), broken: true });
            }
        }
        events.send(BootStage::AgentStarted).await.expect("heard");
        let agent =
            agent(target.node, String::from_utf8(document.to_vec()).expect("text"), self.inner.clone());
        self.inner.agents.lock().expect("no panic").spawn(agent);
        Ok(())
    }
}

/// An agent on one of this world's servers: enrols, keeps a session, reports what it is told as done.
async fn agent(node: NodeName, document: String, world: Arc<Inner>) {
    let mut lines = document.splitn(3, '\n');
    let mut next = || lines.next().expect("three parts");
    let (token, address, pem) = (next().to_owned(), next().to_owned(), next().to_owned());
    let bundle = vec![CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")];
    let address: SocketAddr = address.parse().expect("an address");
    let ahead = world.script.lock().expect("no panic").clock_ms.get(node.as_str()).copied().unwrap_or(0);
    let hello = |generation| v1::Hello {
        agent_version: fleet_proto::VERSION.to_owned(),
        protocol_min: 1,
        protocol_max: 1,
        boot_nonce: "nonce".to_owned(),
        machine: node.to_string(),
        node_time_ms: SystemClock.now().as_millis() + ahead,
        generation,
        capabilities: Vec::new(),
    };
    let key = KeyPair::generate().expect("a key");
    let mut client = EnrolmentClient::new(channel(address, &bundle, None));
    let request = v1::EnrolRequest { token, csr: csr(&key), hello: Some(hello(0)) };
    let Ok(credentials) = client.enrol(request).await else { return };
    world.keys.lock().expect("no panic").push((node.clone(), key.serialize_der()));
    let credentials = credentials.into_inner();
    let chain = credentials.certificate_chain.into_iter().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let identity = Arc::new(IdentitySlot::new(chain, key).expect("they belong together"));
    let session = credentials.session_addresses[0].parse().expect("an address");
    let Ok(mut session) = Session::open(channel(session, &bundle, Some(identity)), hello(0)).await else {
        return;
    };
    let mut now = v1::Desired::default();
    while let Ok(Some(message)) = session.down.message().await {
        match message.message {
            Some(to_agent::Message::Desired(desired)) => {
                let seen = look(&node, &desired, &world, false);
                session.say(from_agent::Message::Observed(seen)).await;
                now = desired;
            }
            Some(to_agent::Message::Command(command)) => {
                if matches!(command.what, Some(v1::command::What::Recheck(_))) {
                    world.looks.lock().expect("no panic").push(node.clone());
                    let seen = look(&node, &now, &world, true);
                    session.say(from_agent::Message::Observed(seen)).await;
                }
                let repair = matches!(command.what, Some(v1::command::What::Repair(_)));
                let error = world.script.lock().expect("no panic").repair_fails.get(node.as_str()).copied();
                let error = error.filter(|_| repair).unwrap_or_default().to_owned();
                let answer = v1::Answer { id: command.id, error };
                session.say(from_agent::Message::Answer(answer)).await;
            }
            // It names no capability, so nothing else concerns it.
            Some(_) | None => {}
        }
    }
}

/// What one look finds; one that was asked for brings the database further.
fn look(node: &NodeName, desired: &v1::Desired, world: &Inner, asked: bool) -> v1::Observed {
    let mut script = world.script.lock().expect("no panic");
    let broken = script.task_fails.get(node.as_str()).copied();
    let impossible = desired.tasks.iter().find(|task| match &task.kind {
        Some(v1::task_spec::Kind::Command(command)) => {
            command.args.first().map(String::as_str) == script.fails_everywhere
        }
        _ => false,
    });
    let broken = broken.or(impossible.map(|task| task.name.as_str()));
    let mut seen = report(desired, broken);
    let waits = script.waits;
    if let Some(left) = script.unsettled.get_mut(node.as_str()).filter(|left| **left > 0) {
        *left -= u32::from(asked);
        for task in seen.tasks.iter_mut().filter(|task| task.name == "database") {
            "not in the cluster: one".clone_into(&mut task.reason);
            task.cluster = Some(cluster(&["one"]));
            if waits {
                task.result = v1::TaskResult::Waiting.into();
            }
        }
    }
    for task in &mut seen.tasks {
        if let Some(says) = script.says.get(&(node.as_str(), task.name.as_str())) {
            says.reason.clone_into(&mut task.reason);
            task.cluster = says.missing.map(cluster);
        }
    }
    seen
}

/// A database cluster in which these servers are missing.
fn cluster(missing: &[&str]) -> v1::ObservedCluster {
    v1::ObservedCluster { missing_members: missing.iter().map(ToString::to_string).collect() }
}

/// Whether a task sees the database cluster.
fn sees_cluster(task: &v1::TaskSpec) -> bool {
    use v1::task_spec::Kind;
    matches!(task.kind, Some(Kind::Rethinkdb(_) | Kind::Database(_)))
}

fn report(desired: &v1::Desired, broken: Option<&str>) -> v1::Observed {
    let tasks = desired.tasks.iter().map(|task| {
        let failed = broken == Some(task.name.as_str());
        let result = if failed { v1::TaskResult::Failed } else { v1::TaskResult::Unchanged };
        v1::TaskReport {
            name: task.name.clone(),
            result: result.into(),
            reason: if failed { "no space left on device".to_owned() } else { String::new() },
            cluster: (!failed && sees_cluster(task)).then(|| cluster(&[])),
            ..v1::TaskReport::default()
        }
    });
    let health = v1::Health { level: v1::HealthLevel::HealthOk.into(), reasons: vec![] };
    v1::Observed { generation: desired.generation, tasks: tasks.collect(), health: Some(health) }
}
