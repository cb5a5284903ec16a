//! The controller: enrolment, sessions, reconcilers, operator API.

pub mod api;
pub mod authority;
pub mod desired;
mod doors;
pub mod enrol;
pub mod first_boot;
pub mod home;
pub mod reconcile;
pub mod records;
pub mod sealing;
pub mod serve;
pub mod session;
pub mod settings;
pub mod tls;
pub mod vault;

pub use serve::{Controller, ControllerError, Listeners, Ready, run};
pub use settings::Settings;

/// An error with its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
