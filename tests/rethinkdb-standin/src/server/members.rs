//! Which servers are there, and who leads what.

use std::{collections::BTreeSet, io, sync::Arc};

use super::{Identity, Server, lock};
use crate::{
    cluster::{
        ServerId,
        link::Peer,
        message::{Frame, GREETING, Hello, Lead, Presence},
    },
    table::Members,
};

impl Server {
    /// What this server says first on a link.
    pub fn hello(&self) -> Hello {
        Hello {
            greeting: GREETING.into(),
            id: self.id.clone(),
            process: self.process.clone(),
            addresses: self.addresses.iter().cloned().collect(),
        }
    }

    /// What this server says of itself.
    pub fn presence(&self) -> Presence {
        self.presence_as(0)
    }

    fn presence_as(&self, version: u64) -> Presence {
        let Identity { id, name, tags } = lock(&self.identity).clone();
        let connected = lock(&self.peers).keys().cloned().collect();
        let leads = lock(&self.leads).clone();
        Presence { version, id, name, tags, connected, leads, process: self.facts.clone() }
    }

    /// Takes what a connected server says of itself.
    pub fn hear(&self, from: &Hello, presence: Presence) {
        let peers = lock(&self.peers);
        if peers.get(&from.id).is_none_or(|current| current.hello.process != from.process) {
            return;
        }
        let mut seen = lock(&self.seen);
        if seen.get(&from.id).is_none_or(|known| known.version < presence.version) {
            seen.insert(from.id.clone(), presence);
        }
        drop((seen, peers));
        self.touch();
    }

    /// Every connected server, this one first: what it says of itself, and since when it is connected.
    pub fn presences(&self) -> Vec<(Presence, f64)> {
        let peers = lock(&self.peers).clone();
        let seen = lock(&self.seen).clone();
        let others = seen.into_values().filter_map(|presence| {
            let since = peers.get(&presence.id)?.since;
            Some((presence, since))
        });
        std::iter::once((self.presence(), self.facts.time_started)).chain(others).collect()
    }

    /// Connected servers, this one included.
    pub fn connected(&self) -> Members {
        lock(&self.seen).keys().cloned().chain([self.id.clone()]).collect()
    }

    pub(super) fn peer(&self, id: &str) -> Option<Arc<Peer>> {
        lock(&self.peers).get(id).cloned()
    }

    pub(super) fn tell_all(&self, frame: impl Fn() -> Frame) {
        let peers: Vec<Arc<Peer>> = lock(&self.peers).values().cloned().collect();
        for peer in peers {
            peer.tell(frame());
        }
    }

    pub(super) fn announce(&self) {
        // One at a time, so that what is sent last is what is so.
        let mut version = lock(&self.announced);
        *version += 1;
        let presence = self.presence_as(*version);
        self.tell_all(|| Frame::Presence(Box::new(presence.clone())));
        drop(version);
        self.touch();
    }

    /// Makes a link the one to its server, unless there is a better one.
    pub fn add_peer(&self, peer: &Arc<Peer>) -> bool {
        let id = &peer.hello.id;
        if *id == self.id {
            return false;
        }
        let mut peers = lock(&self.peers);
        if let Some(there) = peers.get(id) {
            // Both ends prefer the link that the smaller id opened; a newer process or link of it wins.
            let preferred = (&self.id).min(id);
            let same_process = there.hello.process == peer.hello.process;
            let better = peer.dialer == *preferred || there.dialer == peer.dialer;
            if same_process && !there.gone.is_cancelled() && !better {
                return false;
            }
            // A link of the same process is left to finish what is under way on it.
            if !same_process {
                there.gone.cancel();
                lock(&self.seen).remove(id);
            }
        }
        peers.insert(id.clone(), Arc::clone(peer));
        drop(peers);
        let addresses: BTreeSet<String> = peer.hello.addresses.iter().cloned().collect();
        self.note_metadata(|metadata| {
            // Another server at the same address has taken the place of one that is no more.
            metadata.addresses.retain(|other, known| other == id || known.is_disjoint(&addresses));
            metadata.addresses.insert(id.clone(), addresses);
        });
        self.log(&format!("Connected to server {id}"));
        self.announce();
        true
    }

    /// Forgets a link that has ended.
    pub fn remove_peer(&self, peer: &Arc<Peer>) {
        let mut peers = lock(&self.peers);
        if peers.get(&peer.hello.id).is_some_and(|there| Arc::ptr_eq(there, peer)) {
            peers.remove(&peer.hello.id);
            lock(&self.seen).remove(&peer.hello.id);
            drop(peers);
            self.log(&format!("Disconnected from server {}", peer.hello.id));
            self.announce();
        }
    }

    /// Addresses of servers that are known but not connected.
    pub fn addresses_to_dial(&self) -> BTreeSet<String> {
        let mut addresses: BTreeSet<String> = self.settings.join.iter().cloned().collect();
        addresses.extend(self.metadata().addresses.into_values().flatten());
        let connected: Vec<Arc<Peer>> = lock(&self.peers).values().cloned().collect();
        for peer in connected {
            for address in &peer.hello.addresses {
                addresses.remove(address);
            }
        }
        for own in self.addresses.iter().chain(lock(&self.own).iter()) {
            addresses.remove(own);
        }
        addresses
    }

    /// An address turned out to be this server's.
    pub fn is_me(&self, address: &str) {
        lock(&self.own).insert(address.into());
    }

    /// A server could not be reached; said once for each reason.
    pub fn dial_failed(&self, address: &str, why: &io::Error) {
        let why = why.to_string();
        if lock(&self.failed).insert(address.into(), why.clone()).as_ref() != Some(&why) {
            self.log(&format!("Cannot reach {address}: {why}"));
        }
    }

    /// This server's part of the terms in which it leads.
    pub fn term_id(&self) -> (u64, u64) {
        uuid::Uuid::parse_str(&self.id).map(|id| id.as_u64_pair()).unwrap_or_default()
    }

    /// Says whether this server leads a table.
    pub fn set_lead(&self, table: &str, lead: Option<Lead>) {
        let mut leads = lock(&self.leads);
        let before = leads.get(table).cloned();
        if before == lead {
            return;
        }
        match lead {
            Some(lead) => leads.insert(table.into(), lead),
            None => leads.remove(table),
        };
        drop(leads);
        self.announce();
    }

    /// The connected server that leads a table in the newest term.
    pub fn leader(&self, table: &str) -> Option<(ServerId, Lead)> {
        let leads = self
            .presences()
            .into_iter()
            .filter_map(|(presence, _)| Some((presence.id, presence.leads.get(table).cloned()?)));
        leads.max_by_key(|(_, lead)| lead.term)
    }
}
