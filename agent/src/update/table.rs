//! Every state of an order on a node, times every fault: what runs when all has settled, and what the node says.
//!
//! The table is the test. The supervisor's rules, the agent's part and a disk that forgets are real; processes, time and
//! the controller are not. Once a fault has struck, the controller says its newest order again, as at every session.

use std::{collections::BTreeSet, io::Write as _};

use flate2::{Compression, write::GzEncoder};
use fleet_model::ManualClock;
use fleet_release::{Artifact, Body, Manifest, Minimum, Role, Root, Signed, SigningKey};
use fleet_supervisor::{
    decide::{Action, Crash, Event},
    record::Why,
};

use super::*;
use crate::{
    held_disk::Held,
    model::{Fault, Image},
};

const OLD: &[u8] = b"the old agent, which serves";
const NEW: &[u8] = b"the new agent, of which nobody knows yet";
const DAY: Duration = Duration::from_secs(86_400);
/// Far more turns than anything takes.
const TURNS: usize = 60;

/// Columns.
const FAULTS: [&str; 9] = [
    "error",       // The next call to the disk fails, once.
    "kill",        // The agent is killed.
    "killed on",   // It is killed again and again, six times in all.
    "hang",        // It gives no sign of life, and the supervisor ends it.
    "power cut",   // The power goes; every disk that may be found then.
    "cut at once", // The power goes in the next write; every disk that may be found then.
    "full disk",   // From now on the disk takes not a byte; then there is room again.
    "lost answer", // What it said was not heard, so that it is told everything twice.
    "clock jump",  // The clock jumps beyond the expiry of all that is signed, and stays there.
];

/// A cell: the version that runs, and the step the node says; several if disks differ. Columns in the order of [`FAULTS`].
#[rustfmt::skip]
const TABLE: &str = "
no order          |old committed  |old committed  |old committed  |old committed  |old committed  |old committed  |old committed  |old committed  |old committed
order heard       |new committed  |new committed  |new committed  |new committed  |new committed  |new committed  |new committed  |new committed  |old failed
fetching          |new committed  |new committed  |new committed  |new committed  |new committed  |new committed  |new committed  |new committed  |old failed
slot filled       |new committed  |new committed  |old rolled back|new committed  |new committed  |new committed  |new committed  |new committed  |new committed
on trial, starting|new committed  |new committed  |old rolled back|new committed  |new committed  |new committed  |new committed  |new committed  |new committed
on trial, ready   |new committed  |new committed  |old rolled back|new committed  |new committed  |new committed  |new committed  |new committed  |new committed
on probation      |new committed  |new committed  |old rolled back|new committed  |new committed  |new committed  |new committed  |new committed  |new committed
proved            |new committed  |new committed  |new committed  |new committed  |new committed  |new committed  |new committed  |new committed  |new committed
told to go back   |old committed  |old committed  |new failed     |old committed  |old committed  |old committed  |old committed  |old committed  |old committed
gone back         |old committed  |old committed  |new failed     |old committed  |old committed  |old committed  |old committed  |old committed  |old committed
failed its trial  |old rolled back|old rolled back|old rolled back|old rolled back|old rolled back|old rolled back|old rolled back|old rolled back|old rolled back
withdrawn         |old committed  |old committed  |old committed  |old committed  |old committed  |old committed  |old committed  |old committed  |old committed
";

/// Where an order is when the fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    NoOrder,
    Heard,
    Fetching,
    Filled,
    Starting,
    Ready,
    Probation,
    Proved,
    ToldBack,
    Back,
    Failed,
    Withdrawn,
}

impl Place {
    const ALL: [(Self, &str); 12] = [
        (Self::NoOrder, "no order"),
        (Self::Heard, "order heard"),
        (Self::Fetching, "fetching"),
        (Self::Filled, "slot filled"),
        (Self::Starting, "on trial, starting"),
        (Self::Ready, "on trial, ready"),
        (Self::Probation, "on probation"),
        (Self::Proved, "proved"),
        (Self::ToldBack, "told to go back"),
        (Self::Back, "gone back"),
        (Self::Failed, "failed its trial"),
        (Self::Withdrawn, "withdrawn"),
    ];
}

/// A signed release, and what it is fetched as.
struct Release {
    offer: v1::ReleaseOffer,
    root: Vec<u8>,
}

fn release(now: Timestamp) -> Release {
    let key = SigningKey::generate().expect("a key").0;
    let role = || Role::new(1, [key.public()]);
    let expires = now.after(DAY * 90);
    let root = Root { number: 1, created: now, expires, root: role(), release: role(), permit: role() };
    let one = "0.0.1".parse().expect("a version");
    let manifest = Manifest {
        version: "77.0.0".parse().expect("a version"),
        created: now,
        expires,
        minimum: Minimum { controller: one, agent: one },
        artifacts: vec![Artifact {
            name: "fleet-agent".into(),
            size: NEW.len() as u64,
            sha256: Digest::of(NEW).to_string(),
            packed_size: 100,
            packed_sha256: Digest::of(b"packed").to_string(),
        }],
    };
    let root = sign(&root, &key);
    let trial = Some(v1::Trial { ready_ms: 1000, ceiling_ms: 1000, tries: 3 });
    let offer =
        v1::ReleaseOffer { roots: vec![], manifest: sign(&manifest, &key), trial, ..Default::default() };
    Release { offer, root }
}

/// Of an agent that has looked at all its tasks.
fn ready() -> Board {
    Board { cycled: true, ..Board::default() }
}

fn sign<B: Body>(body: &B, key: &SigningKey) -> Vec<u8> {
    let mut signed = Signed::new(body).expect("sound");
    signed.sign(key);
    signed.encode()
}

/// A node with its supervisor, and the controller's newest word.
struct Node {
    disk: Held,
    clock: Arc<ManualClock>,
    slots: Slots<Held>,
    state: State,
    /// The agent that runs: from which slot, and its part in this.
    agent: Option<(fleet_supervisor::record::Slot, Update<Held>)>,
    /// What the controller wants.
    word: Option<v1::Order>,
    /// Whether the new version gets ready at all.
    sound: bool,
    packed: tempfile::NamedTempFile,
}

impl Node {
    fn new() -> (Self, Release) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_800_000_000_000)));
        let release = release(clock.now());
        let folders = ["/", "/slots", "/agent"].into_iter().map(Into::into).collect();
        let disk = Held::new(&Image { folders, ..Image::default() }, Fault::Nothing);
        let mut slots = Slots::new("/slots", disk.clone());
        install::adopt(&mut slots, "0.1.0", OLD).expect("adopted");
        Store::on("/agent/release", disk.clone()).keep_root(&release.root).expect("kept");
        let packed = tempfile::NamedTempFile::new().expect("a file");
        let mut packer = GzEncoder::new(packed.as_file(), Compression::fast());
        packer.write_all(NEW).and_then(|()| packer.finish().map(drop)).expect("packed");
        let state = slots.load().expect("readable").expect("there");
        let mut node = Self { disk, clock, slots, state, agent: None, word: None, sound: true, packed };
        node.boot();
        (node, release)
    }

    fn happens(&mut self, event: Event) -> Vec<Action> {
        let decision = self.slots.step(&self.state, event);
        self.state = decision.state;
        decision.actions
    }

    /// The supervisor starts whom it has to.
    fn boot(&mut self) {
        // A supervisor that cannot read ends with its reason, and is started again.
        let start = |node: &mut Self| {
            let event = node.slots.idle();
            node.happens(event).into_iter().find_map(|action| match action {
                Action::Start(slot) => Some(slot),
                _ => None,
            })
        };
        let slot = start(self).or_else(|| start(self)).unwrap_or_else(|| panic!("neither: {:?}", self.state));
        let on_trial = self.state.trial.is_some() && slot == self.state.current();
        let trial = on_trial.then(|| self.state.content(slot).expect("known").digest);
        let supervised = Supervised { slots: "/slots".into(), slot, trial };
        let named = Named { fleet: "x".parse().expect("a name"), node: "n1".parse().expect("a name") };
        let opened = self.sound || !on_trial;
        let unwanted = (!opened).then(String::new);
        let contact = Contact { named: Some(named), opened, unwanted, ..Contact::default() };
        let ways = Ways {
            words: mpsc::channel(1).1,
            contact: watch::channel(contact).1,
            board: watch::channel(ready()).1,
            line: watch::channel(None).1,
            standing: watch::channel(None).0,
        };
        let slots = Slots::new("/slots", self.disk.clone());
        let store = Store::on("/agent/release", self.disk.clone());
        let mut update =
            Update::on(store, self.clock.clone(), Some((supervised, slots)), String::new(), ways);
        update.again = Instant::now();
        if let Some(order) = self.word.clone() {
            update.hear(Word::Order(order));
        }
        self.agent = Some((slot, update));
    }

    fn exits(&mut self, crash: Option<Crash>) {
        let Some((slot, _)) = self.agent.take() else { return };
        self.happens(Event::Exited { slot, crash });
    }

    fn update(&mut self) -> &mut Update<Held> {
        &mut self.agent.as_mut().expect("runs").1
    }

    /// The controller says this from now on.
    fn told(&mut self, order: v1::Order) {
        self.word = Some(order.clone());
        self.update().hear(Word::Order(order));
    }

    /// One turn of whatever is due; whether there was any. Stops before what `until` says.
    fn turn(&mut self, until: Option<Place>) -> bool {
        if self.agent.is_none() {
            self.boot();
            return true;
        }
        match self.update().look() {
            Next::Rest => false,
            Next::Again(_) if self.on_trial() => {
                if until == Some(Place::Starting) || until == Some(Place::Ready) {
                    return false;
                }
                if self.sound {
                    // Ready by now, if it was not when the fault struck.
                    self.update().ways.board = watch::channel(ready()).1;
                }
                let contact = self.update().ways.contact.borrow().clone();
                let board = self.update().ways.board.borrow().clone();
                match trial::word(&contact, &board) {
                    trial::Word::Commit => {
                        self.happens(Event::Commit { digest: Digest::of(NEW) });
                        // A disk that takes nothing: it says so again for as long as it must.
                        self.state.trial.is_none()
                    }
                    _ => {
                        self.happens(Event::Late { reason: "it did not commit in time".into() });
                        self.exits(None);
                        true
                    }
                }
            }
            Next::Again(_) => {
                // Time passes until it tries again, and a version that serves has proved itself by then.
                if until != Some(Place::Probation) {
                    self.happens(Event::Proved);
                }
                let waited = self.update().again > Instant::now();
                self.update().again = Instant::now();
                waited
            }
            Next::Pause(_) => false,
            Next::Fetch(plan) => {
                if until == Some(Place::Fetching) {
                    return false;
                }
                if self.update().works() {
                    return true;
                }
                let (mut slots, store) = (self.slots.clone(), self.update().store.clone());
                let packed = self.packed.path().to_owned();
                let copy = tempfile::NamedTempFile::new().expect("a file");
                std::fs::copy(&packed, copy.path()).expect("copied");
                self.update().doing = match plan.install(&mut slots, &store, copy.path()) {
                    Ok(()) => Doing::Nothing,
                    Err(verdict) => Doing::Stuck(verdict),
                };
                until != Some(Place::Filled)
            }
            Next::Leave => {
                if until == Some(Place::ToldBack) {
                    return false;
                }
                self.exits(None);
                self.boot();
                true
            }
        }
    }

    fn on_trial(&self) -> bool {
        self.state.trial.is_some()
            && self.agent.as_ref().is_some_and(|(slot, _)| *slot == self.state.current())
    }

    fn settle(&mut self, until: Option<Place>) {
        for _ in 0..TURNS {
            if !self.turn(until) {
                return;
            }
        }
    }

    /// What runs, and what the node says of it.
    fn said(&mut self) -> String {
        let (slot, update) = self.agent.as_mut().expect("runs");
        let standing = update.standing();
        let program = self.disk.image().files.remove(&self.slots.program(*slot)).expect("a program");
        let runs = match program.as_slice() {
            OLD => "old",
            NEW => "new",
            _ => panic!("half a program runs"),
        };
        let step = standing.step().as_str_name().trim_start_matches("STANDING_").to_lowercase();
        format!("{runs} {}", step.replace('_', " "))
    }
}

/// A node on which the order is there.
fn reach(place: Place) -> Node {
    let (mut node, release) = Node::new();
    let take = v1::Order { number: 7, want: Some(Want::Release(release.offer)) };
    let back = v1::Order {
        number: 8,
        want: Some(Want::Back(v1::Return { reason: "slow".into(), ..v1::Return::default() })),
    };
    node.sound = place != Place::Failed;
    match place {
        Place::NoOrder => {}
        Place::Heard => node.told(take),
        Place::Fetching | Place::Filled | Place::Starting | Place::Ready => {
            node.told(take);
            node.settle(Some(place));
        }
        Place::Probation => {
            node.told(take);
            node.settle(Some(place));
        }
        Place::Withdrawn => {
            node.told(take);
            node.settle(Some(Place::Fetching));
            node.word = None;
            node.update().hear(Word::Withdraw(v1::Withdraw { number: 7 }));
        }
        Place::Proved | Place::Failed => {
            node.told(take);
            node.settle(None);
            node.happens(Event::Proved);
        }
        Place::ToldBack | Place::Back => {
            node.told(take);
            node.settle(None);
            node.happens(Event::Proved);
            node.told(back);
            node.settle(Some(place));
        }
    }
    if place == Place::Starting {
        // Nothing of it is ready yet, and later it is.
        node.update().ways.board = watch::channel(Board::default()).1;
    }
    node
}

/// The power is back, and this is what the disk holds: what the node comes to.
fn power_back(image: &Image, word: Option<v1::Order>) -> String {
    let (mut node, _) = Node::new();
    node.disk = Held::new(image, Fault::Nothing);
    node.slots = Slots::new("/slots", node.disk.clone());
    node.state = node.slots.load().expect("readable").expect("a node always knows what to run");
    (node.agent, node.word) = (None, word);
    node.boot();
    node.settle(None);
    node.said()
}

/// All that may have become of it.
fn strike(place: Place, fault: &str) -> BTreeSet<String> {
    let mut node = reach(place);
    let crash = |why, how: &str| Some(Crash { why, how: how.to_owned() });
    match fault {
        "error" => node.disk.strikes(Fault::Error(0)),
        "kill" => node.exits(crash(Why::Killed, "it was killed")),
        "killed on" => {
            for _ in 0..6 {
                if node.agent.is_none() {
                    node.boot();
                }
                node.exits(crash(Why::Killed, "it was killed"));
            }
        }
        "hang" => node.exits(crash(Why::Late, "it hung")),
        "power cut" | "cut at once" => {
            if fault == "cut at once" {
                node.disk.strikes(Fault::Cut(0));
                node.turn(None);
            }
            let word = node.word.clone();
            let images = node.disk.after_cut();
            return images.iter().map(|image| power_back(image, word.clone())).collect();
        }
        "full disk" => {
            node.disk.strikes(Fault::Full(0));
            node.settle(None);
            node.disk.strikes(Fault::Nothing);
        }
        "lost answer" => {}
        "clock jump" => node.clock.advance(DAY * 200),
        other => panic!("{other}"),
    }
    if node.agent.is_none() {
        node.boot();
    }
    node.settle(None);
    if let Some(order) = node.word.clone() {
        for _ in 0..2 {
            node.update().hear(Word::Order(order.clone()));
            node.settle(None);
        }
    }
    [node.said()].into()
}

#[tokio::test]
async fn every_place_of_an_order_times_every_fault() {
    let (mut rows, mut wrong, mut cases) = (Vec::new(), Vec::new(), 0);
    let expected: Vec<Vec<&str>> =
        TABLE.trim().lines().map(|row| row.split('|').map(str::trim).collect()).collect();
    for (at, (place, name)) in Place::ALL.into_iter().enumerate() {
        let mut row = vec![name.to_owned()];
        for (column, fault) in FAULTS.into_iter().enumerate() {
            let came = strike(place, fault).into_iter().collect::<Vec<_>>().join(" or ");
            let wanted = expected.get(at).and_then(|row| row.get(column + 1)).copied().unwrap_or_default();
            if came != wanted {
                wrong.push(format!("{name}, {fault}: {came}, not {wanted}"));
            }
            row.push(came);
            cases += 1;
        }
        rows.push(row);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    for row in &rows {
        let cells: Vec<_> =
            row.iter().enumerate().map(|(at, cell)| format!("{cell:<0$}", width(at))).collect();
        eprintln!("{}", cells.join("|").trim_end());
    }
    eprintln!("{cases} cases");
    assert!(wrong.is_empty(), "{} of {cases} cases:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(cases, 108);
}

/// The node was off, and nobody has said anything to it since.
fn unheard(place: Place) -> Node {
    let mut node = reach(place);
    node.exits(Some(Crash { why: Why::Killed, how: "the power went".into() }));
    node.word = None;
    node.boot();
    node.settle(None);
    node
}

#[tokio::test]
async fn an_order_from_before_a_power_cut_is_not_begun_unheard() {
    for place in [Place::Heard, Place::Fetching] {
        let mut node = unheard(place);
        assert_eq!(node.said(), "old busy", "{place:?}");
        assert_eq!(
            node.slots.requested().expect("readable"),
            None,
            "{place:?}: the supervisor is asked nothing"
        );
        assert!(node.state.b.is_none(), "{place:?}");
        // An older one is no word on it.
        node.update().hear(Word::Order(v1::Order { number: 6, want: None }));
        node.settle(None);
        assert_eq!(node.said(), "old busy", "{place:?}");
        node.update().hear(Word::Withdraw(v1::Withdraw { number: 7 }));
        node.settle(None);
        assert_eq!(node.said(), "old committed", "{place:?}");
    }
    // Said again it goes on, and another in its place is begun as ever.
    for number in [7, 8] {
        let mut node = unheard(Place::Fetching);
        let want = node.update().record.want();
        node.told(v1::Order { number, want });
        node.settle(None);
        assert_eq!(node.said(), "new committed", "order {number}");
    }
}

#[tokio::test]
async fn what_was_asked_of_the_supervisor_goes_on_unheard() {
    for place in [Place::Filled, Place::Starting, Place::Ready] {
        assert_eq!(unheard(place).said(), "new committed", "{place:?}");
    }
    assert_eq!(unheard(Place::Back).said(), "old committed");
    let mut node = unheard(Place::ToldBack);
    assert_eq!(node.said(), "old committed", "the request was written");
}

/// The controller was away until the ceiling of the trial.
fn at_its_ceiling() -> Node {
    let mut node = reach(Place::Ready);
    node.happens(Event::Ceiling);
    node
}

#[tokio::test]
async fn a_trial_that_found_no_controller_is_no_rollback_and_is_made_again() {
    let mut node = at_its_ceiling();
    // Until it is gone it neither claims to stay nor fills the slot it runs from.
    assert_eq!(node.said(), "new trial");
    assert!(matches!(node.update().look(), Next::Again(_)));
    assert_eq!(node.slots.requested().expect("readable"), None);
    let take = node.word.take().expect("ordered");
    node.exits(None);
    node.boot();
    node.settle(None);
    assert_eq!((node.said(), node.state.failed.len()), ("old busy".to_owned(), 0));
    node.told(take);
    node.settle(None);
    assert_eq!(node.said(), "new committed");
}

/// A node that is at work when it could switch, as if the order had come then.
fn at_work(order: impl FnOnce(&mut Node)) -> Node {
    let mut node = reach(Place::Fetching);
    node.update().ways.board = watch::channel(Board { running: true, ..ready() }).1;
    order(&mut node);
    node.settle(None);
    node
}

#[tokio::test(start_paused = true)]
async fn a_node_at_work_says_that_it_waits_and_hears_what_is_taken_back() {
    let mut node = at_work(|_| ());
    assert_eq!(node.said(), "old busy");
    node.update().hear(Word::Withdraw(v1::Withdraw { number: 7 }));
    node.word = None;
    assert_eq!(node.said(), "old committed");
    node.update().ways.board = watch::channel(ready()).1;
    node.settle(None);
    node.exits(None);
    node.boot();
    node.settle(None);
    assert_eq!(node.said(), "old committed", "nothing of it was asked of the supervisor");
}

#[tokio::test(start_paused = true)]
async fn a_node_switches_when_its_work_pauses_or_has_gone_on_for_long() {
    let mut node = at_work(|_| ());
    node.update().ways.board = watch::channel(ready()).1;
    node.settle(None);
    assert_eq!(node.said(), "new committed");
    let mut node = at_work(|_| ());
    tokio::time::advance(QUIET).await;
    node.settle(None);
    assert_eq!(node.said(), "new committed");
}

#[tokio::test(start_paused = true)]
async fn a_node_at_work_is_turned_round_before_it_has_switched() {
    let back = v1::Return { reason: "slow".into(), leave: Digest::of(NEW).to_string() };
    let back = v1::Order { number: 8, want: Some(Want::Back(back)) };
    let mut node = at_work(|_| ());
    node.told(back);
    node.update().ways.board = watch::channel(ready()).1;
    node.settle(None);
    assert_eq!(node.said(), "old committed");
    // One that has switched goes back when its work pauses, and hears that it need not.
    let mut node = reach(Place::Proved);
    node.update().ways.board = watch::channel(Board { running: true, ..ready() }).1;
    node.told(v1::Order {
        number: 8,
        want: Some(Want::Back(v1::Return { reason: "slow".into(), leave: String::new() })),
    });
    node.settle(None);
    assert_eq!(node.said(), "new busy");
    node.update().hear(Word::Withdraw(v1::Withdraw { number: 9 }));
    node.update().ways.board = watch::channel(ready()).1;
    node.word = None;
    node.settle(None);
    assert_eq!(node.said(), "new committed");
}
