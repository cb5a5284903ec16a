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

/// A program as it travels.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The static binary, gzip: every image that has cloud-init has gunzip.
    pub gz: Bytes,
    /// SHA-256 of the binary before compression, lower-case hex.
    pub sha256_hex: String,
    /// Size before compression, in bytes.
    pub size: u64,
}

impl Packed {
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
    pub agent: &'a Packed,
    /// What starts it.
    pub supervisor: &'a Packed,
    /// The signed root of releases that the node trusts at first; without one it takes none.
    pub release_root: Option<&'a str>,
}

/// The seed document: a shell script with supervisor and agent behind it.
pub fn document(inputs: &SeedInputs<'_>) -> Vec<u8> {
    let mut enrol = serde_json::json!({
        "fleet": inputs.fleet.as_str(),
        "node": inputs.node.as_str(),
        "token": inputs.token.reveal(),
        "enrol_addresses": inputs.enrol_addresses,
        "trust_bundle": inputs.trust_bundle_pem,
    });
    if let Some(root) = inputs.release_root {
        enrol["release_root"] = root.into();
    }
    // The binaries, their predecessors while both exist, and a little air.
    let need_kib = (inputs.agent.size + inputs.supervisor.size).div_ceil(1024) * 2 + 1024;
    let script = SCRIPT
        .replace("@NODE@", inputs.node.as_str())
        .replace("@FLEET@", inputs.fleet.as_str())
        .replace("@SUPERVISOR_SHA256@", &inputs.supervisor.sha256_hex)
        .replace("@SHA256@", &inputs.agent.sha256_hex)
        .replace("@NEED_KIB@", &need_kib.to_string())
        .replace("@REPORT@", REPORT.trim_end())
        .replace("@UNIT@", UNIT.trim_end())
        // Last, so that nothing inside it is taken for a placeholder.
        .replace("@ENROL@", &enrol.to_string());
    let mut document = script.into_bytes();
    append(&mut document, inputs.supervisor);
    document.extend_from_slice(b"__AGENT__\n");
    append(&mut document, inputs.agent);
    document
}

fn append(document: &mut Vec<u8>, program: &Packed) {
    let text = STANDARD.encode(&program.gz);
    document.reserve(text.len() + text.len() / LINE + 1);
    for line in text.as_bytes().chunks(LINE) {
        document.extend_from_slice(line);
        document.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::bootstrap::BootstrapError;

    /// Runs the script in `sandbox` with its absolute paths moved there and systemd stubbed.
    fn run(document: &[u8], sandbox: &std::path::Path) -> (bool, String) {
        let at = |path: &str| sandbox.join(path.trim_start_matches('/')).display().to_string();
        for dir in ["etc/systemd/system/multi-user.target.wants", "etc/fleet-agent", "bin"] {
            std::fs::create_dir_all(sandbox.join(dir)).unwrap();
        }
        let split = document.windows(16).position(|w| w == b"\n__SUPERVISOR__\n").unwrap();
        let (script, payload) = document.split_at(split);
        let script = String::from_utf8(script.to_vec())
            .unwrap()
            .replace("/usr/local/lib/fleet", &at("usr/local/lib/fleet"))
            .replace("/etc/", &format!("{}/", at("etc")));
        let file = sandbox.join("script");
        std::fs::write(&file, [script.as_bytes(), payload].concat()).unwrap();
        let noted = "echo \"${0##*/} $*\" >>\"${0%/*}/calls\"";
        for (stub, does) in [
            ("systemctl", noted.to_owned()),
            ("sync", noted.to_owned()),
            ("mv", format!("{noted}; exec /bin/mv \"$@\"")),
            ("journalctl", String::new()),
            ("python3", String::new()),
        ] {
            let path = sandbox.join("bin").join(stub);
            std::fs::write(&path, format!("#!/bin/sh\n{does}\nexit 0\n")).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, mode).unwrap();
        }
        let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", at("bin"));
        let output = Command::new("sh").arg(&file).env("PATH", path).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }

    /// An agent that knows its version, followed by what no shell reads, and a supervisor that notes what it is told.
    fn sample() -> (Packed, Vec<u8>) {
        let noise = (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes());
        let mut binary = b"#!/bin/sh\necho fleet-agent 1.2.3\nexit 0\n".to_vec();
        binary.extend(noise);
        let agent = Packed::pack(&binary).unwrap();
        let supervisor =
            "#!/bin/sh\ndir=${0%/*}\necho \"$1 $3\" >\"$dir/told\"\ncp \"$2\" \"$dir/adopted\"\n";
        let document = document(&SeedInputs {
            node: &"db-1".parse().unwrap(),
            fleet: &"web".parse().unwrap(),
            token: &Secret::new("tok@UNIT@en"),
            enrol_addresses: &["198.51.100.1:7001".to_owned()],
            trust_bundle_pem: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            agent: &agent,
            supervisor: &Packed::pack(supervisor.as_bytes()).unwrap(),
            release_root: Some("fleet-release 1 root\n\n{}"),
        });
        (agent, document)
    }

    #[test]
    fn the_script_installs_supervisor_agent_and_settings() {
        let sandbox = tempfile::tempdir().unwrap();
        let (agent, document) = sample();
        let lib = sandbox.path().join("usr/local/lib/fleet");
        // As a node of before has it: an agent with nobody to start it.
        std::fs::create_dir_all(&lib).unwrap();
        std::fs::write(lib.join("fleet-agent"), "older").unwrap();
        let (ok, said) = run(&document, sandbox.path());
        assert!(ok, "{said}");
        let stages: Vec<&str> =
            said.lines().filter_map(|line| line.strip_prefix("fleet-first-boot: ")).collect();
        assert_eq!(stages, ["seed-read ", "agent-unpacked ", "agent-started "]);
        assert_eq!(std::fs::read(lib.join("adopted")).unwrap().len() as u64, agent.size);
        assert_eq!(std::fs::read_to_string(lib.join("told")).unwrap(), "adopt 1.2.3\n");
        for gone in ["fleet-agent", "fleet-agent.new", "fleet-supervisor.new"] {
            assert!(!lib.join(gone).exists(), "{gone} takes space for nobody");
        }
        let enrol = std::fs::read(sandbox.path().join("etc/fleet-agent/enrol.json")).unwrap();
        let enrol: serde_json::Value = serde_json::from_slice(&enrol).unwrap();
        assert_eq!(enrol["token"], "tok@UNIT@en", "settings are never taken for placeholders");
        assert_eq!(enrol["release_root"], "fleet-release 1 root\n\n{}");
        // Again: nothing is in its own way.
        assert!(run(&document, sandbox.path()).0);
    }

    #[test]
    fn everything_is_on_disk_before_the_agent_starts() {
        let sandbox = tempfile::tempdir().unwrap();
        let (ok, said) = run(&sample().1, sandbox.path());
        assert!(ok, "{said}");
        let at = |path: &str| sandbox.path().join(path).display().to_string();
        let calls = std::fs::read_to_string(sandbox.path().join("bin/calls")).unwrap();
        let calls: Vec<&str> = calls.lines().collect();
        let nth = |call: String| {
            calls.iter().position(|made| *made == call).unwrap_or_else(|| panic!("{call}: {calls:#?}"))
        };
        let start = nth("systemctl restart fleet-agent.service".to_owned());
        let lib = "usr/local/lib/fleet";
        for (folder, name) in [
            ("etc/fleet-agent", "enrol.json"),
            ("etc/systemd/system", "fleet-agent.service"),
            (lib, "fleet-supervisor"),
        ] {
            let file = at(&format!("{folder}/{name}"));
            let written = nth(format!("sync {file}.new"));
            let named = nth(format!("mv {file}.new {file}"));
            let kept = calls.iter().rposition(|made| *made == format!("sync {}", at(folder))).unwrap();
            assert!(written < named && named < kept && kept < start, "{name}: {calls:#?}");
        }
        let wants = nth(format!("sync {}", at("etc/systemd/system/multi-user.target.wants")));
        assert!(nth("systemctl enable --quiet fleet-agent.service".to_owned()) < wants && wants < start);
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
        let lib = sandbox.path().join("usr/local/lib/fleet");
        assert!(!lib.join("adopted").exists() && !lib.join("fleet-agent.new").exists());
    }

    #[test]
    fn a_damaged_supervisor_is_refused_before_anything_is_replaced() {
        let sandbox = tempfile::tempdir().unwrap();
        let (_, mut document) = sample();
        let marker = b"\n__SUPERVISOR__\n";
        let at = document.windows(marker.len()).position(|w| w == marker).unwrap() + marker.len() + 40;
        document[at] = if document[at] == b'A' { b'B' } else { b'A' };
        let (ok, said) = run(&document, sandbox.path());
        assert!(
            !ok && said.contains("unpack fleet-supervisor") && said.contains("damaged in transfer"),
            "{said}"
        );
        assert!(!sandbox.path().join("usr/local/lib/fleet/fleet-supervisor").exists());
    }

    #[test]
    fn no_placeholder_is_left() {
        let (_, document) = sample();
        let text = String::from_utf8(document).unwrap();
        let script = text.split("\n__SUPERVISOR__\n").next().unwrap().replace("tok@UNIT@en", "");
        let names = [
            "@NODE@",
            "@FLEET@",
            "@SHA256@",
            "@SUPERVISOR_SHA256@",
            "@NEED_KIB@",
            "@REPORT@",
            "@UNIT@",
            "@ENROL@",
        ];
        for name in names {
            assert!(!script.contains(name), "{name}");
        }
    }
}
