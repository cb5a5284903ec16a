//! The whole life of everything the reference fleet uses, through the typed client.

use std::net::Ipv4Addr;

use crate::support::{Cloud, DEADLINE, PACE, domain, server_request, vlan};
use fleet_mcp::{
    Filter, McpError,
    resource::ServerCall,
    types::{
        Action, AddDisk, CreateFirewallRule, CreateNatRule, CustomerImage, Datacenter, EditFirewallRule,
        Endpoint, FirewallRule, Image, IpVersion, NatRule, NetworkDomain, Placement, Protocol, PublicIpBlock,
        ReconfigureServer, ReservedPublicIpv4Address, Server, ServicePlan, State, Vlan,
    },
    wait::{until_gone, until_normal},
};

#[tokio::test]
async fn a_server_from_its_network_to_nothing_left() {
    let cloud = Cloud::start().await;
    let client = cloud.client();

    let datacenters = client.list::<Datacenter>(&Filter::all()).await.expect("a list");
    let ids: Vec<_> = datacenters.iter().map(|datacenter| datacenter.id.as_str()).collect();
    assert_eq!(ids, ["EU6", "EU7", "EU8", "EU9"]);
    assert_eq!(client.list::<CustomerImage>(&Filter::all()).await.expect("a list"), []);

    let domain = domain(&client, "EU7").await;
    let in_domain = Filter::in_network_domain(&domain);
    let vlan = vlan(&client, &domain, "10.70.0.0").await;
    let network = client.get::<Vlan>(&vlan).await.expect("there");
    assert_eq!(network.ipv4_gateway_address, Some(Ipv4Addr::new(10, 70, 0, 1)));
    let range = network.ipv6_range.expect("from the first answer on");
    assert_eq!((range.address.to_string().matches(':').count(), range.prefix_size), (7, 64));

    // A server, from deployment to a running one with more disk, memory and monitoring.
    let request = server_request(&client, &domain, &vlan, "seed").await;
    let server = client.deploy_server(&request).await.expect("accepted");
    let settled = || until_normal(&client, &server, PACE, DEADLINE, |_: &Server| {});
    let made = settled().await.expect("made");
    assert!(made.deployed && !made.started && made.progress.is_none());
    let nic = made.network_info.as_ref().expect("a network").primary_nic.clone();
    assert_eq!(nic.private_ipv4, Some(Ipv4Addr::new(10, 70, 0, 7)));
    let ipv6 = nic.ipv6.expect("an address").0;
    assert_eq!(ipv6.segments()[..4], range.address.0.segments()[..4]);
    assert!(nic.mac_address.expect("a card").starts_with("00:50:56:"));

    let disk = AddDisk { id: server.clone(), size_gb: 100, speed: Some("STANDARD".into()), scsi_id: None };
    let disk = client.add_disk(&disk).await.expect("accepted");
    settled().await.expect("with a disk");
    client.expand_disk(&server, &disk, 120).await.expect("accepted");
    let grown = settled().await.expect("with a larger disk");
    let disks: Vec<_> = grown.disks().iter().map(|disk| (disk.scsi_id, disk.size_gb)).collect();
    assert_eq!(disks, [(0, 10), (1, 120)]);
    let error = client.expand_disk(&server, &disk, 100).await.expect_err("smaller");
    assert!(
        matches!(&error, McpError::Rejected(refusal) if refusal.code == "INVALID_INPUT_DATA"),
        "{error:?}"
    );
    let reconfigure = ReconfigureServer {
        id: server.clone(),
        memory_gb: Some(8),
        cpu_count: Some(4),
        cpu_speed: None,
        cores_per_socket: None,
    };
    client.reconfigure_server(&reconfigure).await.expect("accepted");
    let larger = settled().await.expect("larger");
    assert_eq!((larger.cpu.count, larger.memory_gb), (4, 8));
    for _ in 0..2 {
        client.enable_monitoring(&server, ServicePlan::Essentials).await.expect("on, or on already");
    }
    client.server_call(ServerCall::Start, &server).await.expect("accepted");
    let started = settled().await.expect("started");
    assert!(started.started && started.tools_running());
    assert_eq!(started.monitoring.expect("on").service_plan, ServicePlan::Essentials);
    let error = client.server_call(ServerCall::Start, &server).await.expect_err("started");
    assert!(matches!(error, McpError::ServerStarted(_)), "{error:?}");
    let error = client.delete(&server).await.expect_err("started");
    assert!(matches!(error, McpError::ServerStarted(_)), "{error:?}");

    // Its public address and what reaches it.
    let block = client.add_public_ip_block(&domain).await.expect("added");
    let block = client.get::<PublicIpBlock>(&block).await.expect("there");
    let public = block.addresses().next().expect("two addresses");
    assert_eq!((block.base_ip, block.size), (Ipv4Addr::new(198, 51, 100, 2), 2));
    let nat = CreateNatRule {
        network_domain_id: domain.clone(),
        internal_ip: Ipv4Addr::new(10, 70, 0, 7),
        external_ip: None,
    };
    let nat = client.create_nat_rule(&nat).await.expect("made");
    assert_eq!(client.get::<NatRule>(&nat).await.expect("there").external_ip, public);
    let reserved = client.list::<ReservedPublicIpv4Address>(&in_domain).await.expect("a list");
    assert_eq!(reserved.iter().map(|address| address.value).collect::<Vec<_>>(), [public]);
    let rule = CreateFirewallRule {
        network_domain_id: domain.clone(),
        name: "Seed.TCPv4_22".into(),
        action: Action::AcceptDecisively,
        ip_version: IpVersion::V4,
        protocol: Protocol::Tcp,
        source: Endpoint::any(),
        destination: Endpoint::host(public).ports(22, 22),
        enabled: true,
        placement: Some(Placement::last()),
    };
    let rule_id = client.create_firewall_rule(&rule).await.expect("made");
    let error = client.create_firewall_rule(&rule).await.expect_err("the same name");
    assert!(matches!(error, McpError::NameNotUnique(_)), "{error:?}");
    let rules = client.list::<FirewallRule>(&in_domain).await.expect("a list");
    let defaults = rules.iter().filter(|rule| rule.is_default()).count();
    assert_eq!((defaults, rules.last().map(|rule| rule.destination.clone())), (5, Some(rule.destination)));
    let deny = rules.iter().find(|rule| rule.name == "CCDEFAULT.DenyExternalInboundIPv6").expect("a default");
    client.edit_firewall_rule(&EditFirewallRule::enabling(deny.id.clone(), false)).await.expect("off");
    assert!(!client.get::<FirewallRule>(&deny.id).await.expect("there").enabled);
    let error = client.delete(&deny.id).await.expect_err("a default rule");
    assert!(
        matches!(&error, McpError::Rejected(refusal) if refusal.code == "OPERATION_NOT_SUPPORTED"),
        "{error:?}"
    );

    // And back. Nothing goes while something still needs it.
    let error = client.delete(&vlan).await.expect_err("in use");
    assert!(matches!(error, McpError::HasDependency(_)), "{error:?}");
    client.server_call(ServerCall::Shutdown, &server).await.expect("accepted");
    settled().await.expect("stopped");
    let error = client.server_call(ServerCall::PowerOff, &server).await.expect_err("stopped");
    assert!(matches!(error, McpError::ServerStopped(_)), "{error:?}");
    client.server_call(ServerCall::DisableMonitoring, &server).await.expect("off");
    let error = client.delete(&block.id).await.expect_err("in use");
    assert!(matches!(error, McpError::HasDependency(_)), "{error:?}");
    client.delete(&nat).await.expect("deleted");
    client.delete(&rule_id).await.expect("deleted");
    client.delete(&server).await.expect("accepted");
    until_gone(&client, &server, PACE, DEADLINE, |_| {}).await.expect("gone");
    client.delete(&vlan).await.expect("accepted");
    until_gone(&client, &vlan, PACE, DEADLINE, |_| {}).await.expect("gone");
    let error = client.delete(&domain).await.expect_err("has a block");
    assert!(matches!(error, McpError::HasDependency(_)), "{error:?}");
    client.delete(&block.id).await.expect("deleted");
    client.delete(&domain).await.expect("accepted");
    until_gone(&client, &domain, PACE, DEADLINE, |_| {}).await.expect("gone");
    let error = client.get::<NetworkDomain>(&domain).await.expect_err("gone");
    assert!(error.is_not_found(), "{error:?}");
    assert_eq!(client.list::<FirewallRule>(&Filter::all()).await.expect("a list"), []);
    assert_eq!(cloud.changes().await.len() as u64, client.changing_calls());
    cloud.stop().await;
}

#[tokio::test]
async fn a_failed_server_is_cleaned() {
    let cloud = Cloud::start().await;
    let client = cloud.client();
    let domain = domain(&client, "EU7").await;
    let vlan = vlan(&client, &domain, "10.60.0.0").await;
    cloud.fault(r#"{"kind":"fail_deploy","subject":"bad"}"#).await;
    let good =
        client.deploy_server(&server_request(&client, &domain, &vlan, "good").await).await.expect("accepted");
    let bad =
        client.deploy_server(&server_request(&client, &domain, &vlan, "bad").await).await.expect("accepted");
    until_normal(&client, &good, PACE, DEADLINE, |_| {}).await.expect("made");
    let error = until_normal(&client, &bad, PACE, DEADLINE, |_| {}).await.expect_err("fails");
    assert!(error.to_string().contains("FAILED_ADD: failure asked for"), "{error}");
    let error = client.delete(&bad).await.expect_err("never made");
    assert!(matches!(&error, McpError::Rejected(refusal) if refusal.code == "INVALID_STATUS"), "{error:?}");
    client.server_call(ServerCall::Clean, &bad).await.expect("accepted");
    until_gone(&client, &bad, PACE, DEADLINE, |_| {}).await.expect("gone");
    let servers = client.list::<Server>(&Filter::all()).await.expect("a list");
    assert_eq!(
        servers.iter().map(|server| (&server.id, &server.state)).collect::<Vec<_>>(),
        [(&good, &State::Normal)]
    );
    cloud.stop().await;
}

#[tokio::test]
async fn images_are_there_for_every_datacenter() {
    let cloud = Cloud::start().await;
    let client = cloud.client();
    for datacenter in ["EU6", "EU7", "EU8", "EU9"] {
        let images = client.list::<Image>(&Filter::in_datacenter(datacenter)).await.expect("a list");
        for wanted in ["Debian 12", "Ubuntu 14"] {
            assert!(images.iter().any(|image| image.name.contains(wanted)), "{datacenter} {wanted}");
        }
    }
    cloud.stop().await;
}
