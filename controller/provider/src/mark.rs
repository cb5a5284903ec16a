//! How cloud resources say whose they are: a mark in descriptions, a suffix on names of firewall rules.

use fleet_model::FleetName;
use fleet_plan::resolved::{NetworkRef, Source, Traffic};
use sha2::{Digest, Sha256};

/// Ends the name of every firewall rule of ours. Rules have no description, but they live in a network domain that
/// has one.
const RULE_SUFFIX: &str = ".fleet";

/// Longest name of a rule; the API takes 75, its own console 60.
const MAX_RULE_NAME: usize = 60;

/// The mark of one fleet: its name for people, its id against another fleet of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    fleet: FleetName,
    id: String,
}

/// A mark as a resource carries it: some fleet's name and id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Marked {
    /// The fleet's name.
    pub fleet: String,
    /// Its id.
    pub id: String,
}

impl Marked {
    /// The mark that a description ends with; a plan's own text before it may say anything.
    pub fn read(description: Option<&str>) -> Option<Self> {
        let words: Vec<&str> = description?.split_whitespace().collect();
        let [.., fleet, id] = words.as_slice() else { return None };
        Some(Self { fleet: fleet.strip_prefix("fleet=")?.to_owned(), id: id.strip_prefix("id=")?.to_owned() })
    }
}

/// Whose a resource is, by its description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This fleet's.
    Ours,
    /// A fleet's of this name with another id.
    Fleet(String),
    /// No fleet's.
    Nobody,
}

impl Mark {
    /// The mark of `fleet`.
    pub fn new(fleet: FleetName, id: String) -> Self {
        Self { fleet, id }
    }

    /// The fleet's name.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// The fleet's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A description for people that ends with the mark.
    pub fn describe(&self, text: &str) -> String {
        let text = text.trim();
        let space = if text.is_empty() { "" } else { " " };
        format!("{text}{space}fleet={} id={}", self.fleet, self.id)
    }

    /// Whose the resource of this description is.
    pub fn owner(&self, description: Option<&str>) -> Owner {
        match Marked::read(description) {
            Some(Marked { fleet, id }) if fleet == self.fleet.as_str() && id == self.id => Owner::Ours,
            Some(Marked { fleet, .. }) => Owner::Fleet(fleet),
            None => Owner::Nobody,
        }
    }

    /// Whether the resource of this description is this fleet's.
    pub fn is_ours(&self, description: Option<&str>) -> bool {
        self.owner(description) == Owner::Ours
    }
}

/// Whether a firewall rule of this name, in a network domain of ours, is ours.
pub fn is_our_rule(name: &str) -> bool {
    name.ends_with(RULE_SUFFIX)
}

/// Name of the rule that opens a node's public address: `EU7rethinkSeed.TCPv4_22.fleet`, and for one source alone
/// `EU7rethinkSeed.TCPv4_8080.From_192_0_2_7_32.fleet`. The source is part of the name, so that a narrower opening
/// never hides behind a wider rule of the same name.
pub fn opening_rule(node: &str, traffic: Traffic, source: Source) -> String {
    let ports = |first: u16, last: u16| {
        if first == last { first.to_string() } else { format!("{first}_{last}") }
    };
    let what = match traffic {
        Traffic::Icmp => "ICMPv4_any".to_owned(),
        Traffic::Tcp(first, last) => format!("TCPv4_{}", ports(first, last)),
        Traffic::Udp(first, last) => format!("UDPv4_{}", ports(first, last)),
    };
    match source {
        // As rules were named before they had sources: fleets that are up keep theirs.
        Source::Any => rule_name(&[node, &what]),
        Source::Operator => rule_name(&[node, &what, "From_operator"]),
        Source::Cidr(address, prefix) => {
            let [a, b, c, d] = address.octets();
            rule_name(&[node, &what, &format!("From_{a}_{b}_{c}_{d}_{prefix}")])
        }
    }
}

/// Name of the rule that lets one network into another: `From.EU6.RethinkNetwork.To.RethinkSeedNetwork.IPv6.fleet`.
pub fn accept_rule(from: &NetworkRef, to: &NetworkRef, version: &str) -> String {
    rule_name(&["From", &from.location, &from.network, "To", &to.network, version])
}

/// Name of the rule that lets several networks into one, and of the list that has them:
/// `To.RethinkSeedNetwork.IPv6.fleet`. Who they are is in the list, so that it may change while the rule stays.
pub fn accept_list(to: &NetworkRef, version: &str) -> String {
    rule_name(&["To", &to.network, version])
}

/// Joins the parts with dots and ends with our suffix. Where that could be ambiguous, too long or not a name, a
/// piece of the parts' digest keeps it unique, and the same for the same parts.
fn rule_name(parts: &[&str]) -> String {
    let plain =
        parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
    let mut name: String = parts
        .join(".")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' })
        .collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, '_');
    }
    if !plain || name.len() + RULE_SUFFIX.len() > MAX_RULE_NAME {
        // Case is kept out of it: the API may compare names without.
        let digest = Sha256::digest(parts.join("/").to_ascii_lowercase().as_bytes());
        let tail: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
        name.truncate(MAX_RULE_NAME - RULE_SUFFIX.len() - tail.len() - 1);
        name = format!("{name}_{tail}");
    }
    format!("{name}{RULE_SUFFIX}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn mark(id: &str) -> Mark {
        Mark::new("rethink".parse().expect("a name"), id.to_owned())
    }

    #[test]
    fn marks_are_recognised() {
        let ours = mark("7f3a");
        let check = |description: &str, expected: Owner| {
            assert_eq!(ours.owner(Some(description)), expected, "{description}");
        };
        assert_eq!(ours.describe("Rethink seed "), "Rethink seed fleet=rethink id=7f3a");
        check(&ours.describe(""), Owner::Ours);
        check(&ours.describe("about id=9 fleet=other"), Owner::Ours);
        check(&mark("0000").describe("x"), Owner::Fleet("rethink".into()));
        check("#plumbery", Owner::Nobody);
        check("fleet=rethink id=7f3a trailing", Owner::Nobody);
        assert_eq!(ours.owner(None), Owner::Nobody);
    }

    #[test]
    fn rules_are_named_for_people() {
        let net =
            |location: &str, network: &str| NetworkRef { location: location.into(), network: network.into() };
        let check = |name: String, expected: &str| assert_eq!(name, expected);
        let any = |node: &str, traffic| opening_rule(node, traffic, Source::Any);
        check(any("EU7rethinkSeed", Traffic::Tcp(22, 22)), "EU7rethinkSeed.TCPv4_22.fleet");
        check(any("web", Traffic::Udp(137, 138)), "web.UDPv4_137_138.fleet");
        check(any("web", Traffic::Icmp), "web.ICMPv4_any.fleet");
        check(
            opening_rule("web", Traffic::Tcp(8080, 8080), Source::Cidr([192, 0, 2, 0].into(), 24)),
            "web.TCPv4_8080.From_192_0_2_0_24.fleet",
        );
        check(
            accept_rule(&net("EU6", "RethinkNetwork"), &net("EU7", "RethinkSeedNetwork"), "IPv6"),
            "From.EU6.RethinkNetwork.To.RethinkSeedNetwork.IPv6.fleet",
        );
        check(accept_list(&net("EU7", "RethinkSeedNetwork"), "IPv6"), "To.RethinkSeedNetwork.IPv6.fleet");
        check(any("a-b", Traffic::Icmp), "a_b.ICMPv4_any_444ca7a15a.fleet");
    }

    proptest! {
        #[test]
        fn rule_names_are_names(node in "[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?", first: u16, last: u16, address: [u8; 4]) {
            let name = opening_rule(&node, Traffic::Udp(first, last), Source::Cidr(address.into(), 32));
            prop_assert!(name.len() <= MAX_RULE_NAME);
            prop_assert!(is_our_rule(&name));
            prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.'));
            prop_assert!(!name.starts_with(|c: char| c.is_ascii_digit()));
        }

        #[test]
        fn rule_names_of_sources_differ(
            node in "[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?",
            sources in prop::collection::btree_set((any::<[u8; 4]>(), 1..=32u8), 2..9),
        ) {
            let name = |source| opening_rule(&node, Traffic::Tcp(22, 22), source).to_ascii_lowercase();
            let names: BTreeSet<String> = sources.iter()
                .map(|(address, prefix)| name(Source::Cidr((*address).into(), *prefix)))
                .chain([name(Source::Any), name(Source::Operator)])
                .collect();
            prop_assert_eq!(names.len(), sources.len() + 2);
        }

        #[test]
        fn rule_names_differ(parts in prop::collection::btree_set(
            ("[A-Z]{2}-?[0-9]", "[a-z][a-z_.-]{0,40}", "[a-z][a-z_.-]{0,40}"), 2..20)) {
            let names: BTreeSet<String> = parts.iter().map(|(location, from, to)| {
                let from = NetworkRef { location: location.clone(), network: from.clone() };
                let to = NetworkRef { location: "X".into(), network: to.clone() };
                accept_rule(&from, &to, "IPv6").to_ascii_lowercase()
            }).collect();
            prop_assert_eq!(names.len(), parts.len());
        }
    }
}
