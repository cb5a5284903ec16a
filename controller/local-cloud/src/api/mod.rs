//! The API's surface: HTTP, XML and JSON in and out, credentials, faults, the log of calls.

mod admin;
mod envelope;
mod legacy;
mod log;
mod operations;
mod request;
mod route;
mod service;
mod shape;

pub use log::{Entry, Log};
pub(crate) use service::Service;

/// Checks that an answer can be read in both forms, and that both say the same.
#[cfg(test)]
pub(crate) fn check_forms(answer: &crate::state::Answer) {
    let (root, value) = envelope::answer("TEST", answer.clone(), 4, "r-1");
    let json: serde_json::Value =
        serde_json::from_str(&envelope::print(envelope::Form::Json, root, &value)).expect("JSON");
    let document = fleet_mcp::xml::parse(&envelope::print(envelope::Form::Xml, root, &value)).expect("XML");
    assert_eq!((document.root.as_str(), document.namespace.as_str()), (root, fleet_mcp::xml::TYPES));
    assert_eq!(json["id"].as_str(), document.value["id"].as_str());
}
