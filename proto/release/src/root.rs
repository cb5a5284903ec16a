//! Who may sign what.

use std::collections::BTreeSet;

use fleet_model::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{document::Body, key::PublicKey, refusal::Kind};

/// Keys, and how many of them it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// How many must sign.
    pub threshold: u32,
    /// Who may.
    pub keys: BTreeSet<PublicKey>,
}

impl Role {
    /// `threshold` of `keys`.
    pub fn new(threshold: u32, keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self { threshold, keys: keys.into_iter().collect() }
    }

    fn check(&self, name: &str) -> Result<(), String> {
        let ids: BTreeSet<_> = self.keys.iter().map(PublicKey::id).collect();
        if ids.len() != self.keys.len() {
            return Err(format!("two keys of role {name} have one id"));
        }
        match usize::try_from(self.threshold) {
            Ok(threshold) if (1..=self.keys.len()).contains(&threshold) => Ok(()),
            _ => Err(format!("role {name} takes {} signatures of {} keys", self.threshold, self.keys.len())),
        }
    }
}

/// One link of the chain of trust.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Its number; the next has one more.
    pub number: u64,
    /// When it was made.
    pub created: Timestamp,
    /// From when on nothing is updated by it.
    pub expires: Timestamp,
    /// Who signs roots.
    pub root: Role,
    /// Who signs manifests.
    pub release: Role,
    /// Who signs permits.
    pub permit: Role,
}

impl Body for Root {
    const KIND: Kind = Kind::Root;

    fn check(&self) -> Result<(), String> {
        self.root.check("root")?;
        self.release.check("release")?;
        self.permit.check("permit")?;
        if self.created >= self.expires {
            return Err("it expires before it is made".to_owned());
        }
        Ok(())
    }
}
