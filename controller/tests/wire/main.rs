//! The controller through its own listeners: real TLS, real gRPC, in-process.

mod artifacts;
mod enrolment;
mod harness;
mod operator;
mod permits;
mod plans;
mod releases;
mod replace;
mod restarts;
mod rollouts;
mod runs;
mod services;
mod sessions;
mod world;

/// As in production, so that everything here runs on it.
#[global_allocator]
static ALLOCATOR: fleet_controller::memory::Paged = fleet_controller::memory::Paged;
