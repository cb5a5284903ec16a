//! Client and wire types of the MCP CloudControl API, version 2.4 in JSON plus the 0.9 calls still needed.
//!
//! Start with [`Client`]: typed calls in, typed entities or [`McpError`] out. [`types`] holds one file per
//! kind of resource, [`xml`] their other form, [`wait`] polls until one is settled, [`retry`] is the one retry policy,
//! [`moment`] reads the service's clock.
//!
//! Liberal on input: unknown members are ignored, numbers may come as strings, lists as single elements,
//! optional members may be missing. Strict on output. Knows nothing of fleets, plans or agents, and keeps
//! no state but a connection pool and the account's organisation.

mod account;
mod calls;
pub mod client;
pub mod error;
mod filter;
mod id;
pub mod liberal;
mod list;
pub mod moment;
pub mod resource;
pub mod retry;
mod secret;
mod tls;
pub mod types;
pub mod wait;
pub mod xml;

pub use client::{Client, Credentials, Settings};
pub use error::McpError;
pub use filter::Filter;
pub use id::Id;
pub use resource::{Operation, Resource};
pub use secret::Secret;
