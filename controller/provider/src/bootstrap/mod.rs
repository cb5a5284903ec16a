//! A new server's first boot: the seed it reads and the one SSH connection that brings it.
//!
//! [`seed`] writes the document (pure); [`push`] carries it to a server and runs cloud-init there. After
//! that nothing of ours speaks SSH to the node: the agent dials home.

pub mod push;
pub mod seed;
pub mod ssh;

pub use push::{BootStage, BootstrapError, SshTarget, push};
pub use seed::{Packed, SeedInputs, document};
