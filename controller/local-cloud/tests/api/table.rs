//! The whole interface, as a table: every operation there is, the version it came with, what it answers.
//!
//! A client's author reads such a table and calls what is in it. So each row is called in every version here, and in
//! `walk` once with what it needs to succeed; both in XML and in JSON.

use fleet_mcp::xml;
use serde_json::{Value, json};

use crate::support::Cloud;

/// A change: its path, the version it came with, whether it is done at once, what its answer tells of what is new.
pub struct Row(pub &'static str, pub u32, pub Done, pub &'static [&'static str]);

#[derive(Clone, Copy, PartialEq)]
pub enum Done {
    AtOnce,
    Later,
    /// There is nothing to do.
    Already,
}
use Done::{Already, AtOnce, Later};

/// The first version there is, and the last.
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=13;

pub const CHANGES: [Row; 61] = [
    Row("network/deployNetworkDomain", 2, Later, &["networkDomainId"]),
    Row("network/editNetworkDomain", 2, AtOnce, &[]),
    Row("network/deleteNetworkDomain", 2, Later, &[]),
    Row("network/deployVlan", 2, Later, &["vlanId"]),
    Row("network/editVlan", 2, AtOnce, &[]),
    Row("network/expandVlan", 2, Later, &[]),
    Row("network/deleteVlan", 2, Later, &[]),
    Row("server/deployServer", 2, Later, &["serverId"]),
    Row("server/deployUncustomizedServer", 4, Later, &["serverId"]),
    Row("server/startServer", 2, Later, &[]),
    Row("server/shutdownServer", 2, Later, &[]),
    Row("server/powerOffServer", 2, Later, &[]),
    Row("server/rebootServer", 2, Later, &[]),
    Row("server/resetServer", 2, Later, &[]),
    Row("server/deleteServer", 2, Later, &[]),
    Row("server/cleanServer", 2, Later, &[]),
    Row("server/reconfigureServer", 2, Later, &[]),
    Row("server/editServerMetadata", 3, AtOnce, &[]),
    Row("server/updateVmwareTools", 2, Already, &[]),
    Row("server/addDisk", 2, Later, &["diskId", "scsiId", "speed"]),
    Row("server/removeDisk", 2, Later, &[]),
    Row("server/expandDisk", 5, Later, &[]),
    Row("server/changeDiskSpeed", 7, Later, &[]),
    Row("server/addNic", 2, Later, &["nicId"]),
    Row("server/removeNic", 2, Later, &[]),
    Row("server/notifyNicIpChange", 2, Later, &[]),
    Row("server/exchangeNicVlans", 2, Later, &[]),
    Row("server/changeNetworkAdapter", 2, Later, &[]),
    Row("server/cloneServer", 4, Later, &["imageId"]),
    Row("image/deleteCustomerImage", 4, AtOnce, &[]),
    Row("server/enableServerMonitoring", 2, AtOnce, &[]),
    Row("server/changeServerMonitoringPlan", 2, AtOnce, &[]),
    Row("server/disableServerMonitoring", 2, AtOnce, &[]),
    Row("network/addPublicIpBlock", 2, AtOnce, &["ipBlockId"]),
    Row("network/removePublicIpBlock", 2, AtOnce, &[]),
    Row("network/reservePrivateIpv4Address", 2, AtOnce, &[]),
    Row("network/unreservePrivateIpv4Address", 2, AtOnce, &[]),
    Row("network/reserveIpv6Address", 2, AtOnce, &[]),
    Row("network/unreserveIpv6Address", 2, AtOnce, &[]),
    Row("network/createNatRule", 2, AtOnce, &["natRuleId"]),
    Row("network/deleteNatRule", 2, AtOnce, &[]),
    Row("network/createFirewallRule", 2, AtOnce, &["firewallRuleId"]),
    Row("network/editFirewallRule", 2, AtOnce, &[]),
    Row("network/deleteFirewallRule", 2, AtOnce, &[]),
    Row("network/createIpAddressList", 2, AtOnce, &["ipAddressListId"]),
    Row("network/editIpAddressList", 2, AtOnce, &[]),
    Row("network/deleteIpAddressList", 2, AtOnce, &[]),
    Row("network/createPortList", 2, AtOnce, &["portListId"]),
    Row("network/editPortList", 2, AtOnce, &[]),
    Row("network/deletePortList", 2, AtOnce, &[]),
    Row("server/createAntiAffinityRule", 7, Later, &["antiAffinityRuleId"]),
    Row("server/deleteAntiAffinityRule", 7, Later, &[]),
    Row("tag/createTagKey", 2, AtOnce, &["tagKeyId"]),
    Row("tag/editTagKey", 2, AtOnce, &[]),
    Row("tag/deleteTagKey", 2, AtOnce, &[]),
    Row("tag/applyTags", 2, AtOnce, &[]),
    Row("tag/removeTags", 2, AtOnce, &[]),
    Row("network/createStaticRoute", 9, AtOnce, &["staticRouteId"]),
    Row("network/deleteStaticRoute", 9, AtOnce, &[]),
    Row("network/restoreStaticRoutes", 9, AtOnce, &[]),
    // Not in the table of the platform: a public client posts a document to the path of the list.
    Row("network/reservedPrivateIpv4Address", 2, AtOnce, &[]),
];

/// A list: its path, the version it came with, the root of the answer, whether one item can be had by its id.
struct List(&'static str, u32, &'static str, bool);

const LISTS: [List; 20] = [
    List("infrastructure/datacenter", 2, "datacenters", false),
    List("infrastructure/operatingSystem", 2, "operatingSystems", false),
    List("infrastructure/geographicRegion", 2, "geographicRegions", false),
    List("image/osImage", 2, "osImages", true),
    List("image/customerImage", 2, "customerImages", true),
    List("network/networkDomain", 2, "networkDomains", true),
    List("network/vlan", 2, "vlans", true),
    List("server/server", 2, "servers", true),
    List("network/publicIpBlock", 2, "publicIpBlocks", true),
    List("network/reservedPublicIpv4Address", 2, "reservedPublicIpv4Addresses", false),
    List("network/reservedPrivateIpv4Address", 2, "reservedPrivateIpv4Addresses", false),
    List("network/reservedIpv6Address", 2, "reservedIpv6Addresses", false),
    List("network/natRule", 2, "natRules", true),
    List("network/firewallRule", 2, "firewallRules", true),
    List("network/ipAddressList", 2, "ipAddressLists", true),
    List("network/portList", 2, "portLists", true),
    List("server/antiAffinityRule", 2, "antiAffinityRules", false),
    List("tag/tagKey", 2, "tagKeys", true),
    List("tag/tag", 2, "tags", false),
    List("network/staticRoute", 9, "staticRoutes", true),
];

/// `DEPLOY_VLAN` of `network/deployVlan`.
pub fn operation(path: &str) -> String {
    let name = path.rsplit('/').next().expect("a path has a last part");
    let capital = |letter: char| letter.is_ascii_uppercase().then_some('_');
    name.chars().flat_map(|letter| capital(letter).into_iter().chain([letter.to_ascii_uppercase()])).collect()
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    Xml,
    Json,
}

/// The interface, in one form.
pub struct Api {
    pub cloud: Cloud,
    http: reqwest::Client,
    pub organisation: String,
    form: Form,
}

impl Api {
    pub async fn new(form: Form) -> Self {
        let cloud = Cloud::with(|settings| settings.quotas.routes = 4).await;
        let organisation = cloud.client().organisation().await.expect("known").to_owned();
        Self { http: cloud.http(), cloud, organisation, form }
    }

    /// Status, root and document of one answer.
    pub async fn ask(
        &self,
        method: &str,
        minor: u32,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, String, Value) {
        let root = path.rsplit('/').next().expect("a path has a last part");
        // The document that is posted to a list's path bears the operation's name.
        let root = if root == "reservedPrivateIpv4Address" { "reservePrivateIpv4Address" } else { root };
        let (accept, body) = match (self.form, body) {
            (Form::Xml, Some(body)) => ("*/*", xml::print(xml::TYPES, root, body)),
            (Form::Xml, None) => ("*/*", String::new()),
            (Form::Json, body) => ("application/json", body.map(Value::to_string).unwrap_or_default()),
        };
        let url = format!("{}/caas/2.{minor}/{}/{path}", self.cloud.access.endpoint, self.organisation);
        let request = self
            .http
            .request(method.parse().expect("a method"), url)
            .basic_auth(&self.cloud.access.username, Some(self.cloud.access.password.reveal()))
            .header("Accept", accept)
            .body(body);
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a body");
        match self.form {
            Form::Xml => {
                let document = xml::parse(&text).unwrap_or_else(|error| panic!("{path}: {error} in {text}"));
                assert_eq!(document.namespace, xml::TYPES, "{text}");
                (status, document.root, document.value)
            }
            Form::Json => {
                let value =
                    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error} in {text}"));
                (status, String::new(), value)
            }
        }
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, _, value) = self.ask("GET", 13, path, None).await;
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    /// All items of a list, in whichever form: one item alone is no list in XML.
    pub async fn list(&self, path: &str) -> Vec<Value> {
        let item = path.split('?').next().and_then(|path| path.rsplit('/').next()).expect("a last part");
        match self.get(path).await[item].take() {
            Value::Array(items) => items,
            Value::Null => vec![],
            one => vec![one],
        }
    }
}

#[tokio::test]
async fn every_row_is_served_from_its_version_on_and_not_before() {
    for form in [Form::Xml, Form::Json] {
        let api = Api::new(form).await;
        for minor in VERSIONS {
            for Row(path, since, ..) in CHANGES {
                // Nothing is in it, so that nothing changes; but it is known what was asked.
                let (status, _, value) = api.ask("POST", minor, path, Some(&json!({}))).await;
                let wanted = if minor < since { 404 } else { 400 };
                assert_eq!(status, wanted, "2.{minor} {form:?} {path}: {value}");
                if minor >= since {
                    assert_eq!(value["responseCode"], "INVALID_INPUT_DATA", "{path}: {value}");
                    assert_eq!(value["operation"], operation(path), "{path}: {value}");
                }
            }
            for List(path, since, root, single) in LISTS {
                let (status, found, value) = api.ask("GET", minor, path, None).await;
                assert_eq!(
                    status,
                    if minor < since { 404 } else { 200 },
                    "2.{minor} {form:?} {path}: {value}"
                );
                if minor < since {
                    continue;
                }
                if form == Form::Xml {
                    assert_eq!(found, root);
                }
                for member in ["pageNumber", "pageCount", "totalCount", "pageSize"] {
                    assert!(!value[member].is_null(), "{path} lacks {member}: {value}");
                }
                if single {
                    let one = format!("{path}/00000000-0000-4000-8000-000000000000");
                    let (status, _, value) = api.ask("GET", minor, &one, None).await;
                    assert_eq!(
                        (status, &value["responseCode"]),
                        (400, &json!("RESOURCE_NOT_FOUND")),
                        "{one}"
                    );
                }
            }
        }
        for (method, path) in
            [("POST", "network/deployNothing"), ("GET", "network/nothing"), ("POST", "server/server")]
        {
            assert_eq!(api.ask(method, 13, path, Some(&json!({}))).await.0, 404, "{method} {path}");
        }
        api.cloud.stop().await;
    }
}
