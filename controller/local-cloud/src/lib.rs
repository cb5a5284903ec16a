//! The CloudControl API on this host, backed by real virtual machines.
//!
//! Three layers. [`api`] parses requests and prints answers (XML and JSON). [`state`] is the pure life-cycle
//! machine behind it: delays, faults, one operation at a time per server. A [`backing::Backing`] realises
//! what the state decides: [`machines`] with QEMU and network namespaces, [`backing::NoBacking`] not at all.
//! Nothing here knows of fleets, plans or agents.

pub mod backing;
pub mod machines;
