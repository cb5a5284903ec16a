//! Who is at the other end: parsed once from the certificate, after the handshake.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Context,
};

use fleet_model::{FleetName, NodeName, Timestamp};
use futures::task::AtomicWaker;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::enrol::ca::Serial;

/// What a certificate says its holder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// `spiffe://<fleet>/node/<name>`.
    Node(NodeName),
    /// `spiffe://<fleet>/operator/<name>`.
    Operator(String),
    /// `spiffe://<fleet>/controller/<id>`.
    Controller(String),
}

/// Why a certificate names nobody we know.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It does not parse.
    #[error("the certificate does not parse")]
    Unreadable,
    /// Not exactly one URI, or not one of this fleet.
    #[error("the certificate names nobody of this fleet")]
    Stranger,
}

/// The other end of one connection.
#[derive(Debug)]
pub struct Peer {
    /// Who it is.
    pub identity: Identity,
    /// Its certificate.
    pub serial: Serial,
    /// When that runs out; the connection ends then.
    pub not_after: Timestamp,
    cut: Cut,
}

impl Peer {
    /// Reads a certificate that has been verified already.
    ///
    /// # Errors
    /// [`PeerError`] if it names nobody of this fleet.
    pub fn read(fleet: &FleetName, certificate: &[u8]) -> Result<Self, PeerError> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| PeerError::Unreadable)?;
        let names = parsed.subject_alternative_name().ok().flatten().ok_or(PeerError::Stranger)?;
        let mut uris = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let (Some(uri), None) = (uris.next(), uris.next()) else { return Err(PeerError::Stranger) };
        Ok(Self {
            identity: identity(fleet, uri).ok_or(PeerError::Stranger)?,
            serial: Serial::from_slice(parsed.raw_serial()).ok_or(PeerError::Stranger)?,
            not_after: Timestamp::from_millis(parsed.validity().not_after.timestamp().saturating_mul(1000)),
            cut: Cut::default(),
        })
    }

    /// A node without a connection; for tests of what only asks who it is.
    #[cfg(test)]
    pub(crate) fn of_node(node: NodeName) -> Self {
        let serial = Serial::from_slice(&[1; 16]).expect("16 bytes");
        Self { identity: Identity::Node(node), serial, not_after: Timestamp::default(), cut: Cut::default() }
    }

    /// Ends the connection: the next read or write fails, whatever is under way.
    pub fn cut(&self) {
        self.cut.severed.store(true, Ordering::Release);
        self.cut.waker.wake();
    }

    /// Whether the connection was cut; if not, `context` is woken when it is.
    pub(crate) fn poll_cut(&self, context: &Context<'_>) -> bool {
        self.cut.waker.register(context.waker());
        self.cut.severed.load(Ordering::Acquire)
    }
}

fn identity(fleet: &FleetName, uri: &str) -> Option<Identity> {
    let (domain, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
    if domain != fleet.as_str() {
        return None;
    }
    match path.split_once('/')? {
        ("node", name) => name.parse().ok().map(Identity::Node),
        ("operator", name) if !name.is_empty() => Some(Identity::Operator(name.to_owned())),
        ("controller", id) if !id.is_empty() => Some(Identity::Controller(id.to_owned())),
        _ => None,
    }
}

/// A switch the connection's task watches; a token per connection would cost ten times the memory.
#[derive(Default)]
struct Cut {
    severed: AtomicBool,
    waker: AtomicWaker,
}

impl fmt::Debug for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cut({})", self.severed.load(Ordering::Relaxed))
    }
}

/// Every connection with a client certificate, so that any of them can be cut.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    open: Mutex<HashMap<u64, Arc<Peer>>>,
    next: AtomicU64,
}

impl Connections {
    /// Enters a connection; it leaves when the returned value is dropped.
    pub fn enter(&self, peer: Arc<Peer>) -> Presence {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.open().insert(id, peer);
        Presence { connections: self.clone(), id }
    }

    /// Cuts every connection that `which` picks, and says how many those were.
    pub fn cut(&self, which: impl Fn(&Peer) -> bool) -> usize {
        let picked: Vec<_> = self.open().values().filter(|peer| which(peer)).cloned().collect();
        picked.iter().for_each(|peer| peer.cut());
        picked.len()
    }

    /// How many there have been.
    pub fn entered(&self) -> u64 {
        self.0.next.load(Ordering::Relaxed)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Peer>>> {
        // No critical section can leave the map half changed.
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the [`Connections`].
#[derive(Debug)]
pub struct Presence {
    connections: Connections,
    id: u64,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.connections.open().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_uris_of_this_fleet() {
        let fleet = "Reference".parse().expect("a name");
        let node = |name: &str| Some(Identity::Node(name.parse().expect("a name")));
        let check = |uri: &str, wanted| assert_eq!(identity(&fleet, uri), wanted, "{uri}");
        check("spiffe://Reference/node/web-1", node("web-1"));
        check("spiffe://Reference/operator/root", Some(Identity::Operator("root".to_owned())));
        check("spiffe://Reference/controller/1", Some(Identity::Controller("1".to_owned())));
        check("spiffe://Other/node/web-1", None);
        check("spiffe://Reference/node/", None);
        check("spiffe://Reference/node/a/b", None);
        check("spiffe://Reference/node", None);
        check("spiffe://Reference/operator/", None);
        check("spiffe://Reference/root/x", None);
        check("https://Reference/node/web-1", None);
    }
}
