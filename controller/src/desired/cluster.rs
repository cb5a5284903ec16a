//! The RethinkDB cluster, as each of its members sees it.

use fleet_model::NodeName;
use fleet_plan::resolved::{Database, Package, Rethinkdb, Task, Work};
use fleet_proto::v1::{
    AptRepository, DatabaseTask, Need, RethinkdbMember, RethinkdbTask, rethinkdb_task::Source,
    task_spec::Kind,
};

use super::works::Scene;

/// Name of the one instance on each member.
const INSTANCE: &str = "fleet";

/// A member's own server; `None` while its own address is not known.
pub(super) fn server(rethinkdb: &Rethinkdb, scene: &Scene<'_>) -> Option<Kind> {
    let name = &scene.placed.node.name;
    let tag = word(&scene.placed.location.id);
    let source = match &rethinkdb.package {
        Package::Repository(from) => Source::Repository(AptRepository {
            uri: from.uri.clone(),
            suite: from.suite.clone(),
            component: from.component.clone(),
            key_uri: from.key.clone(),
            key_fingerprint: from.fingerprint.clone(),
        }),
        Package::File(file) => Source::Package(scene.artifact(file)?),
    };
    Some(Kind::Rethinkdb(RethinkdbTask {
        instance: INSTANCE.to_owned(),
        server_name: word(name.as_str()),
        server_tags: vec![tag],
        canonical_address: scene.addresses.get(name)?.ipv6?.to_string(),
        members: members(scene),
        seed: rethinkdb.seed == *name,
        cache_mb: rethinkdb.cache_mb.unwrap_or(0),
        source: Some(source),
    }))
}

pub(super) fn database(database: &Database, scene: &Scene<'_>) -> Kind {
    Kind::Database(DatabaseTask {
        database: database.name.clone(),
        table: database.table.clone(),
        replicas: database.replicas,
        members: members(scene),
        // The database is made on the seed, and what it holds is written from there first.
        primary_tag: word(&scene.placed.location.id),
    })
}

/// What must have converged elsewhere: for those that join, the seed's server.
pub(super) fn needs(task: &Task, scene: &Scene<'_>) -> Vec<Need> {
    let Work::Rethinkdb(rethinkdb) = &task.work else { return Vec::new() };
    if rethinkdb.seed == scene.placed.node.name {
        return Vec::new();
    }
    // As the seed has it now: what it is yet to get, it gets last.
    let tasks = scene.works.get(&rethinkdb.seed).into_iter().flat_map(|seed| &seed.tasks);
    tasks
        .filter(|task| matches!(task.work, Work::Rethinkdb(_)))
        .map(|task| Need { node: rethinkdb.seed.to_string(), task: task.name.clone() })
        .collect()
}

/// Every node that has a server now and a known address, in the order of the plan.
fn members(scene: &Scene<'_>) -> Vec<RethinkdbMember> {
    let is_member = |name: &NodeName| scene.works.get(name).is_some_and(|work| work.serves_database());
    scene
        .plan
        .nodes()
        .filter(|placed| is_member(&placed.node.name))
        .filter_map(|placed| {
            let address = scene.addresses.get(&placed.node.name)?.ipv6?.to_string();
            let tag = word(&placed.location.id);
            Some(RethinkdbMember { server_name: word(placed.node.name.as_str()), address, tag })
        })
        .collect()
}

/// Names of servers and tags are letters, digits and `_`. Node names and locations have no `_`, so that different ones
/// stay different.
fn word(name: &str) -> String {
    name.replace('-', "_")
}
