//! What versions of the API show differently. The state has one model, between the oldest and the newest.

use fleet_mcp::types::State;
use serde_json::{Map, Value, json};

use crate::state::{Done, Kind, controller_id, is_about_controllers};

/// The first version with operating system and tools under `guest`.
const GUEST: u32 = 4;
/// The first with disks below their controllers.
const CONTROLLERS: u32 = 5;
/// The first with reserved private addresses as elements of their own. A client that speaks 2.7 wants them so.
const RESERVED: u32 = 7;
/// The first with the origin of a server under `source`, and with attached and detached VLANs.
const ATTACHED: u32 = 9;

/// Gives `value`, one item of `kind`, the shape it has in version 2.`minor`.
pub(crate) fn shape(kind: Kind, minor: u32, value: &mut Value) {
    let Value::Object(members) = value else { return };
    match kind {
        Kind::Server | Kind::OsImage | Kind::CustomerImage => {
            if minor < GUEST {
                without_guest(members);
            }
            if minor >= CONTROLLERS {
                with_controllers(members);
            }
            if minor >= ATTACHED
                && let Some(image) = members.remove("sourceImageId")
            {
                members.insert("source".to_owned(), json!({"type": "IMAGE_ID", "value": image}));
            }
        }
        Kind::Vlan if minor < ATTACHED => {
            members.remove("attachedVlan");
            members.remove("detachedVlan");
        }
        Kind::Vlan => {
            members.remove("gatewayAddressing");
        }
        Kind::ReservedPrivateIpv4Address if minor < RESERVED => {
            members.remove("exclusive");
            members.remove("description");
            if let Some(address) = members.remove("ipAddress") {
                members.insert("value".to_owned(), address);
            }
        }
        // Needed to filter by; not shown.
        Kind::IpAddressList | Kind::PortList => {
            members.remove("networkDomainId");
        }
        _ => {}
    }
}

/// Leaves out of an answer what older versions do not say.
pub(crate) fn trim(minor: u32, done: &mut Done) {
    if minor < CONTROLLERS {
        done.info.retain(|(name, _)| !is_about_controllers(name));
    }
}

fn without_guest(members: &mut Map<String, Value>) {
    let Some(Value::Object(mut guest)) = members.remove("guest") else { return };
    for (old, new) in [("operatingSystem", "operatingSystem"), ("vmTools", "vmwareTools")] {
        if let Some(member) = guest.remove(old) {
            members.insert(new.to_owned(), member);
        }
    }
}

fn with_controllers(members: &mut Map<String, Value>) {
    let Some(disks) = members.remove("disk") else { return };
    let id = controller_id(members.get("id").and_then(Value::as_str).unwrap_or_default());
    let mut controller = json!({
        "id": id, "adapterType": "LSI_LOGIC_PARALLEL", "key": 1000, "busNumber": 0, "disk": disks,
    });
    // Images have disks, and no state.
    if members.contains_key("deployed") {
        controller["state"] = json!(State::Normal);
    }
    members.insert("scsiController".to_owned(), json!([controller]));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shaped(kind: Kind, minor: u32, value: &Value) -> Value {
        let mut value = value.clone();
        shape(kind, minor, &mut value);
        value
    }

    #[test]
    fn servers_of_every_age() {
        let server = json!({
            "id": "s", "deployed": true, "sourceImageId": "i", "disk": [{"scsiId": 0}],
            "guest": {"osCustomization": true, "operatingSystem": {"id": "o"}, "vmTools": {"type": "t"}},
        });
        let old = json!({
            "id": "s", "deployed": true, "sourceImageId": "i", "disk": [{"scsiId": 0}],
            "operatingSystem": {"id": "o"}, "vmwareTools": {"type": "t"},
        });
        assert_eq!(shaped(Kind::Server, 2, &server), old);
        assert_eq!(shaped(Kind::Server, 3, &server), old);
        assert_eq!(shaped(Kind::Server, 4, &server), server);
        for minor in 5..=13 {
            let new = shaped(Kind::Server, minor, &server);
            assert_eq!(new["scsiController"][0]["disk"], server["disk"], "2.{minor}");
            assert_eq!(new["scsiController"][0]["state"], "NORMAL", "2.{minor}");
            assert!(new.get("disk").is_none(), "2.{minor}");
            let origin = if minor < 9 { &new["sourceImageId"] } else { &new["source"]["value"] };
            assert_eq!(origin, "i", "2.{minor}");
        }
    }

    #[test]
    fn vlans_and_reserved_addresses() {
        let vlan =
            json!({"id": "v", "gatewayAddressing": "LOW", "attachedVlan": {"gatewayAddressing": "LOW"}});
        assert_eq!(shaped(Kind::Vlan, 8, &vlan), json!({"id": "v", "gatewayAddressing": "LOW"}));
        assert_eq!(
            shaped(Kind::Vlan, 9, &vlan),
            json!({"id": "v", "attachedVlan": {"gatewayAddressing": "LOW"}})
        );
        let address = json!({"ipAddress": "10.0.0.1", "vlanId": "v", "exclusive": true});
        let kind = Kind::ReservedPrivateIpv4Address;
        assert_eq!(shaped(kind, 4, &address), json!({"value": "10.0.0.1", "vlanId": "v"}));
        assert_eq!(shaped(kind, 9, &address), address);
        assert_eq!(shaped(Kind::ReservedIpv6Address, 4, &address), address);
    }
}
