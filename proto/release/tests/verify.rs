//! What is accepted and what is refused, over documents made as a releaser makes them.

use std::time::Duration;

use base64::Engine as _;
use fleet_model::{FleetName, NodeName, Secret, Timestamp};
use fleet_release::{
    Accepted, Artifact, Body, Installed, Kind, Manifest, Minimum, Offer, Permit, Refusal, Role, Root, Signed,
    SigningKey, Trust, Verified, Version, outlook, verify,
};
use proptest::prelude::*;

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000)
}

fn version(text: &str) -> Version {
    text.parse().expect("version")
}

fn node(name: &str) -> NodeName {
    name.parse().expect("name")
}

fn key() -> SigningKey {
    SigningKey::generate().expect("key").0
}

fn sign<B: Body>(body: &B, keys: &[&SigningKey]) -> Vec<u8> {
    let mut signed = Signed::new(body).expect("sound");
    keys.iter().for_each(|key| signed.sign(key));
    signed.encode()
}

/// A releaser: two of three root keys, one release key, one permit key.
struct Releaser {
    roots: Vec<SigningKey>,
    release: SigningKey,
    release_pem: Secret,
    permit: SigningKey,
}

impl Releaser {
    fn new() -> Self {
        let (release, release_pem) = SigningKey::generate().expect("key");
        Self { roots: (0..3).map(|_| key()).collect(), release, release_pem, permit: key() }
    }

    fn root(&self, number: u64) -> Root {
        Root {
            number,
            created: now().before(DAY),
            expires: now().after(DAY * 365),
            root: Role::new(2, self.roots.iter().map(SigningKey::public)),
            release: Role::new(1, [self.release.public()]),
            permit: Role::new(1, [self.permit.public()]),
        }
    }

    fn trust(&self) -> Trust {
        Trust::new(&sign(&self.root(1), &[&self.roots[0], &self.roots[1]])).expect("root 1")
    }

    fn manifest(&self, text: &str) -> Vec<u8> {
        sign(&manifest(text), &[&self.release])
    }

    fn permit(&self, manifest: &[u8], nodes: &[&str]) -> Vec<u8> {
        let permit = Permit {
            manifest: digest(manifest),
            fleet: fleet("reference"),
            nodes: nodes.iter().map(|name| node(name)).collect(),
            reason: "0.3.0 eats memory".to_owned(),
            created: now(),
            expires: now().after(DAY),
        };
        sign(&permit, &[&self.permit])
    }
}

fn digest(bytes: &[u8]) -> String {
    let sum = ring::digest::digest(&ring::digest::SHA256, bytes);
    sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn manifest(text: &str) -> Manifest {
    let artifact = |name: &str| Artifact {
        name: name.to_owned(),
        size: 3_000_000,
        sha256: digest(format!("{name} {text}").as_bytes()),
        packed_size: 1_000_000,
        packed_sha256: digest(format!("{name} {text} packed").as_bytes()),
    };
    Manifest {
        version: version(text),
        created: now(),
        expires: now().after(DAY * 90),
        minimum: Minimum { controller: version("0.1.0"), agent: version("0.1.0") },
        artifacts: vec![artifact("fleet-agent"), artifact("fleet-todo")],
    }
}

fn fleet(name: &str) -> FleetName {
    name.parse().expect("a name")
}

/// A node on 0.2.0.
fn installed() -> Installed {
    let highest = Accepted { version: version("0.2.0"), artifacts: manifest("0.2.0").artifacts_sha256() };
    Installed {
        fleet: fleet("reference"),
        node: node("a1"),
        highest: Some(highest),
        agent: version("0.2.0"),
        controller: Some(version("0.2.0")),
    }
}

fn offered(releaser: &Releaser, manifest: &[u8], permit: Option<&[u8]>) -> Result<Verified, Refusal> {
    verify(&releaser.trust(), &Offer { roots: &[], manifest, permit }, now(), &installed())
}

#[test]
fn a_newer_release_is_accepted() {
    let releaser = Releaser::new();
    let verified = offered(&releaser, &releaser.manifest("0.3.0"), None).expect("accepted");
    assert_eq!(verified.manifest, manifest("0.3.0"));
    assert_eq!(verified.highest.version, version("0.3.0"));
    assert_eq!(verified.warnings, []);
    assert_eq!(verified.manifest.artifact("fleet-agent").map(|one| one.size), Some(3_000_000));
}

#[test]
fn other_keys_are_refused() {
    let (releaser, stranger) = (Releaser::new(), key());
    let body = manifest("0.3.0");
    let kind = Kind::Manifest;
    let by_stranger = Refusal::UnknownKey { kind, key: stranger.public().id() };
    assert_eq!(offered(&releaser, &sign(&body, &[&stranger]), None), Err(by_stranger.clone()));
    // A good signature does not make up for an unknown one.
    assert_eq!(offered(&releaser, &sign(&body, &[&releaser.release, &stranger]), None), Err(by_stranger));
    let none = Refusal::TooFewSignatures { kind, good: 0, needed: 1 };
    assert_eq!(offered(&releaser, &sign(&body, &[]), None), Err(none));
    // Neither do keys of other roles.
    for key in [&releaser.roots[0], &releaser.permit] {
        let refusal = Refusal::UnknownKey { kind, key: key.public().id() };
        assert_eq!(offered(&releaser, &sign(&body, &[key]), None), Err(refusal));
    }
}

#[test]
fn no_document_passes_for_another_kind() {
    let releaser = Releaser::new();
    let permit = releaser.permit(b"x", &["a1"]);
    assert!(matches!(
        offered(&releaser, &permit, None),
        Err(Refusal::Malformed { kind: Kind::Manifest, .. })
    ));
    // Not even with its first line changed: the signature is over that too.
    let text = String::from_utf8(sign(&manifest("0.3.0"), &[&releaser.permit])).expect("text");
    let posing = text.replacen("fleet-release 1 manifest", "fleet-release 1 permit", 1);
    let manifest = releaser.manifest("0.3.0");
    let refusal = offered(&releaser, &manifest, Some(posing.as_bytes()));
    assert!(matches!(refusal, Err(Refusal::WrongSignature { kind: Kind::Permit, .. })), "{refusal:?}");
}

#[test]
fn older_versions_are_refused_without_a_permit() {
    let releaser = Releaser::new();
    let old = releaser.manifest("0.1.9");
    let refusal = Refusal::Downgrade { offered: version("0.1.9"), highest: version("0.2.0") };
    assert_eq!(offered(&releaser, &old, None), Err(refusal));
    let permit = releaser.permit(&old, &["a1", "a2"]);
    let verified = offered(&releaser, &old, Some(&permit)).expect("permitted");
    assert_eq!(verified.permit.map(|permit| permit.reason), Some("0.3.0 eats memory".to_owned()));
    assert_eq!(verified.highest.version, version("0.2.0"), "going back opens no way for what lies between");
}

#[test]
fn what_the_seed_brought_is_the_floor_before_the_first_release() {
    let releaser = Releaser::new();
    let seeded = Installed { highest: None, ..installed() };
    let offered = |manifest: &[u8], permit: Option<&[u8]>, installed: &Installed| {
        verify(&releaser.trust(), &Offer { roots: &[], manifest, permit }, now(), installed)
    };
    let (oldest, between) = (releaser.manifest("0.1.5"), releaser.manifest("0.1.9"));
    let too_old = |text| Err(Refusal::Downgrade { offered: version(text), highest: version("0.2.0") });
    assert_eq!(offered(&oldest, None, &seeded), too_old("0.1.5"));
    // Going back opens no way for what lies between, on a node that never had a release either.
    let permit = releaser.permit(&oldest, &["a1"]);
    let back = offered(&oldest, Some(&permit), &seeded).expect("permitted");
    assert_eq!(back.highest.version, version("0.2.0"));
    let then = Installed { highest: Some(back.highest), agent: version("0.1.5"), ..seeded.clone() };
    assert_eq!(offered(&between, None, &then), too_old("0.1.9"));
    // The seed's own version as a release: nobody signed what the seed brought, so whatever is signed is taken, once.
    let same = offered(&releaser.manifest("0.2.0"), None, &seeded).expect("accepted");
    assert_eq!(same.highest.artifacts, manifest("0.2.0").artifacts_sha256());
    let known = Accepted { version: version("0.2.0"), artifacts: digest(b"other") };
    let refused = offered(&releaser.manifest("0.2.0"), None, &Installed { highest: Some(known), ..seeded });
    assert_eq!(refused, Err(Refusal::OtherArtifacts { version: version("0.2.0") }));
}

#[test]
fn permits_are_for_these_nodes_this_release_and_this_time() {
    let releaser = Releaser::new();
    let old = releaser.manifest("0.1.9");
    let others = releaser.permit(&old, &["a2", "a3"]);
    assert_eq!(offered(&releaser, &old, Some(&others)), Err(Refusal::PermitForOthers { node: node("a1") }));
    let another = releaser.permit(&releaser.manifest("0.1.8"), &["a1"]);
    let refusal = Refusal::PermitForOther { offered: version("0.1.9") };
    assert_eq!(offered(&releaser, &old, Some(&another)), Err(refusal));
    // Signed by who may release, but not permit.
    let body = Permit {
        manifest: digest(&old),
        fleet: fleet("reference"),
        nodes: [node("a1")].into(),
        reason: "because".to_owned(),
        created: now(),
        expires: now().after(DAY),
    };
    let unsigned = sign(&body, &[&releaser.release]);
    assert!(matches!(
        offered(&releaser, &old, Some(&unsigned)),
        Err(Refusal::UnknownKey { kind: Kind::Permit, .. })
    ));
    let permit = releaser.permit(&old, &["a1"]);
    let offer = Offer { roots: &[], manifest: &old, permit: Some(&permit) };
    // A node of that name in another fleet of the same releaser.
    let elsewhere = Installed { fleet: fleet("Reference"), ..installed() };
    assert_eq!(
        verify(&releaser.trust(), &offer, now(), &elsewhere),
        Err(Refusal::PermitForOtherFleet { fleet: fleet("reference"), here: fleet("Reference") })
    );
    let late = verify(&releaser.trust(), &offer, now().after(DAY), &installed());
    assert_eq!(late, Err(Refusal::Expired { kind: Kind::Permit, expired: now().after(DAY) }));
}

#[test]
fn a_release_never_changes() {
    let releaser = Releaser::new();
    let mut fresh = manifest("0.2.0");
    fresh.expires = now().after(DAY * 300);
    offered(&releaser, &sign(&fresh, &[&releaser.release]), None).expect("signed afresh, the same files");
    fresh.artifacts[0].sha256 = digest(b"other");
    let refusal = Refusal::OtherArtifacts { version: version("0.2.0") };
    assert_eq!(offered(&releaser, &sign(&fresh, &[&releaser.release]), None), Err(refusal));
}

#[test]
fn expiry_stops_updates_and_warns_weeks_ahead() {
    let releaser = Releaser::new();
    let (trust, bytes) = (releaser.trust(), releaser.manifest("0.3.0"));
    let offer = Offer { roots: &[], manifest: &bytes, permit: None };
    let on = |days: u32| verify(&trust, &offer, now().after(DAY * days), &installed());
    assert_eq!(on(61).expect("in time").warnings, []);
    let warnings = on(63).expect("in time").warnings;
    assert_eq!(
        warnings.iter().map(|warning| (warning.kind, warning.left)).collect::<Vec<_>>(),
        [(Kind::Manifest, DAY * 27)]
    );
    assert_eq!(on(90), Err(Refusal::Expired { kind: Kind::Manifest, expired: now().after(DAY * 90) }));
    assert_eq!(on(365), Err(Refusal::Expired { kind: Kind::Root, expired: now().after(DAY * 365) }));
    // Status goes on telling, long after.
    let told = outlook(&trust, Some(&manifest("0.3.0")), now().after(DAY * 400));
    assert_eq!(told.iter().map(|warning| warning.left).collect::<Vec<_>>(), [Duration::ZERO, Duration::ZERO]);
    let past = verify(&trust, &offer, now().before(DAY * 30), &installed());
    assert!(
        matches!(past, Err(Refusal::Clock { .. })),
        "a clock that stands in the past would accept what expired"
    );
}

#[test]
fn who_has_to_move_first_is_named() {
    let releaser = Releaser::new();
    let mut body = manifest("0.4.0");
    body.minimum = Minimum { controller: version("0.3.0"), agent: version("0.1.0") };
    let refusal = offered(&releaser, &sign(&body, &[&releaser.release]), None).expect_err("too old");
    let said = "the controller 0.2.0 is too old for version 0.4.0, which needs 0.3.0: update the controller to that first";
    assert_eq!(refusal.to_string(), said);
    body.minimum = Minimum { controller: version("0.1.0"), agent: version("0.3.0") };
    let refusal = offered(&releaser, &sign(&body, &[&releaser.release]), None);
    assert!(matches!(refusal, Err(Refusal::MoveFirst { who: "this agent", .. })));
}

#[test]
fn keys_are_rotated_and_old_roots_lead_nowhere() {
    let old = Releaser::new();
    let mut new = Releaser::new();
    let sign_root = |root: &Root, keys: &[&SigningKey]| sign(root, keys);
    let two = sign_root(&new.root(2), &[&old.roots[0], &old.roots[2], &new.roots[0], &new.roots[1]]);
    let manifest = new.manifest("0.3.0");
    let verified = |roots: &[Vec<u8>]| {
        let offer = Offer { roots, manifest: &manifest, permit: None };
        verify(&old.trust(), &offer, now(), &installed())
    };
    let after = verified(std::slice::from_ref(&two)).expect("rotated").trust;
    assert_eq!(after.root().number, 2);
    assert_eq!(Trust::new(&two).as_ref(), Ok(&after), "what was kept is read again");
    // What was signed with the old key is worth nothing now, and nothing leads back.
    let by_old = old.manifest("0.4.0");
    let offer = Offer { roots: &[], manifest: &by_old, permit: None };
    assert!(matches!(verify(&after, &offer, now(), &installed()), Err(Refusal::UnknownKey { .. })));
    for refusal in [verified(&[two.clone(), two.clone()]).err(), after.follow(&two).err()] {
        assert!(
            matches!(refusal, Some(Refusal::RootOrder { .. } | Refusal::UnknownKey { .. })),
            "{refusal:?}"
        );
    }
    let one = sign_root(&old.root(1), &[&old.roots[0], &old.roots[1]]);
    let nobodys = Refusal::TooFewSignatures { kind: Kind::Root, good: 0, needed: 2 };
    assert_eq!(after.follow(&one), Err(nobodys), "an old root played back");
    assert_eq!(old.trust().follow(&one), Err(Refusal::RootOrder { trusted: 1, offered: 1 }));
    // A third, with one of the second's keys replaced; none may be left out.
    let replaced = std::mem::replace(&mut new.roots[2], key());
    let three = sign_root(&new.root(3), &[&new.roots[0], &new.roots[1]]);
    assert_eq!(verified(&[two.clone(), three.clone()]).expect("chain").trust.root().number, 3);
    assert!(verified(std::slice::from_ref(&three)).is_err());
    // Half of it is not enough: neither without the old keys nor without the new.
    for keys in [[&old.roots[0], &new.roots[0], &new.roots[1]], [&old.roots[0], &old.roots[1], &new.roots[0]]]
    {
        let refusal = verified(&[sign_root(&new.root(2), &keys)]);
        assert_eq!(refusal, Err(Refusal::TooFewSignatures { kind: Kind::Root, good: 1, needed: 2 }));
    }
    let gone = sign_root(&new.root(4), &[&new.roots[0], &replaced]);
    assert!(matches!(after.follow(&three).expect("three").follow(&gone), Err(Refusal::UnknownKey { .. })));
}

/// Root 1, and each next one signed by the one before and itself, with all keys new.
fn chain(releasers: &[Releaser]) -> Vec<Vec<u8>> {
    let mut chain = Vec::new();
    let mut before: Vec<&SigningKey> = Vec::new();
    for (number, releaser) in (1..).zip(releasers) {
        let own = &releaser.roots[..2];
        chain.push(sign(&releaser.root(number), &[&before[..], &own.iter().collect::<Vec<_>>()].concat()));
        before = own.iter().collect();
    }
    chain
}

#[test]
fn a_node_that_was_off_for_two_rotations_follows_the_chain() {
    let releasers = [Releaser::new(), Releaser::new(), Releaser::new()];
    let chain = chain(&releasers);
    // It was given root 1 and hears of roots 1 to 3 at once; another was given root 2, a third has them all.
    let manifest = releasers[2].manifest("0.3.0");
    for given in 0..3 {
        let trust = Trust::of_chain(&chain[..=given]).expect("a chain");
        let ahead = trust.ahead(&chain).expect("readable");
        assert_eq!(ahead, chain[given + 1..]);
        let offer = Offer { roots: &ahead, manifest: &manifest, permit: None };
        let verified = verify(&trust, &offer, now(), &installed()).expect("followed");
        assert_eq!(verified.trust.root().number, 3);
        // What keys of before sign is refused from here on, and its root leads nowhere.
        for old in &releasers[..2] {
            let by_old = old.manifest("0.4.0");
            let offer = Offer { roots: &[], manifest: &by_old, permit: None };
            let kind = Kind::Manifest;
            let refusal = Refusal::UnknownKey { kind, key: old.release.public().id() };
            assert_eq!(verify(&verified.trust, &offer, now(), &installed()), Err(refusal));
        }
        assert_eq!(verified.trust.ahead(&chain), Ok(vec![]));
    }
    // Roots 1 and 3 alone are no chain, nor is one that begins later.
    let gap = [chain[0].clone(), chain[2].clone()];
    assert!(matches!(
        Trust::of_chain(&gap),
        Err(Refusal::UnknownKey { .. } | Refusal::TooFewSignatures { .. })
    ));
    assert_eq!(Trust::of_chain(&chain[1..]), Err(Refusal::ChainStart { first: "root 2".to_owned() }));
    assert_eq!(Trust::of_chain(&[]), Err(Refusal::ChainStart { first: "nothing".to_owned() }));
}

#[test]
fn keys_are_read_again_and_never_shown() {
    let (key, pem) = SigningKey::generate().expect("key");
    assert_eq!(SigningKey::from_pem(&pem).expect("read").public(), key.public());
    let text = pem.reveal();
    assert!(!format!("{key:?} {pem:?}").contains(text.lines().nth(1).expect("PEM")));
    for wrong in [text.trim(), "", &text.replace("PRIVATE", "PUBLIC"), &text[..text.len() / 2]] {
        assert!(SigningKey::from_pem(&Secret::new(wrong)).is_err());
    }
}

#[test]
fn a_claim_is_readable_and_worth_nothing() {
    let (releaser, stranger) = (Releaser::new(), key());
    let bytes = sign(&manifest("0.3.0"), &[&stranger]);
    let signed = Signed::decode(Kind::Manifest, &bytes).expect("the form is right");
    assert_eq!(signed.claim::<Manifest>(), Ok(manifest("0.3.0")));
    assert_eq!(signed.signers().collect::<Vec<_>>(), [stranger.public().id()]);
    assert!(matches!(signed.claim::<Permit>(), Err(Refusal::Malformed { .. })));
    assert!(releaser.trust().manifest(&bytes).is_err());
}

#[test]
fn one_form_only() {
    let releaser = Releaser::new();
    let body = serde_json::to_string(&manifest("0.3.0")).expect("json");
    let others = [
        body.replacen("{\"version\"", "{ \"version\"", 1),
        body.replacen("\"version\":\"0.3.0\"", "\"version\":\"0.9.0\",\"version\":\"0.3.0\"", 1),
        body.replacen("\"version\":\"0.3.0\"", "\"more\":1,\"version\":\"0.3.0\"", 1),
        body.replacen("fleet-agent", "fleet\\u002dagent", 1),
        body.replacen("3000000", "3000000.0", 1),
        body.replacen("3000000", "3e6", 1),
        format!("{body}\n"),
    ];
    for other in others {
        assert_ne!(other, body);
        // Signed as it stands, by who may: the form alone is what is wrong.
        let signed = raw(other.as_bytes(), &releaser);
        let refusal = offered(&releaser, &signed, None);
        assert!(
            matches!(refusal, Err(Refusal::Malformed { kind: Kind::Manifest, .. })),
            "{other}: {refusal:?}"
        );
    }
    let same = raw(body.as_bytes(), &releaser);
    offered(&releaser, &same, None).expect("the one form");
}

/// A document over any body, as somebody would sign it who does not keep to the form.
fn raw(body: &[u8], releaser: &Releaser) -> Vec<u8> {
    let document = releaser.release_pem.reveal().lines().nth(1).expect("PEM");
    let document = base64::engine::general_purpose::STANDARD.decode(document).expect("base64");
    let pair = ring::signature::Ed25519KeyPair::from_pkcs8(&document).expect("key");
    let head = "fleet-release 1 manifest\n";
    let signature = pair.sign(&[head.as_bytes(), body].concat());
    let hex: String = signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    [format!("{head}{} {hex}\n\n", releaser.release.public().id()).as_bytes(), body].concat()
}

#[test]
fn artifacts_have_names_and_never_paths() {
    for name in ["../etc/passwd", "a/b", "", "A", "a b", ".", "a\0b"] {
        let mut body = manifest("0.3.0");
        body.artifacts[0].name = name.to_owned();
        assert!(matches!(Signed::new(&body), Err(Refusal::Malformed { .. })), "{name:?}");
    }
    let mut twice = manifest("0.3.0");
    twice.artifacts[1] = twice.artifacts[0].clone();
    assert!(matches!(Signed::new(&twice), Err(Refusal::Malformed { .. })));
}

#[test]
fn every_flipped_bit_is_refused() {
    let old = Releaser::new();
    let new = Releaser::new();
    let root = sign(&new.root(2), &[&old.roots[0], &old.roots[1], &new.roots[0], &new.roots[1]]);
    let manifest = new.manifest("0.1.9");
    let permit = new.permit(&manifest, &["a1"]);
    let trust = old.trust();
    let check = |root: &[u8], manifest: &[u8], permit: &[u8]| {
        let offer = Offer { roots: &[root.to_vec()], manifest, permit: Some(permit) };
        verify(&trust, &offer, now(), &installed())
    };
    check(&root, &manifest, &permit).expect("sound");
    let mut flips = 0;
    for which in 0..3 {
        let whole = [&root, &manifest, &permit];
        for at in 0..whole[which].len() {
            // One bit of each byte here; the property below takes any.
            let mut changed = whole[which].clone();
            changed[at] ^= 1 << (at % 8);
            let mut all = whole.map(Vec::as_slice);
            all[which] = &changed;
            check(all[0], all[1], all[2]).expect_err("refused");
            flips += 1;
        }
    }
    assert!(flips > 2000, "{flips}");
}

proptest! {
    #[test]
    fn any_change_is_refused(at in any::<proptest::sample::Index>(), bit in 0..8_u32, cut in any::<bool>()) {
        let releaser = Releaser::new();
        let whole = releaser.manifest("0.3.0");
        let at = at.index(whole.len());
        let mut changed = whole.clone();
        changed[at] ^= 1 << bit;
        if cut {
            changed.truncate(at);
        }
        prop_assert!(offered(&releaser, &changed, None).is_err());
    }

    #[test]
    fn no_bytes_are_a_release(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let releaser = Releaser::new();
        prop_assert!(offered(&releaser, &bytes, None).is_err());
        let posing = [b"fleet-release 1 manifest\n\n".as_slice(), &bytes].concat();
        prop_assert!(offered(&releaser, &posing, None).is_err());
    }
}
