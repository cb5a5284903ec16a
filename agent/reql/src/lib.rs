//! RethinkDB driver: one connection carries many queries and change feeds at once.
//!
//! A writer task and a reader task own the socket; a query is a token, a frame in the outbox and a place
//! where its answer is put. So a query dropped half-way (its future cancelled, its cursor let go) costs
//! the others nothing: its token is forgotten and the server is told to stop it. Nothing is queued
//! without bound: a cursor asks for its next batch only once it has handed out the last one.
//!
//! Deliberately absent: name resolution (addresses are given), TLS (servers listen on loopback for
//! drivers), pools (one connection is enough), writes repeated after an uncertain end.
//!
//! Start at [`Connection`]; [`Client`] keeps one open for a long-running program; [`db`] begins a query.

mod backoff;
mod client;
mod connection;
mod cursor;
mod error;
mod frame;
mod handshake;
mod options;
mod response;
mod routes;
mod scram;
mod term;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod written;

pub use backoff::Backoff;
pub use client::{Client, Link};
pub use connection::{Connection, Options, ServerInfo};
pub use cursor::Cursor;
pub use error::{ReqlError, ServerError, ServerErrorKind};
pub use options::{Changes, Conflict, Durability, Insert, Replicas, ReturnChanges, Shape, WaitFor};
pub use term::{Db, Order, Row, Selection, Table, Term, db, db_create, db_drop, db_list};
pub use written::{Change, Written};
