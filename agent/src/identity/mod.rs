//! Who this node is to its controller: a key made here, a certificate traded for a token.
//!
//! Start with [`Credentials`], what is kept on disk; [`enrol`] gets the first, [`renew`] the next ones.

mod credentials;
pub mod enrol;
mod key;
mod machine;
pub(crate) mod renew;

pub use credentials::{Credentials, Holdings, IdentityError};
pub use key::Key;
pub(crate) use machine::{fingerprint, nonce};
