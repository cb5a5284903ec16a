//! What each node should be: plan, addresses and what the operator brought in, tasks out. Pure.
//!
//! Every node does `identity` and `storage` first, but a machine that was there already keeps its name and disks; then come the tasks of its plan, each a phase of its own, in the
//! order they are written. A task that cannot be said yet, because an address it needs is not known, is left out with
//! all that come after it: they may rely on it.

mod cluster;
mod convergence;
mod names;
mod work;
mod works;

use std::{collections::BTreeMap, sync::Arc};

use fleet_model::{Generation, NodeName};
use fleet_plan::{
    ResolvedPlan,
    resolved::{self, Cloud, OnDrift, Task},
};
use fleet_proto::v1::{self, CertificateTask, HostnameTask, HostsTask, LvmTask, TaskSpec, task_spec::Kind};
use fleet_provider::event::Addresses;

pub use convergence::{Convergence, convergence};
pub use work::{Course, Work, Works, course, works};

use works::Scene;

/// Volume group, logical volume and mount point of the images' root file system.
const ROOT: (&str, &str, &str) = ("rootvol00", "rootlvol00", "/");

/// What a plan needs besides its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// Files of the operator's host, by the names the plan has for them.
    pub artifacts: BTreeMap<String, v1::Artifact>,
    /// What `operator` means among a plan's keys: lines of authorized_keys.
    pub operator_keys: Vec<String>,
    /// The todo application's program.
    pub todo: Option<v1::Artifact>,
}

/// Tasks of every node that has work and whose server has addresses, or of `only` one; `plan` says who there is, and
/// `works` what each of them does, which may be from an earlier plan.
pub fn tasks(
    plan: &ResolvedPlan,
    addresses: &BTreeMap<NodeName, Addresses>,
    works: &BTreeMap<NodeName, Arc<Work>>,
    only: Option<&NodeName>,
) -> BTreeMap<NodeName, Vec<TaskSpec>> {
    plan.nodes()
        .filter(|placed| only.is_none_or(|only| placed.node.name == *only))
        .filter(|placed| addresses.contains_key(&placed.node.name))
        .filter_map(|placed| {
            let work = works.get(&placed.node.name)?;
            let tasks = of_node(&Scene { plan, addresses, works, work, placed });
            Some((placed.node.name.clone(), tasks))
        })
        .collect()
}

/// Whether desired states of others name something else once `old` has become `new`.
pub fn concerns_others(old: Option<&Work>, new: &Work) -> bool {
    old.map(Work::shared).unwrap_or_default() != new.shared()
}

/// The desired state that follows `held`: none if nothing changed, otherwise the next generation.
pub fn next(held: Option<&v1::Desired>, tasks: Vec<TaskSpec>, recheck_s: u32) -> Option<v1::Desired> {
    match held {
        Some(held) if held.tasks == tasks && held.recheck_s == recheck_s => None,
        held => {
            let generation = Generation(held.map_or(0, |held| held.generation)).next();
            Some(v1::Desired { generation: generation.0, tasks, recheck_s })
        }
    }
}

fn of_node(scene: &Scene<'_>) -> Vec<TaskSpec> {
    let mut tasks = built_in(scene);
    let mut certified = false;
    for task in &scene.work.tasks {
        let Some(kind) = works::kind(task, scene) else { break };
        if !certified && matches!(task.work, resolved::Work::Rethinkdb(_) | resolved::Work::Todo(_)) {
            certified = true;
            let names = names::certified(scene);
            tasks.push(built("certificate", "certificate", Kind::Certificate(CertificateTask { names })));
        }
        tasks.push(planned(task, kind, scene));
    }
    tasks
}

/// What every node does, whatever its plan says.
fn built_in(scene: &Scene<'_>) -> Vec<TaskSpec> {
    let node = scene.placed.node;
    let hosts = built("hosts", "identity", Kind::Hosts(HostsTask { entries: names::hosts(scene) }));
    if scene.plan.cloud == Cloud::Hosts {
        // Its name and its disks are its own.
        return vec![hosts];
    }
    let (volume_group, logical_volume, mount_point) = ROOT;
    vec![
        built("hostname", "identity", Kind::Hostname(HostnameTask { hostname: node.name.to_string() })),
        hosts,
        built(
            "root-volume",
            "storage",
            Kind::Lvm(LvmTask {
                volume_group: volume_group.to_owned(),
                logical_volume: logical_volume.to_owned(),
                mount_point: mount_point.to_owned(),
                expected_disks: scene.work.disks,
            }),
        ),
    ]
}

fn built(name: &str, phase: &str, kind: Kind) -> TaskSpec {
    TaskSpec { name: name.to_owned(), phase: phase.to_owned(), kind: Some(kind), ..TaskSpec::default() }
}

fn planned(task: &Task, kind: Kind, scene: &Scene<'_>) -> TaskSpec {
    let on_drift = match task.on_drift {
        OnDrift::Repair => v1::OnDrift::Repair,
        OnDrift::Report => v1::OnDrift::Report,
        OnDrift::Hold => v1::OnDrift::Hold,
    };
    let needs = cluster::needs(task, scene);
    TaskSpec { needs, on_drift: on_drift.into(), ..built(&task.name, &task.name, kind) }
}

#[cfg(test)]
pub(crate) mod tests;
