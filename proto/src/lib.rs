//! The wire: generated messages and services, typed refusals, and the TLS both ends share.
//!
//! Start with [`v1`] (see `proto/fleet.proto`, which carries the documentation), [`refusal`] for how a
//! "no" travels, and [`tls`] for identities. Nothing here decides anything: who may do what is the
//! controller's business, when to dial the agent's.

pub mod codec;
pub mod refusal;
pub mod tls;

/// Generated from `proto/fleet.proto`, which is where the documentation is.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("fleet.v1");
}

/// Version of this build: `FLEET_VERSION` as it was when this was built, else the package's.
pub const VERSION: &str = env!("FLEET_STAMP");

/// Oldest and newest protocol version this build speaks.
pub const PROTOCOL: (u32, u32) = (1, 1);
