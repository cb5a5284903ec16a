//! Every wire type of the CloudControl API, as what a document may be read as.

use fleet_mcp::{liberal, types::*, xml};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// Names and values that readers of documents stumble over.
pub const WORDS: &[&str] = &[
    "\"id\":",
    "\"state\":",
    "\"NORMAL\"",
    "null",
    "true",
    "[]",
    "{}",
    "[",
    "]",
    "{",
    "}",
    ",",
    "\"",
    "-1",
    "1e400",
    "0.5",
    "\"10\"",
    "18446744073709551616",
    "\\u0000",
    "\\ud800",
    "<server>",
    "</server>",
    "<disk id=\"a\" scsiId=\"0\" sizeGb=\"10\"/>",
    "<![CDATA[",
    "]]>",
    "<!--",
    "-->",
    "<?xml version=\"1.1\"?>",
    "<!DOCTYPE a [<!ENTITY b \"c\">]>",
    "&amp;",
    "&#0;",
    "&#x110000;",
    "&b;",
    " xmlns=\"urn:didata.com:api:cloud:types\"",
    " xmlns:a=\"b\"",
    "a:",
    " xsi:nil=\"true\"",
    "/>",
    ">",
    "<",
    "\u{feff}",
    "\u{fffe}",
    "\"scsiController\":",
    "\"disk\":",
    "\"networkInfo\":",
    "\"privateIpv4\":",
    "\"10.0.0.1\"",
    "\"::1\"",
    "\"ANY\"",
    "\"value\":",
];

/// Reads `value` as `T`: what can be read can be written, in both forms, and means the same.
fn read<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &Value) -> bool {
    let Ok(read) = liberal::decode::<T>(value.clone()) else { return false };
    let written = liberal::encode(&read).expect("wire types have only text keys");
    let again: T =
        liberal::decode(written.clone()).unwrap_or_else(|error| panic!("{error} in our own {written}"));
    assert_eq!(liberal::encode(&again).expect("as before"), written);
    true
}

macro_rules! types {
    ($($type:ty),* $(,)?) => {
        /// Which types `value` may be read as.
        pub fn read_all(value: &Value) -> Vec<bool> {
            vec![$(read::<$type>(value)),*]
        }
    };
}

types! {
    Datacenter, Image, CustomerImage, OperatingSystem, NetworkDomain, Vlan, Server, PublicIpBlock, NatRule, FirewallRule,
    ReservedPublicIpv4Address, ReservedPrivateIpv4Address, ReservedIpv6Address, IpAddressList, PortList, AntiAffinityRule,
    TagKey, AppliedTag, StaticRoute, Response, DeployServer, DeployVlan, DeployNetworkDomain, AddDisk, CreateFirewallRule,
    EditFirewallRule, CreateNatRule, ReconfigureServer, CreateIpAddressList, CreatePortList,
}

fn documents() -> Vec<(&'static str, Value)> {
    let place = json!({"id": "d-1", "datacenterId": "EU7", "name": "web", "state": "NORMAL"});
    let with = |more: Value| {
        let mut document = place.clone();
        let members = document.as_object_mut().expect("an object");
        members.extend(more.as_object().expect("an object").clone());
        document
    };
    vec![
        (
            "networkDomain",
            with(
                json!({"type": "ESSENTIALS", "snatIpv4Address": "203.0.113.5", "createTime": "2026-01-01T10:00:00.000Z"}),
            ),
        ),
        (
            "vlan",
            with(json!({
                "networkDomain": {"id": "d-1", "name": "a"}, "privateIpv4Range": {"address": "10.0.0.0", "prefixSize": 24},
                "ipv4GatewayAddress": "10.0.0.1", "ipv6Range": {"address": "2001:db8:0:0:0:0:0:0", "prefixSize": 64},
                "ipv6GatewayAddress": "2001:db8:0:0:0:0:0:1", "gatewayAddressing": "LOW"
            })),
        ),
        (
            "server",
            with(json!({
                "cpu": {"count": 2, "speed": "STANDARD", "coresPerSocket": 1}, "memoryGb": 4, "deployed": true, "started": true,
                "guest": {"osCustomization": true, "operatingSystem": {"id": "U", "displayName": "u", "family": "UNIX"}},
                "disk": [{"id": "k-1", "scsiId": 0, "sizeGb": 10, "speed": "STANDARD", "state": "NORMAL"}],
                "networkInfo": {"networkDomainId": "d-1", "primaryNic": {"id": "n-1", "privateIpv4": "10.0.0.7", "ipv6": "2001:db8::7"}},
                "progress": {"action": "START_SERVER", "step": {"number": 1, "percentComplete": 5}}
            })),
        ),
        (
            "natRule",
            with(json!({"networkDomainId": "d-1", "internalIp": "10.0.0.7", "externalIp": "203.0.113.7"})),
        ),
        ("publicIpBlock", with(json!({"networkDomainId": "d-1", "baseIp": "203.0.113.7", "size": 2}))),
        (
            "firewallRule",
            with(json!({
                "networkDomainId": "d-1", "action": "DROP", "ipVersion": "IPV4", "protocol": "TCP", "enabled": true,
                "ruleType": "CLIENT_RULE", "source": {"ip": {"address": "ANY"}},
                "destination": {"ip": {"address": "10.0.0.0", "prefixSize": 24}, "port": {"begin": 22, "end": 25}}
            })),
        ),
        (
            "response",
            json!({
                "operation": "DEPLOY_VLAN", "responseCode": "IN_PROGRESS", "message": "m", "requestId": "r",
                "info": [{"name": "vlanId", "value": "v-1"}], "warning": [], "error": []
            }),
        ),
    ]
}

pub fn json_seeds() -> Vec<Vec<u8>> {
    documents().into_iter().map(|(_, document)| document.to_string().into_bytes()).collect()
}

pub fn xml_seeds() -> Vec<Vec<u8>> {
    documents()
        .into_iter()
        .map(|(root, document)| xml::print(xml::TYPES, root, &document).into_bytes())
        .collect()
}
