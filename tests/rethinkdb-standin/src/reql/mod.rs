//! ReQL: queries, the values they work on, and their evaluation.

mod admin;
pub mod datum;
pub mod error;
pub mod eval;
pub mod feed;
mod ops;
mod sequence;
pub mod term;
pub mod value;
mod write;

pub(crate) use admin::explain as admin_words;
pub use error::{ReqlError, Result};
