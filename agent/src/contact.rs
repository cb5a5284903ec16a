//! What is known of the controllers, for those who do not speak with them.

use fleet_model::{FleetName, NodeName};

/// Which node of which fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) fleet: FleetName,
    pub(crate) node: NodeName,
}

/// What the link has seen since this process started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contact {
    /// Who this node is; none without a usable identity.
    pub(crate) named: Option<Named>,
    /// Version of the controller spoken with last.
    pub(crate) controller: Option<String>,
    /// A session has opened: both sides have proved who they are and understood each other.
    pub(crate) opened: bool,
    /// A controller answered last, and did not want what this agent says; why.
    pub(crate) unwanted: Option<String>,
}
