//! The driver protocol: handshake, frames, queries and their cursors.

pub mod connection;
pub mod handshake;
pub mod scram;
