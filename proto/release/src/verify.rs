//! The decision: may this be installed here, now?

use std::time::Duration;

use fleet_model::{FleetName, NodeName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    document::{Also, Body, Signed},
    key::sha256,
    manifest::Manifest,
    permit::Permit,
    refusal::{Kind, Refusal},
    root::Root,
    version::Version,
};

/// How long before an expiry it is warned of.
pub const WARN_AHEAD: Duration = Duration::from_secs(28 * 86_400);
/// How far a clock may be behind the releaser's.
const CLOCK_BEHIND: Duration = Duration::from_secs(86_400);

/// The root that is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    root: Root,
}

impl Trust {
    /// From a root that came by a trusted way: with the agent itself, or kept from a [`Verified`] before.
    ///
    /// # Errors
    /// It is not a root signed by enough of its own root keys.
    pub fn new(bytes: &[u8]) -> Result<Self, Refusal> {
        let signed = Signed::decode(Kind::Root, bytes)?;
        // Read before it is believed, for it is its own judge; believed because of the way it came.
        let root: Root = signed.body()?;
        // A later link bears signatures of keys that went with the link before.
        signed.signed_by(&root.root, if root.number > 1 { Also::Anybody } else { Also::Nobody })?;
        Ok(Self { root })
    }

    /// From the whole chain, root 1 first, that came by a trusted way.
    ///
    /// # Errors
    /// It does not begin with root 1, or a link does not follow.
    pub fn of_chain(roots: &[Vec<u8>]) -> Result<Self, Refusal> {
        let (first, rest) =
            roots.split_first().ok_or_else(|| Refusal::ChainStart { first: "nothing".to_owned() })?;
        let first = Self::new(first)?;
        if first.root.number != 1 {
            return Err(Refusal::ChainStart { first: format!("root {}", first.root.number) });
        }
        rest.iter().try_fold(first, |trust, root| trust.follow(root))
    }

    /// Those links of a chain that come after the one trusted: what there is to follow. Whoever offers a chain does
    /// not know how far each of those it is offered to has followed it.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn ahead(&self, roots: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, Refusal> {
        let mut ahead = Vec::new();
        for root in roots {
            // Only its number is read: a link that is left out here proves nothing and grants nothing.
            if Signed::decode(Kind::Root, root)?.body::<Root>()?.number > self.root.number {
                ahead.push(root.clone());
            }
        }
        Ok(ahead)
    }

    /// A release that bears the signatures it must; in time or not.
    ///
    /// # Errors
    /// It does not.
    pub fn manifest(&self, bytes: &[u8]) -> Result<Manifest, Refusal> {
        let signed = Signed::decode(Kind::Manifest, bytes)?;
        signed.signed_by(&self.root.release, Also::Nobody)?;
        signed.body()
    }

    /// A permit that bears the signatures it must and is for this signed manifest; in time or not, whatever fleet
    /// and whomever it names.
    ///
    /// # Errors
    /// It does not, or is not.
    pub fn permit(
        &self,
        bytes: &[u8],
        signed_manifest: &[u8],
        manifest: &Manifest,
    ) -> Result<Permit, Refusal> {
        let signed = Signed::decode(Permit::KIND, bytes)?;
        signed.signed_by(&self.root.permit, Also::Nobody)?;
        let permit: Permit = signed.body()?;
        if permit.manifest != sha256(signed_manifest) {
            return Err(Refusal::PermitForOther { offered: manifest.version });
        }
        Ok(permit)
    }

    /// Whether the root may judge now.
    ///
    /// # Errors
    /// It expired, or this clock is wrong.
    pub fn in_time(&self, now: Timestamp) -> Result<(), Refusal> {
        in_time(Kind::Root, self.root.created, self.root.expires, now)
    }

    /// The root itself.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Follows the chain by one link.
    ///
    /// # Errors
    /// It is not the next, or not signed by enough keys of both.
    pub fn follow(&self, bytes: &[u8]) -> Result<Self, Refusal> {
        let signed = Signed::decode(Kind::Root, bytes)?;
        let next: Root = signed.body()?;
        let (trusted, offered) = (self.root.number, next.number);
        // Judged by the keys we trust before anything it says is acted upon; they may share it with its own.
        signed.signed_by(&self.root.root, Also::Those(&next.root))?;
        signed.signed_by(&next.root, Also::Those(&self.root.root))?;
        if trusted.checked_add(1) != Some(offered) {
            return Err(Refusal::RootOrder { trusted, offered });
        }
        Ok(Self { root: next })
    }
}

/// What is offered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offer<'a> {
    /// Roots after the one trusted, in order.
    pub roots: &'a [Vec<u8>],
    /// The signed manifest.
    pub manifest: &'a [u8],
    /// The signed permit to go back, if there is one.
    pub permit: Option<&'a [u8]>,
}

/// A release that was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Its version.
    pub version: Version,
    /// [`Manifest::artifacts_sha256`] of it; empty for what came with the seed, of which nobody signed anything.
    pub artifacts: String,
}

/// What there is on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its fleet.
    pub fleet: FleetName,
    /// This node.
    pub node: NodeName,
    /// The highest release ever accepted here, kept from [`Verified::highest`]; none before the first, which is measured by
    /// the agent that the seed brought.
    pub highest: Option<Accepted>,
    /// The agent that runs.
    pub agent: Version,
    /// The controller, if known.
    pub controller: Option<Version>,
}

/// A release that may be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What is trusted from now on; to be kept, also when the installation fails.
    pub trust: Trust,
    /// The release.
    pub manifest: Manifest,
    /// The permit that was needed.
    pub permit: Option<Permit>,
    /// The highest release from now on; to be kept once it is installed.
    pub highest: Accepted,
    /// What will expire soon.
    pub warnings: Vec<Warning>,
}

/// Something expires, or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Which document.
    pub kind: Kind,
    /// When.
    pub expires: Timestamp,
    /// How long from now; zero if it did.
    pub left: Duration,
}

/// What expires within [`WARN_AHEAD`], or has: for status, while everything runs on.
pub fn outlook(trust: &Trust, manifest: Option<&Manifest>, now: Timestamp) -> Vec<Warning> {
    let all =
        [Some((Kind::Root, trust.root.expires)), manifest.map(|manifest| (Kind::Manifest, manifest.expires))];
    let soon = all.into_iter().flatten().filter(|(_, expires)| *expires <= now.after(WARN_AHEAD));
    soon.map(|(kind, expires)| Warning { kind, expires, left: expires.since(now) }).collect()
}

/// Whether `offer` may be installed.
///
/// # Errors
/// Why not; what runs goes on running.
pub fn verify(
    trust: &Trust,
    offer: &Offer<'_>,
    now: Timestamp,
    installed: &Installed,
) -> Result<Verified, Refusal> {
    let mut trust = trust.clone();
    for root in offer.roots {
        trust = trust.follow(root)?;
    }
    trust.in_time(now)?;
    let manifest = trust.manifest(offer.manifest)?;
    manifest.in_time(now)?;
    // A permit that is there is checked also where none is needed: nothing unread passes.
    let permit =
        offer.permit.map(|bytes| permitted(&trust, bytes, offer.manifest, &manifest, now, installed));
    let permit = permit.transpose()?;
    let seed = || Accepted { version: installed.agent, artifacts: String::new() };
    let floor = installed.highest.clone().unwrap_or_else(seed);
    let highest = rise(Some(&floor), &manifest, permit.is_some())?;
    let minimum = &manifest.minimum;
    let counterparts = [
        ("the controller", installed.controller, minimum.controller),
        ("this agent", Some(installed.agent), minimum.agent),
    ];
    for (who, has, needs) in counterparts {
        if let Some(has) = has.filter(|has| *has < needs) {
            return Err(Refusal::MoveFirst { who, has, needs, offered: manifest.version });
        }
    }
    let warnings = outlook(&trust, Some(&manifest), now);
    Ok(Verified { trust, manifest, permit, highest, warnings })
}

/// The highest release once `manifest` is accepted after `highest`: versions only rise, and none ever changes.
///
/// # Errors
/// It is older and nobody permitted that, or the same version with other artifacts.
pub fn rise(highest: Option<&Accepted>, manifest: &Manifest, permitted: bool) -> Result<Accepted, Refusal> {
    let offered = Accepted { version: manifest.version, artifacts: manifest.artifacts_sha256() };
    match highest {
        Some(highest) if highest.version > offered.version => {
            if !permitted {
                return Err(Refusal::Downgrade { offered: offered.version, highest: highest.version });
            }
            Ok(highest.clone())
        }
        Some(highest)
            if highest.version == offered.version
                && !highest.artifacts.is_empty()
                && highest.artifacts != offered.artifacts =>
        {
            Err(Refusal::OtherArtifacts { version: offered.version })
        }
        _ => Ok(offered),
    }
}

fn permitted(
    trust: &Trust,
    bytes: &[u8],
    signed_manifest: &[u8],
    manifest: &Manifest,
    now: Timestamp,
    installed: &Installed,
) -> Result<Permit, Refusal> {
    let permit = trust.permit(bytes, signed_manifest, manifest)?;
    permit.in_time(now)?;
    permit.for_fleet(&installed.fleet)?;
    if !permit.nodes.contains(&installed.node) {
        return Err(Refusal::PermitForOthers { node: installed.node.clone() });
    }
    Ok(permit)
}

impl Manifest {
    /// Whether it may be acted upon now.
    ///
    /// # Errors
    /// It expired, or this clock is wrong.
    pub fn in_time(&self, now: Timestamp) -> Result<(), Refusal> {
        in_time(Kind::Manifest, self.created, self.expires, now)
    }
}

impl Permit {
    /// Whether it may be used now.
    ///
    /// # Errors
    /// It expired, or this clock is wrong.
    pub fn in_time(&self, now: Timestamp) -> Result<(), Refusal> {
        in_time(Kind::Permit, self.created, self.expires, now)
    }
}

fn in_time(kind: Kind, created: Timestamp, expires: Timestamp, now: Timestamp) -> Result<(), Refusal> {
    if expires <= now {
        return Err(Refusal::Expired { kind, expired: expires });
    }
    if now.after(CLOCK_BEHIND) < created {
        return Err(Refusal::Clock { kind, created, now });
    }
    Ok(())
}
