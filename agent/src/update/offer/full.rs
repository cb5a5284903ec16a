//! An order on a disk that is full, or fills while it is done.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use fleet_proto::v1::StandingReason;
use fleet_supervisor::record::{Request, Slot};

use super::*;
use crate::{
    held_disk::Held,
    model::{Fault, Image},
};

const OLD: &[u8] = b"the old agent, which serves";
const NEW: &[u8] = b"the new agent, which needs room";
/// Of what is fetched, as the manifest says.
const PACKED: u64 = 10_000;

/// A node on the old agent.
fn node() -> Image {
    let folders = ["/", "/slots", "/agent"].into_iter().map(Into::into).collect();
    let disk = Held::new(&Image { folders, ..Image::default() }, Fault::Nothing);
    install::adopt(&mut slots(&disk), "0.1.0", OLD).expect("adopted");
    disk.image()
}

fn slots(disk: &Held) -> Slots<Held> {
    Slots::new("/slots", disk.clone())
}

fn store(disk: &Held) -> Store<Held> {
    Store::on("/agent/release", disk.clone())
}

fn plan() -> Plan {
    let digest = Digest::of(NEW);
    Plan {
        target: Target { digest: digest.to_string(), version: "0.2.0".into() },
        digest,
        size: NEW.len() as u64,
        packed: v1::Artifact { name: AGENT.into(), sha256: "00".into(), size: PACKED },
        highest: Accepted { version: "0.2.0".parse().expect("a version"), artifacts: "00".into() },
        release: b"signed".to_vec(),
        terms: Terms::default(),
        again: false,
        id: "order-1-1".into(),
    }
}

/// What was fetched, on a disk of its own.
fn fetched() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut packer = GzEncoder::new(file.as_file(), Compression::fast());
    packer.write_all(NEW).and_then(|()| packer.finish().map(drop)).expect("packed");
    file
}

/// The old agent serves, whole, whatever else is there.
fn serves(disk: &Held) {
    let mut slots = slots(&Held::new(&disk.image(), Fault::Nothing));
    let state = slots.load().expect("readable").expect("there");
    assert_eq!((state.active, state.trial.as_ref()), (Slot::A, None));
    assert!(slots.look().holds(Slot::A, state.content(Slot::A)), "the old program is whole");
    let request = slots.requested().expect("readable");
    let asks = |request: &Request| slots.look().holds(Slot::B, wanted(request));
    assert!(request.as_ref().is_none_or(asks), "nothing is asked for that is not there, whole");
}

fn wanted(request: &Request) -> Option<&fleet_supervisor::record::Content> {
    match &request.ask {
        fleet_supervisor::record::Ask::Try { content, .. } => Some(content),
        fleet_supervisor::record::Ask::Return { .. } => None,
    }
}

#[test]
fn room_for_the_download_the_program_and_one_old_copy_is_asked_for_before_anything_is_fetched() {
    let plan = plan();
    let least = PACKED + (NEW.len() + OLD.len()) as u64;
    let image = node();
    let ready = |free: u64| plan.ready(&mut slots(&Held::new(&image, Fault::Nothing).with_free(free)));
    let full = ready(least).expect_err("no margin");
    let verdict = Verdict::from(&full);
    assert_eq!(verdict.reason, StandingReason::StandingDiskFull);
    let line = &verdict.detail;
    assert!(line.contains("are missing") && line.contains("df -h") && line.lines().count() == 1, "{line}");
    let install::Error::Space { needed, free } = full else { panic!("{full}") };
    assert!(free == least && needed > least);
    ready(needed).expect("exactly enough");
    ready(needed - 1).expect_err("one byte is missing");
}

#[test]
fn a_disk_that_fills_anywhere_in_an_order_fails_that_order_alone() {
    let (plan, image) = (plan(), node());
    let calm = Held::new(&image, Fault::Nothing);
    plan.install(&mut slots(&calm), &store(&calm), fetched().path()).expect("room");
    assert!(calm.calls() > 15, "{} calls: nothing was tried", calm.calls());
    for at in 0..calm.calls() {
        let disk = Held::new(&image, Fault::Full(at));
        let packed = fetched();
        // What needs no more room still goes on: only then it is fine.
        if let Err(verdict) = plan.install(&mut slots(&disk), &store(&disk), packed.path()) {
            assert_eq!(verdict.reason, StandingReason::StandingDiskFull, "{}", verdict.detail);
            assert!(verdict.detail.contains("df"), "{}", verdict.detail);
            assert!(packed.path().exists(), "what was fetched is kept for the next attempt");
            let mut left = disk.image().files.into_keys();
            assert!(
                left.all(|path| path.extension().is_none_or(|end| end != "new")),
                "its space is given back"
            );
        }
        serves(&disk);
        // Room again: the same order leads where it should.
        let disk = Held::new(&disk.image(), Fault::Nothing);
        plan.install(&mut slots(&disk), &store(&disk), fetched().path()).expect("room again");
        serves(&disk);
        let request = slots(&disk).requested().expect("readable").expect("asked for");
        assert_eq!(wanted(&request).map(|content| content.digest), Some(plan.digest));
        assert_eq!(store(&disk).highest().expect("readable").as_ref(), Some(&plan.highest));
    }
}
