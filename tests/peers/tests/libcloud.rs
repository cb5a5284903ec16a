//! Apache Libcloud 3.9.1, unmodified, through the life of everything it knows; each scenario against a cloud of
//! its own. What the scripts want is in `python/libcloud_life.py`; here is which operations they must have used,
//! so that a script that does nothing is found out.

use std::{collections::BTreeSet, path::Path, time::Duration};

use fleet_peers::{Cloud, Python};

/// How long operations take, so that their states can be seen.
const DELAY: Duration = Duration::from_millis(250);

#[track_caller]
fn live(scenario: &str, wanted: &[&str]) {
    let python = Python::with(Path::new(env!("CARGO_TARGET_TMPDIR")), "libcloud.txt");
    let cloud = Cloud::start(|settings| settings.delays.default = DELAY);
    let ended = python.run(&cloud, "libcloud_life.py", &[scenario]);
    assert!(ended.success, "{scenario}:\n{}", ended.output);
    let accepted = cloud.accepted();
    let missing: BTreeSet<&str> = wanted.iter().copied().filter(|name| !accepted.contains(*name)).collect();
    assert!(missing.is_empty(), "{scenario} never had accepted: {missing:?}; it had {accepted:?}");
}

#[test]
fn account_and_catalogue() {
    live("account_and_catalogue", &[]);
}

#[test]
fn regions() {
    live("regions", &["DEPLOY_NETWORK_DOMAIN", "DELETE_NETWORK_DOMAIN"]);
}

#[test]
fn network_domains_and_vlans() {
    let wanted = [
        "DEPLOY_NETWORK_DOMAIN",
        "EDIT_NETWORK_DOMAIN",
        "DELETE_NETWORK_DOMAIN",
        "DEPLOY_VLAN",
        "EDIT_VLAN",
        "EXPAND_VLAN",
        "DELETE_VLAN",
    ];
    live("network_domains_and_vlans", &wanted);
}

#[test]
fn nodes() {
    let wanted = [
        "DEPLOY_SERVER",
        "START_SERVER",
        "REBOOT_SERVER",
        "RESET_SERVER",
        "SHUTDOWN_SERVER",
        "POWER_OFF_SERVER",
        "RECONFIGURE_SERVER",
        "EDIT_SERVER",
        "DELETE_SERVER",
    ];
    live("nodes", &wanted);
}

#[test]
fn failed_nodes_are_cleaned() {
    live("failed_nodes_are_cleaned", &["CLEAN_SERVER"]);
}

#[test]
fn disks() {
    live("disks", &["ADD_DISK", "EXPAND_DISK", "CHANGE_DISK_SPEED", "REMOVE_DISK"]);
}

#[test]
fn network_cards() {
    live("network_cards", &["ADD_NIC", "EXCHANGE_NIC_VLANS", "CHANGE_NETWORK_ADAPTER", "REMOVE_NIC"]);
}

#[test]
fn images_of_our_own() {
    live("images_of_our_own", &["CLONE_SERVER", "DEPLOY_UNCUSTOMIZED_SERVER"]);
}

#[test]
fn public_addresses_and_translations() {
    let wanted = ["ADD_PUBLIC_IP_BLOCK", "CREATE_NAT_RULE", "DELETE_NAT_RULE", "REMOVE_PUBLIC_IP_BLOCK"];
    live("public_addresses_and_translations", &wanted);
}

#[test]
fn firewall_rules() {
    live("firewall_rules", &["CREATE_FIREWALL_RULE", "EDIT_FIREWALL_RULE", "DELETE_FIREWALL_RULE"]);
}

#[test]
fn address_and_port_lists() {
    let wanted = [
        "CREATE_IP_ADDRESS_LIST",
        "EDIT_IP_ADDRESS_LIST",
        "DELETE_IP_ADDRESS_LIST",
        "CREATE_PORT_LIST",
        "EDIT_PORT_LIST",
        "DELETE_PORT_LIST",
    ];
    live("address_and_port_lists", &wanted);
}

#[test]
fn monitoring() {
    let wanted = ["ENABLE_SERVER_MONITORING", "CHANGE_SERVER_MONITORING_PLAN", "DISABLE_SERVER_MONITORING"];
    live("monitoring", &wanted);
}

#[test]
fn tags() {
    live("tags", &["CREATE_TAG_KEY", "EDIT_TAG_KEY", "DELETE_TAG_KEY", "APPLY_TAGS", "REMOVE_TAGS"]);
}

#[test]
fn anti_affinity() {
    live("anti_affinity", &["CREATE_ANTI_AFFINITY_RULE", "DELETE_ANTI_AFFINITY_RULE"]);
}

#[test]
fn older_versions() {
    live("older_versions", &["CLONE_SERVER"]);
}

#[test]
fn ntt_cis() {
    let wanted = [
        "ADD_DISK",
        "EXPAND_DISK",
        "CHANGE_DISK_SPEED",
        "REMOVE_DISK",
        "EDIT_SERVER_METADATA",
        "CREATE_ANTI_AFFINITY_RULE",
        "DELETE_ANTI_AFFINITY_RULE",
        "RESERVE_PRIVATE_IPV4_ADDRESS",
        "RESERVE_IPV6_ADDRESS",
        "UNRESERVE_IPV6_ADDRESS",
    ];
    live("ntt_cis", &wanted);
}
