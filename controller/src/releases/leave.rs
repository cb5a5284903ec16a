//! Leave to go back, as it is kept: permits side by side, each for its nodes and its time.

use fleet_model::Timestamp;
use fleet_release::{Kind, Manifest, Permit, Refusal, Signed, Trust};

/// A permit that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leave {
    /// Signed.
    pub bytes: Vec<u8>,
    /// What it says; its signatures were good when it was kept.
    pub permit: Permit,
}

impl Leave {
    /// # Errors
    /// It is no permit.
    pub(super) fn read(bytes: Vec<u8>) -> Result<Self, Refusal> {
        let permit = Signed::decode(Kind::Permit, &bytes)?.claim()?;
        Ok(Self { bytes, permit })
    }

    /// Whether nodes that it names would take it now: the newest root may have withdrawn the key that signed it.
    pub(super) fn counts(&self, trust: &Trust, signed: &[u8], manifest: &Manifest, now: Timestamp) -> bool {
        trust.permit(&self.bytes, signed, manifest).is_ok_and(|permit| permit.in_time(now).is_ok())
    }
}
