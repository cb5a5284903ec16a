//! Who may start now, and why others may not.

use std::{collections::BTreeMap, fmt};

use fleet_model::{NodeName, Timestamp};

use super::Turn;
use crate::{
    policy::When,
    state::{Finish, Node, Phase, Rollout, State},
};

/// Something that keeps a node from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Nothing was started yet.
    Draft,
    /// The line is stopped.
    LineStopped(String),
    /// The rollout is halted.
    Halted(String),
    /// Its wave comes later; numbers count from one.
    LaterWave {
        /// Its wave.
        its: usize,
        /// The present one.
        present: usize,
    },
    /// The rollout is over.
    Over,
    /// It has no session.
    NoSession,
    /// It is held.
    OnHold(String),
    /// Its location's window is closed.
    WindowClosed {
        /// Where.
        location: String,
        /// When it opens.
        opens: Option<Timestamp>,
    },
    /// The offset of the window's time zone was not told.
    ZoneUnknown(String),
    /// As many are in flight as may be.
    InFlight {
        /// In the wave or in all.
        scope: &'static str,
        /// How many.
        now: usize,
        /// At most.
        limit: usize,
    },
    /// As many are out of service as may be.
    Unavailable {
        /// In the wave or in all.
        scope: &'static str,
        /// How many.
        now: usize,
        /// At most.
        limit: usize,
    },
    /// Replicas can spare no other member.
    Cluster {
        /// Which.
        cluster: String,
        /// Who is out.
        out: Vec<NodeName>,
        /// How many may be.
        spare: usize,
    },
    /// The seed goes last.
    SeedLast {
        /// For how many it waits.
        waiting_for: usize,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Draft => f.write_str("the rollout is not started"),
            Self::LineStopped(why) => write!(f, "the line is stopped: {why}"),
            Self::Halted(why) => write!(f, "the rollout is halted: {why}"),
            Self::LaterWave { its, present } => write!(f, "it is in wave {its}, and wave {present} is on"),
            Self::Over => f.write_str("the rollout is over"),
            Self::NoSession => f.write_str("it has no session; it catches up when it returns"),
            Self::OnHold(why) => write!(f, "it is held: {why}"),
            Self::WindowClosed { location, opens: Some(opens) } => {
                write!(f, "the maintenance window of {location} opens at {opens}")
            }
            Self::WindowClosed { location, opens: None } => {
                write!(f, "the maintenance window of {location} is closed")
            }
            Self::ZoneUnknown(zone) => {
                write!(f, "the time of zone {zone} is not known, so its window stays closed")
            }
            Self::InFlight { scope, now, limit } => {
                write!(f, "{now} {scope} are in flight, at most {limit} may be")
            }
            Self::Unavailable { scope, now, limit } => {
                write!(f, "{now} {scope} are or may become unavailable, at most {limit} may be")
            }
            Self::Cluster { cluster, out, spare } => {
                let names: Vec<_> = out.iter().map(NodeName::as_str).collect();
                write!(f, "cluster {cluster} can spare {spare}, and {} is out", names.join(", "))
            }
            Self::SeedLast { waiting_for } => write!(f, "the seed goes last, after {waiting_for} more"),
        }
    }
}

/// Who is where, counted once for all candidates.
#[derive(Default)]
pub(crate) struct Tally {
    waves: BTreeMap<usize, Used>,
    whole: Used,
    clusters: BTreeMap<String, Vec<NodeName>>,
    before_seed: usize,
}

#[derive(Clone, Copy, Default)]
struct Used {
    in_flight: usize,
    out: usize,
    /// Of those that are out, who waits to be told to go back: it is in nobody's way who waits for the same.
    to_return: usize,
    /// Who is back and may be in the middle of it: at work for all others, though not for its like, whose orders stand
    /// as well.
    going_on: usize,
}

/// Whether a node takes a place among those at work.
fn in_flight(rollout: &Rollout, node: &Node) -> bool {
    node.state.in_flight() || rollout.turns_back(node)
}

/// Whether a node failed, and what it runs is not what it ran.
fn broken(node: &Node) -> bool {
    node.state == State::Failed && !node.reason.as_ref().is_some_and(|r| r.kind.before_the_switch())
}

/// Whether a node is out of service, or may be before it is heard of again, through this rollout.
fn out(rollout: &Rollout, node: &Node) -> bool {
    in_flight(rollout, node)
        || (!node.forgiven && (broken(node) || (node.state == State::Silent && node.touched)))
}

impl Tally {
    pub(crate) fn of(rollout: &Rollout) -> Self {
        let mut tally = Self::default();
        for (cluster, out) in &rollout.beside {
            tally.clusters.entry(cluster.clone()).or_default().extend(out.iter().cloned());
        }
        for node in rollout.nodes.values() {
            tally.count(rollout, node, |number| *number += 1);
            // Replicas do not care why a member is away, nor what an operator forgave.
            let away = !node.connected || node.state == State::Silent;
            let at_work = in_flight(rollout, node) || rollout.may_go_on(node);
            if let Some(cluster) = &node.member.cluster
                && (at_work || broken(node) || away)
            {
                tally.clusters.entry(cluster.clone()).or_default().push(node.member.node.clone());
            }
            if !node.member.seed
                && (node.state.in_flight()
                    || (in_turn(rollout, node) && node.connected && node.hold.is_none()))
            {
                tally.before_seed += 1;
            }
        }
        tally
    }

    fn count(&mut self, rollout: &Rollout, node: &Node, one: fn(&mut usize)) {
        let counts = [
            (in_flight(rollout, node), (|used| &mut used.in_flight) as fn(&mut Used) -> &mut usize),
            (out(rollout, node), |used| &mut used.out),
            (node.returns && out(rollout, node), |used| &mut used.to_return),
            (rollout.may_go_on(node), |used| &mut used.going_on),
        ];
        for used in [self.waves.entry(node.wave).or_default(), &mut self.whole] {
            for (_, of) in counts.iter().filter(|(counts, _)| *counts) {
                one(of(used));
            }
        }
    }

    /// Counts a node that is just being started no more as what it was.
    fn starts(&mut self, rollout: &Rollout, node: &Node) {
        self.count(rollout, node, |number| *number -= 1);
        if let Some(out) = node.member.cluster.as_ref().and_then(|cluster| self.clusters.get_mut(cluster)) {
            out.retain(|name| *name != node.member.node);
        }
    }

    /// Counts it as what it is now.
    fn started(&mut self, rollout: &Rollout, node: &Node) {
        self.count(rollout, node, |number| *number += 1);
        if let Some(cluster) = &node.member.cluster {
            self.clusters.entry(cluster.clone()).or_default().push(node.member.node.clone());
        }
    }
}

/// Whether it is a node's turn, wherever the rollout stands, were nothing in its way.
fn in_turn(rollout: &Rollout, node: &Node) -> bool {
    let waits = matches!(node.state, State::Pending | State::CatchingUp);
    match rollout.phase {
        Phase::Running | Phase::Baking { .. } => waits && node.wave <= rollout.wave,
        Phase::Undoing => node.state == State::CatchingUp && node.touched,
        Phase::Finished { finish: Finish::Done } => waits,
        Phase::Finished { finish: Finish::Undone } => node.state == State::CatchingUp && node.touched,
        Phase::Draft | Phase::Finished { finish: Finish::Superseded } => false,
    }
}

/// Everything in the way of `node`, which waits.
pub(crate) fn obstacles(rollout: &Rollout, node: &Node, tally: &Tally) -> Vec<Obstacle> {
    let mut found = Vec::new();
    if rollout.phase == Phase::Draft {
        found.push(Obstacle::Draft);
    } else if matches!(rollout.phase, Phase::Running | Phase::Baking { .. }) && node.wave > rollout.wave {
        found.push(Obstacle::LaterWave { its: node.wave + 1, present: rollout.wave + 1 });
    } else if !in_turn(rollout, node) {
        found.push(Obstacle::Over);
    }
    if let Some(line) = &rollout.line {
        found.push(Obstacle::LineStopped(format!("{}, by {}", line.reason, line.by)));
    }
    if let Some(halt) = &rollout.halt {
        found.push(Obstacle::Halted(halt.reason.clone()));
    }
    if !node.connected {
        found.push(Obstacle::NoSession);
    }
    if let Some(why) = &node.hold {
        found.push(Obstacle::OnHold(why.clone()));
    }
    // Whoever goes back because a release is bad does not wait for the night.
    if !rollout.goes_back() {
        found.extend(window(rollout, node));
    }
    found.extend(bounds(rollout, node, tally));
    if node.member.seed && tally.before_seed > 0 {
        found.push(Obstacle::SeedLast { waiting_for: tally.before_seed });
    }
    found
}

/// Everything in the way of `node`, which is to be told to go back. It is the safe direction: neither a halt nor the
/// hour forbids it, and it is out already; but others are not to be out along with it.
pub(crate) fn obstacles_back(rollout: &Rollout, node: &Node, tally: &Tally) -> Vec<Obstacle> {
    let mut found = Vec::new();
    if let Some(line) = &rollout.line {
        found.push(Obstacle::LineStopped(format!("{}, by {}", line.reason, line.by)));
    }
    if !node.connected {
        found.push(Obstacle::NoSession);
    }
    found.extend(bounds(rollout, node, tally));
    found
}

/// The bounds that are reached without `node`.
fn bounds(rollout: &Rollout, node: &Node, tally: &Tally) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let wave = tally.waves.get(&node.wave).copied().unwrap_or_default();
    let mut scopes = vec![("in all", tally.whole, rollout.limits())];
    if !rollout.goes_back() {
        scopes.push(("of its wave", wave, rollout.wave_limits(node.wave)));
    }
    for (scope, used, limits) in scopes {
        let going_on = if rollout.may_go_on(node) { 0 } else { used.going_on };
        let in_flight = used.in_flight + going_on;
        if in_flight >= limits.in_flight {
            found.push(Obstacle::InFlight { scope, now: in_flight, limit: limits.in_flight });
        }
        let out = used.out + going_on - if node.returns { used.to_return } else { 0 };
        if out >= limits.unavailable {
            found.push(Obstacle::Unavailable { scope, now: out, limit: limits.unavailable });
        }
    }
    if let Some(cluster) = &node.member.cluster {
        let spare = rollout.spec.spare.get(cluster).copied().unwrap_or(1);
        // Of those that wait for the same one has to be the first.
        let like = |other: &Node| {
            (node.returns && other.returns) || (rollout.may_go_on(node) && rollout.may_go_on(other))
        };
        let serves = |name: &NodeName| rollout.nodes.get(name).is_some_and(|n| n.connected && like(n));
        let out = tally.clusters.get(cluster).into_iter().flatten();
        let others: Vec<NodeName> =
            out.filter(|name| **name != node.member.node && !serves(name)).cloned().collect();
        if others.len() >= spare {
            found.push(Obstacle::Cluster { cluster: cluster.clone(), out: others, spare });
        }
    }
    found
}

fn window(rollout: &Rollout, node: &Node) -> Option<Obstacle> {
    let location = &node.member.location;
    let window = rollout.spec.policy.windows.get(location)?;
    let Some(&ahead) = rollout.offsets.get(&window.zone) else {
        return Some(Obstacle::ZoneUnknown(window.zone.clone()));
    };
    (!window.is_open(rollout.clock, ahead)).then(|| Obstacle::WindowClosed {
        location: location.clone(),
        opens: window.next_opening(rollout.clock, ahead),
    })
}

/// That nobody is at work, and whoever waits does so for nodes that failed or fell silent, though these are not yet too
/// many: nothing would ever happen any more. Why, and which.
fn stuck(rollout: &Rollout) -> Option<(String, Vec<NodeName>)> {
    let under_way = matches!(rollout.phase, Phase::Running | Phase::Baking { .. } | Phase::Undoing);
    let mut nodes = rollout.nodes.values();
    if !rollout.is_of_now() || !under_way || nodes.any(|n| in_flight(rollout, n) || n.returns) {
        return None;
    }
    let blamed: Vec<NodeName> = rollout
        .nodes
        .values()
        .filter(|node| broken(node) || out(rollout, node))
        .map(|node| node.member.node.clone())
        .collect();
    if blamed.is_empty() {
        return None;
    }
    let tally = Tally::of(rollout);
    let only_them = |obstacle: &Obstacle| match obstacle {
        Obstacle::Unavailable { .. } => true,
        Obstacle::Cluster { out, .. } => out.iter().all(|name| blamed.contains(name)),
        _ => false,
    };
    let mut waiting = rollout.nodes.values().filter(|node| node.connected && in_turn(rollout, node));
    let obstacles = waiting.find_map(|node| {
        let found = obstacles(rollout, node, &tally);
        (!found.is_empty() && found.iter().all(only_them)).then_some(found)
    })?;
    let why: Vec<String> = obstacles.iter().map(ToString::to_string).collect();
    Some((format!("nobody else can start any more, for {}", why.join("; ")), blamed))
}

impl Turn<'_> {
    pub(super) fn start(&mut self) {
        self.start_back();
        if !self.going() {
            return;
        }
        // Offers that were taken back while it was halted, and of which nothing was heard: their place is kept.
        let taken_back = |node: &Node| node.withdrawn && node.state.may_be_taken_back();
        for name in self.names(|node| taken_back(node) && node.hold.is_none()) {
            if !matches!(self.rollout.phase, Phase::Finished { finish: Finish::Superseded }) {
                self.next_order(&name);
                let node = self.rollout.nodes.get_mut(&name).expect("just listed");
                (node.withdrawn, node.ordered) = (false, true);
                self.remind(&name);
            }
        }
        // What was taken back of who is away is no more in its way: it is offered again once it is there.
        let away = |node: &Node| matches!(node.state, State::Silent | State::CatchingUp) && node.withdrawn;
        for name in self.names(|node| away(node) && node.hold.is_none()) {
            let over = matches!(self.rollout.phase, Phase::Finished { finish: Finish::Superseded });
            if !over && !self.rollout.goes_back() {
                self.rollout.nodes.get_mut(&name).expect("just listed").withdrawn = false;
                self.changed = true;
            }
        }
        let mut waiting = self.names(|node| node.connected && in_turn(self.rollout, node));
        if waiting.is_empty() {
            return;
        }
        // Who caught up first, then in the order drawn; the seed last of all.
        waiting.sort_by_key(|name| {
            let node = &self.rollout.nodes[name];
            (node.member.seed, node.wave, node.place)
        });
        let mut tally = Tally::of(self.rollout);
        let gates = self.has_gates(When::Before) && !self.rollout.goes_back();
        for name in waiting {
            if !obstacles(self.rollout, &self.rollout.nodes[&name], &tally).is_empty() {
                continue;
            }
            tally.starts(self.rollout, &self.rollout.nodes[&name]);
            // Who is in the middle of it as far as is known is not asked whether it is well enough to begin.
            if gates && !(self.rollout.nodes[&name].ordered && self.rollout.watched) {
                self.put(&name, State::Held, None);
                self.ask(&name, When::Before);
            } else {
                self.offer(&name);
            }
            tally.started(self.rollout, &self.rollout.nodes[&name]);
        }
        if let Some((reason, nodes)) = stuck(self.rollout) {
            self.halt(reason, nodes);
        }
    }

    /// Tells those to go back that failed with the target, as many as may change at a time.
    fn start_back(&mut self) {
        let over =
            matches!(self.rollout.phase, Phase::Draft | Phase::Finished { finish: Finish::Superseded });
        let mut waiting = self.names(|node| node.returns && node.connected);
        if over || waiting.is_empty() {
            return;
        }
        waiting.sort_by_key(|name| {
            let node = &self.rollout.nodes[name];
            (node.member.seed, node.wave, node.place)
        });
        let mut tally = Tally::of(self.rollout);
        for name in waiting {
            if !obstacles_back(self.rollout, &self.rollout.nodes[&name], &tally).is_empty() {
                continue;
            }
            tally.starts(self.rollout, &self.rollout.nodes[&name]);
            self.tell_to_return(&name);
            tally.started(self.rollout, &self.rollout.nodes[&name]);
        }
    }

    pub(super) fn tell_to_return(&mut self, name: &NodeName) {
        let (moment, of_now) = (self.rollout.moment, self.rollout.is_of_now());
        self.next_order(name);
        let node = self.rollout.nodes.get_mut(name).expect("just listed");
        (node.returns, node.returning) = (false, true);
        if of_now {
            node.since = moment;
        }
        self.remind(name);
    }
}
