//! A new server's way home: SSH, seed, first boot, enrolment.

pub mod http;
pub mod reports;
