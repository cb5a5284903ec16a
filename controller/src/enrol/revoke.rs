//! Certificates that were withdrawn: a set looked at in every handshake and before every call.
//!
//! A set of our own rather than CRLs, which are verified in full in each handshake and cost as much as the
//! handshake itself from some thousands of entries on.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use fleet_model::{NodeName, Timestamp};
use fleet_proto::refusal::{Refusal, RefusalKind};
use fleet_store::Expected;

use super::{ca::Serial, policy};
use crate::records::{Issued, RecordError, Records, RevokedRecord, keys};

/// The serial numbers that are not to be let in.
#[derive(Clone, Debug, Default)]
pub struct Revoked(Arc<ArcSwap<HashMap<Serial, Why>>>);

/// Why a certificate was withdrawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Another took its place, or its node left the plan.
    Withdrawn,
    /// Its node was retired, with this machine's identity.
    Retired(NodeName),
}

impl Why {
    /// What its holder hears.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Retired(node) => policy::gone(node),
            Self::Withdrawn => Refusal::new(
                RefusalKind::RefusalRevoked,
                "this certificate was withdrawn",
                "run `fleetctl up`: it enrols the node anew if it is part of the plan",
            ),
        }
    }
}

impl Revoked {
    /// Reads the set from the store, forgetting certificates that have run out by themselves.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails.
    pub async fn load(records: &Records, now: Timestamp) -> Result<Self, RecordError> {
        let mut serials = HashMap::new();
        for (serial, record) in records.list::<RevokedRecord>(&keys::revocations()).await? {
            if record.not_after <= now {
                records.delete(&keys::revoked(&serial)).await?;
            } else if let Some(serial) = Serial::from_hex(&serial) {
                let why = if record.retired { Why::Retired(record.node) } else { Why::Withdrawn };
                serials.insert(serial, why);
            }
        }
        Ok(Self(Arc::new(ArcSwap::from_pointee(serials))))
    }

    /// Forgets certificates that have run out by themselves since they were withdrawn.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails.
    pub async fn prune(&self, records: &Records, now: Timestamp) -> Result<(), RecordError> {
        let held = records.list::<RevokedRecord>(&keys::revocations()).await?;
        for (serial, _) in held.iter().filter(|(_, record)| record.not_after <= now) {
            records.delete(&keys::revoked(serial)).await?;
            if let Some(serial) = Serial::from_hex(serial) {
                self.0.rcu(|held| {
                    let mut left = HashMap::clone(held);
                    left.remove(&serial);
                    left
                });
            }
        }
        Ok(())
    }

    /// Whether this certificate was withdrawn.
    pub fn contains(&self, serial: &Serial) -> bool {
        self.0.load().contains_key(serial)
    }

    /// Why this certificate was withdrawn, if it was.
    pub fn why(&self, serial: &Serial) -> Option<Why> {
        self.0.load().get(serial).cloned()
    }

    /// Withdraws certificates of `node`: durably, then at once. Live connections are the caller's to cut.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails; then those not stored yet are still good.
    pub async fn revoke(
        &self,
        records: &Records,
        node: &NodeName,
        certificates: &[Issued],
        why: &Why,
        now: Timestamp,
    ) -> Result<Vec<Serial>, RecordError> {
        let mut withdrawn = Vec::new();
        for issued in certificates.iter().filter(|issued| issued.not_after > now) {
            let Some(serial) = Serial::from_hex(&issued.serial) else { continue };
            let retired = matches!(why, Why::Retired(_));
            let record = RevokedRecord { node: node.clone(), not_after: issued.not_after, retired };
            records.put(&keys::revoked(&issued.serial), &record, Expected::Any).await?;
            withdrawn.push(serial);
        }
        if !withdrawn.is_empty() {
            self.0.rcu(|held| {
                let mut grown = HashMap::clone(held);
                grown.extend(withdrawn.iter().map(|serial| (*serial, why.clone())));
                grown
            });
        }
        Ok(withdrawn)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fleet_model::SystemClock;
    use fleet_store::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn revocations_hold_until_the_certificate_runs_out() {
        let records = Records::new(Arc::new(MemoryStore::new(Arc::new(SystemClock))));
        let now = Timestamp::from_millis(1000);
        let issued = |serial: u8, secs| Issued {
            serial: format!("{serial:032x}"),
            not_after: now.after(Duration::from_secs(secs)),
        };
        let certificates = [issued(1, 10), issued(2, 20), issued(3, 0)];
        let node: NodeName = "web-1".parse().expect("a name");
        let revoked = Revoked::default();
        let why = Why::Retired(node.clone());
        let serials = revoked.revoke(&records, &node, &certificates, &why, now).await.expect("revokes");
        assert_eq!(serials.len(), 2, "what ran out needs no entry");
        assert!(serials.iter().all(|serial| revoked.contains(serial)));

        let later = now.after(Duration::from_secs(15));
        let loaded = Revoked::load(&records, later).await.expect("loads");
        assert!(!loaded.contains(&serials[0]), "ran out meanwhile");
        assert_eq!(loaded.why(&serials[1]), Some(why), "and why is known");
        assert_eq!(records.store().list(&keys::revocations()).await.expect("lists").len(), 1);
    }
}
