//! What a server is told about itself: the document its `customise` script reads.

use std::{fmt::Write as _, net::Ipv4Addr};

use crate::{
    backing::{BackingError, DomainSpec, ServerSpec},
    machines::{net::RESOLVER, run::Doing},
};

/// Name under which QEMU shows the document to the guest.
pub const DOCUMENT: &str = "opt/fleet-local-cloud/guest";
/// Longest label of a host name (RFC 1035, section 2.3.4).
const LONGEST_LABEL: usize = 63;

/// Lines of `key value…` as the script in the image expects them. `password` is the hash of root's, never the
/// password itself. `host` tells the time.
pub fn document(server: &ServerSpec, domain: &DomainSpec, host: Ipv4Addr, password: Option<&str>) -> String {
    let mut text =
        format!("server {}\nhostname {}\ndns {RESOLVER}\nntp {host}\n", server.id, host_name(&server.name));
    if let Some(hash) = password {
        writeln!(text, "password {hash}").expect("a string takes everything");
    }
    for (index, nic) in server.nics.iter().enumerate() {
        let Some(vlan) = domain.vlans.iter().find(|vlan| vlan.id == nic.vlan) else { continue };
        // Only the primary card leads out; two default routes would fight.
        let (gateway4, gateway6) = match index {
            0 => (vlan.ipv4_gateway.to_string(), vlan.ipv6_gateway.to_string()),
            _ => ("-".to_owned(), "-".to_owned()),
        };
        writeln!(
            text,
            "nic {} {}/{} {gateway4} {}/64 {gateway6}",
            nic.mac.to_ascii_lowercase(),
            nic.ipv4,
            vlan.ipv4.1,
            nic.ipv6
        )
        .expect("a string takes everything");
    }
    text
}

/// A crypt(5) hash with a random salt.
pub fn hash(password: &str) -> Result<String, BackingError> {
    let parameters = sha_crypt::Sha512Params::new(sha_crypt::ROUNDS_DEFAULT);
    parameters
        .and_then(|parameters| sha_crypt::sha512_simple(password, &parameters))
        .map_err(|error| Doing::new("hash the root password").io(std::io::Error::other(format!("{error:?}"))))
}

/// The server's name as a host name: what is not allowed in one becomes a hyphen.
fn host_name(name: &str) -> String {
    let mut label: String = name
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .take(LONGEST_LABEL)
        .collect();
    let kept = label.trim_end_matches('-').len();
    label.truncate(kept);
    let label = label.trim_start_matches('-');
    if label.is_empty() { "server".to_owned() } else { label.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backing::{NicSpec, VlanSpec};
    use proptest::prelude::*;

    fn vlan(id: &str, octet: u8) -> VlanSpec {
        VlanSpec {
            id: id.into(),
            ipv4: ([10, octet, 0, 0].into(), 24),
            ipv4_gateway: [10, octet, 0, 1].into(),
            ipv6: format!("2001:db8:{octet}::").parse().expect("an address"),
            ipv6_gateway: format!("2001:db8:{octet}::1").parse().expect("an address"),
        }
    }

    fn nic(vlan: &str, octet: u8) -> NicSpec {
        NicSpec {
            id: format!("nic-{vlan}"),
            vlan: vlan.into(),
            mac: "00:50:56:AB:cd:01".into(),
            ipv4: [10, octet, 0, 7].into(),
            ipv6: format!("2001:db8:{octet}::7").parse().expect("an address"),
        }
    }

    #[test]
    fn the_first_card_leads_out_and_no_password_appears() {
        let domain = DomainSpec {
            id: "d".into(),
            snat: [198, 51, 100, 2].into(),
            vlans: vec![vlan("a", 60), vlan("b", 70)],
            nat: vec![],
            rules: vec![],
        };
        let server = ServerSpec {
            id: "s".into(),
            name: "EU7rethink_01".into(),
            domain: "d".into(),
            image: None,
            cpus: 1,
            memory_mib: 1024,
            disks: vec![],
            nics: vec![nic("a", 60), nic("b", 70)],
            root_password: None,
        };
        let hash = hash("pass word").expect("a hash");
        let host = [198, 51, 100, 1].into();
        let text = document(&server, &domain, host, Some(&hash));
        assert!(!text.contains("pass word"));
        assert!(!document(&server, &domain, host, None).contains("password"));
        let (password, rest): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with("password"));
        assert!(password[0].starts_with("password $6$"), "{password:?}");
        insta::assert_snapshot!(rest.join("\n"), @r"
        server s
        hostname EU7rethink-01
        dns 100.127.255.3
        ntp 198.51.100.1
        nic 00:50:56:ab:cd:01 10.60.0.7/24 10.60.0.1 2001:db8:60::7/64 2001:db8:60::1
        nic 00:50:56:ab:cd:01 10.70.0.7/24 - 2001:db8:70::7/64 -
        ");
    }

    proptest! {
        #[test]
        fn any_name_gives_a_host_name(name in ".*") {
            let host = host_name(&name);
            prop_assert!(!host.is_empty() && host.len() <= LONGEST_LABEL);
            prop_assert!(!host.starts_with('-') && !host.ends_with('-'));
            prop_assert!(host.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-'));
        }
    }

    proptest! {
        // Each hash takes thousands of rounds.
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn a_hash_is_one_word_that_sed_leaves_alone(password in ".{0,40}") {
            let hash = hash(&password).expect("a hash");
            prop_assert!(hash.chars().all(|letter| letter.is_ascii_alphanumeric() || "./$=".contains(letter)));
        }
    }
}
