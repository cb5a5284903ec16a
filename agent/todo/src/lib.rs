//! The todo application of a node: one list, shared by every node of the fleet through the database, live
//! in every browser that looks at it.
//!
//! A change feed of the database fills the [`hub`], which tells every browser; writes go to the [`store`]
//! and come back through the feed, so what a page shows is what the database holds. While the database is
//! away the last known list is shown as such, and writes are refused rather than promised.
//!
//! Deliberately absent: accounts (everyone who reaches the page shares the list), setting up the database
//! (a task of the agent does that), state of its own on disk.
//!
//! Start at [`http::router`]; [`feed`] is the other half.

pub mod feed;
pub mod guests;
pub mod http;
pub mod hub;
pub mod listen;
pub mod rethink;
pub mod serve;
pub mod store;
pub mod todo;

/// Version of this program: that of the release it was built for, else the package's.
pub const VERSION: &str = match option_env!("FLEET_VERSION") {
    Some(version) if !version.is_empty() => version,
    _ => env!("CARGO_PKG_VERSION"),
};
