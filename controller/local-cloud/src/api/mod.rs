//! The API's surface: HTTP, XML and JSON in and out, credentials, faults, the log of calls.

mod admin;
mod envelope;
mod log;
mod operations;
mod request;
mod route;
mod service;
#[cfg(test)]
mod tests;
mod xml;

pub use log::{Entry, Log};
pub(crate) use service::Service;
