//! `fleetctl cloud console SERVER`: this terminal on a machine's serial port.

use std::{io::IsTerminal as _, os::fd::AsFd as _};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use fleet_model::chain;

use crate::{
    failure::{Exit, Failure},
    home::Home,
};

/// Ctrl-], as telnet and virsh have it.
const LEAVE: u8 = 0x1d;

pub async fn run(home: &Home, server: &str) -> Result<Exit, Failure> {
    let found = fleet_local_cloud::status(&home.cloud())
        .await
        .map_err(|error| Failure::new(Exit::Unreachable, chain(&error)))?;
    let Some(status) = found else {
        return Err(Failure::new(
            Exit::Unreachable,
            format!("no local cloud serves {}", home.cloud().display()),
        ));
    };
    let Some(found) = status.servers.iter().find(|known| known.name == server) else {
        let names: Vec<&str> = status.servers.iter().map(|known| known.name.as_str()).collect();
        return Err(Failure::new(Exit::Input, format!("no server `{server}` in the local cloud"))
            .hint(format!("servers there: {}", names.join(", "))));
    };
    let Some(socket) = &found.console else {
        return Err(Failure::new(
            Exit::Input,
            format!("`{server}` has no console: the cloud's backing is `{}`", status.backing),
        ));
    };
    let mut link = UnixStream::connect(socket).await.map_err(|why| {
        Failure::new(Exit::Failed, format!("open the console of `{server}`: {why}"))
            .hint("is the server powered on?")
    })?;
    eprintln!("console of {server}; Ctrl-] leaves, Enter shows where it is");
    let raw = Raw::enter();
    let ended = bridge(&mut link).await;
    drop(raw);
    eprintln!();
    ended.map_err(|why| Failure::new(Exit::Failed, format!("console of `{server}`: {why}")))?;
    Ok(Exit::Ok)
}

async fn bridge(link: &mut UnixStream) -> std::io::Result<()> {
    let (mut stdin, mut stdout) = (tokio::io::stdin(), tokio::io::stdout());
    let (mut typed, mut shown) = ([0; 256], [0; 4096]);
    loop {
        tokio::select! {
            // Cancel-safe: a read that is not finished has taken nothing.
            count = stdin.read(&mut typed) => match count? {
                0 => return Ok(()),
                count => {
                    let typed = &typed[..count];
                    if typed.contains(&LEAVE) {
                        return Ok(());
                    }
                    link.write_all(typed).await?;
                }
            },
            count = link.read(&mut shown) => match count? {
                0 => return Ok(()),
                count => {
                    stdout.write_all(&shown[..count]).await?;
                    stdout.flush().await?;
                }
            },
        }
    }
}

/// The terminal without line editing and echo; as it was again when dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> Self {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Self(None);
        }
        let Ok(before) = tcgetattr(stdin.as_fd()) else { return Self(None) };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        match tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw) {
            Ok(()) => Self(Some(before)),
            Err(_) => Self(None),
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // The terminal may be gone; then there is nothing to restore.
            let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, before);
        }
    }
}
