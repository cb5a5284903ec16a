//! The kinds of node work this agent knows, one file each.

mod access;
pub(crate) mod certificate;
pub(crate) mod clock;
mod command_task;
mod database;
#[cfg(test)]
mod faults;
mod file;
mod hostname;
mod hosts;
pub mod lvm;
mod package;
pub(crate) mod rethinkdb;
mod service;
mod start;
pub mod support;
pub(crate) mod todo;
mod unknown;
mod update;
mod user;

use std::sync::Arc;

use fleet_proto::v1::task_spec::Kind;
use fleet_task::{Task, TaskId};

pub use access::Access;
pub use certificate::Certificate;
pub use clock::Clock;
pub use command_task::Command;
pub use database::Database;
pub use file::File;
pub use hostname::Hostname;
pub use hosts::Hosts;
pub use lvm::Lvm;
pub use package::Package;
pub use rethinkdb::Rethinkdb;
pub use service::Service;
pub use todo::Todo;
pub use update::Update;
pub use user::User;

/// The task a piece of desired state asks for. A kind this agent does not know becomes a task that fails
/// and says so: an older agent must never pretend.
pub fn from_spec(id: TaskId, kind: Option<&Kind>) -> Arc<dyn Task> {
    match kind {
        Some(Kind::Hostname(spec)) => Arc::new(Hostname::new(id, spec.hostname.clone())),
        Some(Kind::Hosts(spec)) => Arc::new(Hosts::new(id, spec.entries.clone())),
        Some(Kind::Lvm(spec)) => Arc::new(Lvm::new(id, spec.clone())),
        Some(Kind::Rethinkdb(spec)) => Arc::new(Rethinkdb::new(id, spec.clone())),
        Some(Kind::Database(spec)) => Arc::new(Database::new(id, spec.clone())),
        Some(Kind::Todo(spec)) => Arc::new(Todo::new(id, spec.clone())),
        Some(Kind::Certificate(spec)) => Arc::new(Certificate::new(id, spec.names.clone())),
        Some(Kind::Access(spec)) => Arc::new(Access::new(id, spec.clone())),
        Some(Kind::Clock(spec)) => Arc::new(Clock::new(id, spec.clone())),
        Some(Kind::Update(spec)) => Arc::new(Update::new(id, *spec)),
        Some(Kind::File(spec)) => Arc::new(File::new(id, spec.clone())),
        Some(Kind::Command(spec)) => Arc::new(Command::new(id, spec.clone())),
        Some(Kind::Package(spec)) => Arc::new(Package::new(id, spec.clone())),
        Some(Kind::Service(spec)) => Arc::new(Service::new(id, spec.clone())),
        Some(Kind::User(spec)) => Arc::new(User::new(id, spec.clone())),
        None => Arc::new(unknown::Unknown::new(id)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{fs, path::PathBuf, sync::Arc};

    use fleet_model::SystemClock;
    use fleet_proto::v1::task_spec::Kind;
    use fleet_task::{
        Engine, Journal, NoRunner, Node, Outcome, Phases, Report, Run, Runner, Task, TaskId,
        fake::FakeController,
    };
    use tokio_util::sync::CancellationToken;

    /// A node in a folder, on which tasks are run as the agent runs them.
    pub(crate) struct Rig {
        root: tempfile::TempDir,
        runner: Arc<dyn Runner>,
        /// The controller of this node.
        pub(crate) controller: Arc<FakeController>,
    }

    impl Rig {
        /// A node with these files, on which no program runs.
        pub(crate) fn new(files: &[(&str, &str)]) -> Self {
            Self::with(Arc::new(NoRunner), files)
        }

        pub(crate) fn with(runner: Arc<dyn Runner>, files: &[(&str, &str)]) -> Self {
            let (root, controller) = (tempfile::tempdir().expect("folder"), Arc::default());
            let rig = Self { root, runner, controller };
            fs::create_dir(rig.path("/etc")).expect("etc");
            for (path, text) in files {
                let path = rig.path(path);
                fs::create_dir_all(path.parent().expect("absolute")).expect("parent");
                fs::write(path, text).expect("file");
            }
            rig
        }

        /// The same node with another runner.
        pub(crate) fn run_by(self, runner: Arc<dyn Runner>) -> Self {
            Self { runner, ..self }
        }

        pub(crate) fn path(&self, absolute: &str) -> PathBuf {
            self.root.path().join(absolute.trim_start_matches('/'))
        }

        pub(crate) fn text(&self, absolute: &str) -> String {
            fs::read_to_string(self.path(absolute)).expect(absolute)
        }

        /// As a freshly started agent sees it.
        pub(crate) fn node(&self) -> Node {
            let journal = Journal::open(self.path("/journal.json")).expect("journal");
            Node::new(self.root.path(), self.runner.clone(), Arc::new(journal))
                .with_controller(self.controller.clone())
        }

        pub(crate) async fn run(&self, task: Arc<dyn Task>) -> Report {
            let engine = Engine::new(self.node(), Arc::new(SystemClock));
            let run = Run { generation: 1, ..Run::default() };
            let phases = Phases::new().then("only", [task]);
            engine.run(&phases, run, &CancellationToken::new(), |_| ()).await.remove(0)
        }

        pub(crate) async fn changed<T: Task + Clone + 'static>(&self, task: &T) -> Vec<String> {
            match self.run(Arc::new(task.clone())).await.outcome {
                Outcome::Changed(what) => what,
                other => panic!("expected a change, found {other:?}"),
            }
        }

        pub(crate) async fn unchanged<T: Task + Clone + 'static>(&self, task: &T) {
            assert_eq!(self.run(Arc::new(task.clone())).await.outcome, Outcome::Unchanged);
        }

        pub(crate) async fn waits<T: Task + Clone + 'static>(&self, task: &T) -> String {
            match self.run(Arc::new(task.clone())).await.outcome {
                Outcome::Waiting(what) => what,
                other => panic!("expected to wait, found {other:?}"),
            }
        }

        pub(crate) async fn failed<T: Task + Clone + 'static>(&self, task: &T) -> String {
            match self.run(Arc::new(task.clone())).await.outcome {
                Outcome::Failed(why) => why,
                other => panic!("expected a failure, found {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn an_unknown_kind_fails_and_names_who_moves() {
        let report = Rig::new(&[]).run(super::from_spec(TaskId::new("new"), None)).await;
        assert!(
            matches!(&report.outcome, Outcome::Failed(why) if why.contains("update the agent")),
            "{report:?}"
        );
    }

    #[test]
    fn tasks_keep_their_names() {
        let kind = Kind::Hostname(fleet_proto::v1::HostnameTask { hostname: "n".into() });
        assert_eq!(super::from_spec(TaskId::new("a name"), Some(&kind)).id().as_str(), "a name");
    }
}
