//! Releases over nodes that run everything as installed: systemd, the supervisor, the agent, in containers that the
//! finished `fleetctl` has taken by address.
//!
//! Each test has a fleet and a network of its own and mostly waits, so all of them run at once.

mod absent;
mod bad;
mod fleet;
mod forged;
mod kills;
mod plans;
