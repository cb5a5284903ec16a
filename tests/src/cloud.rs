//! The cloud's API, asked behind fleetctl's back: plain requests, no client of ours in between.

use std::{cell::OnceCell, collections::BTreeMap, fs, path::Path, time::Duration};

use reqwest::{Method, Url};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};

/// Lists of the API, and the member that names an item for people.
const LISTS: [(&str, &str); 7] = [
    ("network/networkDomain", "name"),
    ("network/vlan", "name"),
    ("server/server", "name"),
    ("network/publicIpBlock", "baseIp"),
    ("network/natRule", "internalIp"),
    ("network/firewallRule", "name"),
    ("network/ipAddressList", "name"),
];

/// What exists: for each list, what names its items, sorted. Disks count under their server.
pub type Holdings = BTreeMap<String, Vec<String>>;

/// A local cloud that serves.
#[derive(Debug)]
pub struct LocalCloud {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    endpoint: Url,
    username: String,
    password: String,
    organisation: OnceCell<String>,
}

impl LocalCloud {
    /// The cloud of this folder, or `None` if it does not answer (yet).
    pub fn of(dir: &Path) -> Option<Self> {
        let access: Value = serde_json::from_slice(&fs::read(dir.join("access.json")).ok()?).ok()?;
        let text = |member: &str| access[member].as_str().map(str::to_owned);
        let ca = CertificateDer::from_pem_slice(&fs::read(text("ca_file")?).ok()?).ok()?;
        let mut trust = rustls::RootCertStore::empty();
        trust.add(ca).ok()?;
        let tls = rustls::ClientConfig::builder_with_provider(fleet_proto::tls::provider())
            .with_safe_default_protocol_versions()
            .ok()?
            .with_root_certificates(trust)
            .with_no_client_auth();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .timeout(Duration::from_secs(30))
            .build()
            .ok()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let cloud = Self {
            runtime,
            http,
            endpoint: text("endpoint")?.parse().ok()?,
            username: text("username")?,
            password: text("password")?,
            organisation: OnceCell::new(),
        };
        // What is asked here is never at fault on request, so that faults can be switched off again.
        cloud.ask(Method::GET, "fleet/status", None)?;
        Some(cloud)
    }

    /// Whose account it is.
    #[track_caller]
    fn organisation(&self) -> &str {
        self.organisation.get_or_init(|| {
            let account = self.ask(Method::GET, "oec/0.9/myaccount", None);
            let account = account.unwrap_or_else(|| panic!("the cloud does not answer for the account"));
            let found = account.split("orgId>").nth(1).and_then(|after| after.split('<').next());
            found.unwrap_or_else(|| panic!("no organisation in {account}")).to_owned()
        })
    }

    fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Option<String> {
        let mut request = self
            .http
            .request(method, self.endpoint.join(path).ok()?)
            .basic_auth(&self.username, Some(&self.password))
            .header("Accept", "application/json");
        if let Some(body) = body {
            request = request.header("Content-Type", "application/json").body(body.to_string());
        }
        self.runtime.block_on(async { request.send().await.ok()?.text().await.ok() })
    }

    /// One answer as JSON. Panics if the cloud does not answer with JSON.
    #[track_caller]
    pub fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let text = self.ask(method, path, body).unwrap_or_else(|| panic!("the cloud does not answer {path}"));
        serde_json::from_str(&text).unwrap_or_else(|why| panic!("{path}: {why} in {text}"))
    }

    /// One list of the API, whole (the fleets of tests fit one page).
    #[track_caller]
    pub fn list(&self, path: &str) -> Vec<Value> {
        let member = path.rsplit('/').next().expect("a path has a last part");
        let page = self.json(Method::GET, &format!("caas/2.4/{}/{path}", self.organisation()), None);
        page[member].as_array().unwrap_or_else(|| panic!("no `{member}` in {page}")).clone()
    }

    /// Calls an operation of the API.
    #[track_caller]
    pub fn operate(&self, operation: &str, body: &Value) -> Value {
        self.json(Method::POST, &format!("caas/2.4/{}/{operation}", self.organisation()), Some(body))
    }

    /// Everything that exists. Firewall rules are listed per network domain, as the API wants it.
    #[track_caller]
    pub fn holdings(&self) -> Holdings {
        let mut holdings = Holdings::new();
        let domains: Vec<String> = self
            .list("network/networkDomain")
            .iter()
            .filter_map(|domain| domain["id"].as_str().map(str::to_owned))
            .collect();
        for (path, name) in LISTS {
            let inside = ["network/firewallRule", "network/natRule", "network/ipAddressList"];
            let items: Vec<Value> = if inside.contains(&path) {
                domains.iter().flat_map(|id| self.list_in(path, id)).collect()
            } else {
                self.list(path)
            };
            let mut names: Vec<String> = items
                .iter()
                .map(|item| {
                    let name = item[name].as_str().unwrap_or("?");
                    let place = item["datacenterId"].as_str().unwrap_or("?");
                    let disks = item["disk"].as_array().map(|disks| {
                        disks.iter().map(|disk| format!("+{}", disk["sizeGb"])).collect::<String>()
                    });
                    // Base addresses are drawn; how many there are is what counts.
                    let name = if path == "network/publicIpBlock" { "block" } else { name };
                    format!("{place}/{name}{}", disks.unwrap_or_default())
                })
                .collect();
            names.sort();
            holdings.insert(path.to_owned(), names);
        }
        holdings
    }

    /// One list of the API, of one network domain.
    #[track_caller]
    pub fn list_in(&self, path: &str, domain: &str) -> Vec<Value> {
        let member = path.rsplit('/').next().expect("a path has a last part");
        let path = format!("caas/2.4/{}/{path}?networkDomainId={domain}", self.organisation());
        self.json(Method::GET, &path, None)[member].as_array().cloned().unwrap_or_default()
    }

    /// Calls answered so far, oldest first.
    #[track_caller]
    pub fn log(&self) -> Vec<Value> {
        let log = self.json(Method::GET, "fleet/log", None);
        log["calls"].as_array().or(log.as_array()).expect("the log is a list").clone()
    }

    /// How many changing calls were answered so far.
    #[track_caller]
    pub fn changing_calls(&self) -> usize {
        self.try_changing_calls().expect("the cloud answers for its log")
    }

    /// The same, or `None` if the cloud has ended meanwhile.
    pub fn try_changing_calls(&self) -> Option<usize> {
        let log: Value = serde_json::from_str(&self.ask(Method::GET, "fleet/log", None)?).ok()?;
        let calls = log["calls"].as_array().or(log.as_array())?;
        Some(calls.iter().filter(|call| call["changing"] == json!(true)).count())
    }

    /// Switches a fault on.
    #[track_caller]
    pub fn fault(&self, fault: &Value) {
        drop(self.json(Method::POST, "fleet/fault", Some(fault)));
    }

    /// Switches a fault on in a cloud that may be ending.
    pub fn try_fault(&self, fault: &Value) {
        drop(self.ask(Method::POST, "fleet/fault", Some(fault)));
    }

    /// Switches all faults off.
    #[track_caller]
    pub fn clear_faults(&self) {
        drop(self.ask(Method::DELETE, "fleet/fault", None));
    }
}
