//! Each kind of task of a plan, as agents understand it.

use std::{collections::BTreeMap, sync::Arc};

use fleet_model::NodeName;
use fleet_plan::{
    NodeValues, ResolvedPlan,
    resolved::{Access, Clock, Command, Content, File, Key, Placed, Task, Template, Work as Kinds},
};
use fleet_proto::v1::{
    self, AccessTask, ClockTask, CommandTask, FileTask, PackageTask, ServiceTask, TodoTask, UpdateTask,
    UserTask, file_task, task_spec::Kind,
};
use fleet_provider::event::Addresses;

use super::{Work, cluster};

/// Everything a node's tasks are made of.
pub(super) struct Scene<'a> {
    /// Who there is.
    pub(super) plan: &'a ResolvedPlan,
    pub(super) addresses: &'a BTreeMap<NodeName, Addresses>,
    /// What each node does now.
    pub(super) works: &'a BTreeMap<NodeName, Arc<Work>>,
    /// What this one does.
    pub(super) work: &'a Work,
    /// The node.
    pub(super) placed: Placed<'a>,
}

impl Scene<'_> {
    /// The operator's file of this name, called as files are.
    pub(super) fn artifact(&self, name: &str) -> Option<v1::Artifact> {
        let found = self.work.artifacts.iter().find(|file| file.name == name)?;
        let short = name.rsplit('/').next().unwrap_or(name);
        Some(v1::Artifact { name: short.to_owned(), ..found.clone().into() })
    }

    /// The text with its references replaced; `None` while one of them is not known.
    fn text(&self, template: &Template) -> Option<String> {
        template.complete(Some(&self.placed.node.name), &|name| {
            self.addresses.get(name).map(|known| NodeValues {
                public: known.public_ipv4,
                private: known.private_ipv4,
                ipv6: known.ipv6,
            })
        })
    }

    fn texts(&self, templates: &[Template]) -> Option<Vec<String>> {
        templates.iter().map(|template| self.text(template)).collect()
    }
}

/// The task as agents understand it; `None` while something it needs is not known.
pub(super) fn kind(task: &Task, scene: &Scene<'_>) -> Option<Kind> {
    Some(match &task.work {
        Kinds::Clock(work) => Kind::Clock(clock(work, scene)?),
        Kinds::Update(work) => {
            Kind::Update(UpdateTask { every_hours: work.every_hours, reboot: work.reboot })
        }
        Kinds::Access(work) => Kind::Access(access(work, scene)?),
        Kinds::Rethinkdb(work) => cluster::server(work, scene)?,
        Kinds::Database(work) => cluster::database(work, scene),
        Kinds::Todo(work) => Kind::Todo(TodoTask {
            program: Some(scene.work.todo.clone()?.into()),
            port: work.port.into(),
            database: work.database.clone(),
            table: work.table.clone(),
        }),
        Kinds::File(work) => Kind::File(file(work, scene)?),
        Kinds::Package(work) => Kind::Package(PackageTask { names: work.names.clone(), absent: work.absent }),
        Kinds::Service(work) => Kind::Service(ServiceTask {
            unit: work.unit.clone(),
            running: work.running,
            enabled: work.enabled,
            restart_on: work.restart_on.clone(),
        }),
        Kinds::User(work) => Kind::User(UserTask {
            name: work.name.clone(),
            system: work.system,
            shell: work.shell.clone().unwrap_or_default(),
            home: work.home.clone().unwrap_or_default(),
            groups: work.groups.clone(),
            absent: work.absent,
        }),
        Kinds::Command(work) => Kind::Command(command(work, scene)?),
    })
}

fn clock(work: &Clock, scene: &Scene<'_>) -> Option<ClockTask> {
    let most_offset_ms = u32::try_from(work.most_offset.as_millis()).unwrap_or(u32::MAX);
    Some(ClockTask { servers: scene.texts(&work.servers)?, most_offset_ms })
}

/// Nothing at all rather than a task without keys: it would lock everybody out.
fn access(work: &Access, scene: &Scene<'_>) -> Option<AccessTask> {
    let mut authorized_keys: Vec<String> = Vec::new();
    for key in &work.keys {
        let lines = match key {
            Key::Operator => scene.work.operator_keys.as_slice(),
            Key::Line(line) => std::slice::from_ref(line),
        };
        for line in lines.iter().map(|line| line.trim()) {
            if !authorized_keys.iter().any(|held| held == line) {
                authorized_keys.push(line.to_owned());
            }
        }
    }
    (!authorized_keys.is_empty()).then(|| AccessTask { login: work.login.clone(), authorized_keys })
}

fn file(work: &File, scene: &Scene<'_>) -> Option<FileTask> {
    let content = match &work.content {
        Content::Text(text) => file_task::Content::Text(scene.text(text)?.into_bytes()),
        Content::Source(name) => file_task::Content::Artifact(scene.artifact(name)?),
        Content::Directory => file_task::Content::Directory(true),
        Content::Absent => file_task::Content::Absent(true),
    };
    Some(FileTask {
        path: work.path.clone(),
        content: Some(content),
        mode: work.mode.unwrap_or(0),
        owner: work.owner.clone(),
        group: work.group.clone(),
    })
}

fn command(work: &Command, scene: &Scene<'_>) -> Option<CommandTask> {
    Some(CommandTask {
        args: scene.texts(&work.args)?,
        unless: scene.texts(&work.unless)?,
        creates: work.creates.clone().unwrap_or_default(),
        timeout_s: u32::try_from(work.timeout.as_secs()).unwrap_or(u32::MAX),
    })
}
