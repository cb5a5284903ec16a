//! `up`: from a plan to nodes that are home and converged.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use fleet_model::NodeName;
use fleet_plan::ResolvedPlan;
use fleet_proto::v1::{self, NodeState};
use fleet_provider::{
    event::{Addresses, Event, StepState, Verb},
    provider::Outcome,
};
use fleet_store::Expected;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    driver::Tools,
    expiry,
    given::Given,
    home::Stuck,
    progress::Teller,
    provision::{Provision, ProvisionError},
    replace::{Replaced, Replacing},
    roll::{self, Rolled},
    settle,
};
use crate::{
    enrol::token,
    house,
    records::{EnrolmentRecord, FleetRecord, ObservedRecord, RecordError, keys},
};

/// Events of the provider that may wait for us.
const EVENTS: usize = 256;
/// Pause between two refreshes of what nodes should be while servers come up: each new address is news for every
/// node, and of a thousand in a second one refresh is enough.
const REFRESH: Duration = Duration::from_millis(250);

/// One run of `up`.
struct Apply<'a> {
    tools: &'a Tools,
    plan: Arc<ResolvedPlan>,
    until: v1::Until,
    /// Nodes whose servers may be destroyed and made anew.
    consented: BTreeSet<NodeName>,
    /// Who has changes of running nodes rolled out; nobody where that is not wanted.
    rolls: Option<String>,
    teller: &'a Arc<Teller>,
    stop: &'a CancellationToken,
    /// Nodes on their way home; each says at last how that went.
    homeward: JoinSet<(NodeName, Result<(), Stuck>)>,
    begun: BTreeSet<NodeName>,
    outcomes: BTreeMap<NodeName, Result<(), Stuck>>,
    /// When desired states are refreshed, if addresses came that they do not name yet.
    refresh_at: Option<Instant>,
    refreshed: Option<Instant>,
}

/// What a run works towards.
pub(super) struct Wish {
    pub(super) given: Given,
    pub(super) until: v1::Until,
    /// Nodes whose servers go first.
    pub(super) consented: BTreeSet<NodeName>,
    /// Who has changes of running nodes rolled out, if they are to be.
    pub(super) rolls: Option<String>,
}

/// Works towards a plan that an operator gave, which renews the fleet's end.
pub(super) async fn ordered(
    tools: &Tools,
    wish: Wish,
    teller: &Arc<Teller>,
    stop: &CancellationToken,
) -> Result<v1::Finished, RecordError> {
    // The operator was told before; another `up` may have come first since.
    if let Err(misgiven) = wish.given.fits(&tools.fleet().await?.value) {
        let problems = vec![format!("{misgiven}; {}", misgiven.hint())];
        return Ok(v1::Finished { problems, ..v1::Finished::default() });
    }
    expiry::renew(tools, &wish.given, teller).await?;
    run(tools, wish, teller, stop).await
}

/// Works towards what is wished and says how it went.
pub(super) async fn run(
    tools: &Tools,
    wish: Wish,
    teller: &Arc<Teller>,
    stop: &CancellationToken,
) -> Result<v1::Finished, RecordError> {
    let Wish { given, until, consented, rolls } = wish;
    let fleet_id = remember(tools, &given, until).await?;
    let mut apply = Apply {
        tools,
        plan: given.plan.clone(),
        until,
        consented,
        rolls,
        teller,
        stop,
        homeward: JoinSet::new(),
        begun: BTreeSet::new(),
        outcomes: BTreeMap::new(),
        refresh_at: None,
        refreshed: None,
    };
    let finished = apply.perform(&fleet_id).await;
    // Where the store failed some are still under way, and none outlives its run.
    apply.homeward.shutdown().await;
    let finished = finished?;
    if finished.ok {
        house::sweep(&tools.artifacts, &tools.homecoming.board).await;
    }
    Ok(finished)
}

/// Makes the plan the fleet's desired state; from here on `status` speaks of it.
async fn remember(tools: &Tools, given: &Given, until: v1::Until) -> Result<String, RecordError> {
    let held = tools.fleet().await?;
    let record = FleetRecord {
        plan: Some(given.record.clone()),
        cloud: Some(given.plan.cloud.clone()),
        provision_only: until == v1::Until::Provisioned,
        ..held.value
    };
    tools.records().put(&keys::fleet(), &record, Expected::Version(held.version)).await?;
    let board = &tools.homecoming.board;
    board.set_given(Some(given.clone()));
    board.clear_stages();
    // Nobody gets what another plan wanted any more; what this one changes has a rollout of its own.
    if let Err(trouble) = tools.rollouts.turn().await.plan_came_into_force().await {
        tracing::debug!(error = fleet_model::chain(&trouble), "whoever drives the rollouts finds out");
    }
    token::prune(tools.records(), tools.clock().now(), |_| false).await?;
    Ok(record.id)
}

impl Apply<'_> {
    async fn perform(&mut self, fleet_id: &str) -> Result<v1::Finished, RecordError> {
        let mut changing_calls = 0;
        let mut replaced = BTreeSet::new();
        let outcome = match self.tools.provisioners.open(&self.plan.cloud, fleet_id) {
            Ok(provision) => match self.replace(&*provision).await? {
                // What a replacement began comes first: the rest would start the old server again.
                Ok(before) if before.outcome.problems.is_empty() && !before.outcome.stopped => {
                    changing_calls += before.outcome.changing_calls;
                    replaced = before.nodes;
                    self.provision(&*provision).await?
                }
                unfinished => unfinished.map(|before| before.outcome),
            },
            Err(error) => Err(error),
        };
        let mut problems = Vec::new();
        let mut provisioned = false;
        match outcome {
            Ok(outcome) => {
                changing_calls += outcome.changing_calls;
                problems.extend(outcome.problems);
                self.tools.homecoming.board.refresh_desired().await?;
                provisioned = !outcome.stopped && problems.is_empty();
                if provisioned {
                    self.remove_leavers().await?;
                }
            }
            Err(error) => problems.push(error.0),
        }
        let rolled = self.wait_home(provisioned).await;
        if provisioned {
            // What arrived late, under way to a node that was just leaving.
            self.remove_leavers().await?;
        }
        let home = self.outcomes.values().all(Result::is_ok);
        if !replaced.is_empty() && problems.is_empty() && home && self.until == v1::Until::Ready {
            let unsettled = settle::databases(self.tools, &self.plan, self.teller, self.stop).await;
            problems.extend(unsettled.into_iter().map(|(node, why)| format!("node `{node}`: {why}")));
        }
        let halted = rolled.halted.is_some();
        problems.extend(rolled.halted.into_iter().chain(rolled.problems));
        let nodes = self.outcomes();
        let stopped = self.stop.is_cancelled();
        if stopped {
            problems.push("stopped before the end; `fleetctl up` continues".to_owned());
        }
        // What the cloud failed at is among the problems already.
        problems.extend(self.outcomes.iter().filter_map(|(node, done)| match done {
            Err(Stuck::Failed(why)) => Some(format!("node `{node}`: {why}")),
            Ok(()) | Err(Stuck::Stopped) => None,
        }));
        let wanted = match self.until {
            v1::Until::Ready => NodeState::NodeReady,
            v1::Until::Provisioned => NodeState::NodeProvisioned,
        };
        let ok = problems.is_empty() && nodes.iter().all(|node| node.state() == wanted);
        Ok(v1::Finished { ok, changing_calls, nodes, problems, halted, ..v1::Finished::default() })
    }

    /// Finishes replacements that were begun, and those that were asked for.
    async fn replace(
        &self,
        provision: &dyn Provision,
    ) -> Result<Result<Replaced, ProvisionError>, RecordError> {
        let Self { tools, teller, stop, .. } = *self;
        Replacing { tools, plan: &self.plan, consented: &self.consented, provision, teller, stop }
            .perform()
            .await
    }

    /// Runs the provider, starting each node's way home as soon as its server is there.
    async fn provision(
        &mut self,
        provision: &dyn Provision,
    ) -> Result<Result<Outcome, ProvisionError>, RecordError> {
        let (sender, mut events) = mpsc::channel(EVENTS);
        let plan = self.plan.clone();
        // Told to stop with the run, or alone.
        let stop = self.stop.child_token();
        // Owns the sender, so that the events end with it.
        let (stops, applying) = (stop.clone(), async move { provision.apply(&plan, &sender, &stop).await });
        let mut applying = std::pin::pin!(applying);
        // Where the store fails, what is in hand at the cloud is finished all the same: a call that is cut off may have
        // its effect, and nobody would have written down what.
        let mut broken: Result<(), RecordError> = Ok(());
        let outcome = loop {
            // Cancel safe: the channel loses nothing, the provider's future is pinned outside.
            let due = self.refresh_at.filter(|_| broken.is_ok());
            let refresh = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let done = tokio::select! {
                Some(event) = events.recv() => match broken {
                    Ok(()) => self.take(event).await,
                    Err(_) => continue,
                },
                done = &mut applying => break done,
                () = refresh => self.refresh().await,
            };
            if done.is_err() {
                stops.cancel();
                broken = done;
            }
        };
        broken?;
        // Nobody sends any more; what was sent is taken.
        while let Ok(event) = events.try_recv() {
            self.take(event).await?;
        }
        if let Ok(outcome) = &outcome {
            // Servers that were there already may have caused no event.
            if self.tools.homecoming.board.set_addresses(&outcome.addresses).await? {
                self.refresh_at.get_or_insert_with(Instant::now);
            }
            for (node, addresses) in &outcome.addresses {
                self.send_home(node, addresses);
            }
        }
        if self.refresh_at.is_some() {
            self.refresh().await?;
        }
        Ok(outcome)
    }

    async fn refresh(&mut self) -> Result<(), RecordError> {
        self.refresh_at = None;
        self.tools.homecoming.board.refresh_desired().await?;
        self.refreshed = Some(Instant::now());
        Ok(())
    }

    async fn take(&mut self, event: Event) -> Result<(), RecordError> {
        match event {
            Event::Step(step, state) => {
                self.teller.step(&step, &state);
                if step.is_machine()
                    && matches!(step.verb, Verb::Destroy | Verb::Release)
                    && state == StepState::Done
                {
                    // Whatever fails elsewhere, nobody has this identity rightfully any more.
                    let left =
                        step.name.parse::<NodeName>().ok().filter(|node| self.plan.node(node).is_none());
                    if let Some(node) = left {
                        token::prune(self.tools.records(), self.tools.clock().now(), |whose| *whose == node)
                            .await?;
                        self.remove_leaver(&node).await?;
                    }
                    return Ok(());
                }
                let node = step.name.parse::<NodeName>().ok().filter(|node| self.plan.node(node).is_some());
                if let Some(node) = node.filter(|_| step.kind == "server" && step.verb == Verb::Create) {
                    if state == StepState::Started {
                        // Whatever answered for an earlier server of this name.
                        self.tools.records().delete(&keys::host_key(&node)).await?;
                    }
                    match state {
                        StepState::Started | StepState::Waiting(_) => {
                            let detail = if let StepState::Waiting(why) = &state { why } else { "" };
                            self.stage(&node, NodeState::NodeCreating, detail);
                        }
                        StepState::Failed(why) => self.stage(&node, NodeState::NodeFailed, &why),
                        StepState::Done => {}
                    }
                }
                Ok(())
            }
            Event::Provisioned(node, addresses) => self.arrived(&node, &addresses).await,
        }
    }

    /// A node's server is there: send it home.
    async fn arrived(&mut self, node: &NodeName, addresses: &Addresses) -> Result<(), RecordError> {
        if self.tools.homecoming.board.set_addresses([(node, addresses)]).await? {
            let now = Instant::now();
            self.refresh_at.get_or_insert(self.refreshed.map_or(now, |last| now.max(last + REFRESH)));
        }
        self.send_home(node, addresses);
        Ok(())
    }

    fn send_home(&mut self, node: &NodeName, addresses: &Addresses) {
        if self.plan.node(node).is_none() || !self.begun.insert(node.clone()) {
            return;
        }
        self.stage(node, NodeState::NodeProvisioned, "");
        if self.until == v1::Until::Ready {
            let (homecoming, node, addresses) =
                (self.tools.homecoming.clone(), node.clone(), addresses.clone());
            let (teller, stop) = (self.teller.clone(), self.stop.clone());
            self.homeward.spawn(async move {
                let done = homecoming.bring(&node, &addresses, &teller, &stop).await;
                (node, done)
            });
        }
    }

    /// Waits for everybody on the way, and for what is rolled out meanwhile to nodes that run; then once more for those
    /// whose desired state changed: each new server's addresses are news for all others.
    async fn wait_home(&mut self, provisioned: bool) -> Rolled {
        let by = self.rolls.clone().filter(|_| provisioned && self.until == v1::Until::Ready);
        let mut rolling = JoinSet::new();
        if let Some(by) = by {
            rolling.spawn(roll::out(self.tools.clone(), by, self.teller.clone(), self.stop.clone()));
        }
        while let Some(joined) = self.homeward.join_next().await {
            self.note(joined);
        }
        let rolled = match rolling.join_next().await {
            Some(Ok(rolled)) => rolled,
            Some(Err(error)) => {
                tracing::error!(%error, "waiting for the rollout broke off");
                Rolled::default()
            }
            None => Rolled::default(),
        };
        for (node, why) in &rolled.behind {
            self.outcomes.insert(node.clone(), Err(Stuck::Failed(why.clone())));
        }
        let home: Vec<_> =
            self.outcomes.iter().filter(|(_, done)| done.is_ok()).map(|(node, _)| node.clone()).collect();
        for node in home {
            let homecoming = self.tools.homecoming.clone();
            let (teller, stop) = (self.teller.clone(), self.stop.clone());
            self.homeward.spawn(async move {
                // Cancel safe: it only waits.
                let done = tokio::select! {
                    () = stop.cancelled() => Err(Stuck::Stopped),
                    done = homecoming.converge(&node, &teller) => done,
                };
                (node, done)
            });
        }
        while let Some(joined) = self.homeward.join_next().await {
            self.note(joined);
        }
        rolled
    }

    fn note(&mut self, joined: Result<(NodeName, Result<(), Stuck>), tokio::task::JoinError>) {
        match joined {
            Ok((node, done)) => {
                self.outcomes.insert(node, done);
            }
            Err(error) => tracing::error!(%error, "a node's way home broke off"),
        }
    }

    /// Nodes that anything is known of and that are in the plan no more: their servers are gone, so is their way in.
    async fn remove_leavers(&self) -> Result<(), RecordError> {
        let records = self.tools.records();
        // First the tokens, so that nobody comes in after its identity was retired.
        let now = self.tools.clock().now();
        token::prune(records, now, |whose| self.plan.node(whose).is_none()).await?;
        let enrolled = records.list::<EnrolmentRecord>(&keys::enrolments()).await?;
        let enrolled = enrolled.iter().filter_map(|(name, _)| name.parse().ok());
        let observed = records.list_messages::<ObservedRecord>(&keys::observeds()).await?;
        let observed = observed.into_iter().map(|(node, _)| node);
        let known = self.tools.homecoming.board.all_addresses().into_keys();
        let names: BTreeSet<NodeName> = enrolled.chain(observed).chain(known).collect();
        for node in names.iter().filter(|node| self.plan.node(node).is_none()) {
            self.remove_leaver(node).await?;
        }
        Ok(())
    }

    async fn remove_leaver(&self, node: &NodeName) -> Result<(), RecordError> {
        self.tools.enrolment.retire(node).await?;
        self.tools.permits.forget(node).await?;
        self.tools.homecoming.board.forget(node).await?;
        self.stage(node, NodeState::NodeGone, "not in the plan any more");
        Ok(())
    }

    fn outcomes(&self) -> Vec<v1::NodeOutcome> {
        let board = &self.tools.homecoming.board;
        let outcome = |node: &NodeName| {
            let stage = board.stage(node);
            let (state, reason) = match self.outcomes.get(node) {
                Some(Ok(())) => (NodeState::NodeReady, String::new()),
                Some(Err(Stuck::Failed(why))) => (NodeState::NodeFailed, why.clone()),
                Some(Err(Stuck::Stopped)) => {
                    let state = stage.map_or(NodeState::NodeProvisioned, |stage| stage.state);
                    (state, "stopped on its way".to_owned())
                }
                None if self.begun.contains(node) => (NodeState::NodeProvisioned, String::new()),
                None => match stage {
                    Some(stage) => (stage.state, stage.detail),
                    None => (NodeState::NodePlanned, "its server was not made".to_owned()),
                },
            };
            v1::NodeOutcome { node: node.to_string(), state: state.into(), reason }
        };
        self.plan.nodes().map(|placed| outcome(&placed.node.name)).collect()
    }

    fn stage(&self, node: &NodeName, state: NodeState, detail: &str) {
        if self.tools.homecoming.board.set_stage(node, state, detail) {
            self.teller.node(node, state, detail);
        }
    }
}
