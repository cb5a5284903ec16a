//! The CloudControl API on this host, backed by real virtual machines.
//!
//! Three layers. [`api`] parses requests and prints answers (XML and JSON). [`state`] is the pure life-cycle
//! machine behind it: delays, quotas, one operation at a time per server. A [`backing::Backing`] realises
//! what the state decides: [`machines`] with QEMU and network namespaces, [`backing::NoBacking`] not at all.
//! One task, the driver, owns the state and joins the three. Nothing here knows of fleets, plans or agents.
//!
//! Start with [`serve`]; [`Access`] says how to reach a cloud, [`status`] asks a running one.

mod access;
pub mod api;
pub mod backing;
mod driver;
mod durable;
mod error;
mod fault;
mod hosts;
pub mod machines;
mod proxy;
mod serve;
pub mod settings;
pub mod state;
mod time;
mod tls;

pub use access::{Access, ServerStatus, Status, is_served, log, status};
pub use error::CloudError;
pub use fault::{Fault, FaultKind};
pub use serve::serve;
pub use settings::{Choices, Delays, Quotas, Settings};
