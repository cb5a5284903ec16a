//! What tells this machine and this start of the agent from others.

use std::fs;

use fleet_model::FleetName;
use rand::RngCore;
use ring::digest::{Context, SHA256};

use crate::Places;

/// The host's id hashed with the fleet's name: a copy of the disk on another host shows it (after its
/// machine-id was made anew), and nobody learns the host's id. Empty when the host has none.
pub(crate) fn fingerprint(places: &Places, fleet: &FleetName) -> String {
    let id = fs::read_to_string(places.machine_id()).unwrap_or_default();
    let id = id.trim();
    // `uninitialized` stands there on a first boot before systemd has drawn one.
    if id.is_empty() || id == "uninitialized" {
        return String::new();
    }
    let mut context = Context::new(&SHA256);
    context.update(fleet.as_str().as_bytes());
    context.update(b"\0");
    context.update(id.as_bytes());
    hex(context.finish().as_ref())
}

/// Drawn once per start of the process; tells a reconnect from a clone.
pub(crate) fn nonce() -> String {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    hex(&bytes)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_on_host_and_fleet_and_hides_the_id() {
        let root = tempfile::tempdir().expect("folder");
        let places = Places::below(root.path());
        let (one, two): (FleetName, FleetName) = ("one".parse().expect("name"), "two".parse().expect("name"));
        assert_eq!(fingerprint(&places, &one), "");
        fs::create_dir(root.path().join("etc")).expect("etc");
        fs::write(places.machine_id(), "0123456789abcdef0123456789abcdef\n").expect("id");
        let print = fingerprint(&places, &one);
        assert_eq!(print.len(), 64);
        assert_ne!(print, fingerprint(&places, &two));
        assert!(!print.contains("0123456789abcdef0123456789abcdef"));
    }

    #[test]
    fn nonces_differ() {
        assert_ne!(nonce(), nonce());
    }
}
