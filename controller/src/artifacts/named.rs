//! Which artifacts a desired state names. Pure.

use fleet_proto::v1::{self, file_task::Content, rethinkdb_task::Source, task_spec::Kind};

/// Every artifact a desired state names, in the order of its tasks.
pub fn named(desired: &v1::Desired) -> impl Iterator<Item = &v1::Artifact> {
    desired.tasks.iter().filter_map(|task| match task.kind.as_ref()? {
        Kind::Rethinkdb(rethinkdb) => match rethinkdb.source.as_ref()? {
            Source::Package(package) => Some(package),
            Source::Repository(_) => None,
        },
        Kind::Todo(todo) => todo.program.as_ref(),
        Kind::File(file) => match file.content.as_ref()? {
            Content::Artifact(artifact) => Some(artifact),
            Content::Text(_) | Content::Directory(_) | Content::Absent(_) => None,
        },
        Kind::Hostname(_)
        | Kind::Hosts(_)
        | Kind::Lvm(_)
        | Kind::Clock(_)
        | Kind::Update(_)
        | Kind::Access(_)
        | Kind::Certificate(_)
        | Kind::Database(_)
        | Kind::Package(_)
        | Kind::Service(_)
        | Kind::User(_)
        | Kind::Command(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_bring_bytes_along() {
        let artifact = |name: &str| v1::Artifact { name: name.to_owned(), ..v1::Artifact::default() };
        let kinds = [
            Kind::Hostname(v1::HostnameTask::default()),
            Kind::Rethinkdb(v1::RethinkdbTask {
                source: Some(Source::Package(artifact("r.deb"))),
                ..v1::RethinkdbTask::default()
            }),
            Kind::Rethinkdb(v1::RethinkdbTask {
                source: Some(Source::Repository(v1::AptRepository::default())),
                ..v1::RethinkdbTask::default()
            }),
            Kind::Todo(v1::TodoTask { program: Some(artifact("todo")), ..v1::TodoTask::default() }),
            Kind::File(v1::FileTask { content: Some(Content::Text(vec![])), ..v1::FileTask::default() }),
            Kind::File(v1::FileTask {
                content: Some(Content::Artifact(artifact("page"))),
                ..v1::FileTask::default()
            }),
        ];
        let tasks =
            kinds.into_iter().map(|kind| v1::TaskSpec { kind: Some(kind), ..v1::TaskSpec::default() });
        let desired = v1::Desired { tasks: tasks.collect(), ..v1::Desired::default() };
        let names: Vec<_> = named(&desired).map(|artifact| artifact.name.as_str()).collect();
        assert_eq!(names, ["r.deb", "todo", "page"]);
    }
}
