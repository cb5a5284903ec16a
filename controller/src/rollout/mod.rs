//! Rollouts as the controller drives them: the engine of `fleet-rollout`, kept in the store and joined to sessions.
//!
//! ```text
//! sessions ─▶ [inbox] ─▶ [driver] ─▶ [core] ─▶ fleet-rollout ─▶ effects ─▶ [floor] ─▶ sessions
//! operators ─▶ [service] ──────────────┘  └──▶ [archive] ─▶ store
//! ```
//!
//! [`core`](mod@core) takes one event after the other: the engine decides, [`archive`] stores that, and only then is
//! anything done. Whoever holds the lease drives; whatever cannot be stored is dropped, read again and caught up with, as
//! if another controller took over. What nodes say is translated in [`wire`] for releases and in [`plans`] for the work of
//! a plan, and what keeps a fleet's nodes apart (location, labels, cluster, seed) comes from the plan in [`members`].
//!
//! - At most one rollout moves. Of each kind, releases and plans, the newest keeps nodes that come back on what it
//!   brought; those before it are superseded.
//! - A stopped line is stored beside the rollouts and comes before all of them.
//! - A node under an order may fetch what the order names, and nothing else of a release.

pub mod archive;
pub mod catalogue;
mod commands;
pub mod core;
pub mod driver;
pub mod floor;
mod hear;
pub mod inbox;
mod leave;
pub mod members;
pub mod note;
mod perform;
pub mod plans;
mod service;
#[cfg(test)]
mod tests;
mod trouble;
mod view;
pub mod wire;
mod zones;

pub use commands::known_zones;
pub use driver::Driver;
pub use service::RolloutsService;
pub use trouble::Trouble;
