//! A table: its replicas on disk, and the primary that orders its writes.
//!
//! One server leads a table at a time: the first connected replica by the order of its configuration. A leader asks
//! every replica for a promise to a new term, takes over the most advanced rows among a majority, and from then on
//! gives each write to all connected replicas; it counts once a majority has it on disk. Replicas refuse
//! anything of an older term, so two servers that both think they lead cannot both have a write accepted.

pub mod config;
pub mod lead;
mod leader;
pub mod replica;
pub mod write;

pub use config::{Members, TableConfig};
