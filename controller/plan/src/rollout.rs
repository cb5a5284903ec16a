//! `rollout`: how changes of what running nodes do reach them. The policy is that of `fleet-rollout`; here it is read from
//! the plan's tree.

use fleet_rollout::{Member, Policy, policy::Order};
use serde::Deserialize;

use crate::{
    plain::Reader,
    problem::{Reporter, Span},
    read::Fields,
    resolved::{Location, Work},
    suggest::{quoted, suggest},
    syntax::{Tree, Value},
};

/// The policy and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct RawPolicy {
    pub(crate) policy: Policy,
    /// The whole, and each of its members; none where the plan says nothing.
    places: Option<(Span, Vec<(String, Span)>)>,
}

impl Default for RawPolicy {
    fn default() -> Self {
        Self { policy: Policy::of_plans(), places: None }
    }
}

impl RawPolicy {
    pub(crate) fn read(tree: &Tree, reporter: &mut Reporter<'_>) -> Self {
        // Reports what is no mapping, and what is given twice.
        let (Some(_), Value::Map(entries)) = (Fields::of(tree, "`rollout`", reporter), &tree.value) else {
            return Self::default();
        };
        // Each member by itself, for the place of whatever is wrong with it.
        let mut sound = true;
        for entry in entries {
            let member = Tree { span: tree.span.clone(), value: Value::Map(vec![entry.clone()]) };
            let Err(wrong) = Policy::deserialize(Reader(&member)) else { continue };
            sound = false;
            if !wrong.known {
                let span = wrong.span.clone().unwrap_or_else(|| entry.0.span.clone());
                let (message, hint) = wrong.said();
                reporter.problem(&span, format!("`rollout`: {message}"), hint);
            }
        }
        if !sound {
            return Self::default();
        }
        let policy = match Policy::of_plans().over(plain(tree)) {
            Ok(policy) => policy,
            Err(why) => {
                reporter.problem(&tree.span, format!("`rollout`: {why}"), None);
                return Self::default();
            }
        };
        let members = entries.iter().filter_map(|(key, value)| match &key.value {
            Value::Text(name) => Some((name.clone(), value.span.clone())),
            _ => None,
        });
        Self { policy, places: Some((tree.span.clone(), members.collect())) }
    }

    /// Reports what is wrong with it for these nodes.
    pub(crate) fn check(&self, locations: &[Location], reporter: &mut Reporter<'_>) {
        let Some((whole, places)) = &self.places else { return };
        let place = |field: &str| {
            let name = camel(field.split('.').next().unwrap_or(field));
            places.iter().find(|(known, _)| *known == name).map_or(whole, |(_, span)| span)
        };
        for problem in self.policy.problems(&members(locations)) {
            let (what, hint) = match problem.message.split_once("; ") {
                Some((what, hint)) => (what.to_owned(), Some(hint.to_owned())),
                None => (problem.message.clone(), None),
            };
            reporter.problem(place(&problem.field), format!("`rollout`: {what}"), hint);
        }
        let known: Vec<&str> = locations.iter().map(|location| location.id.as_str()).collect();
        let ordered: &[String] = match &self.policy.order {
            Order::ByLocation(order) => order,
            Order::ByLot | Order::ByLabel { .. } => &[],
        };
        let windows = self.policy.windows.keys().map(|id| (id, "windows"));
        for (id, field) in ordered.iter().map(|id| (id, "order")).chain(windows) {
            if !known.contains(&id.as_str()) {
                let message = format!("`rollout`: there is no location `{id}`");
                reporter.problem(place(field), message, suggest(id, known.iter().copied()));
            }
        }
        if let Order::ByLabel { label, .. } = &self.policy.order {
            let mut labels: Vec<&str> =
                nodes(locations).flat_map(|(_, node)| node.labels.keys()).map(String::as_str).collect();
            labels.sort_unstable();
            labels.dedup();
            if !labels.contains(&label.as_str()) {
                let hint = if labels.is_empty() {
                    "give nodes or classes `labels: {NAME: VALUE}`".to_owned()
                } else {
                    format!("their labels are {}", quoted(&labels))
                };
                reporter.problem(place("order"), format!("`rollout`: no node has a label `{label}`"), hint);
            }
        }
    }
}

fn nodes(locations: &[Location]) -> impl Iterator<Item = (&Location, &crate::resolved::Node)> {
    locations
        .iter()
        .flat_map(|location| location.networks.iter().map(move |network| (location, network)))
        .flat_map(|(location, network)| network.nodes.iter().map(move |node| (location, node)))
}

fn members(locations: &[Location]) -> Vec<Member> {
    let seed = |node: &crate::resolved::Node| {
        node.tasks
            .iter()
            .any(|task| matches!(&task.work, Work::Rethinkdb(rethinkdb) if rethinkdb.seed == node.name))
    };
    nodes(locations)
        .map(|(location, node)| Member {
            location: location.id.clone(),
            labels: node.labels.clone(),
            seed: seed(node),
            ..Member::new(node.name.clone())
        })
        .collect()
}

/// `canary_budgets` as the plan writes it.
fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| {
        let (head, tail) = part.split_at(part.len().min(1));
        name + &head.to_ascii_uppercase() + tail
    })
}

/// The tree without its places.
fn plain(tree: &Tree) -> serde_json::Value {
    match &tree.value {
        Value::Null | Value::Number | Value::Unknown => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Integer(number) => (*number).into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(items) => items.iter().map(plain).collect(),
        Value::Map(entries) => {
            let members = entries.iter().filter_map(|(key, value)| match &key.value {
                Value::Text(name) => Some((name.clone(), plain(value))),
                _ => None,
            });
            serde_json::Value::Object(members.collect())
        }
    }
}
