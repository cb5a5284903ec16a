//! Machines that are there already: taken by address over SSH, given back untouched but for what was put there.
//!
//! [`Hosts`] is to them what a provider is to a cloud: it previews, applies and destroys, only that nothing is made and
//! nothing destroyed. A machine is *taken* by a mark in a file of its own ([`mark`]); the seed follows over the same
//! door ([`seed`]); *released* means that the agent and everything it keeps are gone and the mark with them. Which
//! machines are taken is in the store ([`held`]), so that releasing needs no plan.
//!
//! A machine is known by its host key, from the plan or from the operator's known hosts, before anything is sent to it
//! ([`door`]). The operator's private keys are used where they are and never read into a file of ours ([`access`]).

pub mod access;
mod decide;
pub mod door;
pub mod held;
mod hosts;
pub mod look;
pub mod mark;
pub mod release;
mod script;
pub mod seed;

pub use access::Access;
pub use hosts::{Hosts, HostsError};
pub use mark::Mark;
