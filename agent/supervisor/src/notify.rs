//! Messages of the agent: those for systemd pass through, those for us are told apart.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

use crate::digest::Digest;

/// What may pass: an agent must not name another main process or store file descriptors. Nor say that all is over: when
/// it stops and the supervisor does not, another one starts, and systemd would take that for a service that hangs.
const PASS: [&str; 4] = ["READY", "WATCHDOG", "STATUS", "ERRNO"];

/// What one message says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// For systemd; empty if nothing.
    pub pass: String,
    /// The agent is ready.
    pub ready: bool,
    /// The agent lives.
    pub alive: bool,
    /// The agent commits to this digest.
    pub commit: Option<Digest>,
    /// The agent needs more time.
    pub extend: bool,
}

/// Reads one message; what is not understood is dropped.
pub fn parse(message: &[u8]) -> Said {
    let mut said = Said::default();
    for line in String::from_utf8_lossy(message).lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        match (key, value) {
            ("X_FLEET_COMMIT", digest) => said.commit = digest.parse().ok(),
            ("X_FLEET_EXTEND", "1") => said.extend = true,
            _ if PASS.contains(&key) => {
                said.ready |= line == "READY=1";
                said.alive |= line == "WATCHDOG=1";
                if !said.pass.is_empty() {
                    said.pass.push('\n');
                }
                said.pass.push_str(line);
            }
            _ => (),
        }
    }
    said
}

/// Tells whoever `NOTIFY_SOCKET` names.
///
/// # Errors
/// What sending says; none if nobody wants to know.
pub fn tell(message: &str) -> io::Result<()> {
    let Ok(name) = env::var("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // Never wait for somebody who does not read.
    socket.set_write_timeout(Some(Duration::from_secs(1)))?;
    socket.send_to_addr(message.as_bytes(), &address).map(|_| ())
}

/// How long an agent may be silent, if somebody watches.
pub fn watchdog() -> Option<Duration> {
    let micros: u64 = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (micros > 0).then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_and_what_is_ours() {
        let said = parse(
            b"READY=1\nMAINPID=1\nSTATUS=at work = fine\nX_FLEET_EXTEND=1\nFDSTORE=1\nSTOPPING=1\nnonsense",
        );
        assert_eq!(said.pass, "READY=1\nSTATUS=at work = fine");
        assert!(said.ready && said.extend && !said.alive && said.commit.is_none());
        let digest = Digest::of(b"x");
        let said = parse(format!("WATCHDOG=1\nX_FLEET_COMMIT={digest}\n").as_bytes());
        assert_eq!((said.pass.as_str(), said.alive, said.commit), ("WATCHDOG=1", true, Some(digest)));
        assert_eq!(parse(b"\xff\xfe"), Said::default());
        assert_eq!(parse(b"X_FLEET_COMMIT=abc\nWATCHDOG=trigger").commit, None);
    }
}
