//! The client against services that are not quite what the documents say.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Query, State},
    http::StatusCode,
    response::IntoResponse,
    routing::{get, post},
};
use fleet_mcp::{
    Client, Credentials, Filter, McpError, Secret, Settings,
    resource::ServerCall,
    retry::Retry,
    types::{DeployVlan, Image, NetworkDomain, Server, State as Phase, Vlan},
};
use std::collections::HashMap;

/// A service made of `routes`, in this process and without TLS, and a client for it.
async fn client(routes: Router) -> Client {
    let account = r#"<ns3:Account xmlns:ns3="http://oec.api.opsource.net/schemas/directory"><ns3:userName>a</ns3:userName><ns3:orgId>o-1</ns3:orgId></ns3:Account>"#;
    let routes = routes.route("/oec/0.9/myaccount", get(move || async move { account }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    // Ends with the test's runtime.
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let credentials = Credentials { username: "a".into(), password: Secret::new("b") };
    let mut settings = Settings::new(format!("http://{address}/"), credentials);
    settings.retry = Retry {
        first: Duration::from_millis(1),
        ceiling: Duration::from_millis(2),
        attempts: 3,
        patience: Duration::from_secs(1),
        // Long enough for a few answers of a host that has other things to do.
        busy_for: Duration::from_secs(2),
    };
    Client::new(settings).expect("good settings")
}

#[tokio::test]
async fn numbers_as_text_unknown_members_and_newer_disks() {
    let server = r#"{"id":"s-1","datacenterId":"EU7","name":"web","cpu":{"count":"2"},"memoryGb":"4","deployed":"true",
        "started":false,"state":"SOMETHING_NEW","flavour":{"of":["the","day"]},"networkInfo":{"networkDomainId":"d-1",
        "primaryNic":{"id":"n-1","privateIpv4":"10.0.0.7","ipv6":"2001:db8::7"},"additionalNic":null},
        "scsiController":{"id":"c-1","disk":[{"id":"k-2","scsiId":"1","sizeGb":20},{"id":"k-1","scsiId":0,"sizeGb":10}]}}"#;
    let routes = Router::new().route("/caas/2.4/o-1/server/server/s-1", get(move || async move { server }));
    let server = client(routes).await.get::<Server>(&"s-1".into()).await.expect("understood");
    assert_eq!((server.cpu.count, server.memory_gb, server.deployed, server.started), (2, 4, true, false));
    assert_eq!(server.state, Phase::Other("SOMETHING_NEW".into()));
    assert!(!server.state.is_normal() && !server.state.is_failed());
    let disks: Vec<_> = server.disks().iter().map(|disk| (disk.scsi_id, disk.size_gb)).collect();
    assert_eq!(disks, [(0, 10), (1, 20)]);
    let network = server.network_info.expect("a network");
    assert_eq!(network.primary_nic.ipv6.expect("an address").to_string(), "2001:db8:0:0:0:0:0:7");
    assert!(network.additional_nic.is_empty());
}

/// Items of a list, `name` by number; `total` and page length as the service under test has them.
async fn page(
    State((total, claimed, length)): State<(u32, Option<u32>, u32)>,
    Query(query): Query<HashMap<String, u32>>,
) -> String {
    let number = query["pageNumber"];
    let first = (number - 1) * length;
    let items: Vec<String> = (first..total.min(first + length))
        .map(|index| format!(r#"{{"id":"i-{index}","datacenterId":"EU7","name":"image {index}"}}"#))
        .collect();
    let claimed = claimed.map(|claimed| format!(r#","totalCount":"{claimed}""#)).unwrap_or_default();
    format!(
        r#"{{"osImage":[{}],"pageNumber":{number},"pageCount":{},"pageSize":{length}{claimed}}}"#,
        items.join(","),
        items.len()
    )
}

#[tokio::test]
async fn lists_are_read_to_their_end_and_no_further() {
    let check = async |total: u32, claimed: Option<u32>, length: u32, want: usize| {
        let routes = Router::new()
            .route("/caas/2.4/o-1/image/osImage", get(page))
            .with_state((total, claimed, length));
        let found = client(routes).await.list::<Image>(&Filter::all()).await.expect("a list");
        assert_eq!(found.len(), want, "{total} {claimed:?} {length}");
    };
    check(0, Some(0), 250, 0).await;
    check(7, Some(7), 250, 7).await;
    // Pages shorter than asked for.
    check(7, Some(7), 3, 7).await;
    // No total: the page that is not full is the last, or the empty one.
    check(7, None, 3, 7).await;
    check(6, None, 3, 6).await;
    // A total that is never reached.
    check(6, Some(99), 3, 6).await;
}

/// Three items a page; before each request, what the script says goes and comes.
#[derive(Default)]
struct Moving {
    items: Vec<u32>,
    script: std::collections::VecDeque<(Option<u32>, Option<u32>)>,
}

async fn moving_page(
    State(state): State<Arc<std::sync::Mutex<Moving>>>,
    Query(query): Query<HashMap<String, u32>>,
) -> String {
    let mut state = state.lock().expect("no panic");
    let (gone, come) = state.script.pop_front().unwrap_or_default();
    state.items.retain(|item| Some(*item) != gone);
    state.items.splice(0..0, come);
    let first = (query["pageNumber"] as usize - 1) * 3;
    let items = state.items.iter().skip(first).take(3);
    let items: Vec<String> = items
        .map(|item| format!(r#"{{"id":"i-{item}","datacenterId":"EU7","name":"image {item}"}}"#))
        .collect();
    let (total, count) = (state.items.len(), items.len());
    format!(
        r#"{{"osImage":[{}],"pageNumber":{},"pageCount":{count},"pageSize":3,"totalCount":{total}}}"#,
        items.join(","),
        query["pageNumber"]
    )
}

#[tokio::test]
async fn lists_that_move_while_they_are_read_lack_nothing() {
    let check = async |script: &[(Option<u32>, Option<u32>)], want: Option<&[u32]>| {
        let moving = Moving { items: (0..7).collect(), script: script.to_vec().into() };
        let state = Arc::new(std::sync::Mutex::new(moving));
        let routes = Router::new()
            .route("/caas/2.4/o-1/image/osImage", get(moving_page))
            .with_state(Arc::clone(&state));
        let found = client(routes).await.list::<Image>(&Filter::all()).await;
        match (found, want) {
            (Ok(found), Some(want)) => {
                let found: Vec<String> = found.iter().map(|image| image.id.to_string()).collect();
                let want: Vec<String> = want.iter().map(|item| format!("i-{item}")).collect();
                assert_eq!(found, want, "{script:?}");
            }
            (Err(error), None) => {
                assert!(error.is_retryable(), "{error:?}");
                assert!(!state.lock().expect("no panic").script.is_empty(), "it moved all the time");
            }
            (found, _) => panic!("{script:?}: {found:?}"),
        }
    };
    check(&[], Some(&[0, 1, 2, 3, 4, 5, 6])).await;
    // The first goes once its page is read: the fourth moves to a page that is not asked for again.
    check(&[(None, None), (Some(0), None)], Some(&[1, 2, 3, 4, 5, 6])).await;
    // One comes in front: the third is seen twice, the last on a page beyond.
    check(&[(None, None), (None, Some(9))], Some(&[9, 0, 1, 2, 3, 4, 5, 6])).await;
    // Both at once, and as many as before.
    check(&[(None, None), (Some(4), Some(9))], Some(&[9, 0, 1, 2, 3, 5, 6])).await;
    // A list that never stands still is no list.
    let restless: Vec<(Option<u32>, Option<u32>)> = (10..999).map(|item| (None, Some(item))).collect();
    check(&restless, None).await;
}

#[tokio::test]
async fn a_list_of_too_many_is_given_up() {
    let full = |Query(query): Query<HashMap<String, u32>>| async move {
        let first = (query["pageNumber"] - 1) * 5000;
        let items: Vec<String> = (first..first + 5000)
            .map(|item| format!(r#"{{"id":"i-{item}","datacenterId":"EU7","name":"n"}}"#))
            .collect();
        format!(r#"{{"osImage":[{}],"pageNumber":1,"totalCount":4000000000}}"#, items.join(","))
    };
    let routes = Router::new().route("/caas/2.4/o-1/image/osImage", get(full));
    let error = client(routes).await.list::<Image>(&Filter::all()).await.expect_err("endless");
    let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert_eq!(why, "the list has more than 100000 items");
}

#[tokio::test]
async fn who_is_turned_away_comes_again_when_told() {
    let check = async |status: u16, after: Option<&'static str>, again: bool| {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = calls.clone();
        let answer = move || async move {
            if counted.fetch_add(1, Ordering::Relaxed) == 2 {
                return r#"{"operation":"DEPLOY_VLAN","responseCode":"OK","info":{"name":"vlanId","value":"v-1"}}"#
                    .into_response();
            }
            let status = StatusCode::from_u16(status).expect("a status");
            match after {
                Some(after) => (status, [("retry-after", after)], "too many").into_response(),
                None => (status, "too many").into_response(),
            }
        };
        let routes = Router::new().route("/caas/2.4/o-1/network/deployVlan", post(answer));
        let deployed = client(routes).await.deploy_vlan(&vlan()).await;
        assert_eq!(deployed.is_ok(), again, "{status} {after:?}: {deployed:?}");
        assert_eq!(calls.load(Ordering::Relaxed), if again { 3 } else { 1 }, "{status} {after:?}");
        deployed.err()
    };
    check(429, Some("0"), true).await;
    check(429, None, true).await;
    check(429, Some("Thu, 01 Jan 1970 00:00:00 GMT"), true).await;
    // Longer than a call may take: whoever called waits, and shows it.
    let error = check(429, Some("90"), false).await.expect("turned away");
    assert!(matches!(error, McpError::Throttled(_)) && !error.is_ambiguous(), "{error:?}");
    assert_eq!(error.to_string(), "DEPLOY_VLAN: HTTP 429: too many (it asks to wait 90 s)");
    // What came of these only a look can tell.
    for status in [408, 503] {
        let error = check(status, Some("0"), false).await.expect("in trouble");
        assert!(error.is_ambiguous() && error.is_retryable(), "{error:?}");
    }
}

#[tokio::test]
async fn a_list_that_never_ends_is_given_up() {
    let same = || async {
        r#"{"osImage":[{"id":"i","datacenterId":"EU7","name":"n"}],"pageNumber":1,"pageCount":1,"totalCount":4000000000}"#
    };
    let routes = Router::new().route("/caas/2.4/o-1/image/osImage", get(same));
    let error = client(routes).await.list::<Image>(&Filter::all()).await.expect_err("endless");
    assert!(matches!(error, McpError::Decode { accepted: false, .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_no_list_is_an_error_that_names_the_call() {
    for body in ["<html>login</html>", "{}", "[]", r#"{"osImage":[{"id":1}]}"#] {
        let routes = Router::new().route("/caas/2.4/o-1/image/osImage", get(move || async move { body }));
        let error = client(routes).await.list::<Image>(&Filter::all()).await.expect_err(body);
        assert!(
            matches!(&error, McpError::Decode { operation, .. } if operation == "LIST_OS_IMAGE"),
            "{error:?}"
        );
    }
}

fn vlan() -> DeployVlan {
    DeployVlan {
        network_domain_id: "d-1".into(),
        name: "front".into(),
        description: None,
        private_ipv4_base_address: "10.0.0.0".parse().expect("an address"),
        private_ipv4_prefix_size: None,
        gateway_addressing: None,
    }
}

#[tokio::test]
async fn changes_send_the_documented_form_and_accept_ok_for_in_progress() {
    let answer = |body: String| async move {
        assert_eq!(body, r#"{"name":"front","networkDomainId":"d-1","privateIpv4BaseAddress":"10.0.0.0"}"#);
        r#"{"operation":"DEPLOY_VLAN","responseCode":"OK","info":{"name":"vlanId","value":"v-1"}}"#
    };
    let routes = Router::new().route("/caas/2.4/o-1/network/deployVlan", post(answer));
    let client = client(routes).await;
    assert_eq!(client.deploy_vlan(&vlan()).await.expect("accepted").as_str(), "v-1");
    assert_eq!(client.changing_calls(), 1);
}

#[tokio::test]
async fn an_accepted_change_without_its_id_is_ambiguous() {
    let answer = || async { r#"{"operation":"DEPLOY_VLAN","responseCode":"IN_PROGRESS"}"# };
    let routes = Router::new().route("/caas/2.4/o-1/network/deployVlan", post(answer));
    let error = client(routes).await.deploy_vlan(&vlan()).await.expect_err("no id");
    assert!(error.is_ambiguous(), "{error:?}");
}

#[tokio::test]
async fn errors_in_xml_and_in_no_form_at_all() {
    let check = async |status: u16, body: &'static str, want: fn(&McpError) -> bool| {
        let answer =
            move || async move { (StatusCode::from_u16(status).expect("a status"), body).into_response() };
        let routes = Router::new().route("/caas/2.4/o-1/server/startServer", post(answer));
        let error =
            client(routes).await.server_call(ServerCall::Start, &"s".into()).await.expect_err("refused");
        assert!(want(&error), "{status} {body}: {error:?}");
    };
    let xml = "<response xmlns=\"urn:didata.com:api:cloud:types\"><responseCode>SERVER_STARTED</responseCode></response>";
    check(400, xml, |error| matches!(error, McpError::ServerStarted(_))).await;
    check(400, "", |error| matches!(error, McpError::Rejected(refusal) if refusal.code == "HTTP 400")).await;
    check(502, "<html>bad gateway</html>", |error| matches!(error, McpError::Transient(_))).await;
    check(401, "", |error| matches!(error, McpError::Unauthorized { .. })).await;
    check(403, "{}", |error| matches!(error, McpError::Forbidden { .. })).await;
    check(302, "", |error| matches!(error, McpError::Rejected(_))).await;
    check(
        200,
        r#"{"responseCode":"RESOURCE_LOCKED","message":"no"}"#,
        |error| matches!(error, McpError::Rejected(refusal) if refusal.code == "RESOURCE_LOCKED"),
    )
    .await;
}

#[tokio::test]
async fn a_missing_resource_is_none() {
    let answer = || async {
        (
            StatusCode::BAD_REQUEST,
            r#"{"operation":"GET_VLAN","responseCode":"RESOURCE_NOT_FOUND","message":"no"}"#,
        )
    };
    let routes = Router::new().route("/caas/2.4/o-1/network/vlan/v-1", get(answer));
    assert_eq!(client(routes).await.find::<Vlan>(&"v-1".into()).await.expect("an answer"), None);
}

#[tokio::test]
async fn busy_for_ever_ends_with_busy() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let answer = move || async move {
        counted.fetch_add(1, Ordering::Relaxed);
        (StatusCode::BAD_REQUEST, r#"{"responseCode":"RESOURCE_BUSY","message":"wait"}"#)
    };
    let routes = Router::new().route("/caas/2.4/o-1/network/deleteNetworkDomain", post(answer));
    let client = client(routes).await;
    let error = client.delete::<NetworkDomain>(&"d-1".into()).await.expect_err("busy");
    assert!(matches!(error, McpError::Busy(_)), "{error:?}");
    assert!(calls.load(Ordering::Relaxed) > 2);
    assert_eq!(client.changing_calls(), u64::from(calls.load(Ordering::Relaxed)));
}
