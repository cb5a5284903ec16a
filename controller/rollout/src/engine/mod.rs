//! The machine: one event in, a changed state and what to do about it out.

mod command;
mod deadline;
mod judge;
mod node;
mod phase;
mod report;
pub(crate) mod start;
mod watch;

use std::fmt;

use fleet_model::{NodeName, Timestamp};

use crate::{
    effect::{Effect, Notice},
    event::{Entry, Event, Reason},
    policy::When,
    state::{Moment, Node, Rollout, Standing, State},
};

/// Longest time between two events that still counts as listened to; drivers send a `Tick` more often than this.
/// Whatever is beyond it (no controller, a sleeping host, a clock set forward) does not count against any node.
pub const LONGEST_UNHEARD_MS: u64 = 30_000;

/// An event that cannot be taken; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not at this point of the rollout.
    NotNow {
        /// What was asked for.
        asked: &'static str,
        /// Where it stands.
        standing: Standing,
        /// What to do instead.
        hint: &'static str,
    },
    /// No such node in this rollout.
    UnknownNode(NodeName),
    /// There is nothing to go back to.
    NothingBefore,
    /// This rollout did nothing to the node, or took it back already.
    NotChanged(NodeName),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNow { asked, standing, hint } => {
                let standing = format!("{standing:?}").to_lowercase();
                write!(f, "cannot {asked} a rollout that is {standing}; {hint}")
            }
            Self::UnknownNode(node) => write!(f, "`{node}` is no node of this rollout"),
            Self::NotChanged(node) => write!(f, "`{node}` has what it had before this rollout"),
            Self::NothingBefore => {
                f.write_str("there is nothing to go back to; start a rollout of what you want instead")
            }
        }
    }
}

impl std::error::Error for Refused {}

/// Takes `event` at `now` into `rollout` and says what to do, in order; the first of it, if there is any, is to store
/// what `rollout` has become.
///
/// # Errors
/// [`Refused`]; `rollout` is then as it was.
pub fn advance(rollout: &mut Rollout, event: Event, now: Timestamp) -> Result<Vec<Effect>, Refused> {
    let passed = u64::try_from(now.as_millis().saturating_sub(rollout.clock.as_millis())).unwrap_or(0);
    let moment = Moment(rollout.moment.0 + passed.min(LONGEST_UNHEARD_MS));
    apply(rollout, Entry { seq: rollout.seq + 1, at: now, moment, event })
}

/// Takes an entry of the log in again: the same state comes out as when it happened.
///
/// # Errors
/// [`Refused`], as when it happened; such entries are never logged.
pub fn replay(rollout: &mut Rollout, entry: Entry) -> Result<(), Refused> {
    apply(rollout, entry).map(drop)
}

fn apply(rollout: &mut Rollout, entry: Entry) -> Result<Vec<Effect>, Refused> {
    command::admit(rollout, &entry.event)?;
    rollout.clock = entry.at;
    let before = std::mem::replace(&mut rollout.moment, entry.moment);
    let mut turn = Turn { rollout, effects: Vec::new(), changed: false, before };
    turn.take(&entry.event);
    turn.settle();
    if !turn.changed {
        debug_assert!(turn.effects.iter().all(|effect| matches!(
            effect,
            Effect::Offer { .. } | Effect::Withdraw { .. } | Effect::Ask { .. }
        )));
        return Ok(turn.effects);
    }
    let mut effects = turn.effects;
    rollout.seq = entry.seq;
    effects.insert(0, Effect::Persist(entry));
    Ok(effects)
}

/// What the stored state implies is to be done, whether or not it was done before: for a controller that takes over.
/// All of it may be done twice.
pub fn outstanding(rollout: &Rollout) -> Vec<Effect> {
    let mut effects = Vec::new();
    for (name, node) in &rollout.nodes {
        if let Some(effect) = standing_order(rollout, name) {
            effects.push(effect);
        }
        let when = match node.state {
            State::Held => When::Before,
            State::Proving => When::After,
            _ => continue,
        };
        let unanswered = rollout.spec.policy.gates.iter().filter(|gate| {
            gate.when == when && node.gates.get(&gate.name).is_some_and(|asked| asked.answer.is_none())
        });
        effects.extend(unanswered.map(|gate| Effect::Ask { node: name.clone(), gate: gate.name.clone() }));
    }
    effects
}

/// Whether a node failed, and had not switched to what it was offered.
fn failed_early(node: &Node) -> bool {
    let early = node.reason.as_ref().is_some_and(|reason| reason.kind.before_the_switch());
    node.state == State::Failed && node.touched && !node.returning && early
}

/// The order a node is under, as an effect.
fn standing_order(rollout: &Rollout, name: &NodeName) -> Option<Effect> {
    let node = rollout.nodes.get(name)?;
    if node.withdrawn {
        return Some(Effect::Withdraw { node: name.clone(), order: node.order });
    }
    let back = rollout.goes_back() || node.returning;
    let target = if back { rollout.spec.previous.clone()? } else { rollout.spec.target.clone() };
    (node.state.at_work() || (node.returning && node.state == State::Failed)).then(|| Effect::Offer {
        node: name.clone(),
        target,
        order: node.order,
        back,
        again: node.again,
    })
}

/// One event being taken in.
pub(crate) struct Turn<'a> {
    rollout: &'a mut Rollout,
    effects: Vec<Effect>,
    changed: bool,
    /// The moment of the event before.
    before: Moment,
}

impl Turn<'_> {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Tick => {}
            Event::Sessions { .. }
            | Event::Connected { .. }
            | Event::Lost { .. }
            | Event::Joined { .. }
            | Event::Retired { .. }
            | Event::Hold { .. }
            | Event::Release { .. }
            | Event::SendBack { .. }
            | Event::Answer { .. } => self.node_event(event),
            Event::Report { node, order, target, step, health } => {
                self.report(node, *order, target, step, health.as_ref());
            }
            Event::Well { nodes } => self.well(nodes),
            command => self.command(command),
        }
    }

    /// Draws every consequence until nothing changes.
    fn settle(&mut self) {
        self.deadlines();
        self.worse();
        self.gates();
        // A new wave may have failures of its own already: it is judged before anything of it is started.
        loop {
            self.judge();
            if !self.move_phase() {
                break;
            }
        }
        self.start();
    }

    fn going(&self) -> bool {
        self.rollout.halt.is_none() && self.rollout.line.is_none()
    }

    fn announce(&mut self, notice: Notice) {
        self.changed = true;
        self.effects.push(Effect::Announce(notice));
    }

    /// Puts a node in a state, with everything that belongs to entering it.
    fn put(&mut self, name: &NodeName, state: State, reason: Option<Reason>) {
        let (moment, of_now) = (self.rollout.moment, self.rollout.is_of_now());
        let node = self.rollout.nodes.get_mut(name).expect("the callers looked it up");
        node.state = state;
        node.since = moment;
        node.busy = None;
        node.reason = reason;
        node.forgiven = false;
        node.returns = false;
        if matches!(state, State::Held | State::Proving) {
            node.gates.clear();
        }
        // Who falls silent, or comes back, has to hear it still.
        let unheard = of_now && matches!(state, State::Silent | State::CatchingUp);
        if !state.may_be_taken_back() && !unheard {
            node.withdrawn = false;
        }
        if matches!(state, State::Pending | State::Committed | State::Failed | State::RolledBack) {
            (node.ordered, node.begun) = (false, false);
        }
        self.changed = true;
    }

    /// Above all that were given in this rollout, and above all that the node says it has seen. The latter counts for
    /// this node alone: none can use up the numbers of others.
    fn next_order(&mut self, name: &NodeName) {
        self.rollout.order += 1;
        let order = self.rollout.order;
        let node = self.rollout.nodes.get_mut(name).expect("the callers looked it up");
        node.order = order.max(node.order.max(node.seen).saturating_add(1));
        self.changed = true;
    }

    /// Tells a node once more what it is under, if it is under anything.
    fn remind(&mut self, name: &NodeName) {
        self.effects.extend(standing_order(self.rollout, name));
    }

    /// Offers a node what it is to run now.
    fn offer(&mut self, name: &NodeName) {
        let back = self.rollout.goes_back();
        self.put(name, State::Offered, None);
        self.next_order(name);
        let node = self.rollout.nodes.get_mut(name).expect("the callers looked it up");
        if !back {
            node.failed_before = node.health.as_ref().map(|health| health.failing.keys().cloned().collect());
        }
        node.attempts += 1;
        node.touched = true;
        // Who is in the middle of it is told once more.
        node.begun &= node.ordered && !back;
        node.ordered = true;
        node.withdrawn = false;
        node.returning = false;
        self.remind(name);
    }

    /// Takes back every offer that has not come to a trial, as far as is known, whether or not the node can hear it now;
    /// also where it failed before that, for an agent that could not write that down would try again once there is room.
    fn withdraw_all(&mut self) {
        let rollout = &*self.rollout;
        let failing = rollout.watched && !rollout.goes_back() && !rollout.spec.target.is_plan();
        let stands = |node: &Node| node.state.may_be_taken_back() || rollout.never_begun(node);
        for name in self.names(|node| stands(node) || (failing && failed_early(node))) {
            self.withdraw(&name);
        }
    }

    /// Takes back what is offered to a node, or fetched by it; what it says next tells whether that came in time.
    fn withdraw(&mut self, name: &NodeName) {
        let moment = self.rollout.moment;
        let node = self.rollout.nodes.get_mut(name).expect("the callers looked it up");
        if node.withdrawn {
            return;
        }
        node.withdrawn = true;
        (node.ordered, node.begun) = (false, false);
        node.busy = None;
        // It has as long to answer this as an offer.
        node.since = moment;
        self.next_order(name);
        self.remind(name);
    }

    fn names(&self, of: impl Fn(&Node) -> bool) -> Vec<NodeName> {
        self.rollout.nodes.iter().filter(|(_, node)| of(node)).map(|(name, _)| name.clone()).collect()
    }
}
