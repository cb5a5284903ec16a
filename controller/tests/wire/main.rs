//! The controller through its own listeners: real TLS, real gRPC, in-process.

mod enrolment;
mod harness;
mod operator;
mod runs;
mod sessions;
mod world;
