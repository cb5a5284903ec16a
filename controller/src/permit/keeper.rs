//! The one task that gives permits: reads the inbox, lets the policy decide, writes down, answers.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use fleet_model::{NodeName, Timestamp, chain};
use fleet_proto::v1::{self, TaskResult};
use fleet_store::Expected;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    Ask, Permit,
    inbox::{MOST, News, Said, TooMany},
    policy::{Decision, Founded, Held, Sight, Table},
};
use crate::{
    records::{EnrolmentRecord, RecordError, Records, keys},
    session::{
        registry::{Registry, View},
        stream::Desk,
    },
};

/// How often leases that run out are noticed while somebody waits, and how often at most a change of sessions is
/// looked at: a storm of them would otherwise be looked at ten thousand times.
const LOOK: Duration = Duration::from_secs(1);

/// Gives permits.
#[derive(Debug)]
pub struct Keeper {
    desk: Arc<Desk>,
    records: Records,
    /// Held while something is decided and written down: decisions come one after the other.
    core: Mutex<Core>,
}

#[derive(Debug)]
struct Core {
    table: Table,
    /// Who waits for what, first come first.
    waiting: BTreeMap<Permit, VecDeque<Waiting>>,
}

/// One question that waits.
#[derive(Debug)]
struct Waiting {
    node: NodeName,
    task: String,
    /// Whose reports may bring its turn.
    needs: BTreeSet<NodeName>,
}

impl Core {
    /// Questions that wait.
    fn waits(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// Those of one node.
    fn waits_of(&self, node: &NodeName) -> usize {
        self.waiting.values().flatten().filter(|waiting| waiting.node == *node).count()
    }
}

impl Keeper {
    /// Reads what is held from the store.
    ///
    /// # Errors
    /// [`RecordError`] if it cannot be read.
    pub async fn load(records: Records, desk: Arc<Desk>) -> Result<Self, RecordError> {
        let held = records.list::<Held>(&keys::permits()).await?;
        let founded = records.list::<Founded>(&keys::foundations()).await?;
        let table =
            Table::new(held.into_iter().map(|(_, held)| held).collect(), founded.into_iter().collect());
        let keeper = Self { desk, records, core: Mutex::new(Core { table, waiting: BTreeMap::new() }) };
        keeper.show(&*keeper.core.lock().await);
        Ok(keeper)
    }

    /// Works until told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut looked = tokio::time::Instant::now();
        loop {
            let waiting = !self.core.lock().await.waiting.is_empty();
            let pause = async {
                if waiting {
                    tokio::time::sleep(LOOK).await;
                } else {
                    std::future::pending().await
                }
            };
            // Cancel safe: a bell that rang stays rung, the pause begins anew.
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.desk.permits.bell() => {}
                () = pause => {}
            }
            let due = looked.elapsed() >= LOOK;
            if due {
                looked = tokio::time::Instant::now();
            }
            self.turn(self.desk.permits.take(), due).await;
        }
    }

    /// A node is destroyed: what it held is free, and it waits for nothing any more.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails; calling again finishes what was begun.
    pub async fn forget(&self, node: &NodeName) -> Result<(), RecordError> {
        let mut core = self.core.lock().await;
        let mut table = core.table.clone();
        let forgotten = table.forget(node);
        for (instance, founded) in &forgotten.changed {
            self.records.put(&keys::founded(instance), founded, Expected::Any).await?;
        }
        for instance in &forgotten.lost {
            self.records.delete(&keys::founded(instance)).await?;
        }
        for permit in &forgotten.permits {
            self.records.delete(&keys::permit(permit)).await?;
        }
        core.table = table;
        let waited: Vec<Permit> = core.waiting.keys().cloned().collect();
        for permit in &waited {
            self.leave(&mut core, permit, node);
        }
        // What it held and what it was may both have been in the way.
        self.serve_all(&mut core).await;
        self.show(&core);
        Ok(())
    }

    pub(super) async fn turn(&self, news: News, due: bool) {
        let mut core = self.core.lock().await;
        let mut freed = false;
        for permit in core.table.expire(self.now()) {
            tracing::info!(%permit, "permit ran out");
            self.erase(&permit).await;
            freed = true;
        }
        let waiting = core.waits();
        for ((node, permit), said) in news.said {
            match said {
                Said::Release => {
                    self.leave(&mut core, &permit, &node);
                    if core.table.release(&node, &permit) {
                        tracing::info!(%node, %permit, "permit given back");
                        self.erase(&permit).await;
                        freed = true;
                    }
                }
                Said::Ask(task) => self.asked(&mut core, &node, Ask { permit, task }).await,
            }
        }
        // A lease may have been in the way of other permits too, and whoever waits is not waited for.
        if freed || news.changed || core.waits() > waiting {
            self.serve_all(&mut core).await;
        } else if news.sessions || due {
            // Who is silent is known from the time alone, so this one is looked at without being told.
            self.serve(&mut core, &Permit::Reboot).await;
        }
        self.show(&core);
    }

    /// Answers a question, at once.
    async fn asked(&self, core: &mut Core, node: &NodeName, ask: Ask) {
        if self.desk.registry.live(node).is_none() {
            // Nobody would hear the answer; it asks again in its next session.
            tracing::debug!(%node, permit = %ask.permit, "question dropped, its session is over");
            return;
        }
        let waits = core.waiting.get(&ask.permit).is_some_and(|queue| queue.iter().any(|w| w.node == *node));
        if !waits && core.waits_of(node) >= MOST {
            self.answer(node, no(&ask.permit, TooMany.to_string()));
            return;
        }
        match self.decide(core, node, &ask).await {
            Decision::Grant | Decision::Held(_) => {
                self.leave(core, &ask.permit, node);
            }
            Decision::Wait(reason) => {
                let needs = self.needs(core, node, &ask);
                self.desk.permits.watch(&needs, ask.permit == Permit::Reboot);
                let queue = core.waiting.entry(ask.permit.clone()).or_default();
                let waiting = Waiting { node: node.clone(), task: ask.task, needs };
                // Asking again keeps one's place.
                match queue.iter_mut().find(|waiting| waiting.node == *node) {
                    Some(held) if waits => {
                        let older = std::mem::replace(held, waiting);
                        self.desk.permits.unwatch(&older.needs, ask.permit == Permit::Reboot);
                    }
                    _ => queue.push_back(waiting),
                }
                self.answer(node, no(&ask.permit, reason));
            }
            Decision::Refuse(reason) => {
                self.leave(core, &ask.permit, node);
                self.answer(node, no(&ask.permit, reason));
            }
        }
    }

    async fn serve_all(&self, core: &mut Core) {
        let permits: Vec<Permit> = core.waiting.keys().cloned().collect();
        for permit in &permits {
            self.serve(core, permit).await;
        }
    }

    /// Gives a permit that may be free to the first in the queue who may have it.
    async fn serve(&self, core: &mut Core, permit: &Permit) {
        let Some(queue) = core.waiting.get(permit) else { return };
        if core.table.holder(permit, self.now()).is_some() {
            return;
        }
        // Read before anything is decided: a report that comes between two decisions must not let the second overtake
        // the first.
        let mut asks = Vec::new();
        for waiting in queue {
            // Whoever is away is not given what nobody could use meanwhile; it keeps its place.
            if self.desk.registry.live(&waiting.node).is_some() {
                let ask = Ask { permit: permit.clone(), task: waiting.task.clone() };
                asks.push((waiting.node.clone(), ask, self.enrolment(&waiting.node).await));
            }
        }
        let decided: Vec<Decision> =
            asks.iter().map(|(node, ask, enrolment)| self.judge(core, node, ask, enrolment)).collect();
        for ((node, ask, enrolment), decision) in asks.into_iter().zip(decided) {
            match self.give(core, &node, &ask, enrolment.ok().flatten(), decision).await {
                Decision::Grant | Decision::Held(_) => {
                    self.leave(core, permit, &node);
                    return;
                }
                Decision::Wait(_) => {}
                Decision::Refuse(reason) => {
                    self.leave(core, permit, &node);
                    self.answer(&node, no(permit, reason));
                }
            }
        }
    }

    async fn decide(&self, core: &mut Core, node: &NodeName, ask: &Ask) -> Decision {
        let enrolment = self.enrolment(node).await;
        let decision = self.judge(core, node, ask, &enrolment);
        self.give(core, node, ask, enrolment.ok().flatten(), decision).await
    }

    /// Decides by what is seen now.
    fn judge(
        &self,
        core: &Core,
        node: &NodeName,
        ask: &Ask,
        enrolment: &Result<Option<String>, RecordError>,
    ) -> Decision {
        let enrolment = match enrolment {
            Ok(enrolment) => enrolment.clone(),
            Err(error) => return unwritten(error),
        };
        let now = self.now();
        let sight = Looking { registry: &self.desk.registry, enrolment, waiting: &core.waiting };
        core.table.decide(node, ask, &sight, now)
    }

    /// If it is yes, writes that down and tells the node.
    async fn give(
        &self,
        core: &mut Core,
        node: &NodeName,
        ask: &Ask,
        enrolment: Option<String>,
        decision: Decision,
    ) -> Decision {
        let now = self.now();
        let until = match decision {
            Decision::Grant => {
                let grant = core.table.grant(node, &ask.permit, &enrolment.unwrap_or_default(), now);
                let written = async {
                    if let Some((instance, founded)) = &grant.founded {
                        self.records.put(&keys::founded(instance), founded, Expected::Any).await?;
                    }
                    self.records.put(&keys::permit(&ask.permit), &grant.held, Expected::Any).await
                };
                if let Err(error) = written.await {
                    return unwritten(&error);
                }
                let until = grant.held.until;
                tracing::info!(%node, permit = %ask.permit, %until, "permit given");
                core.table.take(grant);
                until
            }
            Decision::Held(until) => until,
            Decision::Wait(_) | Decision::Refuse(_) => return decision,
        };
        let expires_in_ms = i64::try_from(until.since(now).as_millis()).unwrap_or(i64::MAX);
        let permit = ask.permit.to_string();
        self.answer(node, v1::PermitAnswer { permit, granted: true, expires_in_ms, reason: String::new() });
        decision
    }

    /// The node's present enrolment, if it is on record.
    async fn enrolment(&self, node: &NodeName) -> Result<Option<String>, RecordError> {
        let held = self.records.get::<EnrolmentRecord>(&keys::enrolment(node)).await?;
        Ok(held.map(|held| held.value.id).filter(|id| !id.is_empty()))
    }

    /// Whose reports may bring its turn.
    fn needs(&self, core: &Core, node: &NodeName, ask: &Ask) -> BTreeSet<NodeName> {
        let desired = self.desk.registry.desired(node);
        let task = desired.iter().flat_map(|desired| &desired.tasks).find(|spec| spec.name == ask.task);
        let needs = task.into_iter().flat_map(|task| &task.needs).filter_map(|need| need.node.parse().ok());
        let others = core.table.relied_on(node, &ask.permit).into_iter().map(|(_, member)| member.clone());
        needs.chain(others).collect()
    }

    fn leave(&self, core: &mut Core, permit: &Permit, node: &NodeName) {
        let Some(queue) = core.waiting.get_mut(permit) else { return };
        if let Some(at) = queue.iter().position(|waiting| waiting.node == *node)
            && let Some(waiting) = queue.remove(at)
        {
            self.desk.permits.unwatch(&waiting.needs, *permit == Permit::Reboot);
        }
        if queue.is_empty() {
            core.waiting.remove(permit);
        }
    }

    /// A lease that is left in the store runs out there by itself.
    async fn erase(&self, permit: &Permit) {
        if let Err(error) = self.records.delete(&keys::permit(permit)).await {
            tracing::warn!(%permit, error = chain(&error), "lease not erased");
        }
    }

    fn answer(&self, node: &NodeName, answer: v1::PermitAnswer) {
        if let Some(live) = self.desk.registry.live(node) {
            live.permit(answer);
        }
    }

    fn show(&self, core: &Core) {
        let mut shown: BTreeMap<NodeName, Vec<String>> = BTreeMap::new();
        for held in core.table.held() {
            let text = format!("{} until {}", held.permit, held.until);
            shown.entry(held.node.clone()).or_default().push(text);
        }
        for (permit, queue) in &core.waiting {
            for (place, waiting) in queue.iter().enumerate() {
                let text = format!("waits for {permit}, {place} before it");
                shown.entry(waiting.node.clone()).or_default().push(text);
            }
        }
        self.desk.permits.show(shown);
    }

    fn now(&self) -> Timestamp {
        self.desk.clock.now()
    }
}

fn no(permit: &Permit, reason: String) -> v1::PermitAnswer {
    v1::PermitAnswer { permit: permit.to_string(), granted: false, expires_in_ms: 0, reason }
}

fn unwritten(error: &RecordError) -> Decision {
    tracing::error!(error = chain(error), "permit not read or written down");
    Decision::Wait("the controller could not read or write its store; its log says why".to_owned())
}

/// What is seen now.
struct Looking<'a> {
    registry: &'a Registry,
    enrolment: Option<String>,
    waiting: &'a BTreeMap<Permit, VecDeque<Waiting>>,
}

impl Sight for Looking<'_> {
    fn unmet(&self, node: &NodeName, task: &str) -> Option<String> {
        let desired = self.registry.desired(node);
        let spec = desired.iter().flat_map(|desired| &desired.tasks).find(|spec| spec.name == task);
        let Some(spec) = spec else {
            return Some(format!("task `{task}`, which is not desired of this node any more"));
        };
        spec.needs.iter().find_map(|need| match need.node.parse() {
            Ok(node) => lacks(&self.view(&node), &node, &need.task),
            Err(_) => Some(format!("node `{}`, which cannot be", need.node)),
        })
    }

    fn absent(&self, but: &NodeName) -> Option<NodeName> {
        self.registry.absent(but)
    }

    fn enrolment(&self, _: &NodeName) -> Option<String> {
        self.enrolment.clone()
    }

    fn unsteady(&self, member: &NodeName, instance: &str, permit: &Permit) -> Option<String> {
        let view = self.view(member);
        if !view.connected && matches!(permit, Permit::Join(_)) {
            return None;
        }
        let Some(desired) = &view.desired else {
            return Some(format!("node `{member}`, of which nothing is desired yet"));
        };
        let server = Permit::Join(instance.to_owned());
        // One whose work it is no longer has nothing to say on it.
        let task = desired.tasks.iter().find(|task| server.is_for(task))?;
        let waits = |permit: &Permit| {
            self.waiting.get(permit).is_some_and(|queue| queue.iter().any(|waiting| waiting.node == *member))
        };
        if view.connected && (waits(&server) || waits(&Permit::Reboot)) {
            return None;
        }
        lacks(&view, member, &task.name)
    }
}

impl Looking<'_> {
    fn view(&self, node: &NodeName) -> View {
        self.registry.view(node)
    }
}

/// What a node lacks of having done this task of its present generation.
pub(crate) fn lacks(view: &View, node: &NodeName, task: &str) -> Option<String> {
    if !view.connected {
        return Some(format!("node `{node}`, which has no session"));
    }
    let generation = view.desired.as_ref().map_or(0, |desired| desired.generation);
    let observed = view.observed.as_ref().filter(|observed| observed.generation == generation);
    let report = observed.and_then(|seen| seen.tasks.iter().find(|report| report.name == *task));
    match report.map(|report| (report.result(), report.reason.as_str())) {
        Some((TaskResult::Unchanged | TaskResult::Changed, _)) => None,
        Some((_, reason)) if !reason.is_empty() => Some(format!("task `{task}` of node `{node}`: {reason}")),
        _ => Some(format!("task `{task}` of node `{node}`")),
    }
}
