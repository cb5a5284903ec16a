//! One model in every version's shape: what newer and older clients send and see.

use fleet_mcp::{resource::ServerCall, types::Server, wait::until_normal};
use serde_json::{Value, json};

use crate::support::{Cloud, DEADLINE, PACE, domain, server_request, vlan};

/// The cloud in JSON, by version.
struct Api {
    cloud: Cloud,
    organisation: String,
}

impl Api {
    async fn with(change: impl FnOnce(&mut fleet_local_cloud::Settings)) -> Self {
        let cloud = Cloud::with(change).await;
        let organisation = cloud.client().organisation().await.expect("known").to_owned();
        Self { cloud, organisation }
    }

    async fn call(&self, method: &str, version: &str, path: &str, body: &str) -> (u16, Value) {
        let path = format!("/caas/{version}/{}/{path}", self.organisation);
        let (status, text) = self.cloud.raw(method, &path, "application/json", body).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error} in {text}")))
    }

    async fn get(&self, version: &str, path: &str) -> Value {
        let (status, value) = self.call("GET", version, path, "").await;
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    /// The response code and, if there is one, the first `info`.
    async fn post(&self, version: &str, path: &str, body: Value) -> (String, String) {
        let (_, value) = self.call("POST", version, path, &body.to_string()).await;
        let info = value["info"][0]["value"].as_str().unwrap_or_default().to_owned();
        (value["responseCode"].as_str().unwrap_or_default().to_owned(), info)
    }

    async fn settled(&self, path: &str) -> Value {
        let wait = async {
            loop {
                let value = self.get("2.13", path).await;
                if value["state"] == "NORMAL" {
                    return value;
                }
                tokio::time::sleep(PACE.first).await;
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.expect("settled")
    }
}

fn code(outcome: &(String, String)) -> &str {
    &outcome.0
}

#[tokio::test]
async fn vlans_are_attached_or_detached_from_2_9_on() {
    let api = Api::with(|_| {}).await;
    let domain = domain(&api.cloud.client(), "EU7").await;
    let body = |name: &str, base: &str, more: Value| {
        let mut body = json!({"networkDomainId": domain, "name": name, "privateIpv4NetworkAddress": base});
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        body
    };
    let attached = json!({"privateIpv4PrefixSize": 24, "attachedVlan": {"gatewayAddressing": "HIGH"}});
    let (answer, id) = api.post("2.9", "network/deployVlan", body("front", "10.70.0.0", attached)).await;
    assert_eq!(answer, "IN_PROGRESS");
    let shown = api.settled(&format!("network/vlan/{id}")).await;
    assert_eq!(
        (&shown["attachedVlan"]["gatewayAddressing"], &shown["ipv4GatewayAddress"]),
        (&json!("HIGH"), &json!("10.70.0.254"))
    );
    assert_eq!((&shown["gatewayAddressing"], &shown["detachedVlan"]), (&Value::Null, &Value::Null));
    let old = api.get("2.4", &format!("network/vlan/{id}")).await;
    assert_eq!((&old["gatewayAddressing"], &old["attachedVlan"]), (&json!("HIGH"), &Value::Null));

    let detached = json!({"detachedVlan": {"ipv4GatewayAddress": "10.71.0.9"}});
    let (_, id) = api.post("2.13", "network/deployVlan", body("back", "10.71.0.0", detached)).await;
    let shown = api.settled(&format!("network/vlan/{id}")).await;
    assert_eq!(shown["detachedVlan"]["ipv4GatewayAddress"], "10.71.0.9");
    let elsewhere = json!({"detachedVlan": {"ipv4GatewayAddress": "10.99.0.9"}});
    let refused = api.post("2.9", "network/deployVlan", body("x", "10.72.0.0", elsewhere)).await;
    assert_eq!(code(&refused), "IP_ADDRESS_OUT_OF_RANGE");
    let both = json!({"detachedVlan": {"ipv4GatewayAddress": "10.72.0.9"}, "attachedVlan": {}});
    assert_eq!(
        code(&api.post("2.9", "network/deployVlan", body("x", "10.72.0.0", both)).await),
        "INVALID_INPUT_DATA"
    );
    api.cloud.stop().await;
}

#[tokio::test]
async fn static_routes_from_2_9_on() {
    let api = Api::with(|settings| settings.quotas.routes = 2).await;
    let client = api.cloud.client();
    let domain = domain(&client, "EU7").await;
    vlan(&client, &domain, "10.70.0.0").await;
    let route = |name: &str, network: &str, size: u8, hop: &str| {
        let version = if network.contains(':') { "IPV6" } else { "IPV4" };
        json!({"networkDomainId": domain, "name": name, "ipVersion": version, "destinationNetworkAddress": network,
            "destinationPrefixSize": size, "nextHopAddress": hop})
    };
    let create = "network/createStaticRoute";
    assert_eq!(
        api.call("POST", "2.8", create, &route("Old", "10.0.0.0", 8, "10.70.0.9").to_string()).await.0,
        404
    );
    assert_eq!(api.call("GET", "2.8", "network/staticRoute", "").await.0, 404);
    let (answer, id) = api.post("2.9", create, route("Ten", "10.0.0.0", 8, "10.70.0.9")).await;
    assert_eq!(answer, "OK");
    let shown = api.get("2.9", &format!("network/staticRoute/{id}")).await;
    let members =
        ["name", "type", "destinationNetworkAddress", "destinationPrefixSize", "nextHopAddress", "state"];
    let shown: Vec<&Value> = members.iter().map(|member| &shown[*member]).collect();
    assert_eq!(json!(shown), json!(["Ten", "CLIENT", "10.0.0.0", 8, "10.70.0.9", "NORMAL"]));
    let check = async |body: Value, want: &str| {
        assert_eq!(code(&api.post("2.9", create, body.clone()).await), want, "{body}");
    };
    check(route("ten", "11.0.0.0", 8, "10.70.0.9"), "NAME_NOT_UNIQUE").await;
    check(route("Same", "10.0.0.0", 8, "10.70.0.9"), "IP_ADDRESS_NOT_UNIQUE").await;
    check(route("Hop", "11.0.0.0", 8, "10.99.0.9"), "IP_ADDRESS_OUT_OF_RANGE").await;
    check(route("Odd", "11.0.0.1", 8, "10.70.0.9"), "INVALID_INPUT_DATA").await;
    check(route("Long", "11.0.0.0", 33, "10.70.0.9"), "INVALID_INPUT_DATA").await;
    check(route("Mixed", "2001:db8::", 32, "10.70.0.9"), "INVALID_INPUT_DATA").await;
    check(route("Six", "2001:db8::", 32, "fd66:6c65:2:1:0:0:0:9"), "OK").await;
    check(route("Third", "12.0.0.0", 8, "10.70.0.9"), "EXCEEDS_LIMIT").await;
    let delete = |id: &str| json!({"id": id});
    assert_eq!(code(&api.post("2.9", "network/deleteStaticRoute", delete(&id)).await), "OK");
    assert_eq!(code(&api.post("2.9", "network/deleteStaticRoute", delete(&id)).await), "RESOURCE_NOT_FOUND");
    let restore = json!({"networkDomainId": domain});
    assert_eq!(code(&api.post("2.9", "network/restoreStaticRoutes", restore).await), "OK");
    let left = api.get("2.9", &format!("network/staticRoute?networkDomainId={domain}")).await;
    assert_eq!((&left["staticRoute"], &left["totalCount"]), (&json!([]), &json!(0)));
    api.cloud.stop().await;
}

#[tokio::test]
async fn newer_calls_are_unknown_to_older_versions() {
    let api = Api::with(|_| {}).await;
    let check = async |version: &str, path: &str, known: bool| {
        let (status, value) = api.call("POST", version, path, "{}").await;
        assert_eq!(status != 404, known, "{version} {path}: {value}");
    };
    for (path, since) in [
        ("server/editServerMetadata", 3),
        ("server/cloneServer", 4),
        ("server/deployUncustomizedServer", 4),
        ("server/expandDisk", 5),
        ("server/changeDiskSpeed", 7),
        ("server/createAntiAffinityRule", 7),
        ("network/createStaticRoute", 9),
        ("tag/applyTags", 2),
    ] {
        for minor in 2..=13 {
            check(&format!("2.{minor}"), path, minor >= since).await;
        }
    }
    api.cloud.stop().await;
}

#[tokio::test]
async fn what_documents_leave_open_is_a_choice() {
    let api = Api::with(|settings| {
        settings.choices.first_host = 13;
        settings.choices.deployed_while_adding = true;
        settings.choices.tools_are_current = false;
        settings.choices.rule_names_ignore_case = false;
        settings.choices.reconfigure_answers_ok = true;
        settings.choices.shortest_password = 8;
        settings.delays.default = std::time::Duration::from_millis(100);
    })
    .await;
    let client = api.cloud.client();
    let domain = domain(&client, "EU7").await;
    let network = vlan(&client, &domain, "10.70.0.0").await;
    let mut request = server_request(&client, &domain, &network, "seed").await;
    request.administrator_password = Some(fleet_mcp::Secret::new("short"));
    let error = client.deploy_server(&request).await.expect_err("too short");
    assert!(error.to_string().contains("at least 8"), "{error}");
    request.administrator_password = Some(fleet_mcp::Secret::new("long enough"));
    let server = client.deploy_server(&request).await.expect("accepted");
    let adding = client.get::<Server>(&server).await.expect("there at once");
    assert!(adding.deployed && adding.progress.is_some());
    let settled = || until_normal(&client, &server, PACE, DEADLINE, |_: &Server| {});
    let made = settled().await.expect("made");
    let address = made.network_info.as_ref().and_then(|network| network.primary_nic.private_ipv4);
    assert_eq!(address, Some([10, 70, 0, 13].into()));

    // Old tools are updated once, and keep the server busy meanwhile.
    client.server_call(ServerCall::Start, &server).await.expect("accepted");
    settled().await.expect("started");
    client.server_call(ServerCall::UpdateTools, &server).await.expect("accepted");
    let busy = client.get::<Server>(&server).await.expect("there").progress.expect("busy");
    assert_eq!(busy.action.as_str(), "UPDATE_VMWARE_TOOLS");
    settled().await.expect("updated");
    let again = client.server_call(ServerCall::UpdateTools, &server).await.expect_err("current");
    assert!(matches!(again, fleet_mcp::McpError::NoChange(_)), "{again:?}");
    client.server_call(ServerCall::PowerOff, &server).await.expect("accepted");
    settled().await.expect("stopped");
    let body = json!({"id": server, "memoryGb": 8});
    assert_eq!(code(&api.post("2.4", "server/reconfigureServer", body).await), "OK");
    assert_eq!(settled().await.expect("larger").memory_gb, 8);

    let rule = |name: &str| {
        json!({"networkDomainId": domain, "name": name, "action": "DROP", "ipVersion": "IPV4", "protocol": "IP",
            "source": {"ip": {"address": "ANY"}}, "destination": {"ip": {"address": "ANY"}}, "enabled": true,
            "placement": {"position": "LAST"}})
    };
    for (name, want) in [("Web", "OK"), ("web", "OK"), ("web", "NAME_NOT_UNIQUE")] {
        assert_eq!(code(&api.post("2.4", "network/createFirewallRule", rule(name)).await), want, "{name}");
    }
    api.cloud.stop().await;
}

#[tokio::test]
async fn reserved_addresses_of_every_age() {
    let api = Api::with(|_| {}).await;
    let client = api.cloud.client();
    let domain = domain(&client, "EU7").await;
    let network = vlan(&client, &domain, "10.70.0.0").await;
    let body = json!({"vlanId": network, "ipAddress": "10.70.0.50", "description": "later"});
    assert_eq!(code(&api.post("2.4", "network/reservePrivateIpv4Address", body.clone()).await), "OK");
    // plumbery posts the document to the path of the list.
    assert_eq!(
        code(&api.post("2.4", "network/reservedPrivateIpv4Address", body).await),
        "IP_ADDRESS_NOT_UNIQUE"
    );
    let list = format!("network/reservedPrivateIpv4Address?vlanId={network}&ipAddress=10.70.0.50");
    let old = json!([{"value": "10.70.0.50", "datacenterId": "EU7", "vlanId": network}]);
    assert_eq!(api.get("2.4", &list).await["ipv4"], old);
    let new = json!([{"ipAddress": "10.70.0.50", "datacenterId": "EU7", "vlanId": network, "exclusive": false, "description": "later"}]);
    assert_eq!(api.get("2.9", &list).await["ipv4"], new);
    let (_, xml) = api.cloud.raw("GET", &format!("/caas/2.4/{}/{list}", api.organisation), "*/*", "").await;
    assert!(
        xml.contains(&format!(r#"<ipv4 datacenterId="EU7" vlanId="{network}">10.70.0.50</ipv4>"#)),
        "{xml}"
    );
    let mut request = server_request(&client, &domain, &network, "seed").await;
    request.network_info.primary_nic = fleet_mcp::types::NewNic {
        private_ipv4: Some([10, 70, 0, 50].into()),
        ..fleet_mcp::types::NewNic::default()
    };
    let error = client.deploy_server(&request).await.expect_err("kept free");
    assert!(error.to_string().contains("in use"), "{error}");
    let free = json!({"vlanId": network, "ipAddress": "10.70.0.50"});
    assert_eq!(code(&api.post("2.4", "network/unreservePrivateIpv4Address", free.clone()).await), "OK");
    assert_eq!(
        code(&api.post("2.4", "network/unreservePrivateIpv4Address", free).await),
        "RESOURCE_NOT_FOUND"
    );
    api.cloud.stop().await;
}
