//! Telling systemd that we run: one datagram each (sd_notify(3)), no library.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

/// Sends `state` to whoever started us, if they want to know.
pub fn tell_systemd(state: &str) {
    let Ok(address) = env::var("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&address, state) {
        tracing::warn!(%error, state, "systemd does not listen");
    }
}

/// How often to say `WATCHDOG=1`: half of what systemd allows, if it watches.
pub fn watchdog() -> Option<Duration> {
    let micros: u64 = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (micros > 0).then(|| Duration::from_micros(micros / 2))
}

fn send(address: &str, state: &str) -> io::Result<()> {
    let address = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sockets_hear_it() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("notify");
        let name = format!("fleet-program-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).expect("name");
        let sockets = [
            (UnixDatagram::bind(&path).expect("bind"), path.display().to_string()),
            (UnixDatagram::bind_addr(&abstract_name).expect("bind"), format!("@{name}")),
        ];
        for (socket, address) in sockets {
            send(&address, "READY=1").expect("send");
            let mut heard = [0; 16];
            let n = socket.recv(&mut heard).expect("receive");
            assert_eq!(&heard[..n], b"READY=1");
        }
    }
}
