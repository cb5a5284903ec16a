//! The cloud as a proxy: clients keep the real service's host names, and reach nothing else through it.

use std::io::{Read, Write};

use fleet_mcp::{
    Client, Filter, McpError,
    types::{Datacenter, NetworkDomain},
};

use crate::support::{Cloud, DEADLINE, domain};

/// What a proxy says to `request`, sent as it is.
async fn said(cloud: &Cloud, request: &'static str) -> String {
    let port = cloud.access.endpoint.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer and the end");
        answer
    });
    asked.await.expect("no panic")
}

#[tokio::test]
async fn a_tunnel_leads_to_the_api_and_nowhere_else() {
    let cloud = Cloud::start().await;
    for request in [
        "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
        "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n",
        "CONNECT api-eu.dimensiondata.com:22 HTTP/1.1\r\nHost: api-eu.dimensiondata.com\r\n\r\n",
    ] {
        let answer = said(&cloud, request).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{request}: {answer}");
    }
    for request in [
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
        "GET http://api-eu.dimensiondata.com/oec/0.9/myaccount HTTP/1.1\r\nHost: api-eu.dimensiondata.com\r\n\r\n",
    ] {
        let answer = said(&cloud, request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{request}: {answer}");
    }
    cloud.stop().await;
}

#[tokio::test]
async fn credentials_are_asked_for_inside_the_tunnel_too() {
    let cloud = Cloud::start().await;
    let http = cloud.http_through_proxy();
    let answer =
        http.get("https://api-eu.dimensiondata.com/oec/0.9/myaccount").send().await.expect("an answer");
    assert_eq!(answer.status(), 401);
    cloud.stop().await;
}

#[tokio::test]
async fn every_region_has_its_own_api() {
    let cloud = Cloud::start().await;
    let here = cloud.client();
    let of = |host: &str| -> Client { cloud.client_through_proxy(host) };
    let (europe, america) = (of("api-eu.dimensiondata.com"), of("api-na.dimensiondata.com"));
    let names = async |client: &Client| {
        let found = client.list::<Datacenter>(&Filter::all()).await.expect("a list");
        found.iter().map(|datacenter| datacenter.id.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&europe).await, "EU6 EU7 EU8 EU9");
    assert_eq!(names(&of("euapi.cloud.is.co.za")).await, "EU6 EU7 EU8 EU9");
    assert_eq!(names(&america).await, "NA9 NA12");
    assert_eq!(names(&of("api-latam.dimensiondata.com")).await, "");
    // By its address, it is the region it was told to be.
    assert_eq!(names(&here).await, "EU6 EU7 EU8 EU9");

    let abroad = domain(&america, "NA9").await;
    let local = domain(&europe, "EU7").await;
    let list = async |client: &Client| client.list::<NetworkDomain>(&Filter::all()).await.expect("a list");
    assert_eq!(list(&europe).await.iter().map(|domain| &domain.id).collect::<Vec<_>>(), [&local]);
    assert_eq!(list(&america).await.iter().map(|domain| &domain.id).collect::<Vec<_>>(), [&abroad]);
    assert_eq!(europe.find::<NetworkDomain>(&abroad).await.expect("an answer"), None);
    let error = europe.delete(&abroad).await.expect_err("of another region");
    assert!(error.is_not_found(), "{error:?}");
    let error = europe
        .deploy_network_domain(&fleet_mcp::types::DeployNetworkDomain {
            datacenter_id: "NA9".into(),
            name: "x".into(),
            description: None,
            plan: fleet_mcp::types::DomainType::Essentials,
        })
        .await
        .expect_err("a data centre of another region");
    assert!(matches!(error, McpError::NotFound(_)), "{error:?}");
    america.delete(&abroad).await.expect("accepted");
    cloud.stop().await;
}
