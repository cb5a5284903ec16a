//! How the operator gets into machines: where the keys are, and which host keys are known.
//!
//! The command line writes this into the fleet's folder each time it is run, since an agent's socket lives as long as
//! the operator's login. There are paths in it and nothing else: a private key stays where it is.

use std::{fs, io, path::Path, path::PathBuf};

use fleet_provider::bootstrap::ssh::{HostKeys, Keys, Pin};
use russh::keys::known_hosts::known_host_keys_path;
use serde::{Deserialize, Serialize};

/// The file, below the fleet's folder.
const FILE: &str = "ssh-access.json";

/// Where keys are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Socket of the operator's agent.
    pub agent: Option<PathBuf>,
    /// Files with private keys.
    pub keys: Vec<PathBuf>,
    /// Files with host keys.
    pub known_hosts: Vec<PathBuf>,
}

impl Access {
    /// As last noted in `dir`; nothing is known if nothing was.
    pub fn read(dir: &Path) -> Self {
        let held = fs::read(dir.join(FILE)).ok();
        held.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
    }

    /// Notes it in `dir`, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let draft = dir.join(format!("{FILE}.{}", std::process::id()));
        fs::write(&draft, serde_json::to_vec(self)?)?;
        fs::rename(draft, dir.join(FILE))
    }

    /// The keys, as SSH wants them.
    pub fn keys(&self) -> Keys {
        Keys { agent: self.agent.clone(), files: self.keys.clone() }
    }

    /// Host keys that are revoked in any of the operator's files, for whichever machine.
    ///
    /// # Errors
    /// A file that cannot be read: what it revokes is not known.
    pub fn revoked(&self) -> Result<Vec<Pin>, String> {
        let mut revoked = Vec::new();
        for file in &self.known_hosts {
            let text = match fs::read_to_string(file) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(format!(
                        "{}: {error}; what it revokes has to be known, see why",
                        file.display()
                    ));
                }
            };
            let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix("@revoked"));
            revoked.extend(lines.filter_map(|line| {
                let mut words = line.split_ascii_whitespace().skip(1);
                Pin::parse(&format!("{} {}", words.next()?, words.next()?))
            }));
        }
        Ok(revoked)
    }

    /// Host keys of a machine by the operator's files, none that is revoked in any of them.
    ///
    /// # Errors
    /// A file that cannot be understood: with a guess, anybody could be the machine.
    pub fn known(&self, address: &str, port: u16) -> Result<HostKeys, String> {
        let (mut pins, revoked) = (Vec::new(), self.revoked()?);
        for file in &self.known_hosts {
            let unreadable =
                |why: String| format!("{}: {why}; correct it, or write `hostKey`", file.display());
            // Hashed names and ports are understood there.
            let found =
                known_host_keys_path(address, port, file).map_err(|error| unreadable(error.to_string()))?;
            pins.extend(found.into_iter().map(|(_, key)| Pin::Key(key)).filter(|pin| !revoked.contains(pin)));
        }
        Ok(HostKeys::Known(pins))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBqwerd0hIiVoE7J6zC0M4WmbPCTcr1rEYrzcf3RCUXI";

    fn known(text: &str, address: &str, port: u16) -> Result<Vec<Pin>, String> {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("known_hosts");
        fs::write(&file, text).expect("written");
        let access = Access { known_hosts: vec![dir.path().join("none"), file], ..Access::default() };
        access.known(address, port).map(|known| match known {
            HostKeys::Known(pins) => pins,
            HostKeys::First => panic!("never the first that comes"),
        })
    }

    #[test]
    fn known_hosts_are_those_of_the_operator() {
        let pin = Pin::parse(KEY).expect("a key");
        assert_eq!(known(&format!("web {KEY}\n"), "web", 22), Ok(vec![pin.clone()]));
        assert_eq!(known(&format!("web {KEY}\n"), "other", 22), Ok(vec![]));
        assert_eq!(known(&format!("web {KEY}\n"), "web", 2222), Ok(vec![]));
        assert_eq!(known(&format!("[web]:2222 {KEY} me\n"), "web", 2222), Ok(vec![pin]));
        assert_eq!(known(&format!("web {KEY}\n@revoked * {KEY}\n"), "web", 22), Ok(vec![]));
        assert!(known("web ssh-ed25519 AAAA\n", "web", 22).is_err());
    }

    #[test]
    fn a_key_that_one_file_revokes_is_known_by_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let (own, all) = (dir.path().join("own"), dir.path().join("all"));
        fs::write(&own, format!("web {KEY}\n")).expect("written");
        fs::write(&all, format!("@revoked * {KEY}\n")).expect("written");
        let pin = Pin::parse(KEY).expect("a key");
        for known_hosts in [vec![own.clone(), all.clone()], vec![all, own]] {
            let access = Access { known_hosts, ..Access::default() };
            let HostKeys::Known(pins) = access.known("web", 22).expect("readable") else { panic!("known") };
            assert_eq!((pins, access.revoked()), (vec![], Ok(vec![pin.clone()])));
        }
    }

    #[test]
    fn what_is_noted_is_found_again() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(Access::read(dir.path()), Access::default());
        let access = Access { agent: Some("/run/agent".into()), ..Access::default() };
        access.write(dir.path()).expect("written");
        assert_eq!(Access::read(dir.path()), access);
    }
}
