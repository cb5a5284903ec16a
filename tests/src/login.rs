//! Into a node over SSH, as its operator goes.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use crate::eventually;

/// How to log in.
#[derive(Clone, Debug)]
pub struct Login {
    /// Private key.
    pub key: PathBuf,
    /// Account on the node.
    pub user: String,
    /// The node's public address.
    pub address: String,
}

impl Login {
    /// The ssh command up to the command to run there: asks nothing, trusts the host, remembers nothing.
    pub fn command(&self) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "ConnectTimeout=10"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes"])
            .arg("-i")
            .arg(&self.key)
            .arg(format!("{}@{}", self.user, self.address))
            .stdin(Stdio::null());
        ssh
    }

    /// Runs `line` in the account's shell.
    ///
    /// # Panics
    /// If ssh is not installed.
    pub fn run(&self, line: &str) -> Output {
        self.command().arg(line).output().expect("ssh starts")
    }

    /// A way to a port of the node's own loopback.
    ///
    /// # Panics
    /// If it does not open within a minute.
    pub fn tunnel(&self, port: u16) -> Tunnel {
        self.tunnel_to(&format!("127.0.0.1:{port}"))
    }

    /// A way to an address and port, as they are reached from the node.
    ///
    /// # Panics
    /// If it does not open within a minute.
    pub fn tunnel_to(&self, there: &str) -> Tunnel {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let here = free.local_addr().expect("its address");
        drop(free);
        let forward = format!("{here}:{there}");
        let ssh = self
            .command()
            .args(["-N", "-o", "ExitOnForwardFailure=yes", "-L", &forward])
            .spawn()
            .expect("ssh starts");
        let tunnel = Tunnel { ssh, here };
        eventually("a tunnel to the node", Duration::from_secs(60), || TcpStream::connect(here).ok());
        tunnel
    }
}

/// A local port that leads to one of a node, or to one it reaches. Dropping it closes it.
#[derive(Debug)]
pub struct Tunnel {
    ssh: Child,
    here: SocketAddr,
}

impl Tunnel {
    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.here
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is collected.
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}
