//! Checks across sections: names that collide, subnets that overlap.

use std::collections::{BTreeMap, BTreeSet};

use crate::{document::Document, problem::Reporter, resolve::PlacedNode};

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

/// Node names once each in the fleet; host names know no case.
pub(crate) fn names(nodes: &[PlacedNode], reporter: &mut Reporter<'_>) {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for node in nodes {
        let name = node.name.value.as_str();
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
