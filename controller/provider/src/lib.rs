//! Plan to cloud resources, and a new server's first boot.
//!
//! [`Provider`] looks before it creates, journals before each changing call, and runs independent steps in parallel.
//! It knows the CloudControl API only through the small trait in [`cloud`], and knows nothing of agents or sessions.
//!
//! A run is: look at everything once ([`observe`]), compare with what the plan wants ([`graph`], [`diff`]; both
//! pure), do the work (`execute`), each changing call between its intent and its outcome in the [`journal`]. Whose a
//! resource is, its description says ([`mark`]); what is not ours is never adopted, changed or deleted.

pub mod bootstrap;
pub mod cloud;
pub mod diff;
pub mod event;
mod execute;
pub mod fake;
pub mod graph;
mod images;
pub mod journal;
pub mod mark;
mod moment;
pub mod observe;
pub mod orphans;
pub mod provider;
pub mod restart;
mod rule;
pub mod settled;
pub mod vault;
pub mod view;

pub use execute::Pace;
pub use images::Images;
pub use provider::{Outcome, Provider, ProviderError};
pub use restart::{Leave, Turn};

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
