//! What nobody answers for: resources with a fleet's mark that no plan wants, and such as cost money among them
//! without a mark. Pure.

use std::collections::BTreeSet;

use fleet_mcp::types::Image;
use fleet_model::Timestamp;

use crate::{
    graph::{Resource, Want},
    journal::Index,
    mark::{Mark, Marked},
    moment::moment,
    view::{DomainView, View, private_ipv4, same_name},
};

/// Something nobody answers for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Kind in words: `server`, `public ip block`, …
    pub kind: &'static str,
    /// Its name, or what stands for one.
    pub name: String,
    /// The API's id.
    pub id: String,
    /// Data centre.
    pub location: String,
    /// Whose mark it bears.
    pub mark: Option<Marked>,
    /// Whose network domain it is in, if it is in one.
    pub within: Option<Marked>,
    /// Why it is listed.
    pub why: String,
    /// How to remove or adopt it.
    pub next_step: String,
    /// When it was made, if the cloud says so.
    pub created: Option<Timestamp>,
}

/// What a fleet answers for.
#[derive(Clone, Copy, Debug)]
pub struct Claims<'a> {
    /// Its mark.
    pub mark: &'a Mark,
    /// What its plan wants; nothing if it has none.
    pub resources: &'a [Resource],
    /// What its journal knows.
    pub index: &'a Index,
}

/// Finds them in what was observed; `images` are the customer's own. Without claims, everything marked is listed.
pub fn orphans(view: &View, images: &[Image], claims: Option<&Claims<'_>>) -> Vec<Orphan> {
    let search = Search { claims };
    let mut found: Vec<Orphan> =
        view.domains.values().filter(|held| concerns(held)).flat_map(|held| search.domain(held)).collect();
    let places: BTreeSet<&str> = view
        .domains
        .values()
        .filter(|held| concerns(held))
        .map(|held| held.domain.datacenter_id.as_str())
        .collect();
    let here = images.iter().filter(|image| places.contains(image.datacenter_id.as_str()));
    found.extend(here.filter(|image| !search.uses(image)).map(Search::image));
    found
}

/// How many of them are a fleet's own affair: with its mark, or unmarked and not in another fleet's networks. What other
/// fleets left is for those who know them, even if they had the same name.
pub fn own(found: &[Orphan], ours: &Marked) -> usize {
    let whose = |orphan: &Orphan| orphan.mark.clone().or_else(|| orphan.within.clone());
    found.iter().filter(|orphan| whose(orphan).is_none_or(|whose| whose == *ours)).count()
}

/// Whether something in it bears any fleet's mark.
fn concerns(held: &DomainView) -> bool {
    let marked = |description: &Option<String>| Marked::read(description.as_deref()).is_some();
    marked(&held.domain.description)
        || held.vlans.values().any(|vlan| marked(&vlan.description))
        || held.servers.values().any(|server| marked(&server.description))
}

/// What is the same for all of a kind.
struct About<'a> {
    kind: &'static str,
    name: &'a str,
    id: &'a str,
    created: Option<&'a str>,
    /// Whose mark it bears.
    mark: Option<Marked>,
}

struct Search<'a> {
    claims: Option<&'a Claims<'a>>,
}

impl Search<'_> {
    fn domain(&self, held: &DomainView) -> Vec<Orphan> {
        let domain = &held.domain;
        let location = domain.datacenter_id.as_str();
        let mark = Marked::read(domain.description.as_deref());
        let ours = self.is_ours(mark.as_ref());
        let wanted: Vec<&Resource> = self
            .claims
            .iter()
            .flat_map(|claims| claims.resources)
            .filter(|resource| {
                ours && resource.location == location && same_name(&resource.domain, &domain.name)
            })
            .collect();
        let mut found = Vec::new();
        if mark.is_some() && wanted.is_empty() {
            let about = About {
                kind: "network domain",
                name: &domain.name,
                id: domain.id.as_str(),
                created: domain.create_time.as_deref(),
                mark,
            };
            found.push(self.orphan(held, about, ours));
        }
        for vlan in held.vlans.values() {
            let claimed = wanted.iter().any(
                |resource| matches!(&resource.want, Want::Vlan { name, .. } if same_name(name, &vlan.name)),
            );
            let mark = Marked::read(vlan.description.as_deref());
            if !(claimed && self.is_ours(mark.as_ref())) {
                let about = About {
                    kind: "vlan",
                    name: &vlan.name,
                    id: vlan.id.as_str(),
                    created: vlan.create_time.as_deref(),
                    mark,
                };
                found.push(self.orphan(held, about, ours));
            }
        }
        for list in held.lists.values() {
            let claimed = wanted.iter().any(
                |resource| matches!(&resource.want, Want::List(name, ..) if same_name(name, &list.name)),
            );
            let mark = Marked::read(list.description.as_deref());
            // Lists cost nothing: those of others are no news.
            if mark.is_some() && !(claimed && self.is_ours(mark.as_ref())) {
                let about = About {
                    kind: "address list",
                    name: &list.name,
                    id: list.id.as_str(),
                    created: list.create_time.as_deref(),
                    mark,
                };
                found.push(self.orphan(held, about, ours));
            }
        }
        self.servers(held, &wanted, ours, &mut found);
        self.blocks(held, ours, &mut found);
        found
    }

    fn servers(&self, held: &DomainView, wanted: &[&Resource], ours: bool, found: &mut Vec<Orphan>) {
        let location = held.domain.datacenter_id.as_str();
        for server in held.servers.values() {
            let mark = Marked::read(server.description.as_deref());
            let chosen = self.claims.and_then(|claims| held.server(claims.mark, &server.name));
            let planned = wanted.iter().any(
                |resource| matches!(&resource.want, Want::Server { node, .. } if node.name.as_str() == server.name),
            );
            let claimed =
                self.is_ours(mark.as_ref()) && planned && chosen.is_some_and(|chosen| chosen.id == server.id);
            if !claimed {
                let about = About {
                    kind: "server",
                    name: &server.name,
                    id: server.id.as_str(),
                    created: server.create_time.as_deref(),
                    mark,
                };
                found.push(self.orphan(held, about, ours));
                continue;
            }
            let planned = |scsi_id: u8| {
                wanted.iter().any(|resource| {
                    matches!(&resource.want, Want::Disk(node, disk)
                        if node.as_str() == server.name && disk.scsi_id == scsi_id)
                })
            };
            for disk in server.disks().into_iter().filter(|disk| disk.scsi_id > 0 && !planned(disk.scsi_id)) {
                let id = disk.id.as_ref().map(ToString::to_string).unwrap_or_default();
                found.push(Orphan {
                    kind: "disk",
                    name: format!("{}/{}", server.name, disk.scsi_id),
                    location: location.to_owned(),
                    mark: None,
                    within: Marked::read(held.domain.description.as_deref()),
                    why: format!("{} GB the plan does not have", disk.size_gb),
                    next_step: format!(
                        "to adopt it, write it into the plan as disk {}; to remove it, save what is on it and delete \
                         disk {id} at the cloud",
                        disk.scsi_id
                    ),
                    created: None,
                    id,
                });
            }
        }
    }

    /// Blocks have no mark of their own: they are claimed by the journal, or by a translation of a claimed server.
    fn blocks(&self, held: &DomainView, ours: bool, found: &mut Vec<Orphan>) {
        for block in held.blocks.values() {
            let used =
                held.nats.values().filter(|nat| block.addresses().any(|a| a == nat.external_ip)).any(|nat| {
                    let mut servers = held.servers.values();
                    servers.any(|server| {
                        private_ipv4(server) == Some(nat.internal_ip)
                            && self.is_ours(Marked::read(server.description.as_deref()).as_ref())
                    })
                });
            let journalled = self.claims.is_some_and(|claims| claims.index.holds("block", block.id.as_str()));
            if ours && (used || journalled) {
                continue;
            }
            let name = format!("{} and {} more", block.base_ip, block.size.saturating_sub(1));
            // What is in a fleet's domain goes with it.
            let whose = Marked::read(held.domain.description.as_deref());
            let about = About {
                kind: "public ip block",
                name: &name,
                id: block.id.as_str(),
                created: block.create_time.as_deref(),
                mark: whose.filter(|_| !ours),
            };
            found.push(self.orphan(held, about, ours));
        }
    }

    fn orphan(&self, held: &DomainView, about: About<'_>, in_our_domain: bool) -> Orphan {
        let About { kind, name, id, created, mark } = about;
        let (why, next_step) = match &mark {
            Some(whose) if self.is_ours(mark.as_ref()) => (
                format!("marked `{}`, and not in its plan", whose.fleet),
                "`fleetctl up PLAN` removes it; to keep it, put it back into the plan".to_owned(),
            ),
            Some(whose) => (
                format!("marked `{}` with an id that nothing here knows", whose.fleet),
                format!(
                    "`fleetctl down --fleet {} --id {}` removes everything with that mark, once nobody needs it",
                    whose.fleet, whose.id
                ),
            ),
            None => {
                ("unmarked, in a fleet's network domain".to_owned(), self.unmarked(kind, id, in_our_domain))
            }
        };
        Orphan {
            kind,
            name: name.to_owned(),
            id: id.to_owned(),
            location: held.domain.datacenter_id.to_string(),
            mark,
            within: Marked::read(held.domain.description.as_deref()),
            why,
            next_step,
            created: created.and_then(moment),
        }
    }

    /// How to remove or adopt what nobody has marked.
    fn unmarked(&self, kind: &str, id: &str, in_our_domain: bool) -> String {
        let remove = format!("if nobody needs it, delete {kind} {id} at the cloud");
        match (self.claims, kind) {
            (Some(claims), "server" | "vlan") if in_our_domain => format!(
                "{remove}; to adopt it, give it the description `{}` there and a place in the plan",
                claims.mark.describe("")
            ),
            (Some(_), "public ip block") if in_our_domain => {
                format!("{remove}; the next node that needs a public address adopts it")
            }
            _ => remove,
        }
    }

    fn is_ours(&self, mark: Option<&Marked>) -> bool {
        self.claims.zip(mark).is_some_and(|(claims, mark)| {
            mark.fleet == claims.mark.fleet().as_str() && mark.id == claims.mark.id()
        })
    }

    /// Whether the plan makes servers of this image.
    fn uses(&self, image: &Image) -> bool {
        self.claims.iter().flat_map(|claims| claims.resources).any(|resource| {
            matches!(&resource.want, Want::Server { node, .. } if image.name.contains(&node.image))
        })
    }

    fn image(image: &Image) -> Orphan {
        Orphan {
            kind: "image",
            name: image.name.clone(),
            id: image.id.to_string(),
            location: image.datacenter_id.to_string(),
            mark: None,
            within: None,
            why: "the customer's own, and no node of the plan uses it".to_owned(),
            next_step: format!(
                "if nobody needs it, delete image {} at the cloud; to adopt it, name it in the plan as `image`",
                image.id
            ),
            created: image.create_time.as_deref().and_then(moment),
        }
    }
}
