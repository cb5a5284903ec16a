//! Signed releases: what may be installed, by whose word, and where not.
//!
//! [`verify`] is pure: what is trusted, what is offered, the time and what is installed go in; a [`Verified`] release or a
//! typed [`Refusal`] comes out. Nothing is fetched, stored or run here, and nothing is read from a document before the
//! signatures over its bytes are found good.
//!
//! # The form
//!
//! Three kinds of documents, all of one form ([`Signed`]): a line that names the kind, a line for each signature, an empty
//! line, and the body. A signature is ed25519 over the first line and the body, so that no document passes for another kind.
//!
//! ```text
//! fleet-release 1 manifest
//! 3f0c5a9d1b2e4c77 <signature, 128 hexadecimal digits>
//!
//! {"version":"0.2.0",…}
//! ```
//!
//! **Canonical bytes.** The body is JSON with its members in the order of our types, no space, and no second way to write
//! anything: a document is read, written again, and refused unless both are the same bytes. So no two readers can
//! understand one document differently (repeated, reordered or unknown members, other forms of a number or letter), and
//! two builds of one commit make the same manifest. Signature lines are in the order of their keys, one each, and **all**
//! must be good: a document with a broken or unknown signature is refused even where enough others are good, so that
//! any changed bit is noticed.
//!
//! # Roles
//!
//! A [`Root`] names three roles, each with its keys and how many of them must sign: *root* (kept offline), *release*, and
//! *permit*. Roots are numbered and signed by enough root keys of the one before **and** of their own; whoever trusts root
//! 1 follows the chain to the newest. None is skipped and none comes twice, so an old root cannot be played back.
//! Expired roots in the middle of the chain are fine: they only lead on. Keys live with the releaser; the controller has none.
//!
//! # Rules
//!
//! - Versions only rise, above the highest ever accepted, not the one that runs: going back does not open the way for what
//!   lies between. The same version again must be the same artifacts. A downgrade needs a [`Permit`] for this very manifest that
//!   names this node, signed by the permit role.
//! - Expiry stops updates and nothing else: no function here is asked before an agent *starts*. [`outlook`] warns
//!   [`WARN_AHEAD`] before.
//! - A manifest says which versions its counterparts must have at least; a refusal names who has to move first.
//!
//! # Why not TUF
//!
//! The library there is, `tough` 0.24, brings 122 crates, and aws-lc-rs without a choice: in the static agent that is 1.0 MB of
//! 6 and 26 ms of every start. ring is there already and verifies ed25519. What TUF has against mixed and frozen
//! metadata serves mirrors that nobody trusts; our one manifest cannot be mixed, and a freeze ends by its expiry. We keep
//! its roles, thresholds, rising numbers, chained roots and expiry. Plain minisign has none of these.

mod document;
mod key;
mod manifest;
mod permit;
mod refusal;
mod root;
mod verify;
mod version;

pub use document::{Body, MAX_BYTES, Signed};
pub use key::{BadKey, KeyId, PublicKey, SigningKey};
pub use manifest::{Artifact, Manifest, Minimum};
pub use permit::Permit;
pub use refusal::{Kind, Refusal};
pub use root::{Role, Root};
pub use verify::{Accepted, Installed, Offer, Trust, Verified, WARN_AHEAD, Warning, outlook, rise, verify};
pub use version::Version;
