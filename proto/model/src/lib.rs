//! The words every crate shares: ids, generations, time, errors in one line.
//!
//! Ground of the workspace: no I/O, no runtime, nothing of ours below it. Start with [`FleetName`] and
//! [`NodeName`] for names, [`Generation`] for the number that only grows with desired state, and
//! [`Clock`] for the one way anything learns what time it is.

mod chain;
mod clock;
mod generation;
mod name;
mod secret;

pub use chain::{chain, chain_from};
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use generation::{Generation, Stale};
pub use name::{FleetName, NameError, NodeName};
pub use secret::Secret;
