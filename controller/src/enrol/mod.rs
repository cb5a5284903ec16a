//! Identities: the fleet's own certificate authority, tokens, and who gets a certificate.
//!
//! [`policy`] decides, without I/O; [`Enrolment`](service::Enrolment) performs. [`ca`] signs, [`token`] draws
//! and hashes, [`revoke`] withdraws, `certify` serves the services of nodes, which have an authority of their own.

mod authority;
pub mod ca;
mod certify;
pub mod policy;
pub mod revoke;
pub mod service;
pub mod services;
#[cfg(test)]
mod tests;
pub mod token;

use ring::digest::{SHA256, digest};

/// Lower-case hex of SHA-256: how tokens and public keys are named in the store.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}
