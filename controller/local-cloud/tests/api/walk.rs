//! One walk through every row of the table, each called with what it needs to succeed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    support::{DEADLINE, PACE},
    table::{Api, CHANGES, Done::*, Form, Row, operation},
};

impl Api {
    /// The thing, once nothing is under way for it.
    async fn settled(&self, list: &str, id: &str) -> Value {
        let wait = async {
            loop {
                let value = self.get(&format!("{list}/{id}")).await;
                let state = value["state"].as_str().unwrap_or("NORMAL");
                if !state.starts_with("PENDING_") {
                    return value;
                }
                tokio::time::sleep(PACE.first).await;
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{list}/{id} does not settle"))
    }

    async fn gone(&self, list: &str, id: &str) {
        let wait = async {
            while self.ask("GET", 13, &format!("{list}/{id}"), None).await.0 == 200 {
                tokio::time::sleep(PACE.first).await;
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{list}/{id} stays"));
    }

    /// Waits until a server is, or is not, to stay apart from another.
    async fn stands_apart(&self, server: &str, wanted: bool) {
        let wait = async {
            loop {
                let rules = self.list(&format!("server/antiAffinityRule?serverId={server}")).await;
                let settled = rules.iter().all(|rule| rule["state"] == "NORMAL");
                if settled && (rules.len() == 1) == wanted {
                    break;
                }
                tokio::time::sleep(PACE.first).await;
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.expect("the rule settles");
    }
}

/// Walks through all of it, and checks off what has been answered as its row says.
struct Walk {
    api: Api,
    left: BTreeSet<usize>,
}

impl Walk {
    async fn new(form: Form) -> Self {
        Self { api: Api::new(form).await, left: (0..CHANGES.len()).collect() }
    }

    /// Changes something in the version the change came with; what its answer tells, by name.
    async fn change(&mut self, path: &str, body: Value) -> BTreeMap<String, String> {
        let index = CHANGES.iter().position(|row| row.0 == path);
        let index = index.unwrap_or_else(|| panic!("{path} is in no row"));
        let Row(path, since, done, info) = CHANGES[index];
        let (status, _, value) = self.api.ask("POST", since, path, Some(&body)).await;
        let (wanted, code) = match done {
            AtOnce => (200, "OK"),
            Later => (200, "IN_PROGRESS"),
            Already => (400, "NO_CHANGE"),
        };
        assert_eq!((status, &value["responseCode"]), (wanted, &json!(code)), "{path}: {value} to {body}");
        assert_eq!(value["operation"], operation(path), "{value}");
        assert!(value["requestId"].as_str().is_some_and(|id| !id.is_empty()), "{value}");
        let told = match value["info"].clone() {
            Value::Array(items) => items,
            Value::Null => vec![],
            one => vec![one],
        };
        let text = |item: &Value, member: &str| item[member].as_str().expect("a text").to_owned();
        let told: BTreeMap<_, _> =
            told.iter().map(|item| (text(item, "name"), text(item, "value"))).collect();
        assert_eq!(
            told.keys().map(String::as_str).collect::<BTreeSet<_>>(),
            info.iter().copied().collect(),
            "{path}"
        );
        self.left.remove(&index);
        told
    }

    /// As [`Self::change`], for what is new then; waits until it is settled.
    async fn made(&mut self, path: &str, body: Value, list: &str) -> String {
        let told = self.change(path, body).await;
        let name = CHANGES.iter().find(|row| row.0 == path).expect("a row").3[0];
        self.api.settled(list, &told[name]).await;
        told[name].clone()
    }

    /// Changes a server and waits for it.
    async fn server(&mut self, call: &str, id: &str, more: Value) -> Value {
        let mut body = json!({"id": id});
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        self.change(&format!("server/{call}"), body).await;
        self.api.settled("server/server", id).await
    }
}

/// Every text in a document, wherever it is, by the name of its member.
fn texts(value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                if let Some(text) = value.as_str() {
                    into.insert(name.clone(), text.to_owned());
                }
                texts(value, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| texts(item, into)),
        _ => {}
    }
}

#[tokio::test]
async fn every_row_does_what_it_says_in_xml() {
    walk(Form::Xml).await;
}

#[tokio::test]
async fn every_row_does_what_it_says_in_json() {
    walk(Form::Json).await;
}

async fn walk(form: Form) {
    let mut walk = Walk::new(form).await;
    let walk = &mut walk;
    let (domain, front, back) = networks(walk).await;
    let (one, two) = servers(walk, &domain, &front).await;
    disks(walk, &one, &two).await;
    cards(walk, &one, &back).await;
    images(walk, &one, &domain, &front).await;
    power(walk, &one).await;
    addresses(walk, &domain, &front).await;
    rules(walk, &domain).await;
    apart_and_marked(walk, &one, &two).await;
    routes(walk, &domain).await;
    everything_goes(walk, &domain, &[front, back]).await;
    let left: Vec<_> = walk.left.iter().map(|index| CHANGES[*index].0).collect();
    assert!(left.is_empty(), "never called: {left:?}");
}

async fn networks(walk: &mut Walk) -> (String, String, String) {
    let body = json!({"datacenterId": "EU7", "name": "table", "type": "ADVANCED"});
    let domain = walk.made("network/deployNetworkDomain", body, "network/networkDomain").await;
    walk.change("network/editNetworkDomain", json!({"id": domain, "description": "edited"})).await;
    assert_eq!(walk.api.get(&format!("network/networkDomain/{domain}")).await["description"], "edited");
    let vlan = |name: &str, base: &str| json!({"networkDomainId": domain, "name": name, "privateIpv4BaseAddress": base, "privateIpv4PrefixSize": 24});
    let front = walk.made("network/deployVlan", vlan("front", "10.70.0.0"), "network/vlan").await;
    let back = walk.made("network/deployVlan", vlan("back", "10.71.0.0"), "network/vlan").await;
    walk.change("network/editVlan", json!({"id": front, "name": "edge"})).await;
    walk.change("network/expandVlan", json!({"id": back, "privateIpv4PrefixSize": 23})).await;
    let shown = walk.api.settled("network/vlan", &back).await;
    assert_eq!(shown["privateIpv4Range"]["prefixSize"].to_string().trim_matches('"'), "23", "{shown}");
    assert_eq!(walk.api.get(&format!("network/vlan/{front}")).await["name"], "edge");
    (domain, front, back)
}

async fn servers(walk: &mut Walk, domain: &str, vlan: &str) -> (String, String) {
    let image =
        walk.api.list("image/osImage?datacenterId=EU7").await[0]["id"].as_str().expect("an id").to_owned();
    let body = |name: &str| {
        json!({"name": name, "imageId": image, "start": false, "administratorPassword": "correct horse",
            "cpu": {"count": 1, "speed": "STANDARD", "coresPerSocket": 1}, "memoryGb": 2,
            "networkInfo": {"networkDomainId": domain, "primaryNic": {"vlanId": vlan}}})
    };
    let one = walk.made("server/deployServer", body("one"), "server/server").await;
    let mut plain = body("two");
    plain.as_object_mut().expect("an object").remove("administratorPassword");
    let two = walk.made("server/deployUncustomizedServer", plain, "server/server").await;
    let shown = walk.server("editServerMetadata", &one, json!({"name": "first"})).await;
    assert_eq!(shown["name"], "first");
    // One that fails is there to be cleaned away.
    walk.api.cloud.fault(r#"{"kind": "fail_deploy", "operation": "DEPLOY_SERVER", "count": 1}"#).await;
    let failed = walk.made("server/deployServer", body("three"), "server/server").await;
    assert_eq!(walk.api.settled("server/server", &failed).await["state"], "FAILED_ADD");
    walk.change("server/cleanServer", json!({"id": failed})).await;
    walk.api.gone("server/server", &failed).await;
    (one, two)
}

async fn disks(walk: &mut Walk, server: &str, other: &str) {
    let told = walk.change("server/addDisk", json!({"id": server, "sizeGb": 20, "speed": "STANDARD"})).await;
    let disk = &told["diskId"];
    walk.api.settled("server/server", server).await;
    walk.change("server/expandDisk", json!({"id": disk, "newSizeGb": 30})).await;
    walk.api.settled("server/server", server).await;
    walk.change("server/changeDiskSpeed", json!({"id": disk, "speed": "ECONOMY"})).await;
    let shown = walk.api.settled("server/server", server).await.to_string();
    assert!(shown.contains("ECONOMY") && shown.contains("30"), "{shown}");
    older_calls(&walk.api, server, other, disk).await;
    walk.change("server/removeDisk", json!({"id": disk})).await;
    assert!(!walk.api.settled("server/server", server).await.to_string().contains(disk.as_str()));
}

/// The calls of version 0.9 that are still needed; they are XML whatever is asked for.
async fn older_calls(api: &Api, one: &str, two: &str, disk: &str) {
    let legacy = async |method: &str, path: &str, body: Option<(&str, Value)>| {
        let body = body.map(|(root, body)| {
            fleet_mcp::xml::print(&format!("{}server", fleet_mcp::xml::LEGACY), root, &body)
        });
        let path = format!("/oec/0.9/{path}");
        let (status, text) = api.cloud.raw(method, &path, "text/xml", &body.unwrap_or_default()).await;
        let document =
            fleet_mcp::xml::parse(&text).unwrap_or_else(|error| panic!("{path}: {error} in {text}"));
        assert_eq!(status, 200, "{path}: {text}");
        document.value
    };
    let organisation = &api.organisation;
    assert_eq!(legacy("GET", "myaccount", None).await["orgId"], **organisation);
    let disk = format!("{organisation}/server/{one}/disk/{disk}");
    for (call, root, body) in [
        ("changeSize", "ChangeDiskSize", json!({"newSizeGb": 40})),
        ("changeSpeed", "ChangeDiskSpeed", json!({"speed": "standard"})),
    ] {
        let status = legacy("POST", &format!("{disk}/{call}"), Some((root, body))).await;
        assert_eq!((&status["result"], &status["resultCode"]), (&json!("SUCCESS"), &json!("REASON_0")));
        api.settled("server/server", one).await;
    }
    let shown = api.get(&format!("server/server/{one}")).await.to_string();
    assert!(!shown.contains("ECONOMY") && shown.contains("40"), "{shown}");

    let rules = format!("{organisation}/antiAffinityRule");
    let body = json!({"serverId": [one, two]});
    let status = legacy("POST", &rules, Some(("NewAntiAffinityRule", body))).await;
    assert_eq!(status["additionalInformation"]["name"], "antiaffinityrule.id", "{status}");
    let rule = status["additionalInformation"]["value"].as_str().expect("an id").to_owned();
    api.stands_apart(one, true).await;
    let status = legacy("GET", &format!("{rules}/{rule}?delete"), None).await;
    assert_eq!(status["result"], "SUCCESS");
    api.stands_apart(one, false).await;
}

async fn cards(walk: &mut Walk, server: &str, vlan: &str) {
    let told = walk.change("server/addNic", json!({"serverId": server, "nic": {"vlanId": vlan}})).await;
    let shown = walk.api.settled("server/server", server).await;
    let first = shown["networkInfo"]["primaryNic"]["id"].as_str().expect("a card").to_owned();
    let second = &told["nicId"];
    walk.change("server/changeNetworkAdapter", json!({"nicId": second, "networkAdapter": "VMXNET3"})).await;
    walk.api.settled("server/server", server).await;
    walk.change("server/notifyNicIpChange", json!({"nicId": second, "privateIpv4": "10.71.0.99"})).await;
    let shown = walk.api.settled("server/server", server).await.to_string();
    assert!(shown.contains("10.71.0.99") && shown.contains("VMXNET3"), "{shown}");
    walk.change("server/exchangeNicVlans", json!({"nicId1": first, "nicId2": second})).await;
    let shown = walk.api.settled("server/server", server).await;
    assert_eq!(shown["networkInfo"]["primaryNic"]["vlanId"], *vlan, "{shown}");
    walk.change("server/exchangeNicVlans", json!({"nicId1": first, "nicId2": second})).await;
    walk.api.settled("server/server", server).await;
    walk.change("server/removeNic", json!({"id": second})).await;
    walk.api.settled("server/server", server).await;
}

async fn images(walk: &mut Walk, server: &str, domain: &str, vlan: &str) {
    let body = json!({"id": server, "imageName": "golden", "guestOsCustomization": true});
    let image = walk.made("server/cloneServer", body, "image/customerImage").await;
    walk.api.settled("server/server", server).await;
    let body = json!({"name": "copy", "imageId": image, "start": false,
        "networkInfo": {"networkDomainId": domain, "primaryNic": {"vlanId": vlan}}});
    let copy = walk.made("server/deployServer", body, "server/server").await;
    walk.change("image/deleteCustomerImage", json!({"id": image})).await;
    walk.api.gone("image/customerImage", &image).await;
    // It has its disks.
    assert_eq!(walk.server("startServer", &copy, json!({})).await["state"], "NORMAL");
    walk.server("powerOffServer", &copy, json!({})).await;
}

async fn power(walk: &mut Walk, server: &str) {
    let is_on = |shown: &Value, on: bool| {
        assert_eq!(
            (&shown["state"], shown["started"].to_string().trim_matches('"')),
            (&json!("NORMAL"), on.to_string().as_str())
        );
        assert!(shown["progress"].is_null(), "{shown}");
    };
    is_on(&walk.server("reconfigureServer", server, json!({"memoryGb": 4, "cpuCount": 2})).await, false);
    is_on(&walk.server("startServer", server, json!({})).await, true);
    for call in ["updateVmwareTools", "rebootServer", "resetServer"] {
        is_on(&walk.server(call, server, json!({})).await, true);
    }
    is_on(&walk.server("shutdownServer", server, json!({})).await, false);
    for (call, plan) in [("enableServerMonitoring", "ESSENTIALS"), ("changeServerMonitoringPlan", "ADVANCED")]
    {
        let shown = walk.server(call, server, json!({"servicePlan": plan})).await;
        assert_eq!(shown["monitoring"]["servicePlan"], plan, "{shown}");
    }
    assert!(walk.server("disableServerMonitoring", server, json!({})).await["monitoring"].is_null());
}

async fn addresses(walk: &mut Walk, domain: &str, vlan: &str) {
    let body = json!({"networkDomainId": domain});
    let block = walk.made("network/addPublicIpBlock", body, "network/publicIpBlock").await;
    let body = json!({"networkDomainId": domain, "internalIp": "10.70.0.7"});
    let rule = walk.made("network/createNatRule", body, "network/natRule").await;
    let used = format!("network/reservedPublicIpv4Address?networkDomainId={domain}");
    assert!(walk.api.get(&used).await["ip"].to_string().contains(&block));
    walk.change("network/deleteNatRule", json!({"id": rule})).await;
    walk.change("network/removePublicIpBlock", json!({"id": block})).await;
    assert_eq!(walk.api.list(&used).await, Vec::<Value>::new());

    let ipv6 = walk.api.get(&format!("network/vlan/{vlan}")).await["ipv6Range"]["address"].take();
    let ipv6 = ipv6.as_str().and_then(|text| text.parse::<std::net::Ipv6Addr>().ok()).expect("a range");
    let ipv6 = std::net::Ipv6Addr::from_bits(ipv6.to_bits() + 0x99).to_string();
    let v4 = json!({"vlanId": vlan, "ipAddress": "10.70.0.150"});
    let v6 = json!({"vlanId": vlan, "ipAddress": ipv6});
    for (verb, list, body) in [
        ("network/reservePrivateIpv4Address", "network/reservedPrivateIpv4Address", &v4),
        ("network/reserveIpv6Address", "network/reservedIpv6Address", &v6),
    ] {
        let held = async |api: &Api| api.get(&format!("{list}?vlanId={vlan}")).await.to_string();
        let (before, release) = (held(&walk.api).await, verb.replace("reserve", "unreserve"));
        walk.change(verb, body.clone()).await;
        assert_ne!(held(&walk.api).await, before, "{verb}");
        walk.change(&release, body.clone()).await;
        assert_eq!(held(&walk.api).await, before, "{release}");
    }
    walk.change("network/reservedPrivateIpv4Address", v4).await;
}

async fn rules(walk: &mut Walk, domain: &str) {
    let list = json!({"networkDomainId": domain, "name": "Offices", "ipVersion": "IPV4", "ipAddress": [{"begin": "192.0.2.1"}]});
    let offices = walk.made("network/createIpAddressList", list, "network/ipAddressList").await;
    let body = json!({"id": offices, "description": "edited", "ipAddress": [{"begin": "192.0.2.9"}], "childIpAddressListId": []});
    walk.change("network/editIpAddressList", body).await;
    let list = json!({"networkDomainId": domain, "name": "Web", "port": [{"begin": 80}]});
    let web = walk.made("network/createPortList", list, "network/portList").await;
    let body = json!({"id": web, "description": "edited", "port": [{"begin": 443}], "childPortListId": []});
    walk.change("network/editPortList", body).await;
    let body = json!({"networkDomainId": domain, "name": "In", "action": "ACCEPT_DECISIVELY", "ipVersion": "IPV4",
        "protocol": "TCP", "source": {"ipAddressListId": offices}, "destination": {"ip": {"address": "ANY"}, "portListId": web},
        "enabled": true, "placement": {"position": "FIRST"}});
    let rule = walk.made("network/createFirewallRule", body, "network/firewallRule").await;
    walk.change("network/editFirewallRule", json!({"id": rule, "enabled": false})).await;
    let shown = walk.api.get(&format!("network/firewallRule/{rule}")).await;
    assert_eq!(shown["enabled"].to_string().trim_matches('"'), "false", "{shown}");
    assert_eq!(
        (&shown["source"]["ipAddressList"]["id"], &shown["destination"]["portList"]["name"]),
        (&json!(offices), &json!("Web"))
    );
    assert!(
        walk.api.get(&format!("network/ipAddressList/{offices}")).await.to_string().contains("192.0.2.9")
    );
    assert!(walk.api.get(&format!("network/portList/{web}")).await.to_string().contains("443"));
    walk.change("network/deleteFirewallRule", json!({"id": rule})).await;
    walk.change("network/deleteIpAddressList", json!({"id": offices})).await;
    walk.change("network/deletePortList", json!({"id": web})).await;
}

async fn apart_and_marked(walk: &mut Walk, one: &str, two: &str) {
    let told = walk.change("server/createAntiAffinityRule", json!({"serverId": [one, two]})).await;
    walk.api.stands_apart(one, true).await;
    let body = json!({"id": told["antiAffinityRuleId"]});
    walk.change("server/deleteAntiAffinityRule", body).await;
    walk.api.stands_apart(one, false).await;

    let key =
        walk.made("tag/createTagKey", json!({"name": "fleet", "valueRequired": true}), "tag/tagKey").await;
    walk.change("tag/editTagKey", json!({"id": key, "displayOnReport": false})).await;
    let asset = json!({"assetType": "SERVER", "assetId": one});
    let with = |name: &str, value: Value| {
        let mut body = asset.clone();
        body[name] = value;
        body
    };
    walk.change("tag/applyTags", with("tag", json!([{"tagKeyName": "fleet", "value": "table"}]))).await;
    let tags = walk.api.list(&format!("tag/tag?assetId={one}")).await;
    let mut seen = BTreeMap::new();
    tags.iter().for_each(|tag| texts(tag, &mut seen));
    assert_eq!((tags.len(), seen["value"].as_str(), seen["tagKeyId"].as_str()), (1, "table", key.as_str()));
    walk.change("tag/removeTags", with("tagKeyName", json!(["fleet"]))).await;
    walk.change("tag/deleteTagKey", json!({"id": key})).await;
    walk.api.gone("tag/tagKey", &key).await;
}

async fn routes(walk: &mut Walk, domain: &str) {
    let route = |name: &str, network: &str| {
        json!({"networkDomainId": domain, "name": name, "ipVersion": "IPV4", "destinationNetworkAddress": network,
            "destinationPrefixSize": 8, "nextHopAddress": "10.70.0.9"})
    };
    let first =
        walk.made("network/createStaticRoute", route("Eleven", "11.0.0.0"), "network/staticRoute").await;
    walk.change("network/deleteStaticRoute", json!({"id": first})).await;
    walk.api.gone("network/staticRoute", &first).await;
    let second =
        walk.made("network/createStaticRoute", route("Twelve", "12.0.0.0"), "network/staticRoute").await;
    walk.change("network/restoreStaticRoutes", json!({"networkDomainId": domain})).await;
    walk.api.gone("network/staticRoute", &second).await;
}

async fn everything_goes(walk: &mut Walk, domain: &str, vlans: &[String]) {
    for server in walk.api.list("server/server").await {
        let id = server["id"].as_str().expect("an id");
        walk.change("server/deleteServer", json!({"id": id})).await;
        walk.api.gone("server/server", id).await;
    }
    let address = json!({"vlanId": vlans[0], "ipAddress": "10.70.0.150"});
    walk.change("network/unreservePrivateIpv4Address", address).await;
    for vlan in vlans {
        walk.change("network/deleteVlan", json!({"id": vlan})).await;
        walk.api.gone("network/vlan", vlan).await;
    }
    walk.change("network/deleteNetworkDomain", json!({"id": domain})).await;
    walk.api.gone("network/networkDomain", domain).await;
}
