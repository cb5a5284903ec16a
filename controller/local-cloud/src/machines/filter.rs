//! A network domain's translation and packet filter, as text for `nft`; pure.
//!
//! What traffic is subject to which rule:
//!
//! | from → to | decided by |
//! |---|---|
//! | within one VLAN | never filtered; it does not pass the router |
//! | outside the domain → a VLAN | the rules in order, first match wins; nothing matched: denied |
//! | a VLAN → another of the domain | the same |
//! | a VLAN → outside | the rules in order, first match wins; nothing matched: allowed. A DROP rule that names neither protocol nor address nor port says what may come in, not what may go out |
//! | replies, and ICMP errors about a flow | follow the flow |
//! | to the router itself | ping and neighbour discovery only |
//!
//! Rules see addresses as the sender of the flow's first packet saw them, so an inbound rule for a translated
//! host names its public address.
//!
//! Every packet in a flow's original direction goes through the rules, not only the first one: a flow ends
//! when the rule that let it in is removed. The same holds for translations: a flow through a removed one is
//! dropped by the `stale` rule.

use std::{fmt::Write as _, net::IpAddr};

use super::names::Names;
use crate::backing::{DomainSpec, Match, NatSpec, Protocol, RuleSpec};

/// Longest comment nft takes is 128 bytes.
const LONGEST_COMMENT: usize = 100;

/// Replaces the domain's whole ruleset in one transaction.
pub fn ruleset(domain: &DomainSpec, names: &Names) -> String {
    let (table, uplink, bridges) = (names.table(), names.uplink(), format!("{}*", names.bridges()));
    let mut text = String::new();
    let mut put = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    // Declared first so that deleting it never fails: nft runs the whole file or nothing.
    put(&format!("table inet {table}\ndelete table inet {table}\ntable inet {table} {{"));

    put("  chain translate-in {\n    type nat hook prerouting priority dstnat;");
    if !domain.nat.is_empty() {
        put(&format!(
            "    dnat ip to ip daddr map {{ {} }}",
            pairs(&domain.nat, |nat| (nat.external, nat.internal))
        ));
    }
    put("  }");

    put("  chain translate-out {\n    type nat hook postrouting priority srcnat;");
    if !domain.nat.is_empty() {
        put(&format!(
            "    oifname \"{uplink}\" snat ip to ip saddr map {{ {} }}",
            pairs(&domain.nat, |nat| (nat.internal, nat.external))
        ));
    }
    put(&format!("    oifname \"{uplink}\" meta nfproto ipv4 snat ip to {}", domain.snat));
    // A neighbour reached through its public address must answer through the router, or the answer comes
    // from an address nobody asked.
    put(&format!("    iifname \"{bridges}\" oifname \"{bridges}\" ct status dnat masquerade"));
    put("  }");

    put("  chain router {\n    type filter hook input priority filter; policy drop;");
    put("    iifname \"lo\" accept");
    put("    meta l4proto { icmp, ipv6-icmp } accept");
    put("    ct state established,related accept");
    put("  }");

    put("  chain forward {\n    type filter hook forward priority filter; policy drop;");
    put("    ct state invalid drop");
    put("    ct state related accept");
    put("    ct direction reply ct state established accept");
    if domain.nat.is_empty() {
        put("    ct status dnat drop comment \"stale\"");
    } else {
        put(&format!(
            "    ct status dnat ct original ip daddr . ip daddr != {{ {} }} drop comment \"stale\"",
            domain
                .nat
                .iter()
                .map(|nat| format!("{} . {}", nat.external, nat.internal))
                .collect::<Vec<_>>()
                .join(", ")
        ));
    }
    for vlan in &domain.vlans {
        let bridge = names.bridge(&vlan.id);
        put(&format!("    iifname \"{bridge}\" oifname \"{bridge}\" ct status ! dnat accept"));
    }
    put(&format!("    iifname \"{bridges}\" oifname \"{uplink}\" jump outbound"));
    put(&format!("    oifname \"{bridges}\" jump inbound"));
    put("  }");

    put("  chain inbound {");
    for rule in &domain.rules {
        put(&format!("    {}", statement(rule)));
    }
    put("  }");

    put("  chain outbound {");
    for rule in domain.rules.iter().filter(|rule| rule.accept || !names_nothing(rule)) {
        put(&format!("    {}", statement(rule)));
    }
    put("    accept");
    put("  }\n}");
    text
}

fn pairs(nat: &[NatSpec], pair: impl Fn(&NatSpec) -> (std::net::Ipv4Addr, std::net::Ipv4Addr)) -> String {
    nat.iter()
        .map(|nat| {
            let (from, to) = pair(nat);
            format!("{from} : {to}")
        })
        .collect::<Vec<_>>()
        .join(", ")
}

fn names_nothing(rule: &RuleSpec) -> bool {
    let RuleSpec { protocol, source, source_ports, destination, destination_ports, .. } = rule;
    protocol.is_none()
        && source.is_empty()
        && destination.is_empty()
        && source_ports.is_empty()
        && destination_ports.is_empty()
}

/// One rule as one line.
fn statement(rule: &RuleSpec) -> String {
    let family = if rule.ipv6 { "ip6" } else { "ip" };
    let mut line = format!("meta nfproto {}", if rule.ipv6 { "ipv6" } else { "ipv4" });
    for (side, matches) in [("saddr", &rule.source), ("daddr", &rule.destination)] {
        if !matches.is_empty() {
            let set = merged(matches.iter().filter_map(|one| address_range(one, rule.ipv6)));
            write!(line, " ct original {family} {side} {{ {} }}", addresses(&set, rule.ipv6))
                .expect(INFALLIBLE);
        }
    }
    let ports = !rule.source_ports.is_empty() || !rule.destination_ports.is_empty();
    match rule.protocol {
        Some(Protocol::Icmp) => {
            line.push_str(if rule.ipv6 { " meta l4proto ipv6-icmp" } else { " meta l4proto icmp" })
        }
        Some(Protocol::Tcp) => line.push_str(" meta l4proto tcp"),
        Some(Protocol::Udp) => line.push_str(" meta l4proto udp"),
        // Only these two have ports.
        None if ports => line.push_str(" meta l4proto { tcp, udp }"),
        None => {}
    }
    if rule.protocol != Some(Protocol::Icmp) {
        // The original direction's port: the packet's own destination port is the same, since translation
        // leaves ports alone.
        for (side, list) in [("sport", &rule.source_ports), ("dport", &rule.destination_ports)] {
            if !list.is_empty() {
                let set = merged(list.iter().map(|(first, last)| (u128::from(*first), u128::from(*last))));
                let text = set.iter().map(|(first, last)| range(first, last)).collect::<Vec<_>>().join(", ");
                write!(line, " th {side} {{ {text} }}").expect(INFALLIBLE);
            }
        }
    }
    let verdict = if rule.accept { "accept" } else { "drop" };
    write!(line, " counter {verdict} comment \"{}\"", comment(&rule.name)).expect(INFALLIBLE);
    line
}

const INFALLIBLE: &str = "a string takes everything";

/// Names reach nft inside quotes, so only letters that mean nothing to it are kept.
fn comment(name: &str) -> String {
    name.chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || "._-".contains(letter) { letter } else { '_' })
        .take(LONGEST_COMMENT)
        .collect()
}

/// First and last address; none if it is of the other family, which then matches nothing.
fn address_range(one: &Match, ipv6: bool) -> Option<(u128, u128)> {
    let number = |address: &IpAddr| match (address, ipv6) {
        (IpAddr::V4(address), false) => Some(u128::from(address.to_bits())),
        (IpAddr::V6(address), true) => Some(address.to_bits()),
        _ => None,
    };
    match one {
        Match::Range(first, last) => Some((number(first)?, number(last)?)),
        Match::Network(address, length) => {
            let bits: u32 = if ipv6 { 128 } else { 32 };
            let hosts = bits.saturating_sub(u32::from(*length));
            let mask = 1_u128.checked_shl(hosts).map_or(u128::MAX, |size| size - 1);
            let address = number(address)?;
            Some((address & !mask, address | mask))
        }
    }
}

/// Sorted, without overlaps: nft refuses a set whose intervals touch twice.
fn merged(ranges: impl Iterator<Item = (u128, u128)>) -> Vec<(u128, u128)> {
    let mut sorted: Vec<_> = ranges.filter(|(first, last)| first <= last).collect();
    sorted.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in sorted {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn addresses(set: &[(u128, u128)], ipv6: bool) -> String {
    let text = |bits: u128| match ipv6 {
        true => IpAddr::from(bits.to_be_bytes()).to_string(),
        // Only IPv4 numbers get here.
        false => IpAddr::from(((bits & u128::from(u32::MAX)) as u32).to_be_bytes()).to_string(),
    };
    if set.is_empty() {
        // An address list that holds nothing of this family: the unspecified address is never on the wire.
        return text(0);
    }
    set.iter().map(|(first, last)| range(&text(*first), &text(*last))).collect::<Vec<_>>().join(", ")
}

fn range<T: PartialEq + std::fmt::Display>(first: &T, last: &T) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::backing::VlanSpec;

    fn rule(name: &str, accept: bool, ipv6: bool, protocol: Option<Protocol>) -> RuleSpec {
        RuleSpec {
            name: name.into(),
            accept,
            ipv6,
            protocol,
            source: vec![],
            source_ports: vec![],
            destination: vec![],
            destination_ports: vec![],
        }
    }

    fn network(text: &str, length: u8) -> Match {
        Match::Network(text.parse().expect("an address"), length)
    }

    fn reference() -> DomainSpec {
        DomainSpec {
            id: "domain".into(),
            snat: [198, 51, 100, 9].into(),
            vlans: vec![VlanSpec {
                id: "vlan".into(),
                ipv4: ([10, 60, 0, 0].into(), 24),
                ipv4_gateway: [10, 60, 0, 1].into(),
                ipv6: "2001:db8:7:1101::".parse().expect("an address"),
                ipv6_gateway: "2001:db8:7:1101::1".parse().expect("an address"),
            }],
            nat: vec![NatSpec { internal: [10, 60, 0, 7].into(), external: [198, 51, 100, 10].into() }],
            rules: vec![
                RuleSpec {
                    destination_ports: vec![(25, 25)],
                    ..rule("CCDEFAULT.BlockOutboundMailIPv4", false, false, Some(Protocol::Tcp))
                },
                rule("CCDEFAULT.DenyExternalInboundIPv6", false, true, None),
                RuleSpec {
                    source: vec![network("2001:db8:6:1101::", 64)],
                    destination: vec![network("2001:db8:7:1101::", 64)],
                    ..rule("FromEu6ToEu7.IPv6", true, true, None)
                },
                RuleSpec {
                    destination: vec![network("198.51.100.10", 32)],
                    destination_ports: vec![(22, 22), (8080, 8090), (8085, 8095)],
                    ..rule("Web \"quoted\"; drop", true, false, Some(Protocol::Tcp))
                },
                RuleSpec {
                    destination: vec![network("198.51.100.10", 32)],
                    ..rule("Ping", true, false, Some(Protocol::Icmp))
                },
                RuleSpec {
                    source_ports: vec![(53, 53)],
                    source: vec![Match::Range([192, 0, 2, 1].into(), [192, 0, 2, 9].into())],
                    ..rule("Ports", true, false, None)
                },
            ],
        }
    }

    #[test]
    fn ruleset_of_a_domain() {
        insta::assert_snapshot!(ruleset(&reference(), &Names::new("flc", Path::new("/cloud"))));
    }

    #[test]
    fn ruleset_of_an_empty_domain() {
        let domain = DomainSpec { vlans: vec![], nat: vec![], rules: vec![], ..reference() };
        insta::assert_snapshot!(ruleset(&domain, &Names::new("flc", Path::new("/cloud"))));
    }

    #[test]
    fn a_list_of_the_other_family_matches_nothing() {
        let odd = RuleSpec { source: vec![network("2001:db8::", 32)], ..rule("Odd", true, false, None) };
        assert_eq!(
            statement(&odd),
            "meta nfproto ipv4 ct original ip saddr { 0.0.0.0 } counter accept comment \"Odd\""
        );
    }

    #[test]
    fn networks_of_every_length() {
        let range = |text, length, ipv6| address_range(&network(text, length), ipv6);
        assert_eq!(range("0.0.0.0", 0, false), Some((0, u128::from(u32::MAX))));
        assert_eq!(range("::", 0, true), Some((0, u128::MAX)));
        assert_eq!(range("10.0.0.5", 32, false), Some((0x0a00_0005, 0x0a00_0005)));
        assert_eq!(range("10.0.0.5", 24, false), Some((0x0a00_0000, 0x0a00_00ff)));
    }

    proptest! {
        #[test]
        fn merging_keeps_every_number_and_no_overlap(ranges in prop::collection::vec((0_u128..60, 0_u128..60), 0..12)) {
            let merged = merged(ranges.iter().copied());
            for number in 0..60 {
                let inside = |list: &[(u128, u128)]| list.iter().filter(|(a, b)| *a <= number && number <= *b).count();
                prop_assert_eq!(inside(&merged), usize::from(inside(&ranges) > 0));
            }
            for pair in merged.windows(2) {
                prop_assert!(pair[0].1 + 1 < pair[1].0);
            }
        }

        #[test]
        fn names_cannot_leave_their_comment(name in ".*") {
            let line = statement(&rule(&name, true, false, None));
            prop_assert_eq!(line.matches('"').count(), 2);
            prop_assert!(!line.contains('\n'));
        }
    }
}
