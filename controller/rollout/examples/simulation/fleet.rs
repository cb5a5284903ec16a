//! A fleet of simulated agents in simulated time: the same seed gives the same run.
//!
//! A strategy sees what agents say and answers with orders; it never sees an agent's fault. Agents behave like ours:
//! two slots, a trial, and the old slot returns by itself.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use crate::agents::{Agent, Doing, Fault, Rng};

/// Seconds since the start.
pub type Time = u64;

/// What a strategy learns.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A session opened or ended.
    Session(usize, bool),
    /// An agent speaks; with the newest order it has seen.
    Said(usize, u64, Word),
    /// A second host with the same identity appears, or is gone.
    Clone(usize, bool),
    /// Time passes.
    Tick,
}

/// What an agent says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// It runs the old release, nothing in hand.
    Old,
    /// It runs the new one.
    New,
    /// It fetches.
    Fetching,
    /// It waits since others are busy.
    Busy,
    /// It tries.
    Trial,
    /// It went back by itself.
    Returned,
}

/// What a strategy wants.
#[derive(Clone, Copy, Debug)]
pub enum Want {
    /// This node should run the new release.
    Update(usize, u64),
    /// What was wanted of it is taken back, unless it has begun.
    Withdraw(usize, u64),
    /// The controller was away: everybody dials again and says where they stand.
    Reconnect,
}

/// A way to roll out.
pub trait Strategy {
    /// What to do about what was seen.
    fn see(&mut self, seen: &Seen, now: Time) -> Vec<Want>;
    /// Whether it stopped by itself because of what went wrong.
    fn halted(&self) -> bool;
    /// Whether it has nothing more to do.
    fn finished(&self) -> bool;
}

/// What a run was like.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Hosts that began to fetch or run the release, until the end.
    pub touched: usize,
    /// Of these, until the strategy halted.
    pub touched_at_halt: Option<usize>,
    /// When it halted.
    pub halted_at: Option<Time>,
    /// Hosts that run the release at the end.
    pub updated: usize,
    /// Hosts without a fault that do not run it although they tried.
    pub false_rollbacks: usize,
    /// When the last host took it for good, of those that were there from the start.
    pub present_by: Option<Time>,
    /// When the last host took it for good, of all.
    pub all_by: Option<Time>,
}

enum Due {
    Wake(usize, u64),
    Up(usize),
    Down(usize),
    Deliver(usize, u64, Word),
    Clone(usize, bool),
    Want(Want),
    Tick,
}

pub struct Fleet {
    pub agents: Vec<Agent>,
    rng: Rng,
    now: Time,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    due: BTreeMap<u64, Due>,
    next: u64,
    storms: Vec<(Time, Time)>,
    clones: BTreeMap<usize, bool>,
}

/// Whoever returns at all has returned and had time by then.
const EVERYBODY_BACK: Time = 7 * 3600;
/// Seconds between two ticks of the strategy.
const TICK: Time = 20;

impl Fleet {
    /// `agents`, with storms of refused requests during these spans.
    pub fn new(seed: u64, agents: Vec<Agent>, storms: Vec<(Time, Time)>) -> Self {
        let rng = Rng::new(seed);
        Self {
            agents,
            rng,
            now: 0,
            queue: BinaryHeap::new(),
            due: BTreeMap::new(),
            next: 0,
            storms,
            clones: BTreeMap::new(),
        }
    }

    /// Lets `strategy` do its work for at most `horizon` seconds.
    pub fn run(mut self, strategy: &mut dyn Strategy, horizon: Time) -> Run {
        let mut run = Run::default();
        for i in 0..self.agents.len() {
            match self.agents[i].away_until {
                None => self.at(0, Due::Up(i)),
                Some(Time::MAX) => {}
                Some(back) => self.at(back, Due::Up(i)),
            }
            if let Some((from, until)) = self.agents[i].cloned {
                self.at(from, Due::Clone(i, true));
                self.at(until, Due::Clone(i, false));
            }
        }
        self.at(1, Due::Tick);
        while let Some(Reverse((time, id))) = self.queue.pop() {
            let over = time > EVERYBODY_BACK && (strategy.finished() || strategy.halted());
            if over || time > horizon {
                break;
            }
            self.now = time;
            let due = self.due.remove(&id).expect("queued once");
            for seen in self.happen(due) {
                for want in strategy.see(&seen, time) {
                    self.at(time + 1, Due::Want(want));
                }
            }
            if strategy.halted() && run.halted_at.is_none() {
                run.halted_at = Some(time);
                run.touched_at_halt = Some(self.agents.iter().filter(|a| a.touched).count());
            }
        }
        run.touched = self.agents.iter().filter(|a| a.touched).count();
        run.updated = self.agents.iter().filter(|a| a.doing == Doing::New).count();
        run.false_rollbacks = self.agents.iter().filter(|a| a.returned && a.fault == Fault::None).count();
        let took = |of: &dyn Fn(&&Agent) -> bool| {
            self.agents.iter().filter(|a| a.doing == Doing::New).filter(of).map(|a| a.since).max()
        };
        run.present_by = took(&|agent| agent.away_until.is_none());
        run.all_by = took(&|_| true);
        run
    }

    fn at(&mut self, time: Time, due: Due) {
        self.next += 1;
        self.due.insert(self.next, due);
        self.queue.push(Reverse((time, self.next)));
    }

    fn storm(&self) -> Option<Time> {
        self.storms.iter().find(|(from, until)| (*from..*until).contains(&self.now)).map(|(_, until)| *until)
    }

    fn happen(&mut self, due: Due) -> Vec<Seen> {
        match due {
            Due::Tick => {
                self.at(self.now + TICK, Due::Tick);
                vec![Seen::Tick]
            }
            Due::Up(i) => {
                self.agents[i].up = true;
                self.say_state(i);
                vec![Seen::Session(i, true)]
            }
            Due::Down(i) => {
                self.agents[i].up = false;
                vec![Seen::Session(i, false)]
            }
            Due::Deliver(i, order, word) if self.agents[i].up => vec![Seen::Said(i, order, word)],
            Due::Deliver(..) => Vec::new(),
            Due::Clone(i, there) => {
                self.clones.insert(i, there);
                let mut seen = vec![Seen::Clone(i, there)];
                if there {
                    // The other host runs the old release and says so under the same identity.
                    seen.push(Seen::Said(i, self.agents[i].order, Word::Old));
                    self.at(self.now + 60, Due::Deliver(i, self.agents[i].order, Word::Old));
                }
                seen
            }
            Due::Want(Want::Reconnect) => {
                for i in 0..self.agents.len() {
                    if self.agents[i].up {
                        self.say_state(i);
                    }
                }
                Vec::new()
            }
            Due::Want(want) => {
                self.obey(want);
                Vec::new()
            }
            Due::Wake(i, turn) if self.agents[i].turn == turn => self.step(i),
            Due::Wake(..) => Vec::new(),
        }
    }

    /// An agent's words arrive later while requests are refused.
    fn say(&mut self, i: usize, word: Word) {
        let delay = if self.storm().is_some() { 5 + self.rng.below(55) } else { 1 };
        self.at(self.now + delay, Due::Deliver(i, self.agents[i].order, word));
    }

    fn say_state(&mut self, i: usize) {
        let word = match self.agents[i].doing {
            Doing::Old if self.agents[i].returned => Word::Returned,
            Doing::Old => Word::Old,
            Doing::Fetching => Word::Fetching,
            Doing::Trial => Word::Trial,
            Doing::New | Doing::Doomed => Word::New,
        };
        self.say(i, word);
    }

    fn wake(&mut self, i: usize, after: Time) {
        self.agents[i].turn += 1;
        self.at(self.now + after, Due::Wake(i, self.agents[i].turn));
    }

    fn obey(&mut self, want: Want) {
        match want {
            Want::Update(i, order) if self.agents[i].up && order >= self.agents[i].order => {
                self.agents[i].order = order;
                if self.agents[i].doing == Doing::Old && !self.agents[i].returned {
                    self.agents[i].touched = true;
                    self.agents[i].doing = Doing::Fetching;
                    let fetch = 20 + self.rng.below(40);
                    self.wake(i, fetch);
                }
                self.say_state(i);
            }
            Want::Withdraw(i, order) if self.agents[i].up => {
                self.agents[i].order = self.agents[i].order.max(order);
                self.say_state(i);
            }
            _ => {}
        }
    }

    /// The next thing that an agent does by itself.
    fn step(&mut self, i: usize) -> Vec<Seen> {
        let fault = self.agents[i].fault;
        match self.agents[i].doing {
            Doing::Fetching => {
                if let Some(until) = self.storm() {
                    self.say(i, Word::Busy);
                    let again = (until - self.now).min(30) + self.rng.below(10);
                    self.wake(i, again);
                    return Vec::new();
                }
                self.agents[i].doing = Doing::Trial;
                self.say(i, Word::Trial);
                // Three starts that crash, a watchdog that waits ten minutes, or half a minute of a sound start.
                let after = match fault {
                    Fault::Crash => 60,
                    Fault::Hang => 600,
                    Fault::None | Fault::LateCrash => 30 + self.rng.below(30),
                };
                self.wake(i, after);
                if matches!(fault, Fault::Crash | Fault::Hang) {
                    self.at(self.now + 5, Due::Down(i));
                }
                Vec::new()
            }
            // A trial is extended, not failed, while the controller refuses.
            Doing::Trial if matches!(fault, Fault::None | Fault::LateCrash) => {
                if self.storm().is_some() {
                    self.wake(i, 30);
                    return Vec::new();
                }
                self.agents[i].doing = if fault == Fault::None { Doing::New } else { Doing::Doomed };
                self.agents[i].since = self.now;
                self.say(i, Word::New);
                if fault == Fault::LateCrash {
                    self.wake(i, 90);
                }
                Vec::new()
            }
            Doing::Trial | Doing::Doomed => {
                let was_up = self.agents[i].up;
                self.agents[i].doing = Doing::Old;
                self.agents[i].returned = true;
                self.agents[i].up = false;
                self.at(self.now + 10, Due::Up(i));
                if was_up { vec![Seen::Session(i, false)] } else { Vec::new() }
            }
            Doing::Old | Doing::New => Vec::new(),
        }
    }
}
