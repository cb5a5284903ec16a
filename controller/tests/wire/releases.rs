//! Releases as operators bring them: verified before they are kept, and kept.

use std::{io::Write as _, time::Duration};

use flate2::{Compression, write::GzEncoder};
use fleet_model::{Clock as _, FleetName, Timestamp};
use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    v1::{
        PublishRequest, ReleasesReply, ReleasesRequest, RemoveReleaseReply, RemoveReleaseRequest, RootChain,
        releases_client::ReleasesClient,
    },
};
use fleet_release::{Artifact, Body, Manifest, Minimum, Permit, Role, Root, Signed, SigningKey, Version};
use tonic::{Code, Status, transport::Channel};

use crate::{
    artifacts::{artifact, keep},
    harness::{Agent, Fixture, fleet, kind, start, start_in},
};

const DAY: Duration = Duration::from_secs(86_400);

fn version(text: &str) -> Version {
    text.parse().expect("a version")
}

fn key() -> SigningKey {
    SigningKey::generate().expect("a key").0
}

fn sign<B: Body>(body: &B, keys: &[&SigningKey]) -> Vec<u8> {
    let mut signed = Signed::new(body).expect("sound");
    keys.iter().for_each(|key| signed.sign(key));
    signed.encode()
}

/// One key a role, and the chain so far.
pub struct Releaser {
    root: SigningKey,
    release: SigningKey,
    permit: SigningKey,
    chain: Vec<Vec<u8>>,
    now: Timestamp,
}

impl Releaser {
    pub fn new(fixture: &Fixture) -> Self {
        let now = fixture.clock.now();
        let mut new = Self { root: key(), release: key(), permit: key(), chain: vec![], now };
        new.link(&[]);
        new
    }

    /// The next root: the keys as they are now, signed also by those of before.
    fn link(&mut self, before: &[&SigningKey]) {
        let role = |key: &SigningKey| Role::new(1, [key.public()]);
        let root = Root {
            number: self.chain.len() as u64 + 1,
            created: self.now,
            expires: self.now.after(DAY * 400),
            root: role(&self.root),
            release: role(&self.release),
            permit: role(&self.permit),
        };
        self.chain.push(sign(&root, &[&[&self.root], before].concat()));
    }

    /// Other release keys from here on; those of before are withdrawn.
    fn rotate(&mut self) -> SigningKey {
        let old = std::mem::replace(&mut self.release, key());
        self.link(&[]);
        old
    }

    fn manifest(&self, text: &str) -> Manifest {
        let program = program(text);
        Manifest {
            version: version(text),
            created: self.now,
            expires: self.now.after(DAY * 180),
            minimum: Minimum { controller: version("0.0.0"), agent: version("0.0.0") },
            artifacts: vec![Artifact {
                name: "fleet-agent".to_owned(),
                size: program.len() as u64,
                sha256: artifact("", &program).sha256,
                packed_size: packed(text).len() as u64,
                packed_sha256: artifact("", &packed(text)).sha256,
            }],
        }
    }

    fn signed(&self, text: &str) -> Vec<u8> {
        sign(&self.manifest(text), &[&self.release])
    }

    fn permit(&self, manifest: &[u8]) -> Vec<u8> {
        self.permit_in(fleet(), manifest, &["web-1"], DAY)
    }

    fn permit_in(&self, fleet: FleetName, manifest: &[u8], nodes: &[&str], life: Duration) -> Vec<u8> {
        let permit = Permit {
            manifest: artifact("", manifest).sha256,
            fleet,
            nodes: nodes.iter().map(|name| name.parse().expect("a name")).collect(),
            reason: "0.3.0 eats memory".to_owned(),
            created: self.now,
            expires: self.now.after(life),
        };
        sign(&permit, &[&self.permit])
    }

    fn request(&self, manifest: Vec<u8>) -> PublishRequest {
        PublishRequest { chain: Some(RootChain { roots: self.chain.clone() }), manifest, permit: vec![] }
    }

    /// Leave for these nodes to go back to what was published before; says how it was signed.
    pub async fn allow(&self, fixture: &Fixture, text: &str, nodes: &[&str], life: Duration) -> Vec<u8> {
        let manifest = self.signed(text);
        let permit = self.permit_in(fleet(), &manifest, nodes, life);
        let request = PublishRequest { permit: permit.clone(), ..self.request(manifest) };
        publish(fixture, request).await.expect("kept");
        permit
    }

    /// With its artifacts.
    pub async fn publish(&self, fixture: &Fixture, text: &str) -> Result<String, Status> {
        bring(fixture, text).await;
        publish(fixture, self.request(self.signed(text))).await
    }
}

fn program(text: &str) -> Vec<u8> {
    format!("the agent of {text}").repeat(2_000).into_bytes()
}

pub fn packed(text: &str) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::best());
    packer.write_all(&program(text)).expect("packs");
    packer.finish().expect("packs")
}

async fn bring(fixture: &Fixture, text: &str) {
    let packed = packed(text);
    keep(fixture, &artifact("fleet-agent.gz", &packed), &packed).await.expect("kept");
}

fn client(fixture: &Fixture) -> ReleasesClient<Channel> {
    ReleasesClient::new(fixture.operator_channel())
}

async fn publish(fixture: &Fixture, request: PublishRequest) -> Result<String, Status> {
    Ok(client(fixture).publish(request).await?.into_inner().release)
}

async fn list(fixture: &Fixture) -> ReleasesReply {
    client(fixture).list(ReleasesRequest {}).await.expect("answers").into_inner()
}

/// Cause and next step of a refusal.
fn why(outcome: Result<String, Status>) -> String {
    let status = outcome.expect_err("refused");
    let refusal = Refusal::from_status(&status).unwrap_or_else(|| panic!("no refusal in {status:?}"));
    assert!(!refusal.hint.is_empty(), "{refusal:?}");
    refusal.message
}

#[tokio::test]
async fn what_is_signed_and_whole_is_kept_and_outlives_a_restart() {
    let (fixture, _) = start(&[]).await;
    let releaser = Releaser::new(&fixture);
    let release = releaser.publish(&fixture, "0.2.0").await.expect("kept");
    assert_eq!(release, artifact("", &program("0.2.0")).sha256, "known by its agent, unpacked");
    releaser.publish(&fixture, "0.10.0").await.expect("kept");
    let again = releaser.publish(&fixture, "0.10.0").await.expect("again is fine");
    let before = list(&fixture).await;
    assert_eq!(before.roots, releaser.chain);
    let manifests: Vec<_> = before.releases.iter().map(|kept| kept.manifest.clone()).collect();
    assert_eq!(manifests, [releaser.signed("0.10.0"), releaser.signed("0.2.0")]);
    assert_eq!(before.releases[0].release, again);
    assert!(before.releases.iter().all(|kept| kept.refused.is_empty() && kept.warnings.is_empty()));
    let (fixture, _) = start_in(fixture.stop().await, &[], |_| {}).await;
    assert_eq!(list(&fixture).await, before);
    fixture.stop().await;
}

#[tokio::test]
async fn what_is_not_signed_as_it_must_be_is_not_kept() {
    let (fixture, _) = start(&[]).await;
    let releaser = Releaser::new(&fixture);
    let stranger = Releaser::new(&fixture);
    let request = |manifest| releaser.request(manifest);
    bring(&fixture, "0.2.0").await;
    let said =
        why(publish(&fixture, PublishRequest { chain: None, ..request(releaser.signed("0.2.0")) }).await);
    assert!(said.contains("trusts nobody's releases yet"), "{said}");
    let body = releaser.manifest("0.2.0");
    let mut broken = releaser.signed("0.2.0");
    let last = broken.len() - 5;
    broken[last] ^= 1;
    let mut late = body.clone();
    late.expires = releaser.now.after(Duration::from_millis(1));
    let mut ahead = body.clone();
    ahead.minimum.controller = version("99.0.0");
    fixture.clock.advance(Duration::from_secs(1));
    for (manifest, wanted) in [
        (sign(&body, &[]), "has 0 good signatures"),
        (sign(&body, &[&stranger.release]), "which has no say here"),
        (sign(&body, &[&releaser.root]), "which has no say here"),
        (broken, "was changed on its way"),
        (b"{}".to_vec(), "cannot be read"),
        (sign(&late, &[&releaser.release]), "expired"),
        (sign(&ahead, &[&releaser.release]), "update the controller to that first"),
    ] {
        let said = why(publish(&fixture, request(manifest)).await);
        assert!(said.contains(wanted), "{said}");
    }
    let kept = list(&fixture).await;
    assert!(kept.releases.is_empty() && kept.roots.is_empty(), "nothing came of it: {kept:?}");
    // Once somebody is trusted, nobody else comes in.
    client(&fixture).trust(RootChain { roots: releaser.chain.clone() }).await.expect("trusted");
    let said = why(publish(&fixture, stranger.request(stranger.signed("0.2.0"))).await);
    let [ours, theirs] = [&releaser, &stranger].map(|one| one.root.public().id());
    assert!(said.contains(&format!("its root 1 is by {ours}, yours by {theirs}")), "{said}");
    let foreign =
        client(&fixture).trust(RootChain { roots: stranger.chain.clone() }).await.expect_err("refused");
    assert_eq!(kind(&foreign), RefusalKind::RefusalBadRequest);
    assert_eq!(list(&fixture).await.roots, releaser.chain);
    fixture.stop().await;
}

#[tokio::test]
async fn artifacts_must_be_there_and_be_what_the_manifest_says() {
    let (fixture, _) = start(&[]).await;
    let releaser = Releaser::new(&fixture);
    let publish = async |change: &dyn Fn(&mut Manifest)| {
        let mut body = releaser.manifest("0.2.0");
        change(&mut body);
        publish(&fixture, releaser.request(sign(&body, &[&releaser.release]))).await
    };
    let said = why(publish(&|_| {}).await);
    assert_eq!(said, "artifacts of release 0.2.0 are not here: fleet-agent");
    bring(&fixture, "0.2.0").await;
    let said = why(publish(&|body| body.artifacts[0].size -= 1).await);
    assert!(said.contains("and more than that came"), "{said}");
    let said = why(publish(&|body| body.artifacts[0].size += 1).await);
    assert!(said.contains("and fewer came"), "{said}");
    let said = why(publish(&|body| body.artifacts[0].sha256 = "0a".repeat(32)).await);
    assert!(said.contains("it unpacks to"), "{said}");
    let said = why(publish(&|body| body.artifacts[0].packed_size += 1).await);
    assert!(said.contains("are not here"), "{said}");
    let said = why(publish(&|body| body.artifacts[0].name = "fleet-todo".to_owned()).await);
    assert!(said.contains("holds no `fleet-agent`"), "{said}");
    // Kept as it came, but nothing that unpacks.
    let plain = b"no archive".to_vec();
    keep(&fixture, &artifact("x", &plain), &plain).await.expect("kept");
    let said = why(publish(&|body| {
        body.artifacts[0].packed_size = plain.len() as u64;
        body.artifacts[0].packed_sha256 = artifact("", &plain).sha256;
    })
    .await);
    assert!(said.contains("it does not unpack"), "{said}");
    publish(&|_| {}).await.expect("kept");
    fixture.stop().await;
}

#[tokio::test]
async fn versions_rise_and_none_ever_changes() {
    let (fixture, _) = start(&[]).await;
    let releaser = Releaser::new(&fixture);
    releaser.publish(&fixture, "0.3.0").await.expect("kept");
    let said = why(releaser.publish(&fixture, "0.2.0").await);
    assert!(said.contains("0.2.0 is older than 0.3.0"), "{said}");
    // With leave to go back it is kept, leave and all; what lies between is not.
    let manifest = releaser.signed("0.2.0");
    let permit = releaser.permit(&manifest);
    let with =
        |permit: &[u8]| PublishRequest { permit: permit.to_vec(), ..releaser.request(manifest.clone()) };
    let unsigned = sign(
        &Signed::decode(fleet_release::Kind::Permit, &permit).expect("one").claim::<Permit>().expect("one"),
        &[&releaser.release],
    );
    let said = why(publish(&fixture, with(&unsigned)).await);
    assert!(said.contains("has no say here"), "{said}");
    let said = why(publish(&fixture, with(&releaser.permit(b"another"))).await);
    assert!(said.contains("is for another manifest"), "{said}");
    let elsewhere: FleetName = "other".parse().expect("a name");
    let said = why(publish(&fixture, with(&releaser.permit_in(elsewhere, &manifest, &["web-1"], DAY))).await);
    assert!(said.contains("is for nodes of fleet `other`, and this is fleet"), "{said}");
    publish(&fixture, with(&permit)).await.expect("kept");
    assert_eq!(list(&fixture).await.releases[1].permits, std::slice::from_ref(&permit));
    let said = why(releaser.publish(&fixture, "0.2.9").await);
    assert!(said.contains("0.2.9 is older than 0.3.0"), "{said}");
    // Known now, it may come again, and keeps its permit; signed afresh, it has none.
    releaser.publish(&fixture, "0.2.0").await.expect("known");
    assert_eq!(list(&fixture).await.releases[1].permits, std::slice::from_ref(&permit));
    let mut fresh = releaser.manifest("0.2.0");
    fresh.expires = releaser.now.after(DAY * 300);
    publish(&fixture, releaser.request(sign(&fresh, &[&releaser.release]))).await.expect("known");
    assert!(list(&fixture).await.releases[1].permits.is_empty());
    // One version, one set of programs; one agent, one version.
    bring(&fixture, "0.9.0").await;
    for text in ["0.3.0", "0.2.0"] {
        let mut other = releaser.manifest("0.9.0");
        other.version = version(text);
        let said = why(publish(&fixture, releaser.request(sign(&other, &[&releaser.release]))).await);
        assert!(said.contains("give it another version"), "{said}");
    }
    let mut same = releaser.manifest("0.3.0");
    same.version = version("0.3.1");
    let said = why(publish(&fixture, releaser.request(sign(&same, &[&releaser.release]))).await);
    assert_eq!(said, "release 0.3.1 has the very agent of release 0.3.0");
    assert_eq!(list(&fixture).await.releases.len(), 2);
    fixture.stop().await;
}

#[tokio::test]
async fn permits_are_kept_side_by_side_until_they_end() {
    let (fixture, _) = start(&[]).await;
    let mut releaser = Releaser::new(&fixture);
    releaser.publish(&fixture, "0.2.0").await.expect("kept");
    let permits = async |fixture: &Fixture| list(fixture).await.releases.remove(0).permits;
    let long = releaser.allow(&fixture, "0.2.0", &["web-1"], DAY * 3).await;
    let short = releaser.allow(&fixture, "0.2.0", &["web-2"], DAY).await;
    assert_eq!(permits(&fixture).await, [long.clone(), short.clone()]);
    publish(&fixture, releaser.request(releaser.signed("0.2.0"))).await.expect("known");
    assert_eq!(permits(&fixture).await, [long.clone(), short], "without another one, all stay");
    let again = releaser.allow(&fixture, "0.2.0", &["web-1"], DAY * 3).await;
    assert_eq!((permits(&fixture).await.len(), &again), (2, &long), "the same once");
    let (fixture, _) = start_in(fixture.stop().await, &[], |_| {}).await;
    assert_eq!(permits(&fixture).await.len(), 2);
    // The next one sweeps away those that ended, and those of a key that was withdrawn.
    fixture.clock.advance(DAY * 2);
    let third = releaser.allow(&fixture, "0.2.0", &["web-3"], DAY * 4).await;
    assert_eq!(permits(&fixture).await, [long, third]);
    releaser.permit = key();
    releaser.link(&[]);
    let fourth = releaser.allow(&fixture, "0.2.0", &["web-4"], DAY * 4).await;
    assert_eq!(permits(&fixture).await, [fourth]);
    fixture.stop().await;
}

#[tokio::test]
async fn keys_are_rotated_and_what_withdrawn_ones_signed_is_worth_nothing() {
    let (fixture, _) = start(&[]).await;
    let mut releaser = Releaser::new(&fixture);
    releaser.publish(&fixture, "0.2.0").await.expect("kept");
    let withdrawn = releaser.rotate();
    let old_root = std::mem::replace(&mut releaser.root, key());
    releaser.link(&[&old_root]);
    assert_eq!(releaser.chain.len(), 3);
    // Two rotations come at once, with the next release.
    releaser.publish(&fixture, "0.3.0").await.expect("kept");
    let now = list(&fixture).await;
    assert_eq!(now.roots, releaser.chain);
    assert_eq!(now.releases[0].refused, "");
    assert!(now.releases[1].refused.contains("which has no say here"), "{}", now.releases[1].refused);
    bring(&fixture, "0.4.0").await;
    let by_old = sign(&releaser.manifest("0.4.0"), &[&withdrawn]);
    let said = why(publish(&fixture, releaser.request(by_old)).await);
    assert!(said.contains(&withdrawn.public().id().to_string()), "{said}");
    // An older copy of the chain is fine and changes nothing; one that goes on elsewhere is not.
    let shorter = RootChain { roots: releaser.chain[..1].to_vec() };
    let reply = client(&fixture).trust(shorter).await.expect("a part of it").into_inner();
    assert_eq!(reply.root, 3);
    let mut fork = releaser.chain.clone();
    fork[2] = sign(
        &Root {
            number: 3,
            created: releaser.now,
            expires: releaser.now.after(DAY),
            root: Role::new(1, [old_root.public()]),
            release: Role::new(1, [withdrawn.public()]),
            permit: Role::new(1, [withdrawn.public()]),
        },
        &[&old_root],
    );
    let said = client(&fixture).trust(RootChain { roots: fork }).await.expect_err("refused");
    assert!(said.message().contains("its root 3 is by"), "{said:?}");
    // Signed afresh with the new key, the old release may be rolled out again.
    releaser.publish(&fixture, "0.2.0").await.expect("known");
    assert_eq!(list(&fixture).await.releases[1].refused, "");
    fixture.stop().await;
}

#[tokio::test]
async fn expiry_is_told_weeks_ahead() {
    let (fixture, _) = start(&[]).await;
    let releaser = Releaser::new(&fixture);
    releaser.publish(&fixture, "0.2.0").await.expect("kept");
    fixture.clock.advance(DAY * 160);
    let soon = list(&fixture).await;
    assert_eq!(soon.releases[0].refused, "");
    assert!(soon.releases[0].warnings[0].ends_with("in 20 days"), "{:?}", soon.releases[0].warnings);
    assert!(soon.warnings.is_empty(), "the root has longer to go: {:?}", soon.warnings);
    fixture.stop().await;
}

pub async fn remove(fixture: &Fixture, version: &str) -> Result<RemoveReleaseReply, Status> {
    let request = RemoveReleaseRequest { version: version.to_owned() };
    Ok(client(fixture).remove(request).await?.into_inner())
}

#[tokio::test]
async fn what_nobody_needs_is_removed_with_what_only_it_names() {
    let (fixture, _) = start(&[]).await;
    let releaser = Releaser::new(&fixture);
    // The same todo application in both: it stays with the one that stays.
    bring(&fixture, "9.9.9").await;
    let with_shared = |text: &str| {
        let mut manifest = releaser.manifest(text);
        let shared = releaser.manifest("9.9.9").artifacts.remove(0);
        manifest.artifacts.push(Artifact { name: "fleet-todo".to_owned(), ..shared });
        sign(&manifest, &[&releaser.release])
    };
    for text in ["0.2.0", "0.3.0"] {
        bring(&fixture, text).await;
        publish(&fixture, releaser.request(with_shared(text))).await.expect("kept");
    }
    let file = |text: &str| fixture.dir.path().join("artifacts").join(artifact("", &packed(text)).sha256);
    let refused = remove(&fixture, "0.4.0").await.expect_err("none").message().to_owned();
    assert!(refused.contains("no release 0.4.0 is kept here, only 0.2.0, 0.3.0"), "{refused}");
    let refused = remove(&fixture, "../x").await.expect_err("none").message().to_owned();
    assert!(refused.contains("`../x` is no version"), "{refused}");

    let known_by = artifact("", &program("0.3.0")).sha256;
    let removed = remove(&fixture, "0.3.0").await.expect("nobody needs it");
    assert_eq!(removed, RemoveReleaseReply { release: known_by, artifacts: 1 });
    let there = ["0.2.0", "0.3.0", "9.9.9"].map(|text| file(text).exists());
    assert_eq!(there, [true, false, true]);
    assert_eq!(list(&fixture).await.releases.len(), 1);
    // Gone for good, also over a restart; but versions only rise, and it may come again.
    let dir = fixture.stop().await;
    let (fixture, _) = start_in(dir, &[], |_| {}).await;
    assert_eq!(list(&fixture).await.releases.len(), 1);
    bring(&fixture, "0.2.1").await;
    let said = why(publish(&fixture, releaser.request(releaser.signed("0.2.1"))).await);
    assert!(said.contains("version 0.2.1 is older than 0.3.0"), "{said}");
    bring(&fixture, "0.3.0").await;
    publish(&fixture, releaser.request(with_shared("0.3.0"))).await.expect("the same again");
    for (text, artifacts) in [("0.2.0", 1), ("0.3.0", 2)] {
        assert_eq!(remove(&fixture, text).await.expect("removed").artifacts, artifacts, "{text}");
    }
    fixture.stop().await;
}

#[tokio::test]
async fn nodes_have_no_say() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    let releaser = Releaser::new(&fixture);
    let mut client = ReleasesClient::new(agent.channel(&fixture));
    let refused = [
        client.list(ReleasesRequest {}).await.map(drop),
        client.trust(RootChain { roots: releaser.chain.clone() }).await.map(drop),
        client.publish(releaser.request(releaser.signed("0.2.0"))).await.map(drop),
        client.remove(RemoveReleaseRequest { version: "0.2.0".to_owned() }).await.map(drop),
    ];
    for refused in refused {
        assert_eq!(refused.expect_err("forbidden").code(), Code::PermissionDenied);
    }
    assert!(list(&fixture).await.roots.is_empty());
    fixture.stop().await;
}

#[tokio::test]
async fn of_many_who_publish_at_once_each_is_kept_or_told() {
    let (fixture, _) = start(&[]).await;
    let releaser = Releaser::new(&fixture);
    for minor in 1..9 {
        bring(&fixture, &format!("0.{minor}.0")).await;
    }
    let all =
        (1..9).map(|minor| publish(&fixture, releaser.request(releaser.signed(&format!("0.{minor}.0")))));
    let outcomes = futures::future::join_all(all).await;
    let kept = list(&fixture).await.releases;
    assert_eq!(kept.len(), outcomes.iter().filter(|outcome| outcome.is_ok()).count());
    assert_eq!(kept[0].manifest, releaser.signed("0.8.0"), "the highest is never refused");
    fixture.stop().await;
}
