//! What several tasks need of a Debian node: its packages, units, accounts and folders.
//!
//! Looking means reading files ([`dpkg`], [`locks`], [`accounts`]) and costs next to nothing; programs are started to
//! change something ([`apt`]) or for the one thing no file tells ([`unit`]). What a plan says is checked in [`names`]
//! before any of it becomes an argument or a path.

pub mod accounts;
pub mod apt;
pub mod block;
pub mod dpkg;
#[cfg(test)]
pub(crate) mod fake;
pub mod folder;
pub mod locks;
pub mod names;
pub mod unit;

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
