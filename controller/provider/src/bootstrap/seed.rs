//! The seed: one self-extracting script, good as NoCloud user-data and for clouds that take user-data directly.
//!
//! One script rather than cloud-config: a script needs a single cloud-init module on the node (`scripts-user`),
//! and 3 MB of base64 in YAML would be scanned byte by byte by cloud-init's parser.

use std::{fmt::Write as _, io};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use fleet_model::{FleetName, NodeName, Secret};
use sha2::{Digest, Sha256};

const SCRIPT: &str = include_str!("assets/first-boot.sh");
const REPORT: &str = include_str!("assets/report.py");
const UNIT: &str = include_str!("assets/fleet-agent.service");
/// Characters per base64 line (RFC 2045, section 6.8).
const LINE: usize = 76;

/// The agent as it travels.
#[derive(Clone, Debug)]
pub struct AgentArchive {
    /// The static binary, gzip: every image that has cloud-init has gunzip.
    pub gz: Bytes,
    /// SHA-256 of the binary before compression, lower-case hex.
    pub sha256_hex: String,
    /// Size before compression, in bytes.
    pub size: u64,
}

impl AgentArchive {
    /// Compresses a binary.
    ///
    /// # Errors
    /// Only if memory runs out; compression into memory has no other way to fail.
    pub fn pack(binary: &[u8]) -> io::Result<Self> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        io::Write::write_all(&mut encoder, binary)?;
        let mut sha256_hex = String::with_capacity(64);
        for byte in Sha256::digest(binary) {
            // Writing to a String cannot fail.
            let _ = write!(sha256_hex, "{byte:02x}");
        }
        Ok(Self { gz: encoder.finish()?.into(), sha256_hex, size: binary.len() as u64 })
    }
}

/// What a seed is made of.
#[derive(Debug)]
pub struct SeedInputs<'a> {
    /// The node it is for.
    pub node: &'a NodeName,
    /// Its fleet.
    pub fleet: &'a FleetName,
    /// Single-use enrolment token, bound to the node.
    pub token: &'a Secret,
    /// Where the agent enrols, `host:port`, tried in turn.
    pub enrol_addresses: &'a [String],
    /// Certificates to trust, PEM.
    pub trust_bundle_pem: &'a str,
    /// The agent.
    pub agent: &'a AgentArchive,
}

/// The seed document: a shell script with the agent behind it.
pub fn document(inputs: &SeedInputs<'_>) -> Vec<u8> {
    let enrol = serde_json::json!({
        "fleet": inputs.fleet.as_str(),
        "node": inputs.node.as_str(),
        "token": inputs.token.reveal(),
        "enrol_addresses": inputs.enrol_addresses,
        "trust_bundle": inputs.trust_bundle_pem,
    });
    // The binary, its predecessor while both exist, and a little air.
    let need_kib = inputs.agent.size.div_ceil(1024) * 2 + 1024;
    let script = SCRIPT
        .replace("@NODE@", inputs.node.as_str())
        .replace("@FLEET@", inputs.fleet.as_str())
        .replace("@SHA256@", &inputs.agent.sha256_hex)
        .replace("@NEED_KIB@", &need_kib.to_string())
        .replace("@REPORT@", REPORT.trim_end())
        .replace("@UNIT@", UNIT.trim_end())
        // Last, so that nothing inside it is taken for a placeholder.
        .replace("@ENROL@", &enrol.to_string());
    let mut document = script.into_bytes();
    let text = STANDARD.encode(&inputs.agent.gz);
    document.reserve(text.len() + text.len() / LINE + 1);
    for line in text.as_bytes().chunks(LINE) {
        document.extend_from_slice(line);
        document.push(b'\n');
    }
    document
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::bootstrap::BootstrapError;

    /// Runs the script in `sandbox` with its absolute paths moved there and systemd stubbed.
    fn run(document: &[u8], sandbox: &std::path::Path) -> (bool, String) {
        let at = |path: &str| sandbox.join(path.trim_start_matches('/')).display().to_string();
        for dir in ["etc/systemd/system", "etc/fleet-agent", "bin"] {
            std::fs::create_dir_all(sandbox.join(dir)).unwrap();
        }
        let split = document.windows(11).position(|w| w == b"\n__AGENT__\n").unwrap();
        let (script, payload) = document.split_at(split);
        let script = String::from_utf8(script.to_vec())
            .unwrap()
            .replace("/usr/local/lib/fleet", &at("usr/local/lib/fleet"))
            .replace("/etc/", &format!("{}/", at("etc")));
        let file = sandbox.join("script");
        std::fs::write(&file, [script.as_bytes(), payload].concat()).unwrap();
        for stub in ["systemctl", "journalctl", "python3"] {
            let path = sandbox.join("bin").join(stub);
            std::fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, mode).unwrap();
        }
        let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", at("bin"));
        let output = Command::new("sh").arg(&file).env("PATH", path).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }

    fn sample() -> (AgentArchive, Vec<u8>) {
        let binary: Vec<u8> =
            (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let agent = AgentArchive::pack(&binary).unwrap();
        let document = document(&SeedInputs {
            node: &"db-1".parse().unwrap(),
            fleet: &"web".parse().unwrap(),
            token: &Secret::new("tok@UNIT@en"),
            enrol_addresses: &["198.51.100.1:7001".to_owned()],
            trust_bundle_pem: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            agent: &agent,
        });
        (agent, document)
    }

    #[test]
    fn the_script_installs_the_agent_and_its_settings() {
        let sandbox = tempfile::tempdir().unwrap();
        let (agent, document) = sample();
        let (ok, said) = run(&document, sandbox.path());
        assert!(ok, "{said}");
        let stages: Vec<&str> =
            said.lines().filter_map(|line| line.strip_prefix("fleet-first-boot: ")).collect();
        assert_eq!(stages, ["seed-read ", "agent-unpacked ", "agent-started "]);
        let installed = std::fs::read(sandbox.path().join("usr/local/lib/fleet/fleet-agent")).unwrap();
        assert_eq!(installed.len() as u64, agent.size);
        let enrol = std::fs::read(sandbox.path().join("etc/fleet-agent/enrol.json")).unwrap();
        let enrol: serde_json::Value = serde_json::from_slice(&enrol).unwrap();
        assert_eq!(enrol["token"], "tok@UNIT@en", "settings are never taken for placeholders");
        // Again: nothing is in its own way.
        assert!(run(&document, sandbox.path()).0);
    }

    #[test]
    fn a_damaged_agent_is_refused_with_both_digests() {
        let sandbox = tempfile::tempdir().unwrap();
        let (agent, mut document) = sample();
        let near_the_end = document.len() - 500;
        document[near_the_end] = if document[near_the_end] == b'A' { b'B' } else { b'A' };
        let (ok, said) = run(&document, sandbox.path());
        assert!(!ok);
        assert!(said.contains("damaged in transfer") && said.contains(&agent.sha256_hex), "{said}");
        let told = BootstrapError::Failed(said).to_string();
        assert_eq!(told.matches("fleetctl up").count(), 1, "the next step once: {told}");
        assert!(!sandbox.path().join("usr/local/lib/fleet/fleet-agent").exists());
    }

    #[test]
    fn no_placeholder_is_left() {
        let (_, document) = sample();
        let text = String::from_utf8(document).unwrap();
        let script = text.split("__AGENT__\n").next().unwrap().replace("tok@UNIT@en", "");
        for name in ["@NODE@", "@FLEET@", "@SHA256@", "@NEED_KIB@", "@REPORT@", "@UNIT@", "@ENROL@"] {
            assert!(!script.contains(name), "{name}");
        }
    }
}
