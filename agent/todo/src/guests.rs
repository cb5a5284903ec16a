//! Who is connected: so many at once, so many of each client, and always a place for this node itself.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Connections from elsewhere at once. Each costs some tens of kilobytes; an open page holds one.
const MOST: usize = 1024;
/// Of those, from one client: an office behind one address, not a flood from one.
const MOST_OF_ONE: usize = 128;
/// Open event streams at once: whoever only reads or writes always finds a connection left.
const STREAMS: usize = 896;
/// Of those, of one client. The rest of its connections is for what its pages ask besides.
const STREAMS_OF_ONE: usize = 96;
/// Connections from this node at once. They are counted apart, so that no crowd elsewhere keeps out the one who looks
/// whether this application serves.
const OWN: usize = 32;

/// Everybody connected.
#[derive(Debug, Default)]
pub struct Guests(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: Held,
    own: Held,
    clients: HashMap<IpAddr, Held>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    connections: usize,
    streams: usize,
}

/// One connection; its place is free again once this is dropped.
#[derive(Debug)]
pub struct Guest {
    guests: Arc<Guests>,
    client: IpAddr,
}

/// One open event stream of a [`Guest`].
#[derive(Debug)]
pub struct Stream(Arc<Guest>);

impl Guests {
    /// A place for a connection, if there is one.
    pub fn admit(self: &Arc<Self>, from: SocketAddr) -> Option<Arc<Guest>> {
        let client = client(from);
        let mut counts = self.counts();
        if client.is_loopback() {
            (counts.own.connections < OWN).then(|| counts.own.connections += 1)?;
        } else {
            let of_client = counts.clients.get(&client).copied().unwrap_or_default();
            if counts.all.connections >= MOST || of_client.connections >= MOST_OF_ONE {
                return None;
            }
            counts.all.connections += 1;
            counts.clients.entry(client).or_default().connections += 1;
        }
        Some(Arc::new(Guest { guests: self.clone(), client }))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // No critical section can leave the counts half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// A place for an event stream, if there is one.
    pub fn stream(self: &Arc<Self>) -> Option<Stream> {
        let mut counts = self.guests.counts();
        if !self.client.is_loopback() {
            let of_client = counts.clients.get(&self.client).copied().unwrap_or_default();
            if counts.all.streams >= STREAMS || of_client.streams >= STREAMS_OF_ONE {
                return None;
            }
            counts.all.streams += 1;
            counts.clients.entry(self.client).or_default().streams += 1;
        }
        Some(Stream(self.clone()))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut counts = self.guests.counts();
        if self.client.is_loopback() {
            counts.own.connections -= 1;
            return;
        }
        counts.all.connections -= 1;
        if let Some(held) = counts.clients.get_mut(&self.client) {
            held.connections -= 1;
            // Streams hold their guest, so none is left either.
            if held.connections == 0 {
                counts.clients.remove(&self.client);
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut counts = self.0.guests.counts();
        if self.0.client.is_loopback() {
            return;
        }
        counts.all.streams -= 1;
        if let Some(held) = counts.clients.get_mut(&self.0.client) {
            held.streams -= 1;
        }
    }
}

/// Whom an address belongs to. A host has a whole /64 of IPv6 (RFC 4291, section 2.5.4), and may use as many addresses
/// of it as it likes.
fn client(from: SocketAddr) -> IpAddr {
    match from.ip().to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        format!("{text}:7").parse().expect("an address")
    }

    #[test]
    fn a_client_has_so_many_connections_and_no_more() {
        let check = |one: &str, same: &str, other: &str| {
            let guests = Arc::new(Guests::default());
            let mut admitted: Vec<_> =
                (0..MOST_OF_ONE).map(|_| guests.admit(address(one)).expect("room")).collect();
            assert!(guests.admit(address(one)).is_none() && guests.admit(address(same)).is_none(), "{one}");
            assert!(guests.admit(address(other)).is_some(), "{other}");
            admitted.pop();
            assert!(guests.admit(address(same)).is_some(), "{same}");
            drop(admitted);
            let counts = guests.counts();
            assert!(counts.clients.is_empty() && counts.all.connections == 0, "{counts:?}");
        };
        check("192.0.2.1", "[::ffff:192.0.2.1]", "192.0.2.2");
        check("[2001:db8::1]", "[2001:db8::ffff:1:2:3]", "[2001:db8:0:1::1]");
    }

    #[test]
    fn this_node_gets_in_however_many_are_there() {
        let guests = Arc::new(Guests::default());
        let from = |n: usize| address(&format!("10.0.{}.{}", n / 100, n % 100));
        let crowd: Vec<_> = (0..MOST).map(|n| guests.admit(from(n)).expect("room")).collect();
        assert!(guests.admit(address("192.0.2.1")).is_none());
        let loopback = ["127.0.0.1", "127.0.0.2", "[::1]", "[::ffff:127.0.0.1]"].into_iter().cycle();
        let own: Vec<_> = loopback.take(OWN).map(|at| guests.admit(address(at)).expect("room")).collect();
        assert!(guests.admit(address("127.0.0.1")).is_none(), "not without bounds either");
        drop((crowd, own));
        assert!(guests.admit(address("127.0.0.1")).is_some());
        assert!(guests.admit(address("192.0.2.1")).is_some());
    }

    #[test]
    fn streams_leave_connections_for_everything_else() {
        let guests = Arc::new(Guests::default());
        let page = guests.admit(address("[2001:db8::1]")).expect("room");
        let mut streams: Vec<_> = (0..STREAMS_OF_ONE).map(|_| page.stream().expect("room")).collect();
        let again = guests.admit(address("[2001:db8::2]")).expect("its pages load");
        assert!(again.stream().is_none(), "of the same /64");
        let other = guests.admit(address("[2001:db8:1::1]")).expect("room");
        assert!(other.stream().is_some());
        streams.pop();
        assert!(again.stream().is_some());
        drop((streams, page, again, other));
        let counts = guests.counts();
        assert!(counts.clients.is_empty() && counts.all.streams == 0, "{counts:?}");
    }

    #[test]
    fn all_streams_together_leave_connections_too() {
        let guests = Arc::new(Guests::default());
        let clients = STREAMS.div_ceil(STREAMS_OF_ONE);
        let pages: Vec<_> =
            (0..=clients).map(|n| guests.admit(address(&format!("192.0.2.{n}"))).expect("room")).collect();
        let streams = pages.iter().flat_map(|page| (0..STREAMS_OF_ONE).map_while(|_| page.stream()));
        let streams: Vec<_> = streams.collect();
        assert_eq!(streams.len(), STREAMS);
        assert!(guests.admit(address("192.0.2.99")).is_some_and(|late| late.stream().is_none()));
        let own = guests.admit(address("127.0.0.1")).expect("room");
        assert!(own.stream().is_some(), "this node's own are counted apart");
    }
}
