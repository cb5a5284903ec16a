//! The stand-in, and any server it stands in for.
//!
//! `driver` and `python` run against the server that `FLEET_RETHINKDB=HOST:PORT` names, or against a stand-in of their
//! own; whatever they expect, RethinkDB 2.4.4 was seen to do. `cluster` starts stand-ins and takes them away.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cluster;
mod driver;
mod python;
mod support;
