//! Answers of the real service, as Libcloud keeps them for its own tests: our wire types read them.

use std::{fs, path::Path};

use fleet_mcp::{Resource, liberal, types::*, xml};
use fleet_peers::Python;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Fewest answers that must be read, so that a package without them is found out.
const FEWEST: usize = 100;

/// Answers about what is no part of our wire types: another generation, snapshots, consistency groups.
fn is_foreign(root: &str, namespace: &str) -> bool {
    namespace != xml::TYPES || root.starts_with("snapshot") || root.starts_with("consistencyGroup")
}

fn read<T: DeserializeOwned>(value: Value) -> Result<(), String> {
    liberal::decode::<T>(value).map(drop).map_err(|error| error.to_string())
}

fn page<T: Resource>(value: Value) -> Result<(), String> {
    Page::<T>::decode(value).map(drop).map_err(|error| error.to_string())
}

/// Reads one answer by what its root says it is; `None` if we have no type for it.
fn decode(root: &str, value: Value) -> Option<Result<(), String>> {
    Some(match root {
        "response" => read::<Response>(value),
        "datacenters" => page::<Datacenter>(value),
        "geographicRegions" => page::<GeographicRegion>(value),
        "osImages" => page::<Image>(value),
        "osImage" => read::<Image>(value),
        "customerImages" => page::<CustomerImage>(value),
        "customerImage" => read::<CustomerImage>(value),
        "networkDomains" => page::<NetworkDomain>(value),
        "networkDomain" => read::<NetworkDomain>(value),
        "vlans" => page::<Vlan>(value),
        "vlan" => read::<Vlan>(value),
        "servers" => page::<Server>(value),
        "server" => read::<Server>(value),
        "publicIpBlocks" => page::<PublicIpBlock>(value),
        "publicIpBlock" => read::<PublicIpBlock>(value),
        "natRules" => page::<NatRule>(value),
        "natRule" => read::<NatRule>(value),
        "firewallRules" => page::<FirewallRule>(value),
        "firewallRule" => read::<FirewallRule>(value),
        "ipAddressLists" => page::<IpAddressList>(value),
        "portLists" => page::<PortList>(value),
        "portList" => read::<PortList>(value),
        "antiAffinityRules" => page::<AntiAffinityRule>(value),
        "tagKeys" => page::<TagKey>(value),
        "tagKey" => read::<TagKey>(value),
        "tags" => page::<AppliedTag>(value),
        _ => return None,
    })
}

#[test]
fn answers_of_the_real_service_are_understood() {
    let python = Python::with(Path::new(env!("CARGO_TARGET_TMPDIR")), "libcloud.txt");
    let fixtures = python.packages().join("libcloud/test/compute/fixtures");
    let (mut understood, mut wrong) = (0, Vec::new());
    for folder in ["dimensiondata", "dimensiondata/2_4", "nttcis"] {
        let folder = fixtures.join(folder);
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a file of the package").path();
            if path.extension().is_none_or(|extension| extension != "xml") {
                continue;
            }
            let text = fs::read_to_string(&path).expect("a text of the package");
            // Reports are tables, whatever their files are called.
            if !text.trim_start().starts_with('<') {
                continue;
            }
            let document = match xml::parse(&text) {
                Ok(document) => document,
                Err(error) => {
                    wrong.push(format!("{}: {error}", path.display()));
                    continue;
                }
            };
            if is_foreign(&document.root, &document.namespace) {
                continue;
            }
            match decode(&document.root, document.value) {
                Some(Ok(())) => understood += 1,
                Some(Err(error)) => wrong.push(format!("{}: {error}", path.display())),
                None => wrong.push(format!("{}: no type for <{}>", path.display(), document.root)),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(understood >= FEWEST, "only {understood} answers were found");
}
