//! Releases over nodes that run everything as installed: systemd, the supervisor, the agent, in containers that the
//! finished `fleetctl` has taken by address.

mod bad;
mod fleet;
mod kills;
