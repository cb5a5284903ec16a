//! What is on the wire: requests as public clients send them, answers as they want them.

use crate::support::Cloud;

/// Replaces what differs from run to run: ids by their order of appearance, moments, request ids.
fn masked(text: &str) -> String {
    let is_id = |word: &str| {
        let lengths: Vec<usize> = word.split('-').map(str::len).collect();
        lengths == [8, 4, 4, 4, 12] && word.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
    };
    let is_time = |word: &str| word.len() == 24 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
    let mut known: Vec<String> = Vec::new();
    let mut out = String::new();
    let mut word = String::new();
    // Every element on its own line, so that a difference is easy to see.
    for letter in text.replace("><", ">\n<").chars().chain(std::iter::once('\0')) {
        if letter.is_ascii_alphanumeric() || "-_.:".contains(letter) {
            word.push(letter);
            continue;
        }
        if is_id(&word) {
            let index = known.iter().position(|id| *id == word).unwrap_or_else(|| {
                known.push(word.clone());
                known.len() - 1
            });
            out.push_str(&format!("ID{index}"));
        } else if is_time(&word) {
            out.push_str("TIME");
        } else if word.starts_with("local_") {
            out.push_str("REQUEST");
        } else if word.starts_with("fd66:6c65:") && !word.ends_with(":0:0:0:0") && !word.ends_with(":0:0:0:1")
        {
            out.push_str("IPV6");
        } else {
            out.push_str(&word);
        }
        word.clear();
        if letter != '\0' {
            out.push(letter);
        }
    }
    out
}

struct Raw {
    cloud: Cloud,
    base: String,
}

impl Raw {
    async fn start() -> Self {
        let cloud = Cloud::start().await;
        let organisation = cloud.client().organisation().await.expect("known").to_owned();
        Self { cloud, base: format!("/caas/2.4/{organisation}") }
    }

    async fn get(&self, path: &str, accept: &str) -> (u16, String) {
        self.cloud.raw("GET", &format!("{}/{path}", self.base), accept, "").await
    }

    /// Posts XML; gives the value of the first `info`.
    async fn post(&self, path: &str, body: &str) -> String {
        let (status, answer) = self.cloud.raw("POST", &format!("{}/{path}", self.base), "*/*", body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        let value =
            answer.split_once(" value=\"").map(|(_, rest)| rest.split('"').next().unwrap_or_default());
        value.unwrap_or_default().to_owned()
    }

    async fn normal(&self, path: &str) {
        let settled = async {
            loop {
                let (_, body) = self.get(path, "*/*").await;
                if body.contains("<state>NORMAL</state>") {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(crate::support::DEADLINE, settled).await.expect("settled");
    }
}

const NS: &str = "urn:didata.com:api:cloud:types";

#[tokio::test]
async fn a_network_and_a_server_the_way_libcloud_asks_for_them() {
    let raw = Raw::start().await;
    let (_, account) = raw.cloud.raw("GET", "/oec/0.9/myaccount", "*/*", "").await;
    insta::assert_snapshot!("account", masked(&account));
    let (_, datacenter) = raw.get("infrastructure/datacenter?id=EU7", "*/*").await;
    insta::assert_snapshot!("datacenter", masked(&datacenter));
    let (_, images) = raw.get("image/osImage?datacenterId=EU7", "*/*").await;
    insta::assert_snapshot!("images", masked(&images));
    let image = images.split("<osImage ").nth(1).and_then(|rest| rest.split("id=\"").nth(1));
    let image = image.and_then(|rest| rest.split('"').next()).expect("an image");

    let domain = raw
        .post(
            "network/deployNetworkDomain",
            &format!(
                "<deployNetworkDomain xmlns=\"{NS}\"><datacenterId>EU7</datacenterId><name>RethinkFox</name>\
                 <description>#plumbery</description><type>ESSENTIALS</type></deployNetworkDomain>"
            ),
        )
        .await;
    raw.normal(&format!("network/networkDomain/{domain}")).await;
    insta::assert_snapshot!(
        "network_domain",
        masked(&raw.get(&format!("network/networkDomain/{domain}"), "*/*").await.1)
    );
    let vlan = raw
        .post(
            "network/deployVlan",
            &format!(
                "<deployVlan xmlns=\"{NS}\"><networkDomainId>{domain}</networkDomainId><name>RethinkSeedNetwork</name>\
                 <description>#plumbery</description><privateIpv4BaseAddress>10.70.0.0</privateIpv4BaseAddress>\
                 <privateIpv4PrefixSize>24</privateIpv4PrefixSize></deployVlan>"
            ),
        )
        .await;
    raw.normal(&format!("network/vlan/{vlan}")).await;
    insta::assert_snapshot!("vlans", masked(&raw.get("network/vlan?datacenterId=EU7", "*/*").await.1));

    let body = format!(
        "<deployServer xmlns=\"{NS}\"><name>EU7rethinkSeed</name><description>Rethink seed #plumbery</description>\
         <imageId>{image}</imageId><start>false</start><administratorPassword>top &amp; secret</administratorPassword>\
         <cpu speed=\"STANDARD\" count=\"2\" coresPerSocket=\"1\"/><memoryGb>4</memoryGb>\
         <networkInfo networkDomainId=\"{domain}\"><primaryNic><vlanId>{vlan}</vlanId></primaryNic></networkInfo></deployServer>"
    );
    let path = format!("{}/server/deployServer", raw.base);
    let (_, accepted) = raw.cloud.raw("POST", &path, "*/*", &body).await;
    insta::assert_snapshot!("deploy_server", masked(&accepted));
    let server = accepted.split(" value=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("an id");
    raw.normal(&format!("server/server/{server}")).await;
    raw.post(
        "server/addDisk",
        &format!(
            "<addDisk xmlns=\"{NS}\" id=\"{server}\"><sizeGb>100</sizeGb><speed>STANDARD</speed></addDisk>"
        ),
    )
    .await;
    raw.normal(&format!("server/server/{server}")).await;
    raw.post(
        "server/enableServerMonitoring",
        &format!("<enableServerMonitoring xmlns=\"{NS}\" id=\"{server}\"><servicePlan>ESSENTIALS</servicePlan></enableServerMonitoring>"),
    )
    .await;
    raw.post("server/startServer", &format!("<startServer xmlns=\"{NS}\" id=\"{server}\"/>")).await;
    raw.normal(&format!("server/server/{server}")).await;
    let (_, xml) = raw.get("server/server", "*/*").await;
    insta::assert_snapshot!("servers_xml", masked(&xml));
    let (_, json) = raw.get(&format!("server/server/{server}"), "application/json").await;
    insta::assert_snapshot!("server_json", masked(&json));

    let block = raw
        .post("network/addPublicIpBlock", &format!("<addPublicIpBlock xmlns=\"{NS}\"><networkDomainId>{domain}</networkDomainId></addPublicIpBlock>"))
        .await;
    insta::assert_snapshot!(
        "public_ip_block",
        masked(&raw.get(&format!("network/publicIpBlock/{block}"), "*/*").await.1)
    );
    raw.post(
        "network/createNatRule",
        &format!(
            "<createNatRule xmlns=\"{NS}\"><networkDomainId>{domain}</networkDomainId><internalIp>10.70.0.7</internalIp>\
             <externalIp>198.51.100.2</externalIp></createNatRule>"
        ),
    )
    .await;
    insta::assert_snapshot!(
        "nat_rules",
        masked(&raw.get(&format!("network/natRule?networkDomainId={domain}"), "*/*").await.1)
    );
    let reserved = format!("network/reservedPublicIpv4Address?networkDomainId={domain}");
    insta::assert_snapshot!("reserved_xml", masked(&raw.get(&reserved, "*/*").await.1));
    insta::assert_snapshot!("reserved_json", masked(&raw.get(&reserved, "application/json").await.1));
    raw.post(
        "network/createFirewallRule",
        &format!(
            "<createFirewallRule xmlns=\"{NS}\"><networkDomainId>{domain}</networkDomainId><name>Seed.UDPv4_137..138.plumbery</name>\
             <action>ACCEPT_DECISIVELY</action><ipVersion>IPV4</ipVersion><protocol>UDP</protocol><source><ip address=\"ANY\"/></source>\
             <destination><ip address=\"198.51.100.2\"/><port begin=\"137\" end=\"138\"/></destination><enabled>true</enabled>\
             <placement position=\"FIRST\"/></createFirewallRule>"
        ),
    )
    .await;
    let (_, rules) = raw
        .get(&format!("network/firewallRule?networkDomainId={domain}&pageSize=50&pageNumber=1"), "*/*")
        .await;
    insta::assert_snapshot!("firewall_rules", masked(&rules));
    raw.cloud.stop().await;
}

#[tokio::test]
async fn paging_the_way_libcloud_reads_it() {
    let raw = Raw::start().await;
    // It asks for a second page whenever three to nine items are on the first.
    let (status, body) = raw.get("infrastructure/datacenter?pageNumber=2", "*/*").await;
    assert_eq!(status, 200);
    insta::assert_snapshot!("page_beyond_the_end", body);
    let (_, body) = raw.get("server/server", "application/json").await;
    insta::assert_snapshot!("empty_list_json", body);
    raw.cloud.stop().await;
}

#[tokio::test]
async fn errors_in_every_form() {
    let raw = Raw::start().await;
    let missing = "server/server/00000000-0000-4000-8000-000000000000";
    let (status, body) = raw.get(missing, "*/*").await;
    assert_eq!(status, 400);
    insta::assert_snapshot!("not_found_xml", masked(&body));
    let (status, body) = raw.get(missing, "application/json").await;
    assert_eq!(status, 400);
    insta::assert_snapshot!("not_found_json", masked(&body));

    let organisation = raw.base.rsplit('/').next().expect("a path").to_owned();
    let path = format!("/oec/0.9/{organisation}/server/s-1/disk/d-1/changeSize");
    let body = "<ChangeDiskSize xmlns=\"http://oec.api.opsource.net/schemas/server\"><newSizeGb>50</newSizeGb></ChangeDiskSize>";
    let (status, answer) = raw.cloud.raw("POST", &path, "*/*", body).await;
    assert_eq!(status, 400);
    insta::assert_snapshot!("legacy_not_found", answer);

    let check = async |method: &str, path: &str, body: &str, want: u16, part: &str| {
        let (status, answer) = raw.cloud.raw(method, path, "*/*", body).await;
        assert_eq!(status, want, "{method} {path}: {answer}");
        assert!(answer.contains(part), "{method} {path}: {answer}");
    };
    let base = &raw.base;
    let start = format!("{base}/server/startServer");
    check("POST", &start, "<startServer", 400, "INVALID_INPUT_DATA").await;
    check("POST", &start, "{", 400, "INVALID_INPUT_DATA").await;
    check("POST", &start, "", 400, "INVALID_INPUT_DATA").await;
    check("POST", &start, "<startServer xmlns=\"urn:else\" id=\"1\"/>", 400, "urn:else").await;
    check("POST", &start, &format!("<stopServer xmlns=\"{NS}\" id=\"1\"/>"), 400, "startServer").await;
    check("POST", &start, &format!("<u:startServer xmlns:u=\"{NS}\" id=\"1\"/>"), 400, "RESOURCE_NOT_FOUND")
        .await;
    check("POST", &start, "{\"id\":\"1\"}", 400, "RESOURCE_NOT_FOUND").await;
    check("POST", &start, &"x".repeat(2 << 20), 400, "INVALID_INPUT_DATA").await;
    check("GET", "/caas/2.4/00000000-0000-4000-8000-000000000000/server/server", "", 403, "AUTHORIZATION")
        .await;
    check("GET", &format!("{base}/server/nothing"), "", 404, "INVALID_URI").await;
    check("GET", &base.replace("2.4", "3.0"), "", 404, "INVALID_URI").await;
    check("DELETE", &format!("{base}/server/server"), "", 404, "INVALID_URI").await;
    for version in ["2.2", "2.9", "2.13"] {
        check("GET", &format!("{}/server/server", base.replace("2.4", version)), "", 200, "<servers").await;
    }
    let answer =
        raw.cloud.http().get(format!("{}{base}/server/server", raw.cloud.access.endpoint)).send().await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), 401);
    assert!(answer.headers().contains_key("www-authenticate"));
    raw.cloud.stop().await;
}

#[tokio::test]
async fn the_certificate_also_names_the_real_service() {
    let cloud = Cloud::start().await;
    let port = cloud.access.endpoint.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let pem = std::fs::read(&cloud.access.ca_file).expect("the CA");
    let client = crate::support::http_for(&pem, "api-eu.dimensiondata.com", port);
    let url = format!("https://api-eu.dimensiondata.com:{port}/oec/0.9/myaccount");
    let answer = client.get(url).basic_auth("fleet", Some(cloud.access.password.reveal())).send().await;
    assert_eq!(answer.expect("an answer").status(), 200);
    cloud.stop().await;
}
