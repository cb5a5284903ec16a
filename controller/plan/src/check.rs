//! Checks across sections: names that collide, subnets that overlap.

use std::collections::{BTreeMap, BTreeSet};

use crate::{document::Document, problem::Reporter, resolve::PlacedNode, resolved::Location};

/// Locations once each, networks once each in their location, subnets apart.
pub(crate) fn locations(document: &Document, reporter: &mut Reporter<'_>) {
    let mut ids = BTreeSet::new();
    for location in &document.locations {
        let id = &location.id.value;
        if !id.is_empty() && !ids.insert(id.to_ascii_lowercase()) {
            reporter.problem(
                &location.id.span,
                format!("location `{id}` is given twice"),
                "a location may have several networks: put them together".to_owned(),
            );
        }
        let mut names = BTreeSet::new();
        for (index, network) in location.networks.iter().enumerate() {
            let name = &network.name.value;
            if !name.is_empty() && !names.insert(name.to_ascii_lowercase()) {
                let message = format!("network `{name}` is given twice in `{id}`");
                reporter.problem(&network.name.span, message, None);
            }
            let Some(subnet) = &network.subnet else { continue };
            for earlier in &location.networks[..index] {
                let Some(other) = &earlier.subnet else { continue };
                if subnet.value.first() <= other.value.last() && other.value.first() <= subnet.value.last() {
                    reporter.problem(
                        &subnet.span,
                        format!(
                            "subnet {}/{} of network `{name}` overlaps {}/{} of network `{}`",
                            subnet.value.address,
                            subnet.value.prefix,
                            other.value.address,
                            other.value.prefix,
                            earlier.name.value
                        ),
                        "networks of one domain need subnets apart; other locations may repeat them"
                            .to_owned(),
                    );
                }
            }
        }
    }
}

/// Firewall rules a network domain holds, less those it comes with.
const MAX_RULES: usize = 1000 - 5;

/// No more firewall rules than a network domain holds: one for each source of each opening, and those between
/// networks.
pub(crate) fn rules(document: &Document, locations: &[Location], reporter: &mut Reporter<'_>) {
    for location in locations {
        let networks = &location.networks;
        let internet =
            networks.iter().flat_map(|network| &network.nodes).filter_map(|node| node.internet.as_ref());
        let sources: usize =
            internet.flat_map(|internet| &internet.open).map(|opening| opening.from.len()).sum();
        // Over IPv6, and over IPv4 within the domain.
        let between: usize = networks
            .iter()
            .flat_map(|network| &network.accept)
            .map(|from| if from.location == location.id { 2 } else { 1 })
            .sum();
        let wanted = sources + between;
        if wanted > MAX_RULES
            && let Some(raw) = document.locations.iter().find(|raw| raw.id.value == location.id)
        {
            reporter.problem(
                &raw.id.span,
                format!("location `{}` needs {wanted} firewall rules", location.id),
                format!(
                    "a network domain holds {MAX_RULES}: name networks rather than single addresses in `from`"
                ),
            );
        }
    }
}

/// Names that mean somebody else, and why no node can have them.
const TAKEN: [(&str, &str); 2] = [
    (
        "controller",
        "agents know the fleet's controller by `controller.FLEET`, and no node gets a certificate for it",
    ),
    ("localhost", "on every node it means that node itself"),
];

/// Node names once each in the fleet; host names know no case.
pub(crate) fn names(nodes: &[PlacedNode], reporter: &mut Reporter<'_>) {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for node in nodes {
        let name = node.name.value.as_str();
        if let Some((_, why)) = TAKEN.iter().find(|(taken, _)| name.eq_ignore_ascii_case(taken)) {
            let what = format!("a node cannot be called `{name}`: {why}");
            reporter.problem(&node.name.span, what, "choose another name".to_owned());
        }
        if let Some(earlier) = seen.insert(name.to_ascii_lowercase(), name) {
            let hint = if earlier == name {
                "names are unique in the fleet".to_owned()
            } else {
                format!("host names know no case, and there is `{earlier}`")
            };
            reporter.problem(&node.name.span, format!("node `{name}` is given twice"), hint);
        }
    }
}
