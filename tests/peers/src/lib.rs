//! Strangers' clients against the local cloud: the nearest there is to the real service's own judgement.
//!
//! [`Cloud`] is a cloud in this process with nothing behind it; [`Python`] is an interpreter with a peer's
//! packages, as they are on the package index. A peer finds the cloud by its proxy setting alone and keeps the
//! host names of the real service. Scripts are in `python/`, tests in `tests/`.

mod cloud;
mod python;

pub use cloud::Cloud;
pub use python::{Ended, Python};
