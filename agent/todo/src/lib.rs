//! The todo web application.
