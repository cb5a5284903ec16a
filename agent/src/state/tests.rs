//! Taking over and giving back, cut at every call that changes the disk, until nothing new comes up.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    held_disk::Held,
    model::{Fault, Image},
};

/// As if the next two versions wrote other forms: every file names what it went through.
const STEPS: [Step; 2] = [Step { to: 2, convert: second }, Step { to: 3, convert: third }];

fn second(name: &str, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    match bytes.as_slice() {
        b"damaged" => Err("it makes no sense".to_owned()),
        _ => Ok([b"2 ", name.as_bytes(), b" ", &bytes].concat()),
    }
}

fn third(_: &str, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    Ok([b"3 ".as_slice(), &bytes].concat())
}

/// A program: what it is known by, and the schema it writes.
#[derive(Clone, Copy, Debug)]
struct Program(&'static str, u32);

/// The one that was there first, and others of the same schema, the next, and the one after.
const OLD: Program = Program("old", 1);
const ALIKE: Program = Program("alike", 1);
const NEW: Program = Program("new", 2);
const NEWEST: Program = Program("newest", 3);

impl Program {
    fn digest(self) -> Digest {
        Digest::of(self.0.as_bytes())
    }

    fn opens(self, disk: &Held) -> Result<Work, StateError> {
        let forms = Forms { schema: self.1, steps: &STEPS[..self.1 as usize - 1] };
        open(&mut disk.clone(), Path::new("/agent"), &forms, Some(self.digest()))
    }

    /// Opens what is on this disk, with nothing in the way.
    fn on(self, image: &Image) -> (Result<Work, StateError>, Image) {
        let disk = Held::new(image, Fault::Nothing);
        (self.opens(&disk), disk.image())
    }

    /// The same; then also what the work says.
    fn reads(self, image: &Image) -> Said {
        let (work, image) = self.on(image);
        let work = work.unwrap_or_else(|why| panic!("{self:?}: {why}"));
        let name = |name: &str| image.files.get(&work.folder.join(name)).cloned();
        (name(DESIRED), name(JOURNAL))
    }
}

/// `desired` and `journal.json`.
type Said = (Option<Vec<u8>>, Option<Vec<u8>>);

fn said(desired: &str, journal: &str) -> Said {
    (Some(desired.into()), Some(journal.into()))
}

fn first() -> Said {
    said("d", "j")
}

/// As the second schema has it.
fn next() -> Said {
    said("2 desired d", "2 journal.json j")
}

/// What is never converted, copied or put back.
const KEPT: [&str; 5] = ["key", "key-77", "credentials.json", "release/root", "release/highest"];

/// A node of a version from before schemas.
fn unmarked() -> Image {
    let folders = ["/", "/agent", "/agent/release"].into_iter().map(Into::into).collect();
    let work = [(DESIRED, "d"), (JOURNAL, "j")];
    let files = work.into_iter().chain(KEPT.map(|name| (name, name)));
    let files = files.map(|(name, text)| (Path::new("/agent").join(name), text.into()));
    Image { files: files.collect::<BTreeMap<_, _>>(), folders }
}

/// After these have run, one after the other.
fn after(programs: &[Program]) -> Image {
    programs.iter().fold(unmarked(), |image, program| {
        let (work, image) = program.on(&image);
        work.expect("opens");
        image
    })
}

fn untouched(image: &Image) {
    for name in KEPT {
        let bytes = image.files.get(&Path::new("/agent").join(name));
        assert_eq!(bytes.map(Vec::as_slice), Some(name.as_bytes()), "{name}");
    }
}

/// Cuts `program`'s start on `start` at every call, and the starts after that again; every disk that may be found.
fn cut_everywhere(program: Program, start: Image) -> BTreeSet<Image> {
    let (mut seen, mut fresh) = (BTreeSet::new(), BTreeSet::from([start]));
    let mut made = 0;
    while let Some(image) = fresh.pop_first() {
        untouched(&image);
        let calm = Held::new(&image, Fault::Nothing);
        program.opens(&calm).expect("opens");
        untouched(&calm.image());
        for at in 0..calm.calls() {
            let disk = Held::new(&image, Fault::Cut(at));
            // What comes after the step that counts may fail and does no harm.
            let _ = program.opens(&disk);
            assert!(disk.dark());
            made += 1;
            fresh.extend(disk.after_cut().into_iter().filter(|image| !seen.contains(image)));
        }
        seen.insert(image);
    }
    assert!(made >= 5, "{program:?}: {made} cuts: nothing was tried");
    eprintln!("{program:?}: {made} cuts, {} different disks after them", seen.len());
    seen
}

#[test]
fn the_old_work_or_the_new_wherever_the_power_goes() {
    // The first start of a version that knows schemas.
    for image in cut_everywhere(OLD, unmarked()) {
        assert_eq!((OLD.reads(&image), ALIKE.reads(&image)), (first(), first()));
        assert_eq!(NEW.reads(&image), next());
    }
    // Taking over: whoever comes next has its own form, whole.
    for image in cut_everywhere(NEW, after(&[OLD])) {
        assert_eq!((OLD.reads(&image), NEW.reads(&image)), (first(), next()));
    }
    for image in cut_everywhere(NEWEST, after(&[OLD])) {
        assert_eq!(OLD.reads(&image), first());
        assert_eq!(NEWEST.reads(&image), said("3 2 desired d", "3 2 journal.json j"));
    }
    // Taking over straight from a version before schemas, which goes back by itself.
    for image in cut_everywhere(NEW, unmarked()) {
        assert_eq!(NEW.reads(&image), next());
        let left = |name: &str| image.files[&Path::new("/agent").join(name)].clone();
        assert_eq!((left(DESIRED), left(JOURNAL)), ("d".into(), "j".into()), "where that version looks");
    }
    // Giving back, after the newer one has gone on with its work.
    let mut gone_on = after(&[OLD, NEW]);
    gone_on.files.insert("/agent/work-2/journal.json".into(), "later".into());
    for image in cut_everywhere(OLD, gone_on) {
        assert_eq!(OLD.reads(&image), first());
        let (_, journal) = NEW.reads(&image);
        assert!([Some("later".into()), next().1].contains(&journal), "{journal:?}");
    }
    // And forward once more.
    for image in cut_everywhere(NEW, after(&[OLD, NEW, OLD])) {
        assert_eq!((OLD.reads(&image), NEW.reads(&image)), (first(), next()));
    }
}

#[test]
fn a_call_that_fails_and_a_full_disk_leave_the_old_work() {
    let (converts, notes) = (true, false);
    for (start, program, converts) in [
        (after(&[OLD]), NEW, converts),
        (after(&[OLD, NEW]), OLD, converts),
        (unmarked(), NEW, converts),
        (after(&[OLD]), ALIKE, notes),
        (after(&[OLD, ALIKE]), OLD, notes),
        (unmarked(), OLD, notes),
    ] {
        let calm = Held::new(&start, Fault::Nothing);
        program.opens(&calm).expect("opens");
        let wanted = program.reads(&start);
        for at in 0..calm.calls() {
            for fault in [Fault::Error(at), Fault::Full(at)] {
                let disk = Held::new(&start, fault);
                if let Err(why) = program.opens(&disk) {
                    assert!(converts, "{program:?} does not start after {fault:?}: {why}");
                    let text = fleet_model::chain(&why);
                    assert!(text.contains("/agent") && text.lines().count() == 1, "{text}");
                }
                untouched(&disk.image());
                assert_eq!(program.reads(&disk.image()), wanted, "{program:?} after {fault:?}");
            }
        }
        for at in 0..calm.reads() {
            let disk = Held::new(&start, Fault::Unread(at));
            program.opens(&disk).expect_err("what cannot be read is not nothing");
            assert_eq!(program.reads(&disk.image()), wanted);
        }
    }
}

#[test]
fn a_version_that_comes_back_to_a_full_disk_works_on_and_signs_once_there_is_room() {
    let image = after(&[OLD, ALIKE]);
    let disk = Held::new(&image, Fault::Full(0));
    let work = OLD.opens(&disk).expect("nothing is to be converted");
    assert_eq!((work.folder.as_path(), work.copy.as_ref()), (Path::new("/agent"), None));
    assert_eq!(disk.image(), image, "the old work is what it reads");
    let sign = |disk: &Held| note(&mut disk.clone(), Path::new("/agent"), OLD.1, Some(OLD.digest()));
    sign(&disk).expect_err("still full: no other version is asked for");
    // A version of another schema that comes now would keep the work for somebody else.
    let (_, taken) = NEW.on(&image);
    assert!(matches!(OLD.on(&taken).0, Err(StateError::Newer { .. })));
    let disk = Held::new(&image, Fault::Nothing);
    sign(&disk).expect("room again");
    sign(&disk).expect("once is enough");
    let (_, taken) = NEW.on(&disk.image());
    assert_eq!(OLD.reads(&taken), first());
}

#[test]
fn only_the_program_that_left_it_has_it_back() {
    let check = |before: &[Program], comes: Program, fine: bool| {
        let image = after(before);
        let (work, left) = comes.on(&image);
        match work {
            Ok(_) => assert!(fine, "{before:?} then {comes:?}"),
            Err(StateError::Newer { found, known, writer, .. }) => {
                assert!(!fine, "{before:?} then {comes:?}");
                let last = before.last().expect("somebody");
                assert_eq!((found, known, writer), (last.1, comes.1, last.digest().to_string()));
                assert_eq!(left, image, "nothing is touched");
            }
            Err(why) => panic!("{before:?} then {comes:?}: {why}"),
        }
    };
    check(&[OLD], ALIKE, true);
    check(&[OLD, NEW], OLD, true);
    check(&[OLD, NEW], ALIKE, false);
    check(&[OLD, ALIKE, NEW], OLD, false);
    check(&[OLD, ALIKE, NEW], ALIKE, true);
    check(&[NEW], OLD, false);
    check(&[OLD, NEW, NEWEST], NEW, true);
    check(&[OLD, NEW, NEWEST], OLD, false);
    check(&[OLD, NEW, NEWEST, NEW], OLD, false);
    check(&[OLD, NEW, OLD, NEW], OLD, true);
    // Nobody knows who that is.
    let disk = Held::new(&after(&[OLD, NEW]), Fault::Nothing);
    let forms = Forms { schema: 1, steps: &[] };
    let why = open(&mut disk.clone(), Path::new("/agent"), &forms, None).expect_err("unknown");
    let text = why.to_string();
    assert!(text.contains("has schema 2, and this agent") && text.contains("/agent/schema"), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn what_was_accepted_since_is_not_undone() {
    let places = |image: &Image| {
        let root = tempfile::tempdir().expect("folder");
        let folder = root.path().join("var/lib/fleet-agent");
        for (path, bytes) in &image.files {
            let path = folder.join(path.strip_prefix("/agent").expect("there"));
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
            std::fs::write(path, bytes).expect("file");
        }
        (root, folder)
    };
    let (root, folder) = places(&after(&[OLD]));
    let forms = Forms { schema: 2, steps: &STEPS[..1] };
    let work = open(&mut Host, &folder, &forms, Some(NEW.digest())).expect("taken over");
    let newer = Places::below(root.path()).with_work(work);
    newer.outdate().expect("outdated");
    newer.outdate().expect("once is enough");
    let there = |path: &Path| path.exists();
    assert!(there(&newer.desired()) && there(&newer.journal()), "its own stay");
    let forms = Forms { schema: 1, steps: &[] };
    let work = open(&mut Host, &folder, &forms, Some(OLD.digest())).expect("given back");
    let older = Places::below(root.path()).with_work(work);
    assert!(!there(&older.desired()) && there(&older.journal()));
    assert!(!there(&newer.desired()), "what no longer counts gives its space back");
    older.outdate().expect("nothing to outdate");
}

#[test]
fn a_lack_of_room_and_damage_are_told_and_leave_all_as_it_was() {
    let image = after(&[OLD]);
    let disk = Held::new(&image, Fault::Nothing).with_free(MARGIN);
    let why = NEW.opens(&disk).expect_err("no room").to_string();
    assert!(why.contains("no room") && why.contains("df -h"), "{why}");
    assert_eq!(disk.image(), image);
    NEW.opens(&Held::new(&image, Fault::Nothing).with_free(MARGIN + 64)).expect("just enough");

    let mut image = after(&[OLD]);
    image.files.insert("/agent/journal.json".into(), "damaged".into());
    let (work, left) = NEW.on(&image);
    let why = work.expect_err("damaged").to_string();
    assert!(why.contains("/agent/journal.json from schema 1: it makes no sense"), "{why}");
    assert_eq!(left, image);

    // A marker that rotted: by what there is.
    for programs in [&[OLD][..], &[OLD, NEW]] {
        let last = *programs.last().expect("one");
        let mut image = after(programs);
        let wanted = last.reads(&image);
        image.files.insert("/agent/schema".into(), vec![0; 9]);
        assert_eq!(last.reads(&image), wanted);
    }
}
