//! What is known of the fleet while the controller runs: the plan, addresses, how far each node is.
//!
//! In memory, so that status is cheap; everything but the stages of a run under way is in the store too and
//! read from there at start.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fleet_model::{NodeName, Timestamp};
use fleet_plan::ResolvedPlan;
use fleet_proto::v1::{self, NodeState};
use fleet_provider::event::Addresses;
use fleet_store::Expected;

use super::given::Given;
use crate::{
    artifacts::{Digest, named::named},
    desired::{self, Works},
    records::{ExpiryRecord, FleetRecord, RecordError, Records, RunKind, RunRecord, keys},
    session::{registry::Registry, stream::Desk},
};

mod desire;

pub use desire::{Assigned, Change, Turn};

/// How far a node is on its way home, as the run sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// How far.
    pub state: NodeState,
    /// Why, or what is waited for.
    pub detail: String,
}

/// What is known.
#[derive(Debug)]
pub struct Board {
    records: Records,
    desk: Arc<Desk>,
    /// The todo application's program, if there is one: for plans stored without.
    todo: Option<v1::Artifact>,
    state: Mutex<State>,
    /// Held while desired states are made.
    desiring: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    given: Option<Given>,
    /// What the plan has nodes do.
    wanted: Option<Arc<Works>>,
    /// What nodes are to do, and may do.
    works: BTreeMap<NodeName, Assigned>,
    addresses: BTreeMap<NodeName, Addresses>,
    stages: BTreeMap<NodeName, Stage>,
    activity: String,
    /// How much nobody answers for, and when that was seen.
    orphans: Option<(usize, Timestamp)>,
    /// When the fleet ends by itself.
    expiry: Option<ExpiryRecord>,
    /// When each node's server was first seen.
    arrived: BTreeMap<NodeName, Timestamp>,
}

impl Board {
    /// Reads the board from the store.
    ///
    /// # Errors
    /// [`RecordError`] if the store cannot be read.
    pub async fn load(
        records: Records,
        desk: Arc<Desk>,
        todo: Option<v1::Artifact>,
    ) -> Result<Self, RecordError> {
        let mut state = State { addresses: records.addresses().await?, ..State::default() };
        if let Some(run) = records.get::<RunRecord>(&keys::run()).await? {
            state.activity = activity(&run.value);
        }
        for (node, at) in records.list::<Timestamp>(&keys::arrivals()).await? {
            if let Ok(node) = node.parse() {
                state.arrived.insert(node, at);
            }
        }
        state.expiry = records.get::<ExpiryRecord>(&keys::expiry()).await?.map(|held| held.value);
        let fleet = records.get::<FleetRecord>(&keys::fleet()).await?;
        if let Some(plan) = fleet.and_then(|held| held.value.plan) {
            match Given::read(plan) {
                Ok(given) => state.given = Some(given),
                // Written by another version; the next `up` brings one that is understood.
                Err(problems) => {
                    tracing::warn!(%problems, "the stored plan is not understood any more");
                    state.activity =
                        "the stored plan is not understood by this version; run `fleetctl up` with a \
                                      corrected plan"
                            .to_owned();
                }
            }
        }
        let board = Self { records, desk, todo, state: Mutex::default(), desiring: Default::default() };
        state.wanted =
            state.given.as_ref().map(|given| desired::works(&given.plan, &board.inputs(given)).into());
        state.works = board.read_works(state.wanted.as_deref()).await?;
        *board.state() = state;
        Ok(board)
    }

    /// The plan, if there is one.
    pub fn plan(&self) -> Option<Arc<ResolvedPlan>> {
        self.state().given.as_ref().map(|given| given.plan.clone())
    }

    /// The plan with what it was given as.
    pub fn given(&self) -> Option<Given> {
        self.state().given.clone()
    }

    /// Takes a plan, or takes it away. Writing it to the store is the caller's business.
    pub fn set_given(&self, given: Option<Given>) {
        let wanted = given.as_ref().map(|given| desired::works(&given.plan, &self.inputs(given)).into());
        {
            let mut state = self.state();
            (state.given, state.wanted) = (given, wanted);
        }
        self.registry().touch();
    }

    /// A node's addresses.
    pub fn addresses(&self, node: &NodeName) -> Option<Addresses> {
        self.state().addresses.get(node).cloned()
    }

    /// Every node's addresses.
    pub fn all_addresses(&self) -> BTreeMap<NodeName, Addresses> {
        self.state().addresses.clone()
    }

    /// How far a node is.
    pub fn stage(&self, node: &NodeName) -> Option<Stage> {
        self.state().stages.get(node).cloned()
    }

    /// Notes how far a node is; says whether that is news.
    pub fn set_stage(&self, node: &NodeName, state: NodeState, detail: &str) -> bool {
        let stage = Stage { state, detail: detail.to_owned() };
        let older = self.state().stages.insert(node.clone(), stage.clone());
        let news = older.as_ref() != Some(&stage);
        if news {
            self.registry().touch();
        }
        news
    }

    /// Forgets stages of an earlier run.
    pub fn clear_stages(&self) {
        self.state().stages.clear();
    }

    /// What is under way, or what the last run left behind; empty if there is nothing to say.
    pub fn activity(&self) -> String {
        self.state().activity.clone()
    }

    /// Says what is under way.
    pub fn set_activity(&self, activity: impl Into<String>) {
        self.state().activity = activity.into();
        self.registry().touch();
    }

    /// When a node's server was first seen.
    pub fn arrived(&self, node: &NodeName) -> Option<Timestamp> {
        self.state().arrived.get(node).copied()
    }

    /// When the fleet ends by itself, or did.
    pub fn expiry(&self) -> Option<ExpiryRecord> {
        self.state().expiry
    }

    /// Says when the fleet ends by itself, or that it never does.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails; nothing has changed then.
    pub async fn set_expiry(&self, expiry: Option<ExpiryRecord>) -> Result<(), RecordError> {
        match &expiry {
            Some(record) => drop(self.records.put(&keys::expiry(), record, Expected::Any).await?),
            None => self.records.delete(&keys::expiry()).await?,
        }
        self.state().expiry = expiry;
        self.registry().touch();
        Ok(())
    }

    /// How much at the cloud nobody answers for, and when that was seen; `None` if nobody has looked yet.
    pub fn orphans(&self) -> Option<(usize, Timestamp)> {
        self.state().orphans
    }

    /// Notes how much at the cloud nobody answers for.
    pub fn set_orphans(&self, count: usize, at: Timestamp) {
        self.state().orphans = Some((count, at));
        self.registry().touch();
    }

    /// Takes addresses of nodes; says whether any is news. Desired states name them once they are refreshed.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails; calling again finishes what was begun.
    pub async fn set_addresses(
        &self,
        found: impl IntoIterator<Item = (&NodeName, &Addresses)>,
    ) -> Result<bool, RecordError> {
        let found: Vec<(&NodeName, &Addresses)> = found.into_iter().collect();
        let news: Vec<(NodeName, Addresses)> = {
            let state = self.state();
            let new = found.iter().filter(|(node, now)| state.addresses.get(*node) != Some(now));
            new.map(|(node, addresses)| ((*node).clone(), (*addresses).clone())).collect()
        };
        // All at once, so that the store's writer takes them in few transactions.
        let writes = news.iter().map(|(node, addresses)| {
            let key = keys::node_addresses(node);
            async move { self.records.put(&key, addresses, Expected::Any).await }
        });
        futures::future::try_join_all(writes).await?;
        let new: Vec<NodeName> = {
            let state = self.state();
            let new = found.iter().map(|(node, _)| *node).filter(|node| !state.arrived.contains_key(*node));
            new.cloned().collect()
        };
        let now = self.desk.clock.now();
        let writes = new.iter().map(|node| {
            let key = keys::arrived(node);
            async move { self.records.put(&key, &now, Expected::Any).await }
        });
        futures::future::try_join_all(writes).await?;
        self.state().arrived.extend(new.into_iter().map(|node| (node, now)));
        let any = !news.is_empty();
        self.state().addresses.extend(news);
        Ok(any)
    }

    /// Every artifact that anything in force names.
    pub fn named_artifacts(&self) -> BTreeSet<Digest> {
        let given = self.given();
        let planned = given.iter().flat_map(|given| given.record.artifacts.iter().chain(&given.record.todo));
        let planned = planned.map(|file| file.sha256.clone());
        let program = self.todo.iter().map(|program| program.sha256.clone());
        let desired = self.registry().all_desired();
        let desired =
            desired.iter().flat_map(|desired| named(desired)).map(|artifact| artifact.sha256.clone());
        let works = self.state().works.clone();
        let works =
            works.values().flat_map(|assigned| std::iter::once(&assigned.work).chain(&assigned.former));
        let works = works.flat_map(|work| work.artifacts.iter().chain(&work.todo));
        let works: Vec<String> = works.map(|file| file.sha256.clone()).collect();
        planned.chain(program).chain(desired).chain(works).filter_map(|digest| digest.parse().ok()).collect()
    }

    /// Forgets what was seen of a node whose server is destroyed; its successor is not there yet.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails; calling again finishes what was begun.
    pub async fn start_over(&self, node: &NodeName) -> Result<(), RecordError> {
        self.registry().start_over(node, tonic::Status::aborted("the node is replaced"));
        self.records.delete(&keys::arrived(node)).await?;
        self.records.delete(&keys::host_key(node)).await?;
        // Its successor gets what the plan says.
        self.records.delete(&keys::work(node)).await?;
        {
            let mut state = self.state();
            state.arrived.remove(node);
            state.works.remove(node);
        }
        self.records.delete(&keys::observed(node)).await
    }

    /// Forgets a node that is gone, in the store and here.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails; calling again finishes what was begun.
    pub async fn forget(&self, node: &NodeName) -> Result<(), RecordError> {
        let keys = [
            keys::node_addresses(node),
            keys::desired(node),
            keys::work(node),
            keys::observed(node),
            keys::arrived(node),
            keys::host_key(node),
        ];
        for key in keys {
            self.records.delete(&key).await?;
        }
        {
            let mut state = self.state();
            state.addresses.remove(node);
            state.arrived.remove(node);
            state.works.remove(node);
        }
        self.registry().forget(node, tonic::Status::aborted("the node was removed"));
        Ok(())
    }

    fn registry(&self) -> &Registry {
        &self.desk.registry
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No critical section can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What there is to say about the last run.
pub fn activity(run: &RunRecord) -> String {
    let (what, command) = match run.kind {
        RunKind::Apply => ("up", "`fleetctl up` continues it"),
        RunKind::Down => ("down", "`fleetctl down` continues it"),
        RunKind::Replace => ("replace", "`fleetctl up` finishes what was begun"),
    };
    match &run.end {
        None => format!("run {} ({what}) was cut; {command}", run.number),
        Some(end) if end.ok => String::new(),
        Some(end) => {
            let why = end.problems.first().map_or("it was stopped", String::as_str);
            format!("run {} ({what}) did not succeed: {why}", run.number)
        }
    }
}

/// State of one node as everybody sees it: what its session says, or failing that, how far the run is.
pub fn node_state(
    view: &crate::session::registry::View,
    stage: Option<&Stage>,
    addressed: bool,
) -> (NodeState, String) {
    if view.connected {
        return match desired::convergence(view.desired.as_deref(), view.observed.as_deref()) {
            desired::Convergence::Converged => (NodeState::NodeReady, String::new()),
            desired::Convergence::Failed(why) => (NodeState::NodeFailed, why),
            desired::Convergence::Underway(why) => (NodeState::NodeConverging, why),
        };
    }
    match stage {
        // What the run last said holds until the node speaks for itself.
        Some(stage) if !speaks_of_session(stage.state) => (stage.state, stage.detail.clone()),
        _ if view.last_seen.as_millis() > 0 => {
            (NodeState::NodeSilent, refused(format!("last heard of at {}", view.last_seen), view))
        }
        _ if view.enrolled => (NodeState::NodeEnrolled, refused("no session yet".to_owned(), view)),
        _ if addressed => (NodeState::NodeProvisioned, refused(String::new(), view)),
        _ => (NodeState::NodePlanned, String::new()),
    }
}

/// A node that is away may have wanted to come in.
fn refused(detail: String, view: &crate::session::registry::View) -> String {
    match &view.refused {
        None => detail,
        Some(why) if detail.is_empty() => format!("its agent was not let in: {why}"),
        Some(why) => format!("{detail}; since then its agent was not let in: {why}"),
    }
}

/// Stages that only a session can bear out: without one they are history.
fn speaks_of_session(state: NodeState) -> bool {
    matches!(
        state,
        NodeState::NodeConverging
            | NodeState::NodeReady
            | NodeState::NodeEnrolled
            | NodeState::NodeProvisioned
    )
}

/// Health of one node: what its agent says, or what its absence says.
pub fn health(view: &crate::session::registry::View, state: NodeState) -> v1::Health {
    let said = view.observed.as_ref().and_then(|observed| observed.health.clone());
    match said {
        Some(health) if view.connected => health,
        _ if state == NodeState::NodeSilent => v1::Health {
            level: v1::HealthLevel::HealthFailed.into(),
            reasons: vec!["not heard of".to_owned()],
        },
        _ => v1::Health { level: v1::HealthLevel::HealthUnspecified.into(), reasons: Vec::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{records::RunEnd, session::registry::View};

    #[test]
    fn a_node_speaks_for_itself_while_it_can() {
        let desired = Some(Arc::new(v1::Desired { generation: 1, ..v1::Desired::default() }));
        let observed = Some(Arc::new(v1::Observed { generation: 1, ..v1::Observed::default() }));
        let seen = Timestamp::from_millis(1);
        let never = View::default();
        let ready = View { connected: true, desired, observed, last_seen: seen, ..View::default() };
        let lost = View { connected: false, ..ready.clone() };
        let enrolled = View { enrolled: true, ..View::default() };
        let stage = |state| Some(Stage { state, detail: String::new() });
        let check = |view: &View, stage: Option<Stage>, addressed, wanted: NodeState| {
            let (state, _) = node_state(view, stage.as_ref(), addressed);
            assert_eq!(state, wanted, "{view:?} {stage:?} {addressed}");
        };
        check(&never, None, false, NodeState::NodePlanned);
        check(&never, None, true, NodeState::NodeProvisioned);
        check(&never, stage(NodeState::NodeBooting), true, NodeState::NodeBooting);
        check(&never, stage(NodeState::NodeFailed), true, NodeState::NodeFailed);
        check(&enrolled, None, true, NodeState::NodeEnrolled);
        check(&ready, stage(NodeState::NodeFailed), true, NodeState::NodeReady);
        check(&View { observed: None, ..ready.clone() }, None, true, NodeState::NodeConverging);
        check(&lost, None, true, NodeState::NodeSilent);
        check(&lost, stage(NodeState::NodeReady), true, NodeState::NodeSilent);
        check(&lost, stage(NodeState::NodeBooting), true, NodeState::NodeBooting);
    }

    #[test]
    fn the_last_run_is_spoken_of_until_one_succeeds() {
        let run = |end| RunRecord { number: 3, kind: RunKind::Apply, started: Timestamp::default(), end };
        let end = |ok, problems: &[&str]| {
            let problems = problems.iter().map(|&line| line.to_owned()).collect();
            Some(RunEnd { at: Timestamp::default(), ok, problems })
        };
        assert_eq!(activity(&run(None)), "run 3 (up) was cut; `fleetctl up` continues it");
        assert_eq!(activity(&run(end(true, &[]))), "");
        assert_eq!(activity(&run(end(false, &["no quota"]))), "run 3 (up) did not succeed: no quota");
        assert_eq!(activity(&run(end(false, &[]))), "run 3 (up) did not succeed: it was stopped");
    }
}
