//! Where connections come in.

use std::{io, net::SocketAddr};

use nix::sys::socket::{setsockopt, sockopt::Ipv6V6Only};
use tokio::net::{TcpListener, TcpSocket};

/// Connections the kernel keeps while this program is busy.
const BACKLOG: u32 = 1024;

/// Listens; on `[::]` for IPv4 as well, whatever the system's default.
///
/// # Errors
/// When the address is taken, not of this host, or not for us.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(six) => {
            let socket = TcpSocket::new_v6()?;
            setsockopt(&socket, Ipv6V6Only, &!six.ip().is_unspecified())?;
            socket
        }
    };
    // A restart must not wait for the connections of the one before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn one_socket_for_both_families() {
        let listener = listen("[::]:0".parse().expect("an address")).expect("listens");
        let port = listener.local_addr().expect("bound").port();
        for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
            let address: SocketAddr = address.parse().expect("an address");
            let (there, here) = tokio::join!(TcpStream::connect(address), listener.accept());
            assert!(there.is_ok() && here.is_ok(), "{address}");
        }
    }
}
