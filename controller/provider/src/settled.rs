//! What was brought about the last time, in the plan's terms: what differs from it now, somebody else changed. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    diff::shown,
    graph::{Resource, Want},
};

/// Resources that were as wanted at the end of a run: what they are called, and what was wanted of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Settled(BTreeMap<String, String>);

impl Settled {
    /// Takes note that `resource` is as wanted.
    pub fn put(&mut self, resource: &Resource) {
        if let Some(facet) = facet(&resource.want) {
            self.0.insert(name(resource), facet);
        }
    }

    /// Takes over what `before` knows of `resource`.
    pub fn keep(&mut self, resource: &Resource, before: &Self) {
        let name = name(resource);
        if let Some(facet) = before.0.get(&name) {
            self.0.insert(name, facet.clone());
        }
    }

    /// Forgets a resource: it is about to change.
    pub fn forget(&mut self, resource: &Resource) {
        self.0.remove(&name(resource));
    }

    /// Whether the same was wanted of `resource`, and was there.
    pub fn holds(&self, resource: &Resource) -> bool {
        facet(&resource.want).is_some_and(|facet| self.0.get(&name(resource)) == Some(&facet))
    }

    /// What was wanted of `resource`, if something else was.
    pub fn differs(&self, resource: &Resource) -> Option<(&str, String)> {
        let (before, now) = (self.0.get(&name(resource))?, facet(&resource.want)?);
        (*before != now).then_some((before.as_str(), now))
    }

    /// Whether a resource of this kind and name was never brought about, though others were.
    pub fn never_held(&self, kind: &str, location: &str, name: &str) -> bool {
        !self.0.is_empty() && !self.0.contains_key(&joined(kind, location, name))
    }
}

fn name(resource: &Resource) -> String {
    let (kind, name) = shown(resource);
    joined(kind, &resource.location, &name)
}

fn joined(kind: &str, location: &str, name: &str) -> String {
    // The API compares names without case.
    format!("{kind} {location} {}", name.to_ascii_lowercase())
}

/// What of a want shows at the cloud; the text is for people too.
fn facet(want: &Want) -> Option<String> {
    Some(match want {
        Want::Domain(service) => format!("{service:?}"),
        Want::Vlan { address, prefix, .. } => format!("{address}/{prefix}"),
        Want::Server { node, .. } => format!("image `{}`", node.image),
        Want::Size { cpu, memory_gb, .. } => {
            format!("{} CPU in {} a socket, {}, {memory_gb} GB", cpu.count, cpu.cores_per_socket, cpu.speed)
        }
        Want::Disk(_, disk) => format!("{} GB, {}", disk.size_gb, disk.speed),
        Want::Monitoring(_, plan) => format!("{plan:?}"),
        Want::Power(_) => "on".to_owned(),
        Want::Nat(_) => "translated".to_owned(),
        Want::Rule(_, rule) => format!("{rule:?}"),
        Want::List(_, family, places) => format!("{family:?} {places:?}"),
        Want::DenyIpv6(on) => on.to_string(),
        Want::Ready(_) => return None,
    })
}
