//! Plan files: parse, validate, resolve. Pure.
//!
//! What comes out is a [`ResolvedPlan`]: every default applied, every parameter substituted, every reference
//! checked. Nothing here reads a file, a clock or the network.

pub mod resolved;

pub use resolved::ResolvedPlan;
