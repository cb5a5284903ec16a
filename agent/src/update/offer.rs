//! A release offered: verified, then put where the supervisor finds it.

use std::{fs::File, path::Path};

use flate2::read::GzDecoder;
use fleet_model::Timestamp;
use fleet_proto::v1;
use fleet_release::{Accepted, Artifact, Installed, Kind, Manifest, Offer, Root, Signed, Verified, Version};
use fleet_supervisor::{
    digest::Digest,
    disk::Disk,
    install::{self, Package},
    record::Terms,
    slots::Slots,
};

use crate::contact::Named;

use super::{
    record::{Store, Target},
    words::Verdict,
};

/// What the manifest calls this program.
const AGENT: &str = "fleet-agent";

/// A release that may be installed, and how.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) target: Target,
    digest: Digest,
    size: u64,
    /// What is fetched.
    pub(super) packed: v1::Artifact,
    highest: Accepted,
    release: Vec<u8>,
    terms: Terms,
    again: bool,
    id: String,
}

/// What is claimed to be offered: for saying what is refused, never for acting upon.
pub(super) fn claimed(offer: &v1::ReleaseOffer) -> Option<Target> {
    let manifest: Manifest = Signed::decode(Kind::Manifest, &offer.manifest).ok()?.claim().ok()?;
    let agent = manifest.artifact(AGENT)?;
    Some(Target { digest: agent.sha256.clone(), version: manifest.version.to_string() })
}

/// Whether `offer` may be taken by this node; what is trusted from now on is kept in any case.
///
/// # Errors
/// Why not.
pub(super) fn verify<D: Disk + Clone>(
    store: &Store<D>,
    offer: &v1::ReleaseOffer,
    named: Named,
    controller: Option<&str>,
    now: Timestamp,
    id: String,
) -> Result<Plan, Verdict> {
    let trust = store.trust().map_err(|refusal| Verdict::from(&refusal))?.ok_or_else(Verdict::untrusting)?;
    let held = trust.root().number;
    let known = |root: &&Vec<u8>| {
        let claim = Signed::decode(Kind::Root, root).and_then(|signed| signed.claim::<Root>());
        claim.is_ok_and(|root| root.number <= held)
    };
    // The chain as this node has not followed it yet. What cannot be read stays, to be refused.
    let mut trust = trust;
    for root in offer.roots.iter().skip_while(known) {
        trust = trust.follow(root).map_err(|refusal| Verdict::from(&refusal))?;
        // Kept whatever comes of the release: a key that was taken away is not to be trusted for one offer more.
        store.keep_root(root)?;
    }
    let permit = Some(offer.permit.as_slice()).filter(|permit| !permit.is_empty());
    let agent: Version = crate::VERSION.parse().map_err(|why: String| {
        Verdict::new(v1::StandingReason::StandingMismatch, format!("this agent's own version: {why}"))
    })?;
    let highest = store.highest().map_err(|error| {
        let why = format!(
            "the highest release accepted here cannot be read: {error}; look at this node's disk, then `fleetctl \
             replace NODE`, or remove that file if nobody could have put an older release there"
        );
        Verdict::new(v1::StandingReason::StandingOther, why)
    })?;
    let Named { fleet, node } = named;
    let controller = controller.and_then(|text| text.parse().ok());
    let installed = Installed { fleet, node, highest, agent, controller };
    let asked = Offer { roots: &[], manifest: &offer.manifest, permit };
    let verified =
        fleet_release::verify(&trust, &asked, now, &installed).map_err(|refusal| Verdict::from(&refusal))?;
    let Verified { manifest, highest, .. } = verified;
    let missing =
        || Verdict::new(v1::StandingReason::StandingMismatch, "the release has no program `fleet-agent`");
    let Artifact { size, sha256, packed_size, packed_sha256, .. } =
        manifest.artifact(AGENT).ok_or_else(missing)?;
    let trial = offer.trial.unwrap_or_default();
    let usual = Terms::default();
    let or = |told: u32, usual: u64| if told == 0 { usual } else { u64::from(told) };
    Ok(Plan {
        target: Target { digest: sha256.clone(), version: manifest.version.to_string() },
        digest: sha256.parse().map_err(|_| missing())?,
        size: *size,
        packed: v1::Artifact { name: AGENT.into(), sha256: packed_sha256.clone(), size: *packed_size },
        highest,
        release: offer.manifest.clone(),
        terms: Terms {
            tries: if trial.tries == 0 { usual.tries } else { trial.tries },
            trial_ms: or(trial.ready_ms, usual.trial_ms),
            ceiling_ms: or(trial.ceiling_ms, usual.ceiling_ms),
        },
        again: offer.again,
        id,
    })
}

impl Plan {
    fn package(&self, packed: u64) -> Package<'_> {
        Package {
            version: &self.target.version,
            digest: self.digest,
            size: self.size,
            packed,
            release: &self.release,
            terms: self.terms.clone(),
            again: self.again,
            id: &self.id,
        }
    }

    /// Whether it could be installed now, packed program and all.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn ready<D: Disk>(&self, slots: &mut Slots<D>) -> Result<(), install::Error> {
        install::ready(slots, &self.package(self.packed.size)).map(drop)
    }

    /// Unpacks `packed` into the idle slot, asks for its trial, and remembers that this release was accepted.
    ///
    /// # Errors
    /// Why not; the node runs on as before.
    pub(super) fn install<D: Disk, R: Disk + Clone>(
        &self,
        slots: &mut Slots<D>,
        store: &Store<R>,
        packed: &Path,
    ) -> Result<(), Verdict> {
        let broken = |error| Verdict::from(&install::Error::Disk(error));
        let file = File::open(packed).map_err(broken)?;
        // Before the trial: a version that was tried is known, also to one that comes after it.
        store.keep_highest(&self.highest)?;
        install::install(slots, &self.package(0), GzDecoder::new(file))
            .map_err(|error| Verdict::from(&error))?;
        // Failing to costs space, and the next one that is fetched takes it away.
        let _ = std::fs::remove_file(packed);
        Ok(())
    }
}

#[cfg(test)]
mod full;
#[cfg(test)]
mod roots;
