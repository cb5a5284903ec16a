//! Plan to cloud resources, and a new server's first boot.
//!
//! [`Provider`](provider::Provider) looks before it creates, journals before each changing call, and runs
//! independent steps in parallel. It knows the CloudControl API only through the small trait in `cloud`, and
//! knows nothing of agents or sessions.

pub mod bootstrap;
pub mod event;
pub mod provider;
pub mod vault;
