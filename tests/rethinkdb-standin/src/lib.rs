//! Test equipment: answers as RethinkDB does, for what the fleet uses of it.
//!
//! A server of our own for machines that cannot reach RethinkDB's packages. It reads the same instance file, speaks the
//! same driver protocol, joins others into a cluster under mutual TLS, replicates tables and refuses what it
//! could lose. It is no database for anything else: one shard, no secondary indexes, all rows in memory, whole tables
//! over the wire for every scan. A term it does not know is an error that says so.
//!
//! Where to start: [`run`] wires everything; `server::Server` is what all parts share; `table` explains how rows
//! stay safe; `reql` evaluates queries; `system` is the database `rethinkdb`; `wire` talks to drivers.

#![allow(clippy::print_stdout, reason = "the real server reports its start on standard output")]

mod cluster;
mod console;
mod disk;
mod names;
mod reql;
mod server;
mod settings;
mod start;
mod system;
mod table;
mod wire;

pub use server::{VERSION, exists};
pub use settings::{Action, Settings, TlsFiles, read};
pub use start::{create, run};
pub use wire::{handshake::greet, scram::Password};
