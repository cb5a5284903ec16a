//! sshd, ssh, ssh-keygen, visudo.

use std::{collections::BTreeMap, fs};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fleet_task::Output;

use super::{Debian, failure};

/// The public half of any key.
pub(crate) const PUBLIC: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

/// A private key, as far as anybody can see.
pub(crate) fn private_key(what: &str) -> String {
    format!("-----BEGIN OPENSSH PRIVATE KEY-----\nprivate {what}\n-----END OPENSSH PRIVATE KEY-----\n")
}

/// A public key of a kind, its own for every number.
fn public_key(kind: &str, nth: u32) -> String {
    let name = match kind {
        "ecdsa" => "ecdsa-sha2-nistp256".to_owned(),
        other => format!("ssh-{other}"),
    };
    let number = nth.to_be_bytes();
    let mut fields = vec![name.as_bytes(), &number];
    if kind != "ed25519" {
        fields.push(b"more");
    }
    let field = |field: &&[u8]| [&u32::try_from(field.len()).expect("short").to_be_bytes(), *field].concat();
    format!("{name} {}", STANDARD.encode(fields.iter().flat_map(field).collect::<Vec<u8>>()))
}

impl Debian {
    /// This user's key is turned away by an sshd that has read our settings.
    pub(crate) fn turns_away(&self, user: &str) -> &Self {
        self.lock().turned_away.insert(user.into());
        self
    }

    /// Whether the plan's key would let this user in, and up to root.
    pub(crate) fn gets_in(&self, user: &str) -> bool {
        let keys = self.text(&format!("/home/{user}/.ssh/authorized_keys"));
        keys.contains("ssh-ed25519 ") && !self.text(&format!("/etc/sudoers.d/fleet-{user}")).is_empty()
    }

    /// What the running sshd has read last.
    pub(crate) fn sshd_says(&self, keyword: &str) -> String {
        self.lock().sshd.get(&keyword.to_lowercase()).cloned().unwrap_or_default()
    }

    /// Reads its settings, as at a start.
    pub(crate) fn reload_sshd(&self) {
        let read = self.effective();
        self.lock().sshd = read;
    }

    /// First value wins; drop-ins are where the first line of Debian's file includes them.
    fn effective(&self) -> BTreeMap<String, String> {
        let folder = self.path("/etc/ssh/sshd_config.d");
        let mut names: Vec<_> = fs::read_dir(folder)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        names.retain(|path| path.extension().is_some_and(|ending| ending == "conf"));
        names.sort();
        let mut text: String =
            names.iter().map(|path| fs::read_to_string(path).unwrap_or_default()).collect();
        text.push_str(&self.text("/etc/ssh/sshd_config"));
        text.push_str(
            "\nport 22\nlistenaddress 0.0.0.0:22\npasswordauthentication yes\nkbdinteractiveauthentication yes\n\
             permitrootlogin prohibit-password\npermitemptypasswords no\n",
        );
        let mut found = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((key, value)) = line.split_once(' ') {
                found.entry(key.to_lowercase()).or_insert_with(|| value.trim().to_owned());
            }
        }
        found
    }

    /// Whether sshd would find a host key.
    pub(crate) fn has_host_key(&self) -> bool {
        ["ecdsa", "ed25519", "rsa"]
            .iter()
            .any(|kind| self.text(&format!("/etc/ssh/ssh_host_{kind}_key")).ends_with("PRIVATE KEY-----\n"))
    }

    /// That many connections are turned away before anybody may show a key.
    pub(crate) fn is_busy(&self, connections: u32) {
        self.lock().busy = connections;
    }

    pub(super) fn sshd(&self, args: &[&str]) -> Output {
        let found = self.effective();
        if !self.has_host_key() {
            return failure(1, "sshd: no hostkeys available -- exiting.");
        }
        if found.contains_key("broken") {
            return failure(255, "/etc/ssh/sshd_config line 1: Bad configuration option: Broken");
        }
        let lines = found.iter().map(|(key, value)| format!("{key} {value}\n"));
        Output::ok(if args.contains(&"-T") { lines.collect() } else { String::new() })
    }

    pub(super) fn ssh(&self, args: &[&str]) -> Output {
        {
            let mut state = self.lock();
            if state.busy > 0 {
                state.busy -= 1;
                return failure(255, "kex_exchange_identification: Connection closed by remote host");
            }
        }
        let denied = failure(255, "fleet@127.0.0.1: Permission denied (publickey).");
        let user = args.iter().find_map(|arg| arg.split_once('@')).map_or("", |(user, _)| user);
        let key = args.iter().position(|arg| *arg == "-i").and_then(|at| args.get(at + 1));
        let public = key.and_then(|key| fs::read_to_string(format!("{key}.pub")).ok()).unwrap_or_default();
        let known = self.text(&format!("/home/{user}/.ssh/authorized_keys"));
        let hardened = self.sshd_says("passwordauthentication") == "no";
        let away = hardened && self.lock().turned_away.contains(user);
        let word = public.split_whitespace().nth(1).unwrap_or("none");
        if !known.contains(word) || away {
            return denied;
        }
        if self.text(&format!("/etc/sudoers.d/fleet-{user}")).is_empty() {
            return failure(1, "sudo: a password is required");
        }
        Output::ok("")
    }

    pub(super) fn keygen(&self, args: &[&str]) -> Output {
        let value = |option: &str| {
            args.iter().position(|arg| *arg == option).and_then(|at| args.get(at + 1)).copied()
        };
        let Some(file) = value("-f") else { return failure(255, "no file") };
        if args.contains(&"-y") {
            return Output::ok(format!("{PUBLIC}\n"));
        }
        if std::path::Path::new(file).exists() {
            return failure(255, &format!("{file} already exists."));
        }
        let nth = {
            let mut state = self.lock();
            state.keys += 1;
            state.keys
        };
        let (kind, comment) = (value("-t").unwrap_or("rsa"), value("-C").unwrap_or("x"));
        let written = fs::write(file, private_key(&format!("{kind} {nth}"))).and_then(|()| {
            fs::write(format!("{file}.pub"), format!("{} {comment}\n", public_key(kind, nth)))
        });
        match written {
            Ok(()) => Output::ok(""),
            Err(error) => failure(255, &error.to_string()),
        }
    }

    pub(super) fn visudo(&self, args: &[&str]) -> Output {
        let text = args.last().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        if text.ends_with("NOPASSWD: ALL\n") { Output::ok("parsed OK\n") } else { failure(1, "syntax error") }
    }
}
