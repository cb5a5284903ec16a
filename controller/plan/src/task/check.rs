//! What tasks of one node, and of all nodes together, must fit.

use std::collections::{BTreeMap, BTreeSet};

use fleet_model::NodeName;

use super::{RawTask, is_general};
use crate::{problem::Reporter, read::At, resolve::PlacedNode, resolved::Work, suggest::suggest};

/// Ports a node with a database server has taken: console, driver, cluster.
const TAKEN: [u16; 3] = [8080, 28015, 29015];
/// SSH, everywhere.
const SSH: u16 = 22;

/// Tasks of one node: how often, and in which order.
pub(crate) fn node(name: &At<NodeName>, tasks: &[RawTask], reporter: &mut Reporter<'_>) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut paths: BTreeMap<&str, &str> = BTreeMap::new();
    let mut databases = BTreeSet::new();
    for task in tasks {
        let span = &task.name.span;
        if task.shadows {
            reporter.warning(
                span,
                format!("`{}` takes the place of the one in an earlier layer", task.name.value),
                "give it a `name` of its own, or both the same one if that is meant".to_owned(),
            );
        }
        // Two databases are two tables; two of all others would undo each other's work.
        if !seen.insert(task.kind) && !is_general(task.kind) && task.kind != "database" {
            let message = format!("node `{}` has two tasks of kind `{}`", name.value, task.kind);
            reporter.problem(
                span,
                message,
                "one is enough; the same `name` in a later layer takes its place".to_owned(),
            );
        }
        if matches!(task.kind, "todo" | "database") && !seen.contains("rethinkdb") {
            let message =
                format!("`{}` of node `{}` has no `rethinkdb` before it", task.name.value, name.value);
            let hint =
                "tasks are done in their order, and this one works on the node's own server".to_owned();
            reporter.problem(span, message, hint);
        }
        match &task.work {
            Some(Work::Database(database)) => {
                if seen.contains("todo") {
                    let message = format!("`{}` comes after `todo`, which waits for it", task.name.value);
                    let hint = "put `todo` after it, in a layer no earlier than this one".to_owned();
                    reporter.problem(span, message, hint);
                }
                if !databases.insert((&database.name, &database.table)) {
                    let message = format!("table `{}` of `{}` is made twice", database.table, database.name);
                    reporter.problem(span, message, None);
                }
            }
            Some(Work::Todo(todo)) if TAKEN.contains(&todo.port) || todo.port == SSH => {
                let hint = "RethinkDB has 8080, 28015 and 29015, SSH has 22".to_owned();
                reporter.problem(task.spot("port"), format!("port {} is taken", todo.port), hint);
            }
            Some(Work::File(file)) if !file.path.is_empty() => {
                if let Some(earlier) = paths.insert(&file.path, &task.name.value) {
                    let message = format!("`{}` is kept by `{earlier}` already", file.path);
                    reporter.problem(task.spot("path"), message, "one task a file".to_owned());
                }
            }
            _ => {}
        }
    }
}

/// The cluster: one seed, which is a member, and no more replicas than members.
pub(crate) fn fleet(nodes: &[PlacedNode], reporter: &mut Reporter<'_>) {
    let members: Vec<&PlacedNode> =
        nodes.iter().filter(|node| node.tasks.iter().any(|task| task.kind == "rethinkdb")).collect();
    let known = || members.iter().map(|node| node.name.value.as_str());
    let mut seed: Option<&NodeName> = None;
    for (node, task) in each(nodes) {
        let Some(Work::Rethinkdb(rethinkdb)) = &task.work else { continue };
        let (own, span) = (&rethinkdb.seed, task.spot("seed"));
        if members.iter().all(|member| member.name.value != *own) {
            let message = if nodes.iter().any(|other| other.name.value == *own) {
                format!("seed `{own}` has no `rethinkdb` task")
            } else {
                format!("seed `{own}` is no node of this plan")
            };
            reporter.problem(span, message, suggest(own.as_str(), known()));
        } else if seed.is_some_and(|seed| seed != own) {
            let message = format!("node `{}` has another seed than the nodes before", node.name.value);
            reporter.problem(span, message, "one cluster has one seed".to_owned());
        }
        seed.get_or_insert(own);
    }
    let mut made = BTreeSet::new();
    for (node, task) in each(nodes) {
        let Some(Work::Database(database)) = &task.work else { continue };
        made.insert((&database.name, &database.table));
        if let Some(seed) = seed.filter(|seed| **seed != node.name.value) {
            let message = format!("node `{}` has a `database` and is not the seed", node.name.value);
            reporter.problem(&task.name.span, message, format!("it belongs to `{seed}` alone"));
        }
        // Without any server at all there is a clearer problem.
        let servers = members.len();
        if servers > 0 && usize::try_from(database.replicas).is_ok_and(|replicas| replicas > servers) {
            let message =
                format!("`replicas` is {}, and the cluster has {servers} servers", database.replicas);
            let most = servers - usize::from(servers.is_multiple_of(2));
            reporter.problem(task.spot("replicas"), message, format!("at most {most}"));
        }
    }
    for (_, task) in each(nodes) {
        let Some(Work::Todo(todo)) = &task.work else { continue };
        if !made.contains(&(&todo.database, &todo.table)) {
            let message = format!("nothing makes table `{}` of database `{}`", todo.table, todo.database);
            let hint = "give the seed a `database` task before `todo`, or make it yourself".to_owned();
            reporter.warning(&task.name.span, message, hint);
        }
    }
}

fn each(nodes: &[PlacedNode]) -> impl Iterator<Item = (&PlacedNode, &RawTask)> {
    nodes.iter().flat_map(|node| node.tasks.iter().map(move |task| (node, task)))
}
