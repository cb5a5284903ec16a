//! The loop: choose an input, change it, try it, keep it if the answer is new.

use std::{
    collections::HashSet,
    fs,
    io::Write,
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// How long a target runs unless `FLEET_FUZZ_SECONDS` says otherwise.
const USUAL: Duration = Duration::from_secs(2);
/// Longest input tried: readers that are slow on long ones are slow in the square of this at most.
const LONGEST: usize = 6 << 10;
/// Most inputs kept as starts for others.
const MOST_KEPT: usize = 4000;
/// Most changes between one input and the next.
const MOST_CHANGES: u32 = 5;

/// A reader under test.
pub struct Target {
    pub name: &'static str,
    /// Good inputs to start from.
    pub seeds: Vec<Vec<u8>>,
    /// Words that mean something to the reader.
    pub words: Vec<&'static str>,
    /// Tries one input and tells what kind of answer came. Panics if that is not as it should be.
    pub attempt: fn(&[u8]) -> u64,
}

/// What inputs are drawn from.
const FIRST: u64 = 2026;

/// Runs one target for its time; an error is a finding, told in one text.
pub fn run(target: &Target) -> Result<(), String> {
    let time = std::env::var("FLEET_FUZZ_SECONDS").ok().map_or(USUAL, |text| {
        Duration::from_secs(
            text.parse().unwrap_or_else(|_| panic!("FLEET_FUZZ_SECONDS=`{text}` is no number")),
        )
    });
    // The same for everybody, so that a change is held against what the one before it passed; others on demand.
    let seed: u64 = std::env::var("FLEET_FUZZ_FROM").ok().map_or(FIRST, |text| {
        text.parse().unwrap_or_else(|_| panic!("FLEET_FUZZ_FROM=`{text}` is no number"))
    });
    let present = Present::new(target.name);
    say(&format!("fuzz {}: seed {seed}, input under test in {}", target.name, present.path.display()));
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut kept, mut seen) = (target.seeds.clone(), HashSet::new());
    let (mut tries, mut slowest) = (0_u64, Duration::ZERO);
    for input in findings(target.name).into_iter().chain(target.seeds.clone()) {
        seen.insert(attempt(target, &present, &input)?);
        tries += 1;
    }
    let started = Instant::now();
    while started.elapsed() < time {
        let input = changed(&kept, &target.words, &mut rng);
        let begun = Instant::now();
        let answer = attempt(target, &present, &input)?;
        slowest = slowest.max(begun.elapsed());
        tries += 1;
        if seen.insert(answer) && kept.len() < MOST_KEPT {
            kept.push(input);
        }
    }
    say(&format!(
        "fuzz {}: {tries} executions in {} s, {} kinds of answer, slowest {} ms, no finding",
        target.name,
        started.elapsed().as_secs(),
        seen.len(),
        slowest.as_millis()
    ));
    Ok(())
}

fn attempt(target: &Target, present: &Present, input: &[u8]) -> Result<u64, String> {
    present.note(input);
    catch_unwind(AssertUnwindSafe(|| (target.attempt)(input))).map_err(|panic| {
        let why = panic.downcast_ref::<String>().map(String::as_str);
        let why = why.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        let file = keep(target.name, input);
        format!("fuzz {}: {why}\ninput, kept in {}:\n{}", target.name, file.display(), input.escape_ascii())
    })
}

/// A file with the input under test, for what ends the whole process.
struct Present {
    path: PathBuf,
    file: fs::File,
}

impl Present {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}"));
        let file = fs::File::create(&path).expect("a file for the input under test");
        Self { path, file }
    }

    fn note(&self, input: &[u8]) {
        let written = self.file.set_len(0).and_then(|()| self.file.write_all_at(input, 0));
        written.expect("the input under test is noted");
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/findings").join(name)
}

/// What was found once.
fn findings(name: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(folder(name)).into_iter().flatten().flatten();
    files.map(|entry| fs::read(entry.path()).expect("a finding can be read")).collect()
}

fn keep(name: &str, input: &[u8]) -> PathBuf {
    let mut hash = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(input, &mut hash);
    let file = folder(name).join(format!("{:016x}", std::hash::Hasher::finish(&hash)));
    let kept = fs::create_dir_all(folder(name)).and_then(|()| fs::write(&file, input));
    // It is printed as well.
    kept.unwrap_or_else(|why| say(&format!("{}: {why}", file.display())));
    file
}

/// One of `kept` with a few changes.
fn changed(kept: &[Vec<u8>], words: &[&str], rng: &mut StdRng) -> Vec<u8> {
    let mut input = kept.choose(rng).cloned().unwrap_or_default();
    for _ in 0..rng.random_range(1..=MOST_CHANGES) {
        let (from, to) = part(&input, rng);
        match rng.random_range(0..9) {
            0 => drop(input.drain(from..to)),
            // Again, a few times: nesting, repeated members, long texts.
            1 => {
                let again = input[from..to].repeat(rng.random_range(1..=40));
                input.splice(to..to, again);
            }
            2 | 3 => {
                let word = words.choose(rng).map_or(&b"0"[..], |word| word.as_bytes());
                input.splice(from..to, word.iter().copied());
            }
            4 => {
                let word = words.choose(rng).map_or(&b"0"[..], |word| word.as_bytes());
                input.splice(from..from, word.iter().copied());
            }
            5 => {
                if let Some(other) = kept.choose(rng) {
                    let (start, end) = part(other, rng);
                    input.splice(from..to, other[start..end].iter().copied());
                }
            }
            6 => {
                if let Some(byte) = input.get_mut(from) {
                    *byte ^= 1 << rng.random_range(0..8);
                }
            }
            7 => {
                if let Some(byte) = input.get_mut(from) {
                    *byte = rng.random();
                }
            }
            _ => input.truncate(to),
        }
        input.truncate(LONGEST);
    }
    input
}

/// Some part of `input`, mostly a small one.
fn part(input: &[u8], rng: &mut StdRng) -> (usize, usize) {
    let from = rng.random_range(0..=input.len());
    let longest = if rng.random_bool(0.8) { 16 } else { input.len() };
    (from, (from + rng.random_range(0..=longest)).min(input.len()))
}

/// Says something whether or not the test's output is shown.
fn say(what: &str) {
    // Nobody listens: fine.
    let _ = writeln!(std::io::stderr(), "{what}");
}
