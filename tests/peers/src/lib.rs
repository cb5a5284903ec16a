//! Strangers' clients against the local cloud: the nearest there is to the real service's own judgement.
//!
//! [`Cloud`] is a cloud in this process, with nothing or with real machines behind it; [`Python`] is an interpreter
//! with a peer's packages, as they are on the package index. A peer finds the cloud by its proxy setting alone and
//! keeps the host names of the real service. Scripts are in `python/`, tests in `tests/`.

mod abandoned;
mod cloud;
mod python;

pub use abandoned::{abandoned_clouds, runs, test_folder};
pub use cloud::Cloud;
pub use python::{Ended, Python};

/// Operations that bring the reference fleet up, each called at least once by whoever does it.
pub const BRING_UP: [&str; 10] = [
    "DEPLOY_NETWORK_DOMAIN",
    "DEPLOY_VLAN",
    "DEPLOY_SERVER",
    "ADD_DISK",
    "ADD_PUBLIC_IP_BLOCK",
    "CREATE_NAT_RULE",
    "CREATE_FIREWALL_RULE",
    "EDIT_FIREWALL_RULE",
    "ENABLE_SERVER_MONITORING",
    "START_SERVER",
];
