//! What one node is to do, apart from who else there is: the part of a plan that is rolled out. Pure.
//!
//! What a node should be is its *work* laid over the fleet's *membership*. The work is the operator's: tasks of the
//! plan, the files, keys and programs they bring along. Names and addresses of members are facts: they are put in when
//! the desired state is made, whichever work a node has. So a node that joins is known to all at once, while each node
//! keeps the work it has until it is its turn to have another.

use std::{collections::BTreeMap, fmt::Write as _};

use fleet_model::NodeName;
use fleet_plan::{
    ResolvedPlan,
    resolved::{Access, Key, Node, Task, Work as Kind},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Inputs;
use crate::records::ArtifactRecord;

/// What one node is to do. Stored as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Tasks of its plan, references to nodes left in them.
    pub tasks: Vec<Task>,
    /// Files that they name.
    #[serde(default)]
    pub artifacts: Vec<ArtifactRecord>,
    /// What `operator` means among its keys; empty unless it is.
    #[serde(default)]
    pub operator_keys: Vec<String>,
    /// The todo application's program, if it has that.
    #[serde(default)]
    pub todo: Option<ArtifactRecord>,
    /// Disks besides the system disk.
    #[serde(default)]
    pub disks: u32,
    /// Seconds between two looks at every task; zero leaves it to the agent.
    #[serde(default)]
    pub recheck_s: u32,
}

impl Work {
    /// What `plan` has this node do.
    pub fn of(plan: &ResolvedPlan, node: &Node, inputs: &Inputs) -> Self {
        let works = || node.tasks.iter().map(|task| &task.work);
        let files: Vec<&str> = works().filter_map(Kind::file).collect();
        let record = |name: &str| {
            inputs
                .artifacts
                .get(name)
                .cloned()
                .map(|file| ArtifactRecord { name: name.to_owned(), ..file.into() })
        };
        let operator = |access: &Access| access.keys.contains(&Key::Operator);
        let wants_keys = works().any(|work| matches!(work, Kind::Access(access) if operator(access)));
        let wants_todo = works().any(|work| matches!(work, Kind::Todo(_)));
        Self {
            tasks: node.tasks.clone(),
            artifacts: files.into_iter().filter_map(record).collect(),
            operator_keys: if wants_keys { inputs.operator_keys.clone() } else { Vec::new() },
            todo: inputs.todo.clone().filter(|_| wants_todo).map(Into::into),
            disks: u32::try_from(node.disks.len()).unwrap_or(u32::MAX),
            // Plans are in whole seconds.
            recheck_s: plan.recheck.map_or(0, |every| u32::try_from(every.as_secs()).unwrap_or(u32::MAX)),
        }
    }

    /// Whether it has a server of the database.
    pub fn serves_database(&self) -> bool {
        self.tasks.iter().any(|task| matches!(task.work, Kind::Rethinkdb(_)))
    }

    /// What of it others' desired states name.
    pub(super) fn shared(&self) -> Vec<&Task> {
        self.tasks.iter().filter(|task| matches!(task.work, Kind::Rethinkdb(_))).collect()
    }

    /// Names of tasks in which `other` differs, and of what else does.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        let by_name = |work: &Self, name: &str| work.tasks.iter().find(|task| task.name == name).cloned();
        for task in &self.tasks {
            match by_name(other, &task.name) {
                None => found.push(format!("`{}` goes", task.name)),
                Some(next) if next != *task || self.brought(task) != other.brought(&next) => {
                    found.push(format!("`{}` changes", task.name));
                }
                Some(_) => {}
            }
        }
        let new = other.tasks.iter().filter(|task| by_name(self, &task.name).is_none());
        found.extend(new.map(|task| format!("`{}` is new", task.name)));
        if self.disks != other.disks {
            found.push("its disks".to_owned());
        }
        if self.recheck_s != other.recheck_s {
            found.push("how often it looks".to_owned());
        }
        if found.is_empty() && self != other {
            found.push("the order of its tasks".to_owned());
        }
        found
    }

    /// What a task brings along.
    fn brought(&self, task: &Task) -> (Option<&ArtifactRecord>, Option<&ArtifactRecord>, &[String]) {
        let file = task.work.file().and_then(|name| self.artifacts.iter().find(|file| file.name == name));
        let todo = self.todo.as_ref().filter(|_| matches!(task.work, Kind::Todo(_)));
        let keys = if matches!(task.work, Kind::Access(_)) { self.operator_keys.as_slice() } else { &[] };
        (file, todo, keys)
    }
}

/// Works of every node of a plan, and what all of them are known by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Works {
    /// By node.
    pub by_node: BTreeMap<NodeName, std::sync::Arc<Work>>,
    /// Digest over all of them.
    pub digest: String,
}

/// What `plan` has each of its nodes do.
pub fn works(plan: &ResolvedPlan, inputs: &Inputs) -> Works {
    let mut hash = Sha256::new();
    let mut by_node = BTreeMap::new();
    // Most nodes of a class have the same.
    let mut seen: BTreeMap<Vec<u8>, std::sync::Arc<Work>> = BTreeMap::new();
    for placed in plan.nodes() {
        let work = Work::of(plan, placed.node, inputs);
        // Plain data: what is written is what is compared.
        let bytes = serde_json::to_vec(&work).unwrap_or_default();
        hash.update(placed.node.name.as_str());
        hash.update([0]);
        hash.update(&bytes);
        hash.update([0]);
        let work = seen.entry(bytes).or_insert_with(|| work.into()).clone();
        by_node.insert(placed.node.name.clone(), work);
    }
    let digest = hash.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    Works { by_node, digest }
}

/// How a node comes to the work that its plan has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// It has it. Whatever else changes about its desired state are names and addresses, which all get at once.
    HasIt,
    /// At once: nothing runs there that could break.
    AtOnce,
    /// In its turn, by a rollout; until then it keeps what it has.
    Rolls,
}

/// The rule: a change made only of names and addresses of members goes to all at once, since a fleet that disagrees
/// about who is in it can deadlock; anything else rolls. Not on a node that does not run yet, nor where a plan founds the
/// fleet's first database: none of its members is ready before the others.
pub fn course(held: Option<&Work>, wanted: &Work, running: bool, founded: bool) -> Course {
    match held {
        Some(held) if held == wanted => Course::HasIt,
        None => Course::AtOnce,
        Some(_) if !running => Course::AtOnce,
        Some(_) if wanted.serves_database() && !founded => Course::AtOnce,
        Some(_) => Course::Rolls,
    }
}
