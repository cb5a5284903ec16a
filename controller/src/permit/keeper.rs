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
    inbox::{News, Said},
    policy::{Decision, Founded, Held, Sight, Table},
};
use crate::{
    records::{EnrolmentRecord, RecordError, Records, keys},
    session::{registry::Registry, stream::Desk},
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
        for permit in &forgotten.permits {
            self.serve(&mut core, permit).await;
        }
        self.show(&core);
        Ok(())
    }

    async fn turn(&self, news: News, due: bool) {
        let mut core = self.core.lock().await;
        let mut look: BTreeSet<Permit> = BTreeSet::new();
        for permit in core.table.expire(self.now()) {
            tracing::info!(%permit, "permit ran out");
            self.erase(&permit).await;
            look.insert(permit);
        }
        for ((node, permit), said) in news.said {
            match said {
                Said::Release => {
                    self.leave(&mut core, &permit, &node);
                    if core.table.release(&node, &permit) {
                        tracing::info!(%node, %permit, "permit given back");
                        self.erase(&permit).await;
                        look.insert(permit);
                    }
                }
                Said::Ask(task) => self.asked(&mut core, &node, Ask { permit, task }).await,
            }
        }
        if news.changed {
            look.extend(core.waiting.keys().cloned());
        } else if news.sessions || due {
            // Who is silent is known from the time alone, so this one is looked at without being told.
            look.extend(core.waiting.contains_key(&Permit::Reboot).then_some(Permit::Reboot));
        }
        for permit in &look {
            self.serve(&mut core, permit).await;
        }
        self.show(&core);
    }

    /// Answers a question, at once.
    async fn asked(&self, core: &mut Core, node: &NodeName, ask: Ask) {
        let waits = core.waiting.get(&ask.permit).is_some_and(|queue| queue.iter().any(|w| w.node == *node));
        match self.decide(core, node, &ask).await {
            Decision::Grant => {
                self.leave(core, &ask.permit, node);
            }
            Decision::Wait(reason) => {
                let needs = self.needs(node, &ask.task);
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

    /// Gives a permit that may be free to the first in the queue who may have it.
    async fn serve(&self, core: &mut Core, permit: &Permit) {
        let Some(queue) = core.waiting.get(permit) else { return };
        if core.table.holder(permit, self.now()).is_some() {
            return;
        }
        let asks: Vec<(NodeName, String)> =
            queue.iter().map(|waiting| (waiting.node.clone(), waiting.task.clone())).collect();
        for (node, task) in asks {
            // Whoever is away is not given what nobody could use meanwhile; it keeps its place.
            if self.desk.registry.live(&node).is_none() {
                continue;
            }
            let ask = Ask { permit: permit.clone(), task };
            match self.decide(core, &node, &ask).await {
                Decision::Grant => {
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

    /// Decides, and if it is yes, writes that down and tells the node.
    async fn decide(&self, core: &mut Core, node: &NodeName, ask: &Ask) -> Decision {
        let now = self.now();
        let enrolment = match self.enrolment(node, &ask.permit).await {
            Ok(enrolment) => enrolment,
            Err(error) => return unwritten(&error),
        };
        let sight = Looking { registry: &self.desk.registry, now, enrolment };
        let decision = core.table.decide(node, ask, &sight, now);
        if decision != Decision::Grant {
            return decision;
        }
        let enrolment = sight.enrolment.unwrap_or_default();
        let grant = core.table.grant(node, &ask.permit, &enrolment, now);
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
        let expires_in_ms = i64::try_from(until.since(now).as_millis()).unwrap_or(i64::MAX);
        let permit = ask.permit.to_string();
        self.answer(node, v1::PermitAnswer { permit, granted: true, expires_in_ms, reason: String::new() });
        Decision::Grant
    }

    /// Only founding asks for it.
    async fn enrolment(&self, node: &NodeName, permit: &Permit) -> Result<Option<String>, RecordError> {
        if !matches!(permit, Permit::Found(_)) {
            return Ok(None);
        }
        let held = self.records.get::<EnrolmentRecord>(&keys::enrolment(node)).await?;
        Ok(held.map(|held| held.value.id))
    }

    fn needs(&self, node: &NodeName, task: &str) -> BTreeSet<NodeName> {
        let desired = self.desk.registry.desired(node);
        let task = desired.iter().flat_map(|desired| &desired.tasks).find(|spec| spec.name == task);
        let needs = task.into_iter().flat_map(|task| &task.needs);
        needs.filter_map(|need| need.node.parse().ok()).collect()
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
    tracing::error!(error = chain(error), "permit not written down");
    Decision::Wait("the controller could not write it down; its log says why".to_owned())
}

/// What is seen now.
struct Looking<'a> {
    registry: &'a Registry,
    now: Timestamp,
    enrolment: Option<String>,
}

impl Sight for Looking<'_> {
    fn unmet(&self, node: &NodeName, task: &str) -> Option<String> {
        let desired = self.registry.desired(node);
        let spec = desired.iter().flat_map(|desired| &desired.tasks).find(|spec| spec.name == task);
        let Some(spec) = spec else {
            return Some(format!("task `{task}`, which is not desired of this node any more"));
        };
        spec.needs.iter().find_map(|need| self.lacks(need))
    }

    fn absent(&self, but: &NodeName) -> Option<NodeName> {
        self.registry.absent(but, self.now)
    }

    fn enrolment(&self, _: &NodeName) -> Option<String> {
        self.enrolment.clone()
    }
}

impl Looking<'_> {
    /// What a need still lacks.
    fn lacks(&self, need: &v1::Need) -> Option<String> {
        let (name, task) = (&need.node, &need.task);
        let Ok(node) = name.parse::<NodeName>() else {
            return Some(format!("node `{name}`, which cannot be"));
        };
        let view = self.registry.view(&node, self.now);
        if !view.connected {
            return Some(format!("node `{name}`, which has no session"));
        }
        let generation = view.desired.map_or(0, |desired| desired.generation);
        let observed = view.observed.filter(|observed| observed.generation == generation);
        let report = observed.as_ref().and_then(|seen| seen.tasks.iter().find(|report| report.name == *task));
        match report.map(|report| (report.result(), report.reason.as_str())) {
            Some((TaskResult::Unchanged | TaskResult::Changed, _)) => None,
            Some((_, reason)) if !reason.is_empty() => {
                Some(format!("task `{task}` of node `{name}`: {reason}"))
            }
            _ => Some(format!("task `{task}` of node `{name}`")),
        }
    }
}
