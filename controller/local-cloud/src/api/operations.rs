//! From the path of a change and its body to the typed change.

use fleet_mcp::{
    Operation,
    resource::ServerCall,
    types::{
        AddDisk, AddNic, AddPublicIpBlock, ChangeDiskSpeed, ChangeServerMonitoringPlan, CreateFirewallRule,
        CreateIpAddressList, CreateNatRule, CreatePortList, DeployNetworkDomain, DeployServer, DeployVlan,
        EditFirewallRule, EditIpAddressList, EditNetworkDomain, EditPortList, EditServerMetadata, EditVlan,
        EnableServerMonitoring, ExpandDisk, ReconfigureServer, RemoveDisk, RemoveNic,
    },
};

use super::request::Body;
use crate::state::{Change, Refused};

type Build = fn(&Body) -> Result<Change, Refused>;

/// Every change of the 2.x API: its path, and how to read its body.
///
/// This is also where newer versions' own shapes would branch off; up to 2.13 requests are read in the
/// shape of 2.4, with the few newer member names that mean the same.
const OPERATIONS: [(&str, Build); 44] = [
    (DeployNetworkDomain::PATH, |body| Ok(Change::DeployNetworkDomain(body.decode()?))),
    (EditNetworkDomain::PATH, |body| Ok(Change::EditNetworkDomain(body.decode()?))),
    ("network/deleteNetworkDomain", |body| Ok(Change::DeleteNetworkDomain(body.text(&["id"])?))),
    (DeployVlan::PATH, |body| Ok(Change::DeployVlan(body.decode()?))),
    (EditVlan::PATH, |body| Ok(Change::EditVlan(body.decode()?))),
    ("network/deleteVlan", |body| Ok(Change::DeleteVlan(body.text(&["id"])?))),
    (DeployServer::PATH, |body| Ok(Change::DeployServer(body.decode()?))),
    (EditServerMetadata::PATH, |body| Ok(Change::EditServerMetadata(body.decode()?))),
    (ServerCall::Start.path(), |body| Ok(Change::Server(ServerCall::Start, body.text(&["id"])?))),
    (ServerCall::Shutdown.path(), |body| Ok(Change::Server(ServerCall::Shutdown, body.text(&["id"])?))),
    (ServerCall::PowerOff.path(), |body| Ok(Change::Server(ServerCall::PowerOff, body.text(&["id"])?))),
    (ServerCall::Reboot.path(), |body| Ok(Change::Server(ServerCall::Reboot, body.text(&["id"])?))),
    (ServerCall::Reset.path(), |body| Ok(Change::Server(ServerCall::Reset, body.text(&["id"])?))),
    (ServerCall::Clean.path(), |body| Ok(Change::Server(ServerCall::Clean, body.text(&["id"])?))),
    (ServerCall::UpdateTools.path(), |body| Ok(Change::Server(ServerCall::UpdateTools, body.text(&["id"])?))),
    (ServerCall::DisableMonitoring.path(), |body| {
        Ok(Change::Server(ServerCall::DisableMonitoring, body.text(&["id"])?))
    }),
    ("server/deleteServer", |body| Ok(Change::DeleteServer(body.text(&["id"])?))),
    (ReconfigureServer::PATH, |body| Ok(Change::Reconfigure(body.decode()?))),
    (AddDisk::PATH, |body| Ok(Change::AddDisk(body.decode()?))),
    (RemoveDisk::PATH, |body| Ok(Change::RemoveDisk(body.decode()?))),
    (ExpandDisk::PATH, |body| {
        let ExpandDisk { id, new_size_gb } = body.decode()?;
        Ok(Change::ExpandDisk { server: None, disk: id.to_string(), size_gb: new_size_gb })
    }),
    (ChangeDiskSpeed::PATH, |body| {
        let ChangeDiskSpeed { id, speed } = body.decode()?;
        Ok(Change::ChangeDiskSpeed { server: None, disk: id.to_string(), speed })
    }),
    (AddNic::PATH, |body| Ok(Change::AddNic(body.decode()?))),
    (RemoveNic::PATH, |body| Ok(Change::RemoveNic(body.decode()?))),
    (EnableServerMonitoring::PATH, |body| Ok(Change::EnableMonitoring(body.decode()?))),
    (ChangeServerMonitoringPlan::PATH, |body| Ok(Change::ChangeMonitoring(body.decode()?))),
    (AddPublicIpBlock::PATH, |body| Ok(Change::AddPublicIpBlock(body.decode()?))),
    ("network/removePublicIpBlock", |body| Ok(Change::RemovePublicIpBlock(body.text(&["id"])?))),
    (CreateNatRule::PATH, |body| Ok(Change::CreateNatRule(body.decode()?))),
    ("network/deleteNatRule", |body| Ok(Change::DeleteNatRule(body.text(&["id"])?))),
    (CreateFirewallRule::PATH, |body| Ok(Change::CreateFirewallRule(body.decode()?))),
    (EditFirewallRule::PATH, |body| Ok(Change::EditFirewallRule(body.decode()?))),
    ("network/deleteFirewallRule", |body| Ok(Change::DeleteFirewallRule(body.text(&["id"])?))),
    (CreateIpAddressList::PATH, |body| Ok(Change::CreateIpAddressList(body.decode()?))),
    (EditIpAddressList::PATH, |body| Ok(Change::EditIpAddressList(body.decode()?))),
    ("network/deleteIpAddressList", |body| Ok(Change::DeleteIpAddressList(body.text(&["id"])?))),
    (CreatePortList::PATH, |body| Ok(Change::CreatePortList(body.decode()?))),
    (EditPortList::PATH, |body| Ok(Change::EditPortList(body.decode()?))),
    ("network/deletePortList", |body| Ok(Change::DeletePortList(body.text(&["id"])?))),
    (RESERVE, reserve),
    // A public client posts the document of the former to this path.
    ("network/reservedPrivateIpv4Address", reserve),
    ("network/unreservePrivateIpv4Address", |body| {
        let (vlan, address) = vlan_address(body)?;
        Ok(Change::UnreservePrivateAddress { vlan, address })
    }),
    // Not read yet: static routes and tags. Known, so that they are refused as unsupported, not as unknown.
    ("network/createStaticRoute", |_| Err(unsupported())),
    ("tag/applyTags", |_| Err(unsupported())),
];

const RESERVE: &str = "network/reservePrivateIpv4Address";

fn unsupported() -> Refused {
    Refused { code: "OPERATION_NOT_SUPPORTED", message: "This cloud does not offer it.".to_owned() }
}

fn reserve(body: &Body) -> Result<Change, Refused> {
    let (vlan, address) = vlan_address(body)?;
    Ok(Change::ReservePrivateAddress { vlan, address })
}

fn vlan_address(body: &Body) -> Result<(String, std::net::Ipv4Addr), Refused> {
    let text = body.text(&["ipAddress", "ipv4", "privateIpv4"])?;
    let address = text.parse().map_err(|_| Refused::invalid(format!("'{text}' is not an IPv4 address.")))?;
    Ok((body.text(&["vlanId"])?, address))
}

/// Whether there is a change with this path.
pub(crate) fn is_known(path: &str) -> bool {
    OPERATIONS.iter().any(|(known, _)| *known == path)
}

/// Reads the body of the change with this path.
pub(crate) fn build(path: &str, body: &Body) -> Result<Change, Refused> {
    let Some((_, build)) = OPERATIONS.iter().find(|(known, _)| *known == path) else {
        return Err(unsupported());
    };
    let last = path.rsplit('/').next().unwrap_or(path);
    let also = if path == "network/reservedPrivateIpv4Address" { "reservePrivateIpv4Address" } else { last };
    build(body.of(&[last, also])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_unique() {
        let paths: std::collections::BTreeSet<_> = OPERATIONS.iter().map(|(path, _)| path).collect();
        assert_eq!(paths.len(), OPERATIONS.len());
    }

    #[test]
    fn the_wrong_root_is_refused() {
        let body =
            Body::parse(br#"<startServer xmlns="urn:didata.com:api:cloud:types" id="1"/>"#).expect("XML");
        assert_eq!(
            build("server/startServer", &body).expect("the right root"),
            Change::Server(ServerCall::Start, "1".into())
        );
        assert_eq!(
            build("server/resetServer", &body).expect_err("the wrong root").code,
            "INVALID_INPUT_DATA"
        );
    }
}
