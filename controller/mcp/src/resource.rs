//! What is common to all kinds of resources and to all changes.

use serde::{Serialize, de::DeserializeOwned};

use crate::types::{ById, Server, State};

/// A kind of resource that can be listed and read.
pub trait Resource: DeserializeOwned + Serialize + Send + Sync + 'static {
    /// For people: `network domain`.
    const KIND: &'static str;
    /// Root of a list in XML.
    const ROOT: &'static str;
    /// One of it: element in XML, member with the list in JSON.
    const ITEM: &'static str;
    /// Path below the organisation.
    const PATH: &'static str;
}

/// A resource that takes time to make, change or delete.
pub trait Stateful: Resource {
    /// Where it is in its life.
    fn state(&self) -> &State;
    /// Why it failed, if it says so.
    fn failure(&self) -> Option<&str>;
}

/// A resource that is deleted by naming it.
pub trait Deletable: Resource {
    /// Path of the call below the organisation.
    const DELETE: &'static str;
}

/// A change: a request body and where it goes.
pub trait Operation: Serialize + DeserializeOwned + Send + Sync {
    /// Path below the organisation; its last part names the operation.
    const PATH: &'static str;
}

/// `deployVlan` as answers call it: `DEPLOY_VLAN`.
pub fn operation_name(path: &str) -> String {
    let last = path.rsplit('/').next().unwrap_or(path);
    let mut name = String::with_capacity(last.len() + 4);
    for letter in last.chars() {
        if letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// What is done to a server by naming it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerCall {
    /// Power on.
    Start,
    /// Ask the guest to shut down.
    Shutdown,
    /// Pull the plug.
    PowerOff,
    /// Ask the guest to reboot.
    Reboot,
    /// Hard reset.
    Reset,
    /// Remove after a failed deployment.
    Clean,
    /// Update the guest tools.
    UpdateTools,
    /// Turn monitoring off.
    DisableMonitoring,
}

impl ServerCall {
    /// Path below the organisation.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Start => "server/startServer",
            Self::Shutdown => "server/shutdownServer",
            Self::PowerOff => "server/powerOffServer",
            Self::Reboot => "server/rebootServer",
            Self::Reset => "server/resetServer",
            Self::Clean => "server/cleanServer",
            Self::UpdateTools => "server/updateVmwareTools",
            Self::DisableMonitoring => "server/disableServerMonitoring",
        }
    }
}

/// The body of a [`ServerCall`].
pub type ServerById = ById<Server>;

#[cfg(test)]
mod tests {
    use super::operation_name;

    #[test]
    fn operations_are_named_after_their_call() {
        let check = |path: &str, name: &str| assert_eq!(operation_name(path), name);
        check("network/deployVlan", "DEPLOY_VLAN");
        check("server/powerOffServer", "POWER_OFF_SERVER");
        check("network/addPublicIpBlock", "ADD_PUBLIC_IP_BLOCK");
        check("", "");
    }
}
