//! From the path of a change and its body to the typed change.

use fleet_mcp::{
    Operation,
    resource::{Deletable, ServerCall},
    types::{
        AddDisk, AddNic, AddPublicIpBlock, AntiAffinityRule, ApplyTags, ChangeDiskSpeed,
        ChangeNetworkAdapter, ChangeServerMonitoringPlan, CloneServer, CreateAntiAffinityRule,
        CreateFirewallRule, CreateIpAddressList, CreateNatRule, CreatePortList, CreateStaticRoute,
        CreateTagKey, DeployNetworkDomain, DeployServer, DeployUncustomizedServer, DeployVlan,
        EditFirewallRule, EditIpAddressList, EditNetworkDomain, EditPortList, EditServerMetadata, EditTagKey,
        EditVlan, EnableServerMonitoring, ExchangeNicVlans, ExpandDisk, ExpandVlan, NotifyNicIpChange,
        ReconfigureServer, RemoveDisk, RemoveNic, RemoveTags, ReserveAddress, RestoreStaticRoutes,
        StaticRoute, TagKey,
    },
};

use super::request::Body;
use crate::state::{Change, Refused};

type Build = fn(&Body) -> Result<Change, Refused>;

/// Every change of the 2.x API: its path, the minor version it came with, and how to read its body.
///
/// Bodies are read in the shape of any version, since none of the newer shapes can be mistaken for an older one.
const OPERATIONS: [(&str, u32, Build); 68] = [
    (DeployNetworkDomain::PATH, 2, |body| Ok(Change::DeployNetworkDomain(body.decode()?))),
    (EditNetworkDomain::PATH, 2, |body| Ok(Change::EditNetworkDomain(body.decode()?))),
    ("network/deleteNetworkDomain", 2, |body| Ok(Change::DeleteNetworkDomain(body.text(&["id"])?))),
    (DeployVlan::PATH, 2, deploy_vlan),
    (EditVlan::PATH, 2, |body| Ok(Change::EditVlan(body.decode()?))),
    (ExpandVlan::PATH, 2, |body| Ok(Change::ExpandVlan(body.decode()?))),
    ("network/deleteVlan", 2, |body| Ok(Change::DeleteVlan(body.text(&["id"])?))),
    (DeployServer::PATH, 2, |body| Ok(Change::DeployServer(body.decode()?))),
    (DeployUncustomizedServer::PATH, 4, |body| Ok(Change::DeployUncustomizedServer(body.decode()?))),
    (CloneServer::PATH, 4, |body| Ok(Change::CloneServer(body.decode()?))),
    ("image/deleteCustomerImage", 4, |body| Ok(Change::DeleteImage(body.text(&["id"])?))),
    (EditServerMetadata::PATH, 3, |body| Ok(Change::EditServerMetadata(body.decode()?))),
    (ServerCall::Start.path(), 2, |body| Ok(Change::Server(ServerCall::Start, body.text(&["id"])?))),
    (ServerCall::Shutdown.path(), 2, |body| Ok(Change::Server(ServerCall::Shutdown, body.text(&["id"])?))),
    (ServerCall::PowerOff.path(), 2, |body| Ok(Change::Server(ServerCall::PowerOff, body.text(&["id"])?))),
    (ServerCall::Reboot.path(), 2, |body| Ok(Change::Server(ServerCall::Reboot, body.text(&["id"])?))),
    (ServerCall::Reset.path(), 2, |body| Ok(Change::Server(ServerCall::Reset, body.text(&["id"])?))),
    (ServerCall::Clean.path(), 2, |body| Ok(Change::Server(ServerCall::Clean, body.text(&["id"])?))),
    (ServerCall::UpdateTools.path(), 2, |body| {
        Ok(Change::Server(ServerCall::UpdateTools, body.text(&["id"])?))
    }),
    (ServerCall::DisableMonitoring.path(), 2, |body| {
        Ok(Change::Server(ServerCall::DisableMonitoring, body.text(&["id"])?))
    }),
    ("server/deleteServer", 2, |body| Ok(Change::DeleteServer(body.text(&["id"])?))),
    (ReconfigureServer::PATH, 2, |body| Ok(Change::Reconfigure(body.decode()?))),
    (AddDisk::PATH, 2, add_disk),
    (RemoveDisk::PATH, 2, |body| Ok(Change::RemoveDisk(body.decode()?))),
    (ExpandDisk::PATH, 5, |body| {
        let ExpandDisk { id, new_size_gb } = body.decode()?;
        Ok(Change::ExpandDisk { server: None, disk: id.to_string(), size_gb: new_size_gb })
    }),
    (ChangeDiskSpeed::PATH, 7, |body| {
        let ChangeDiskSpeed { id, speed } = body.decode()?;
        Ok(Change::ChangeDiskSpeed { server: None, disk: id.to_string(), speed })
    }),
    (AddNic::PATH, 2, |body| Ok(Change::AddNic(body.decode()?))),
    (RemoveNic::PATH, 2, |body| Ok(Change::RemoveNic(body.decode()?))),
    (NotifyNicIpChange::PATH, 2, |body| Ok(Change::NotifyNicIpChange(body.decode()?))),
    (ExchangeNicVlans::PATH, 2, |body| Ok(Change::ExchangeNicVlans(body.decode()?))),
    (ChangeNetworkAdapter::PATH, 2, |body| Ok(Change::ChangeNetworkAdapter(body.decode()?))),
    (EnableServerMonitoring::PATH, 2, |body| Ok(Change::EnableMonitoring(body.decode()?))),
    (ChangeServerMonitoringPlan::PATH, 2, |body| Ok(Change::ChangeMonitoring(body.decode()?))),
    (AddPublicIpBlock::PATH, 2, |body| Ok(Change::AddPublicIpBlock(body.decode()?))),
    ("network/removePublicIpBlock", 2, |body| Ok(Change::RemovePublicIpBlock(body.text(&["id"])?))),
    (CreateNatRule::PATH, 2, |body| Ok(Change::CreateNatRule(body.decode()?))),
    ("network/deleteNatRule", 2, |body| Ok(Change::DeleteNatRule(body.text(&["id"])?))),
    (CreateFirewallRule::PATH, 2, |body| Ok(Change::CreateFirewallRule(body.decode()?))),
    (EditFirewallRule::PATH, 2, |body| Ok(Change::EditFirewallRule(body.decode()?))),
    ("network/deleteFirewallRule", 2, |body| Ok(Change::DeleteFirewallRule(body.text(&["id"])?))),
    (CreateIpAddressList::PATH, 2, |body| Ok(Change::CreateIpAddressList(body.decode()?))),
    (EditIpAddressList::PATH, 2, |body| Ok(Change::EditIpAddressList(body.decode()?))),
    ("network/deleteIpAddressList", 2, |body| Ok(Change::DeleteIpAddressList(body.text(&["id"])?))),
    (CreatePortList::PATH, 2, |body| Ok(Change::CreatePortList(body.decode()?))),
    (EditPortList::PATH, 2, |body| Ok(Change::EditPortList(body.decode()?))),
    ("network/deletePortList", 2, |body| Ok(Change::DeletePortList(body.text(&["id"])?))),
    (RESERVE, 2, |body| Ok(Change::ReserveAddress(address(body, false)?))),
    // A public client posts the document of the former to this path.
    (RESERVED, 2, |body| Ok(Change::ReserveAddress(address(body, false)?))),
    ("network/unreservePrivateIpv4Address", 2, |body| Ok(Change::UnreserveAddress(address(body, false)?))),
    ("network/reserveIpv6Address", 2, |body| Ok(Change::ReserveAddress(address(body, true)?))),
    ("network/unreserveIpv6Address", 2, |body| Ok(Change::UnreserveAddress(address(body, true)?))),
    (CreateAntiAffinityRule::PATH, 7, |body| Ok(Change::CreateAntiAffinityRule(body.decode()?))),
    (AntiAffinityRule::DELETE, 7, |body| Ok(Change::DeleteAntiAffinityRule(body.text(&["id"])?))),
    (CreateTagKey::PATH, 2, |body| Ok(Change::CreateTagKey(body.decode()?))),
    (EditTagKey::PATH, 2, |body| Ok(Change::EditTagKey(body.decode()?))),
    (TagKey::DELETE, 2, |body| Ok(Change::DeleteTagKey(body.text(&["id"])?))),
    (ApplyTags::PATH, 2, |body| Ok(Change::ApplyTags(body.decode()?))),
    (RemoveTags::PATH, 2, |body| Ok(Change::RemoveTags(body.decode()?))),
    (CreateStaticRoute::PATH, 9, |body| Ok(Change::CreateStaticRoute(body.decode()?))),
    (StaticRoute::DELETE, 9, |body| Ok(Change::DeleteStaticRoute(body.text(&["id"])?))),
    (RestoreStaticRoutes::PATH, 9, |body| Ok(Change::RestoreStaticRoutes(body.decode()?))),
    // What the platform also has, and this one does not: known, so that it is refused as unsupported.
    ("image/importImage", 4, unsupported),
    ("server/addScsiController", 5, unsupported),
    ("server/removeScsiController", 5, unsupported),
    ("server/upgradeVirtualHardware", 2, unsupported),
    ("server/enableBackup", 2, unsupported),
    ("snapshot/enableSnapshotService", 5, unsupported),
    ("snapshot/disableSnapshotService", 5, unsupported),
];

const RESERVE: &str = "network/reservePrivateIpv4Address";
const RESERVED: &str = "network/reservedPrivateIpv4Address";

fn unsupported(_: &Body) -> Result<Change, Refused> {
    Err(Refused { code: "OPERATION_NOT_SUPPORTED", message: "This cloud does not offer it.".to_owned() })
}

/// In newer versions a VLAN says how it is attached, in older ones where its gateway sits.
fn deploy_vlan(body: &Body) -> Result<Change, Refused> {
    let mut body = body.clone();
    let attached = body.take("attachedVlan");
    let detached = body.take("detachedVlan");
    match (attached.is_null(), detached.is_null()) {
        (true, true) => Ok(Change::DeployVlan(body.decode()?)),
        (false, true) => {
            let gateway = &attached["gatewayAddressing"];
            if !gateway.is_null() {
                body.value["gatewayAddressing"] = gateway.clone();
            }
            Ok(Change::DeployVlan(body.decode()?))
        }
        (true, false) => {
            let text = detached["ipv4GatewayAddress"].as_str();
            let text = text.ok_or_else(|| Refused::invalid("ipv4GatewayAddress is missing."))?;
            let gateway =
                text.parse().map_err(|_| Refused::invalid(format!("'{text}' is not an IPv4 address.")))?;
            Ok(Change::DeployDetachedVlan(body.decode()?, gateway))
        }
        (false, false) => Err(Refused::invalid("A VLAN is either attached or detached.")),
    }
}

/// In newer versions a disk may be asked for at a controller instead of a server.
fn add_disk(body: &Body) -> Result<Change, Refused> {
    let mut body = body.clone();
    let place = body.take("scsiController");
    if place.is_null() {
        return Ok(Change::AddDisk(body.decode()?));
    }
    let controller = place["controllerId"].as_str();
    let controller = controller.ok_or_else(|| Refused::invalid("controllerId is missing."))?.to_owned();
    if body.value["id"].is_string() || body.value["serverId"].is_string() {
        return Err(Refused::invalid("A disk goes to a server or to a controller."));
    }
    // The state finds the server; until then this stands in for it.
    body.value["id"] = controller.as_str().into();
    if !place["scsiId"].is_null() {
        body.value["scsiId"] = place["scsiId"].clone();
    }
    Ok(Change::AddDiskTo(controller, body.decode()?))
}

fn address(body: &Body, ipv6: bool) -> Result<ReserveAddress, Refused> {
    let request: ReserveAddress = body.decode()?;
    if request.ip_address.is_ipv6() != ipv6 {
        let version = if ipv6 { "IPv6" } else { "IPv4" };
        return Err(Refused::invalid(format!("'{}' is not an {version} address.", request.ip_address)));
    }
    Ok(request)
}

/// Whether this version has a change with this path.
pub(crate) fn is_known(path: &str, minor: u32) -> bool {
    OPERATIONS.iter().any(|(known, since, _)| *known == path && *since <= minor)
}

/// Reads the body of the change with this path.
pub(crate) fn build(path: &str, body: &Body) -> Result<Change, Refused> {
    let Some((_, _, build)) = OPERATIONS.iter().find(|(known, ..)| *known == path) else {
        return unsupported(body);
    };
    let last = path.rsplit('/').next().unwrap_or(path);
    let also = if path == RESERVED { "reservePrivateIpv4Address" } else { last };
    build(body.of(&[last, also])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_unique() {
        let paths: std::collections::BTreeSet<_> = OPERATIONS.iter().map(|(path, ..)| path).collect();
        assert_eq!(paths.len(), OPERATIONS.len());
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for (path, ..) in OPERATIONS {
            let last = path.rsplit('/').next().unwrap_or(path).replace("reservedPrivate", "reservePrivate");
            let empty = format!(r#"<{last} xmlns="urn:didata.com:api:cloud:types"/>"#);
            for text in [&empty, "null", "7", "\"text\"", "[{}]", "{}"] {
                let body = Body::parse(text.as_bytes()).expect("it reads");
                // A list that is empty is a document; the state has its own opinion about it.
                let Err(Refused { code, .. }) = build(path, &body) else {
                    assert_eq!(path, CreateAntiAffinityRule::PATH, "{text}");
                    continue;
                };
                assert!(
                    ["INVALID_INPUT_DATA", "OPERATION_NOT_SUPPORTED"].contains(&code),
                    "{path} {text}: {code}"
                );
            }
        }
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
