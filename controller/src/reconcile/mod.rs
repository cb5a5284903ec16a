//! Runs: from a plan to nodes that are home and converged, and back to nothing.
//!
//! [`driver`] owns the one run of the fleet, whoever watches it; [`apply`], [`down`] and `replace` are
//! its kinds; what changes running nodes is left to rollouts, which `roll` waits for;
//! [`home`] brings one node home; [`restart`] holds back what takes a member of a database away. [`board`] is what is
//! known meanwhile, [`progress`] how it is told. The cloud and the first boot are reached through the small traits in
//! [`provision`] and [`crate::first_boot`].

pub mod apply;
pub mod board;
pub mod cloud_control;
pub mod down;
pub mod driver;
pub mod expiry;
pub mod given;
pub mod home;
mod hosts;
pub mod orphans;
pub mod progress;
pub mod provision;
pub mod replace;
pub mod restart;
mod roll;
pub mod settle;
