//! Value to text to value, in JSON and in XML.

use std::fmt::Debug;

use fleet_mcp::{liberal, types::*, xml};
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::any::any;

/// Values of each type: there are many types, and each value is large.
const CASES: u32 = 64;

/// Writes and reads one value in both forms.
fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(
    root: &str,
    seed: u64,
) -> Result<(), TestCaseError> {
    let made: T = any(seed);
    let written = liberal::encode(&made).expect("wire types have only text keys");

    let text = written.to_string();
    let json: Value = serde_json::from_str(&text).expect("we write JSON");
    let read: T = liberal::decode(json).map_err(|error| TestCaseError::fail(format!("{error} in {text}")))?;
    // Some members are read and never written: what comes back is compared as it is written.
    prop_assert_eq!(liberal::encode(&read).expect("as before"), written.clone(), "{}", text);

    let text = xml::print(xml::TYPES, root, &written);
    let document = xml::parse(&text).map_err(|error| TestCaseError::fail(format!("{error} in {text}")))?;
    prop_assert_eq!((document.namespace.as_str(), document.root.as_str()), (xml::TYPES, root));
    let from_xml: T =
        liberal::decode(document.value).map_err(|error| TestCaseError::fail(format!("{error} in {text}")))?;
    prop_assert_eq!(from_xml, read, "{}", text);
    Ok(())
}

/// One property for each type; the element it is the root of in XML.
macro_rules! wire {
    ($($name:ident: $type:ty = $root:literal),* $(,)?) => {
        proptest! {
            #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]
            $(
            #[test]
            fn $name(seed: u64) {
                round_trip::<$type>($root, seed)?;
            }
        )*}
    };
}

wire! {
    datacenter: Datacenter = "datacenter",
    geographic_region: GeographicRegion = "geographicRegion",
    image: Image = "osImage",
    customer_image: CustomerImage = "customerImage",
    operating_system: OperatingSystem = "operatingSystem",
    network_domain: NetworkDomain = "networkDomain",
    deploy_network_domain: DeployNetworkDomain = "deployNetworkDomain",
    edit_network_domain: EditNetworkDomain = "editNetworkDomain",
    deploy_vlan: DeployVlan = "deployVlan",
    edit_vlan: EditVlan = "editVlan",
    expand_vlan: ExpandVlan = "expandVlan",
    server: Server = "server",
    deploy_server: DeployServer = "deployServer",
    deploy_uncustomized_server: DeployUncustomizedServer = "deployUncustomizedServer",
    clone_server: CloneServer = "cloneServer",
    reconfigure_server: ReconfigureServer = "reconfigureServer",
    edit_server_metadata: EditServerMetadata = "editServerMetadata",
    server_by_id: ById<Server> = "startServer",
    add_disk: AddDisk = "addDisk",
    remove_disk: RemoveDisk = "removeDisk",
    expand_disk: ExpandDisk = "expandDisk",
    change_disk_speed: ChangeDiskSpeed = "changeDiskSpeed",
    add_nic: AddNic = "addNic",
    remove_nic: RemoveNic = "removeNic",
    notify_nic_ip_change: NotifyNicIpChange = "notifyNicIpChange",
    exchange_nic_vlans: ExchangeNicVlans = "exchangeNicVlans",
    change_network_adapter: ChangeNetworkAdapter = "changeNetworkAdapter",
    enable_monitoring: EnableServerMonitoring = "enableServerMonitoring",
    change_monitoring: ChangeServerMonitoringPlan = "changeServerMonitoringPlan",
    public_ip_block: PublicIpBlock = "publicIpBlock",
    add_public_ip_block: AddPublicIpBlock = "addPublicIpBlock",
    nat_rule: NatRule = "natRule",
    create_nat_rule: CreateNatRule = "createNatRule",
    firewall_rule: FirewallRule = "firewallRule",
    create_firewall_rule: CreateFirewallRule = "createFirewallRule",
    edit_firewall_rule: EditFirewallRule = "editFirewallRule",
    reserved_public_ipv4: ReservedPublicIpv4Address = "ip",
    reserved_private_ipv4: ReservedPrivateIpv4Address = "ipv4",
    reserved_ipv6: ReservedIpv6Address = "reservedIpv6Address",
    reserve_address: ReserveAddress = "reserveIpv6Address",
    vlan: Vlan = "vlan",
    ip_address_list: IpAddressList = "ipAddressList",
    create_ip_address_list: CreateIpAddressList = "createIpAddressList",
    edit_ip_address_list: EditIpAddressList = "editIpAddressList",
    port_list: PortList = "portList",
    create_port_list: CreatePortList = "createPortList",
    edit_port_list: EditPortList = "editPortList",
    anti_affinity_rule: AntiAffinityRule = "antiAffinityRule",
    create_anti_affinity_rule: CreateAntiAffinityRule = "createAntiAffinityRule",
    tag_key: TagKey = "tagKey",
    create_tag_key: CreateTagKey = "createTagKey",
    edit_tag_key: EditTagKey = "editTagKey",
    applied_tag: AppliedTag = "tag",
    apply_tags: ApplyTags = "applyTags",
    remove_tags: RemoveTags = "removeTags",
    static_route: StaticRoute = "staticRoute",
    create_static_route: CreateStaticRoute = "createStaticRoute",
    restore_static_routes: RestoreStaticRoutes = "restoreStaticRoutes",
    response: Response = "response",
}
