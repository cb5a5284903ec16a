//! What becomes of the chain of roots when the release itself is refused.

use fleet_release::{Role, SigningKey};

use super::*;
use crate::Places;

#[test]
fn newer_roots_are_kept_though_the_release_is_refused() {
    let key = SigningKey::generate().expect("key").0;
    let now = Timestamp::from_millis(1_800_000_000_000);
    let signed = |number| {
        let role = || Role::new(1, [key.public()]);
        let expires = now.after(std::time::Duration::from_secs(86_400));
        let root = Root { number, created: now, expires, root: role(), release: role(), permit: role() };
        let mut signed = Signed::new(&root).expect("sound");
        signed.sign(&key);
        signed.encode()
    };
    let folder = tempfile::tempdir().expect("folder");
    let store = Store::new(&Places::below(folder.path()));
    store.keep_root(&signed(1)).expect("kept");
    let trusted = || store.trust().expect("sound").expect("there").root().number;
    let refused = |roots: Vec<Vec<u8>>| {
        let offer =
            v1::ReleaseOffer { roots, manifest: b"no release".to_vec(), ..v1::ReleaseOffer::default() };
        let named = Named { fleet: "x".parse().expect("a name"), node: "n1".parse().expect("a name") };
        verify(&store, &offer, named, None, now, "order-1-1".into()).expect_err("no release")
    };
    refused(vec![signed(1), signed(2), signed(3)]);
    assert_eq!(trusted(), 3);
    // As far as the chain is sound.
    refused(vec![signed(2), signed(3), signed(4), signed(6)]);
    assert_eq!(trusted(), 4);
}
