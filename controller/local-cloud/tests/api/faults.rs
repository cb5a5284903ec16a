//! Every fault, seen through the typed client; and what the platform refuses by itself.

use std::time::{Duration, Instant};

use crate::support::{Cloud, DEADLINE, PACE, domain, server_request, vlan};
use fleet_mcp::{
    Filter, McpError, Secret,
    resource::ServerCall,
    types::{Datacenter, DeployNetworkDomain, DomainType, NetworkDomain, Server, Vlan},
    wait::{WaitError, until_normal},
};

fn another_domain(name: &str) -> DeployNetworkDomain {
    DeployNetworkDomain {
        datacenter_id: "EU8".into(),
        name: name.into(),
        description: None,
        plan: DomainType::Essentials,
    }
}

#[tokio::test]
async fn busy_is_retried_also_for_changes() {
    let cloud = Cloud::start().await;
    let client = cloud.client();
    cloud.fault(r#"{"kind":"busy","operation":"DEPLOY_NETWORK_DOMAIN","count":3}"#).await;
    client.deploy_network_domain(&another_domain("a")).await.expect("accepted at last");
    assert_eq!(client.changing_calls(), 4);
    let codes: Vec<_> = cloud.changes().await.iter().map(|call| call["code"].clone()).collect();
    assert_eq!(codes, ["RESOURCE_BUSY", "RESOURCE_BUSY", "RESOURCE_BUSY", "IN_PROGRESS"]);

    let hasty = cloud.client_with(|settings| settings.retry.busy_for = Duration::ZERO);
    cloud.fault(r#"{"kind":"busy","operation":"change"}"#).await;
    let error = hasty.deploy_network_domain(&another_domain("b")).await.expect_err("busy");
    assert!(matches!(error, McpError::Busy(_)) && error.is_retryable() && !error.is_ambiguous(), "{error:?}");
    cloud.stop().await;
}

#[tokio::test]
async fn trouble_is_retried_for_reads_only() {
    let cloud = Cloud::start().await;
    let client = cloud.client();
    cloud.fault(r#"{"kind":"server_error","operation":"LIST_DATACENTER","count":2}"#).await;
    cloud.fault(r#"{"kind":"reset","operation":"LIST_DATACENTER"}"#).await;
    client.list::<Datacenter>(&Filter::all()).await.expect("at last");
    cloud.fault(r#"{"kind":"server_error","status":500,"operation":"LIST_DATACENTER","count":9}"#).await;
    let error = client.list::<Datacenter>(&Filter::all()).await.expect_err("in trouble");
    assert!(matches!(error, McpError::Transient(_)), "{error:?}");

    cloud.fault(r#"{"kind":"server_error","operation":"change"}"#).await;
    let error = client.deploy_network_domain(&another_domain("a")).await.expect_err("in trouble");
    assert!(matches!(error, McpError::Transient(_)) && error.is_ambiguous(), "{error:?}");
    assert_eq!(client.changing_calls(), 1);
    assert_eq!(client.list::<NetworkDomain>(&Filter::all()).await.expect("a list"), []);
    cloud.stop().await;
}

#[tokio::test]
async fn a_lost_answer_is_told_from_a_lost_request_by_looking() {
    let cloud = Cloud::start().await;
    let client = cloud.client();
    client.organisation().await.expect("known");
    for (kind, effect) in [("reset", 0), ("lost_answer", 1)] {
        cloud.fault(&format!(r#"{{"kind":"{kind}","operation":"DEPLOY_NETWORK_DOMAIN"}}"#)).await;
        let error = client.deploy_network_domain(&another_domain("a")).await.expect_err("no answer");
        assert!(matches!(error, McpError::Transport { sent: true, .. }), "{error:?}");
        assert!(error.is_ambiguous());
        let found = client.list::<NetworkDomain>(&Filter::all().and("name", "a")).await.expect("a list");
        assert_eq!(found.len(), effect, "{kind}");
    }
    assert_eq!(client.changing_calls(), 2);
    cloud.stop().await;
}

#[tokio::test]
async fn slow_is_slow_and_bounded_by_the_clients_timeout() {
    let cloud = Cloud::start().await;
    let client = cloud.client();
    client.organisation().await.expect("known");
    cloud.fault(r#"{"kind":"slow","millis":300,"operation":"LIST_VLAN"}"#).await;
    let started = Instant::now();
    client.list::<Vlan>(&Filter::all()).await.expect("slowly");
    assert!(started.elapsed() >= Duration::from_millis(300));
    let hasty = cloud.client_with(|settings| settings.call_timeout = Duration::from_millis(200));
    hasty.organisation().await.expect("known");
    cloud.fault(r#"{"kind":"slow","millis":60000,"operation":"change"}"#).await;
    let error = hasty.deploy_network_domain(&another_domain("a")).await.expect_err("too slow");
    assert!(matches!(error, McpError::Transport { sent: true, .. }), "{error:?}");
    cloud.stop().await;
}

#[tokio::test]
async fn a_server_that_never_boots_says_it_runs_but_its_tools_do_not() {
    let cloud = Cloud::start().await;
    let client = cloud.client();
    let domain = domain(&client, "EU7").await;
    let vlan = vlan(&client, &domain, "10.60.0.0").await;
    let server =
        client.deploy_server(&server_request(&client, &domain, &vlan, "web").await).await.expect("accepted");
    until_normal(&client, &server, PACE, DEADLINE, |_| {}).await.expect("made");
    cloud.fault(r#"{"kind":"never_boots","subject":"web"}"#).await;
    client.server_call(ServerCall::Start, &server).await.expect("accepted");
    let dead = until_normal(&client, &server, PACE, DEADLINE, |_| {}).await.expect("said to run");
    assert!(dead.started && !dead.tools_running());
    let error = client.server_call(ServerCall::Shutdown, &server).await.expect_err("no tools");
    assert!(
        matches!(&error, McpError::Rejected(refusal) if refusal.code == "VMWARE_TOOLS_INVALID_STATUS"),
        "{error:?}"
    );
    client.server_call(ServerCall::PowerOff, &server).await.expect("accepted");
    until_normal(&client, &server, PACE, DEADLINE, |_| {}).await.expect("off");
    client.server_call(ServerCall::Start, &server).await.expect("accepted");
    let alive = until_normal(&client, &server, PACE, DEADLINE, |_| {}).await.expect("runs");
    assert!(alive.started && alive.tools_running());
    cloud.stop().await;
}

#[tokio::test]
async fn one_operation_at_a_time_per_server() {
    let cloud = Cloud::with(|settings| {
        let delays = [("START_SERVER", 400), ("DEPLOY_SERVER", 50)];
        settings.delays.by_operation =
            delays.map(|(name, millis)| (name.to_owned(), Duration::from_millis(millis))).into();
    })
    .await;
    let hasty = cloud.client_with(|settings| settings.retry.busy_for = Duration::ZERO);
    let domain = domain(&hasty, "EU7").await;
    let vlan = vlan(&hasty, &domain, "10.60.0.0").await;
    let mut servers = Vec::new();
    for name in ["a", "b"] {
        let id =
            hasty.deploy_server(&server_request(&hasty, &domain, &vlan, name).await).await.expect("accepted");
        servers.push(id);
    }
    for server in &servers {
        until_normal(&hasty, server, PACE, DEADLINE, |_| {}).await.expect("made");
        // Different servers may be busy together.
        hasty.server_call(ServerCall::Start, server).await.expect("accepted");
    }
    let error = hasty.server_call(ServerCall::PowerOff, &servers[0]).await.expect_err("busy");
    assert!(matches!(error, McpError::Busy(_)), "{error:?}");
    let mut seen = Vec::new();
    let settled = until_normal(&hasty, &servers[0], PACE, DEADLINE, |server: &Server| {
        seen.push(server.progress.as_ref().map(|progress| progress.action.to_string()));
    });
    settled.await.expect("started");
    assert_eq!((seen.first(), seen.last()), (Some(&Some("START_SERVER".to_owned())), Some(&None)));
    let short = until_normal::<Server>(&hasty, &"no-such-server".into(), PACE, DEADLINE, |_| {}).await;
    assert!(matches!(short, Err(WaitError::Gone { .. })), "{short:?}");
    cloud.stop().await;
}

#[tokio::test]
async fn wrong_credentials_and_unreachable_clouds_are_named() {
    let cloud = Cloud::start().await;
    let client = cloud.client_with(|settings| settings.credentials.password = Secret::new("wrong"));
    let error = client.list::<Server>(&Filter::all()).await.expect_err("wrong password");
    assert!(matches!(error, McpError::Unauthorized { .. }), "{error:?}");
    let client = cloud.client_with(|settings| settings.extra_ca_pem = None);
    let error = client.list::<Server>(&Filter::all()).await.expect_err("an unknown authority");
    assert!(matches!(error, McpError::Transport { sent: false, .. }), "{error:?}");
    let client = cloud.client();
    cloud.stop().await;
    let error = client.deploy_network_domain(&another_domain("a")).await.expect_err("nobody there");
    assert!(matches!(error, McpError::Transport { sent: false, .. }) && !error.is_ambiguous(), "{error:?}");
}

#[tokio::test]
async fn quotas_are_named() {
    let cloud = Cloud::with(|settings| settings.quotas.servers = 1).await;
    let client = cloud.client();
    let domain = domain(&client, "EU7").await;
    let vlan = vlan(&client, &domain, "10.60.0.0").await;
    let request = server_request(&client, &domain, &vlan, "a").await;
    client.deploy_server(&request).await.expect("accepted");
    let error = client.deploy_server(&request).await.expect_err("one too many");
    assert!(matches!(error, McpError::Quota(_)), "{error:?}");
    client.add_public_ip_block(&domain).await.expect("added");
    let error = client.add_public_ip_block(&domain).await.expect_err("three addresses per server");
    assert!(matches!(error, McpError::Quota(_)), "{error:?}");
    cloud.stop().await;
}
