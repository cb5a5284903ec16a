//! Getting connected to every server that is known, and staying so.

use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, rustls::pki_types::ServerName};

use super::{
    link::{Peer, Stream, read_frame, write_frame},
    message::{Frame, GREETING, Hello},
};
use crate::{names, server::Server};

/// How long connecting and greeting may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between tries to reach a server that is away.
const REDIAL: Duration = Duration::from_millis(500);

/// Accepts links until the server stops.
pub async fn accept(server: Arc<Server>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = server.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, from)) = accepted else {
            // Out of file descriptors, most likely: others may be closed soon.
            tokio::time::sleep(REDIAL).await;
            continue;
        };
        let asked = Arc::clone(&server);
        server.tasks.spawn(async move {
            let greeted = timeout(PATIENCE, greet(&asked, stream, false)).await;
            match greeted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok((hello, stream)) => adopt(asked, hello, stream, false).await,
                Err(why) => asked.log(&format!("Refused a cluster connection from {from}: {why}")),
            }
        });
    }
}

/// Dials whoever is known and not connected, until the server stops.
pub async fn dial(server: Arc<Server>) {
    let mut under_way = tokio::task::JoinSet::new();
    let mut dialling: BTreeSet<String> = BTreeSet::new();
    let mut changed = server.changes();
    loop {
        for address in server.addresses_to_dial() {
            if !dialling.insert(address.clone()) {
                continue;
            }
            let server = Arc::clone(&server);
            under_way.spawn(async move {
                let reached = timeout(PATIENCE, reach(&server, &address)).await;
                match reached.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    Ok((hello, _)) if hello.id == server.id => server.is_me(&address),
                    Ok((hello, stream)) => {
                        let adopted = Arc::clone(&server);
                        server.tasks.spawn(adopt(adopted, hello, stream, true));
                    }
                    Err(why) => server.dial_failed(&address, &why),
                }
                // The next try, whether this one succeeded or not.
                tokio::time::sleep(REDIAL).await;
                address
            });
        }
        tokio::select! {
            () = server.stop.cancelled() => return,
            Some(Ok(address)) = under_way.join_next() => {
                dialling.remove(&address);
            }
            _ = changed.changed() => {}
        }
    }
}

async fn reach(server: &Server, address: &str) -> io::Result<(Hello, Box<dyn Stream>)> {
    let mut last = io::Error::other("no address");
    for address in names::resolve(address)? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let (hello, stream) = greet(server, stream, true).await?;
                check_route(address, &hello)?;
                return Ok((hello, stream));
            }
            Err(why) => last = why,
        }
    }
    Err(last)
}

/// As the real server, which takes a peer only where it says it can be found; loopback is excused.
fn check_route(dialled: SocketAddr, hello: &Hello) -> io::Result<()> {
    let told = |text: &String| names::resolve(text).is_ok_and(|addresses| addresses.contains(&dialled));
    if dialled.ip().is_loopback() || hello.addresses.iter().any(told) {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "Received inconsistent routing information (wrong address) from {dialled} (other_peer_addr = {}), closing \
         connection.  Consider using the '--canonical-address' launch option.",
        hello.addresses.join(", ")
    )))
}

/// TLS if the cluster has it, then who is who.
async fn greet(server: &Server, stream: TcpStream, dialled: bool) -> io::Result<(Hello, Box<dyn Stream>)> {
    stream.set_nodelay(true)?;
    let mut stream: Box<dyn Stream> = match (&server.cluster_tls, dialled) {
        (None, _) => Box::new(stream),
        (Some(tls), false) => Box::new(TlsAcceptor::from(Arc::clone(&tls.server)).accept(stream).await?),
        (Some(tls), true) => {
            let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
            Box::new(TlsConnector::from(Arc::clone(&tls.client)).connect(name, stream).await?)
        }
    };
    write_frame(&mut stream, &server.hello()).await?;
    let hello: Hello = read_frame(&mut stream).await?;
    if hello.greeting != GREETING {
        return Err(io::Error::other("the other end speaks something else"));
    }
    Ok((hello, stream))
}

/// Makes a greeted connection the link to that server, unless there is a better one; runs it to its end.
async fn adopt(server: Arc<Server>, hello: Hello, stream: Box<dyn Stream>, dialled: bool) {
    let dialer = if dialled { server.id.clone() } else { hello.id.clone() };
    let (peer, waiting) = Peer::new(hello, dialer, server.now());
    if !server.add_peer(&peer) {
        return;
    }
    peer.tell(Frame::Gossip(Box::new(server.metadata())));
    Arc::clone(&peer).run(Arc::clone(&server), stream, waiting).await;
    server.remove_peer(&peer);
}

/// Addresses to bind for a port.
pub fn bind_addresses(hosts: &[std::net::IpAddr], port: u16) -> Vec<SocketAddr> {
    hosts.iter().map(|host| SocketAddr::new(*host, port)).collect()
}
