//! The crash table of what is remembered of releases: cut at every call that changes the disk, and the lives after that
//! cut again, until nothing new comes up.

use std::collections::BTreeSet;

use super::*;
use crate::{
    held_disk::Held,
    model::{Fault, Image},
};

/// One thing that is written down.
#[derive(Clone, Debug)]
enum Write {
    Root(&'static [u8]),
    Order(Record),
    Highest(Accepted),
}

/// What is to be read.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    root: Option<Vec<u8>>,
    order: Record,
    highest: Option<Accepted>,
}

/// A seed, an order that leads where it should, another root, an order that is withdrawn, and one back.
fn life() -> Vec<Write> {
    let order = |number| {
        let want = Some(v1::order::Want::Back(v1::Return { reason: "slow".into(), leave: "old".into() }));
        Record::new(&v1::Order { number, want }, "old".into())
    };
    let accepted =
        |version: &str| Accepted { version: version.parse().expect("version"), artifacts: "00".into() };
    let target = Target { digest: "11".into(), version: "0.2.0".into() };
    let known = Record { target: Some(target), ..order(7) };
    vec![
        Write::Root(b"the first root"),
        Write::Order(order(7)),
        Write::Root(b"the second root, which is longer than the first"),
        Write::Order(known.clone()),
        Write::Highest(accepted("0.2.0")),
        Write::Order(Record { done: true, ..known }),
        Write::Order(order(8)),
        Write::Order(Record::withdrawn(8)),
        Write::Highest(accepted("0.10.0")),
        Write::Order(order(9)),
    ]
}

fn store(disk: &Held) -> Store<Held> {
    Store::on("/agent/release", disk.clone())
}

impl Write {
    fn to(&self, store: &Store<Held>) -> Result<(), AtomicError> {
        match self {
            Self::Root(root) => store.keep_root(root),
            Self::Order(record) => store.keep_record(record),
            Self::Highest(highest) => store.keep_highest(highest),
        }
    }
}

/// What is there after these.
fn after(writes: &[Write]) -> Seen {
    writes.iter().fold(Seen::default(), |mut seen, write| {
        match write.clone() {
            Write::Root(root) => seen.root = Some(root.to_vec()),
            Write::Order(record) => seen.order = record,
            Write::Highest(highest) => seen.highest = Some(highest),
        }
        seen
    })
}

fn look(image: &Image) -> Seen {
    let disk = Held::new(image, Fault::Nothing);
    let store = store(&disk);
    Seen {
        root: store.bytes("root").expect("readable"),
        order: store.record(),
        highest: store.highest().expect("readable"),
    }
}

fn bare() -> Image {
    let folders = ["/", "/agent"].into_iter().map(Into::into).collect();
    Image { folders, ..Image::default() }
}

/// Does what is left to do; how many were done before one failed.
fn live(disk: &Held, left: &[Write]) -> usize {
    let store = store(disk);
    left.iter().take_while(|write| write.to(&store).is_ok()).count()
}

/// After `done` of them, and perhaps the next one: nothing is half written, nothing that was there is lost.
fn whole(image: &Image, all: &[Write], done: usize) {
    let (seen, next) = (look(image), (done + 1).min(all.len()));
    assert!(
        [after(&all[..done]), after(&all[..next])].contains(&seen),
        "after {done}: {seen:?} of {:?}",
        image.files.keys()
    );
}

#[test]
fn the_old_record_or_the_new_wherever_the_power_goes() {
    let all = life();
    let (mut seen, mut fresh) = (BTreeSet::new(), BTreeSet::from([(0, bare())]));
    let mut made = 0;
    while let Some((done, image)) = fresh.pop_first() {
        whole(&image, &all, done);
        let calm = Held::new(&image, Fault::Nothing);
        assert_eq!(live(&calm, &all[done..]), all.len() - done);
        assert_eq!(look(&calm.image()), after(&all));
        for at in 0..calm.calls() {
            let disk = Held::new(&image, Fault::Cut(at));
            let more = live(&disk, &all[done..]);
            assert!(disk.dark(), "call {at} is made again");
            made += 1;
            let found = disk.after_cut().into_iter().map(|image| (done + more, image));
            fresh.extend(found.filter(|found| !seen.contains(found)));
        }
        seen.insert((done, image));
    }
    eprintln!("{made} cuts, {} different disks after them", seen.len());
    assert!(made > 200 && seen.len() > 30, "{made} cuts, {} disks: nothing was tried", seen.len());
}

#[test]
fn a_call_that_fails_and_a_full_disk_leave_what_was_there() {
    let all = life();
    let calm = Held::new(&bare(), Fault::Nothing);
    live(&calm, &all);
    for at in 0..calm.calls() {
        for fault in [Fault::Error(at), Fault::Full(at)] {
            let disk = Held::new(&bare(), fault);
            let done = live(&disk, &all);
            whole(&disk.image(), &all, done);
            // Room again: it goes on.
            let disk = Held::new(&disk.image(), Fault::Nothing);
            live(&disk, &all[done..]);
            assert_eq!(look(&disk.image()), after(&all), "{fault:?}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_never_taken_for_a_release_never_seen() {
    let calm = Held::new(&bare(), Fault::Nothing);
    live(&calm, &life());
    let image = calm.image();
    let highest = look(&image).highest;
    let disk = Held::new(&image, Fault::Unread(0));
    let store = store(&disk);
    store.highest().expect_err("it is there and cannot be read");
    assert!(disk.unread());
    assert_eq!(store.highest().expect("readable again"), highest);
    assert_eq!(disk.reads(), 2);
    // Nor if it stays so, until another takes its place.
    let disk = Held::new(&image, Fault::Broken("/agent/release/highest"));
    let store = self::store(&disk);
    for _ in 0..3 {
        store.highest().expect_err("it is there and cannot be read");
    }
}
