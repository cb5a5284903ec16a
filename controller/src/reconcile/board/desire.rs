//! What each node is to do, and what it should be by that.
//!
//! Every node has work, which is its own until it is given another: at once where nothing can break, otherwise by
//! whoever drives the rollout of a changed plan. What it should be is that work with the names and addresses of all
//! members put in, and follows them at once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fleet_model::NodeName;
use fleet_proto::v1;
use fleet_store::Expected;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::Board;
use crate::{
    desired::{self, Course, Work, Works},
    reconcile::given::Given,
    records::{RecordError, Records, keys},
};

/// Records written at once: the store's writer takes them in few transactions.
const WRITES: usize = 256;
/// How often at most nodes that are ahead are looked for: after a restore all of them are.
const OVERTAKE: Duration = Duration::from_secs(1);

/// What a node is to do, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WorkRecord {
    work: Work,
    former: Option<Work>,
    order: u64,
}

/// What a node is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Its work.
    pub work: Arc<Work>,
    /// What it last had that it was known to have done: where an undo leads.
    pub former: Option<Arc<Work>>,
    /// Number of the order of a rollout by which it came to that; zero if by none.
    order: u64,
}

impl Assigned {
    fn record(&self) -> WorkRecord {
        WorkRecord {
            work: Work::clone(&self.work),
            former: self.former.as_deref().cloned(),
            order: self.order,
        }
    }
}

/// What a node is given in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Number of the order.
    pub order: u64,
    /// Whether it is what it had before, rather than what the plan wants.
    pub back: bool,
    /// Whether it is to do it once more although it has it.
    pub again: bool,
    /// Whether what it has now was never done, so that it is nothing to go back to.
    pub unproved: bool,
}

/// What the plan in force, or another one, changes of what running nodes do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The plan.
    pub given: Given,
    /// What all of its work is known by.
    pub digest: String,
    /// Nodes that have other work now, and how it differs.
    pub nodes: BTreeMap<NodeName, Vec<String>>,
}

impl Board {
    /// Reads what nodes are to do. Those of which an earlier version kept nothing do what its plan says: then all got
    /// it at once.
    pub(super) async fn read_works(
        &self,
        planned: Option<&Works>,
    ) -> Result<BTreeMap<NodeName, Assigned>, RecordError> {
        let planned = |node: &NodeName| planned.and_then(|works| works.by_node.get(node)).cloned();
        let mut works = BTreeMap::new();
        for (node, record) in self.records.list::<WorkRecord>(&keys::works()).await? {
            let Ok(node) = node.parse::<NodeName>() else { continue };
            // Most are the plan's: kept once.
            let shared = planned(&node).filter(|work| **work == record.work);
            let work = shared.unwrap_or_else(|| Arc::new(record.work));
            let former =
                record.former.map(|former| if former == *work { work.clone() } else { former.into() });
            works.insert(node, Assigned { work, former, order: record.order });
        }
        let unknown = self.registry().all_desired_nodes();
        let unknown = unknown.into_iter().filter(|node| !works.contains_key(node));
        let found: Vec<(NodeName, Assigned)> = unknown
            .filter_map(|node| {
                let work = planned(&node)?;
                Some((node, Assigned { work, former: None, order: 0 }))
            })
            .collect();
        self.write_works(&found).await?;
        works.extend(found);
        Ok(works)
    }

    async fn write_works(&self, works: &[(NodeName, Assigned)]) -> Result<(), RecordError> {
        let writes = works
            .iter()
            .cloned()
            .map(|(node, assigned)| async move { write(&self.records, &node, &assigned).await });
        let mut writes = futures::stream::iter(writes).buffer_unordered(WRITES);
        while let Some(written) = writes.next().await {
            written?;
        }
        Ok(())
    }

    /// What a node is to do.
    pub fn assigned(&self, node: &NodeName) -> Option<Assigned> {
        self.state().works.get(node).cloned()
    }

    /// What every node is to do now.
    pub fn works(&self) -> BTreeMap<NodeName, Arc<Work>> {
        self.state().works.iter().map(|(node, assigned)| (node.clone(), assigned.work.clone())).collect()
    }

    /// What the plan in force has all nodes do.
    pub fn wanted(&self) -> Option<Arc<Works>> {
        self.state().wanted.clone()
    }

    /// What the plan in force has a node do.
    pub fn wants(&self, node: &NodeName) -> Option<Arc<Work>> {
        self.state().wanted.as_ref()?.by_node.get(node).cloned()
    }

    /// What the plan in force changes of what running nodes do.
    pub fn change(&self) -> Option<Change> {
        let (given, wanted) = {
            let state = self.state();
            (state.given.clone()?, state.wanted.clone()?)
        };
        Some(self.change_to(given, &wanted))
    }

    /// What `given` would change of what running nodes do.
    pub fn change_by(&self, given: Given) -> Change {
        let wanted = desired::works(&given.plan, &self.inputs(&given));
        self.change_to(given, &wanted)
    }

    fn change_to(&self, given: Given, wanted: &Works) -> Change {
        let works = self.works();
        let founded = self.founded(&works);
        let nodes = wanted.by_node.iter().filter_map(|(node, work)| {
            let held = works.get(node)?;
            let course = desired::course(Some(held), work, self.registry().enrolled(node), founded);
            (course == Course::Rolls).then(|| (node.clone(), held.differences(work)))
        });
        let nodes = nodes.collect();
        Change { given, digest: wanted.digest.clone(), nodes }
    }

    /// Whether any running node serves the database already.
    fn founded(&self, works: &BTreeMap<NodeName, Arc<Work>>) -> bool {
        works.iter().any(|(node, work)| work.serves_database() && self.registry().enrolled(node))
    }

    /// Brings every node's desired state up to date with plan and addresses: once for however many changed, since
    /// each node names all others. Running nodes keep the work they have.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails; calling again finishes what was begun.
    pub async fn refresh_desired(&self) -> Result<(), RecordError> {
        // Two at once could give one generation two contents.
        let _alone = self.desiring.lock().await;
        let Some(wanted) = self.wanted() else { return Ok(()) };
        let addressed = self.all_addresses();
        let works = self.works();
        let founded = self.founded(&works);
        let given = wanted.by_node.iter().filter(|(node, work)| {
            let held = works.get(*node).map(|work| &**work);
            addressed.contains_key(*node)
                && desired::course(held, work, self.registry().enrolled(node), founded) == Course::AtOnce
        });
        let given: Vec<(NodeName, Assigned)> = given
            .map(|(node, work)| (node.clone(), Assigned { work: work.clone(), former: None, order: 0 }))
            .collect();
        // Before the desired states: whoever starts anew makes those of these.
        self.write_works(&given).await?;
        self.state().works.extend(given);
        self.render(None, false).await
    }

    /// Gives a node other work in its turn; says whether there is any to give. Doing it twice changes nothing.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails; calling again finishes what was begun.
    pub async fn give(&self, node: &NodeName, turn: Turn) -> Result<bool, RecordError> {
        let _alone = self.desiring.lock().await;
        let Some((held, wanted)) = self.assigned(node).zip(self.wants(node)) else { return Ok(false) };
        let Turn { order, back, again, unproved } = turn;
        if held.order == order {
            // Given already, and perhaps not told.
            let all = [Some(&held.work), held.former.as_ref()]
                .into_iter()
                .flatten()
                .any(|work| work.serves_database());
            self.render(if all { None } else { Some(node) }, false).await?;
            return Ok(true);
        }
        let next = if back {
            let Some(former) = held.former.clone() else { return Ok(false) };
            Assigned { work: former.clone(), former: Some(former), order }
        } else if held.work == wanted {
            Assigned { order, ..held.clone() }
        } else {
            let former = held.former.clone().filter(|_| unproved).unwrap_or_else(|| held.work.clone());
            Assigned { work: wanted, former: Some(former), order }
        };
        let same = next.work == held.work;
        if same && again {
            // Told before it is noted: told twice does no harm, and not at all does.
            self.render(Some(node), true).await?;
        }
        write(&self.records, node, &next).await?;
        let all = desired::concerns_others(Some(&held.work), &next.work);
        self.state().works.insert(node.clone(), next);
        if !same {
            self.render(if all { None } else { Some(node) }, false).await?;
        }
        Ok(true)
    }

    /// Makes desired states of work, names and addresses; with `anew` as another generation even of the same.
    async fn render(&self, only: Option<&NodeName>, anew: bool) -> Result<(), RecordError> {
        let (given, addresses) = {
            let state = self.state();
            (state.given.clone(), state.addresses.clone())
        };
        let Some(given) = given else { return Ok(()) };
        let works = self.works();
        let tasks = desired::tasks(&given.plan, &addresses, &works, only);
        let changed = tasks.into_iter().filter_map(|(node, tasks)| {
            let held = self.registry().desired(&node);
            let recheck_s = works.get(&node).map_or(0, |work| work.recheck_s);
            let seen = self.seen(&node);
            let next = match held {
                // The store is an older copy: the agent holds a newer generation, and takes none below it.
                held if seen > held.as_ref().map_or(0, |held| held.generation) => {
                    v1::Desired { generation: seen + 1, tasks, recheck_s }
                }
                Some(held) if anew => v1::Desired { generation: held.generation + 1, tasks, recheck_s },
                held => desired::next(held.as_deref(), tasks, recheck_s)?,
            };
            let generation = next.generation.max(self.unused(&node));
            Some((node, v1::Desired { generation, ..next }))
        });
        let writes = changed.map(|(node, next)| async move {
            // Durable before it is told: a restarted controller never takes a generation back.
            self.records.put_message(&keys::desired(&node), &next).await?;
            tracing::info!(%node, generation = next.generation, "desired state changed");
            self.registry().set_desired(&node, Arc::new(next));
            Ok::<_, RecordError>(())
        });
        let mut writes = futures::stream::iter(writes).buffer_unordered(WRITES);
        while let Some(written) = writes.next().await {
            written?;
        }
        Ok(())
    }

    /// A generation that was never given to this node. Until it says which it holds the store may be an older copy, and
    /// the next number one that had another content: so it is one that grows with the clock, in seconds.
    fn unused(&self, node: &NodeName) -> u64 {
        if !self.registry().unheard(node) {
            return 0;
        }
        u64::try_from(self.desk.clock.now().as_secs()).unwrap_or(0)
    }

    /// Gives nodes that hold a newer generation than is desired of them a newer one still, until told to stop.
    pub async fn overtake(&self, stop: &CancellationToken) {
        loop {
            // Cancel safe: what rang stays rung.
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.registry().ahead() => {}
            }
            let rendered = {
                let _alone = self.desiring.lock().await;
                self.render(None, false).await
            };
            if let Err(error) = rendered {
                // Any run does it as well.
                tracing::warn!(why = fleet_model::chain(&error), "nodes ahead of the store are left so");
            }
            // All who come at once are overtaken at once.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(OVERTAKE) => {}
            }
        }
    }

    /// The generation that a node says it holds. A number that nobody ever gave it counts for nothing.
    fn seen(&self, node: &NodeName) -> u64 {
        let observed = self.registry().view(node).observed.map_or(0, |observed| observed.generation);
        let seen = observed.max(self.registry().holds(node));
        if seen < u64::MAX / 2 { seen } else { 0 }
    }

    /// What the plan needs besides its text: kept with it, so that a restarted controller finds the same.
    pub(super) fn inputs(&self, given: &Given) -> desired::Inputs {
        let artifacts = given.record.artifacts.iter();
        desired::Inputs {
            artifacts: artifacts.map(|file| (file.name.clone(), file.clone().into())).collect(),
            operator_keys: given.record.operator_keys.clone(),
            todo: given.record.todo.clone().map(Into::into).or_else(|| self.todo.clone()),
        }
    }
}

async fn write(records: &Records, node: &NodeName, assigned: &Assigned) -> Result<(), RecordError> {
    records.put(&keys::work(node), &assigned.record(), Expected::Any).await.map(drop)
}
