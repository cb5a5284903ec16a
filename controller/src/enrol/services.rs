//! Who vouches for the services of nodes: an authority of their own. Servers of the database let in whoever shows a
//! certificate of an authority they trust and ask no further; were that the fleet's, every agent's and operator's
//! certificate would open the cluster.
//!
//! Fleets from before that authority get there in three stages, each longer than a certificate lives, so that two
//! certificates that are good at the same time are never more than one stage apart, and their holders always trust each
//! other:
//!
//! | stage | signed by | trusted |
//! |---|---|---|
//! | announced | the fleet's | both |
//! | taken up | the services' | both |
//! | alone | the services' | the services' |

use std::time::Duration;

use fleet_model::Timestamp;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::{
    authority::{Authority, Sealed},
    ca::{Leaf, SERVICE_LIFE},
};

/// How long a stage lasts: a day more than a certificate, for controllers of before that still serve meanwhile.
const STAGE: Duration = Duration::from_secs(SERVICE_LIFE.as_secs() + 24 * 3600);

/// The services' authority as stored.
#[derive(Serialize, Deserialize)]
pub(super) struct ServicesRecord {
    #[serde(flatten)]
    pub(super) sealed: Sealed,
    /// When it was made, in a fleet whose services had the fleet's until then.
    #[serde(default)]
    pub(super) since: Option<Timestamp>,
}

/// The services' authority, its key in memory.
pub(super) struct Services {
    pub(super) authority: Authority,
    pub(super) since: Option<Timestamp>,
}

/// A certificate for services, and whom its holder is to trust.
#[derive(Clone, Debug)]
pub struct ServiceLeaf {
    /// The certificate.
    pub leaf: Leaf,
    /// Authorities of those it meets.
    pub trust: Vec<CertificateDer<'static>>,
}

/// How far a fleet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Announced,
    TakenUp,
    Alone,
}

impl Stage {
    /// Pure.
    fn of(since: Option<Timestamp>, now: Timestamp) -> Self {
        match since.map(|since| now.since(since)) {
            Some(age) if age < STAGE => Self::Announced,
            Some(age) if age < STAGE * 2 => Self::TakenUp,
            _ => Self::Alone,
        }
    }
}

impl Services {
    /// Who signs now, and whom to trust with what was signed.
    pub(super) fn at<'a>(
        &'a self,
        fleet: &'a Authority,
        now: Timestamp,
    ) -> (&'a Authority, Vec<CertificateDer<'static>>) {
        let (own, fleets) = (&self.authority, fleet.certificate.clone());
        match Stage::of(self.since, now) {
            Stage::Announced => (fleet, vec![own.certificate.clone(), fleets]),
            Stage::TakenUp => (own, vec![own.certificate.clone(), fleets]),
            Stage::Alone => (own, vec![own.certificate.clone()]),
        }
    }
}
