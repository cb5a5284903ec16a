//! A rollout under watch: every event checks what must hold after every event.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use fleet_model::{NodeName, Timestamp};
use fleet_rollout::{
    Effect, Entry, Event, Health, Kind, Member, Policy, Reason, Refused, Rollout, Spec, Standing, State,
    Step, advance,
    policy::{Amount, Budgets, Canaries, Check, Gate, Weekday, When, Window},
    replay,
    state::Node,
};

pub const NEW: &str = "sha256:new";
pub const OLD: &str = "sha256:old";
/// Monday 2024-01-01 01:00 UTC.
pub const START: i64 = 1_704_067_200_000 + 3_600_000;

pub fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

/// One canary `a`, then everybody; a gate on each side; a window that is open unless the zone moves.
pub fn policy() -> Policy {
    let bounds = Budgets {
        in_flight: Amount::Count(2),
        unavailable: Amount::Count(3),
        failed: Amount::Count(2),
        silent: Amount::Count(2),
    };
    let gate = |name: &str, when| Gate {
        name: name.into(),
        when,
        check: Check::TodoRoundTrip,
        deadline: Duration::from_secs(120),
    };
    Policy {
        canaries: Canaries { named: vec![name("a")], drawn: Amount::Count(0) },
        waves: Vec::new(),
        canary_budgets: Budgets { failed: Amount::Count(1), ..bounds },
        wave_budgets: bounds,
        budgets: Budgets { failed: Amount::Count(3), silent: Amount::Count(3), ..bounds },
        canary_bake: Duration::from_secs(120),
        bake: Duration::from_secs(60),
        gates: vec![gate("before", When::Before), gate("after", When::After)],
        windows: BTreeMap::from([(
            "X".into(),
            Window { zone: "Z".into(), days: vec![Weekday::Monday], from: 0, until: 1440 },
        )]),
        ..Policy::default()
    }
}

pub struct World {
    pub rollout: Rollout,
    pub now: Timestamp,
    pub last: Vec<Effect>,
    /// Who says nothing more although its session is open, or is not well.
    pub unwell: BTreeSet<NodeName>,
    draft: Rollout,
    log: Vec<Entry>,
}

impl World {
    pub fn new(policy: Policy, nodes: &[&str]) -> Self {
        Self::of(NEW, OLD, policy, nodes)
    }

    pub fn of(new: &str, old: &str, policy: Policy, nodes: &[&str]) -> Self {
        let members = nodes.iter().map(|n| Member { location: "X".into(), ..Member::new(name(n)) }).collect();
        Self::made(new, old, policy, members)
    }

    /// Of these.
    pub fn with(policy: Policy, members: Vec<Member>) -> Self {
        Self::made(NEW, OLD, policy, members)
    }

    fn made(new: &str, old: &str, policy: Policy, members: Vec<Member>) -> Self {
        let spec = Spec {
            id: "r".into(),
            target: new.into(),
            previous: Some(old.into()),
            policy,
            spare: BTreeMap::new(),
        };
        let now = Timestamp::from_millis(START);
        let rollout = Rollout::draft(spec, members, now).expect("a sound policy");
        Self {
            draft: rollout.clone(),
            rollout,
            now,
            last: Vec::new(),
            unwell: BTreeSet::new(),
            log: Vec::new(),
        }
    }

    /// As it was stored before there was a rule that nodes are watched.
    pub fn of_before(policy: Policy, nodes: &[&str]) -> Self {
        let mut world = Self::new(policy, nodes);
        let mut stored = serde_json::to_value(&world.draft).expect("plain data");
        let watched = stored.as_object_mut().and_then(|members| members.remove("watched"));
        assert_eq!(watched, Some(true.into()));
        world.draft = serde_json::from_value(stored).expect("the form of before");
        world.rollout = world.draft.clone();
        world
    }

    /// Takes an event in, and checks what must hold.
    pub fn try_event(&mut self, event: Event) -> Result<(), Refused> {
        let before = self.rollout.clone();
        let effects = match advance(&mut self.rollout, event, self.now) {
            Ok(effects) => effects,
            Err(refused) => {
                assert_eq!(self.rollout, before, "a refused event changes nothing");
                return Err(refused);
            }
        };
        let mut still = before.clone();
        (still.clock, still.moment) = (self.rollout.clock, self.rollout.moment);
        match effects.first() {
            Some(Effect::Persist(entry)) => {
                assert_eq!((entry.seq, self.rollout.seq), (before.seq + 1, before.seq + 1));
                self.log.push(entry.clone());
            }
            _ => {
                assert_eq!(still, self.rollout, "what changed is stored");
                // Only orders that were stored before may be said again, and gates asked that were passed.
                for effect in &effects {
                    match effect {
                        Effect::Offer { node, order, .. } | Effect::Withdraw { node, order } => {
                            assert_eq!(before.nodes[node].order, *order);
                        }
                        Effect::Ask { node, .. } => {
                            assert_eq!(before.nodes[node].state, State::Committed);
                        }
                        effect => panic!("{effect:?} with nothing stored before it"),
                    }
                }
            }
        }
        assert!(effects.iter().skip(1).all(|effect| !matches!(effect, Effect::Persist(_))));
        self.budgets_hold(&before);
        self.last = effects;
        Ok(())
    }

    pub fn event(&mut self, event: Event) {
        self.try_event(event).expect("a lawful event");
    }

    /// Nothing is started past a budget, and nothing at all while halted.
    fn budgets_hold(&self, before: &Rollout) {
        let stood = self.rollout.standing() == Standing::Halted;
        let in_flight = |wave: Option<usize>| {
            self.rollout
                .nodes
                .values()
                .filter(|n| n.state.in_flight() || self.turns_back(n))
                .filter(|n| wave.is_none_or(|wave| n.wave == wave))
                .count()
        };
        for (name, node) in &self.rollout.nodes {
            let was = before.nodes.get(name).map_or(State::Pending, |node| node.state);
            let started = matches!(node.state, State::Held | State::Offered) && !was.in_flight();
            // Of itself: what an operator orders of one node is the operator's.
            let told_back = node.state == State::Failed
                && node.returning
                && !before.nodes.get(name).is_some_and(|node| node.returning)
                && node.reason.as_ref().is_some_and(|reason| reason.kind != Kind::SentBack);
            if told_back {
                assert!(self.rollout.line.is_none(), "{name} was told to go back with the line stopped");
            } else if !started {
                continue;
            }
            assert!(
                told_back || !stood || before.standing() != Standing::Halted,
                "{name} was started while halted"
            );
            assert!(in_flight(None) <= self.rollout.limits().in_flight, "{name}: too many in flight");
            if !self.rollout.goes_back() {
                let limits = self.rollout.wave_limits(node.wave);
                assert!(
                    in_flight(Some(node.wave)) <= limits.in_flight,
                    "{name}: too many in flight in its wave"
                );
            }
        }
    }

    /// Whether a node was told to go back by itself, and may be about it.
    fn turns_back(&self, node: &Node) -> bool {
        let deadlines = &self.rollout.spec.policy.deadlines;
        let since = Duration::from_millis(self.rollout.moment.0 - node.since.0);
        node.state == State::Failed && node.returning && since < deadlines.answer + deadlines.trial
    }

    /// Lets time pass with a controller that listens, and nodes that are well while they have a session.
    pub fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds / 10 {
            self.now = self.now.after(Duration::from_secs(10));
            self.event(Event::Tick);
            self.all_well();
        }
    }

    /// Whoever is waited for says that it is well, and that its gates pass as they did.
    pub fn all_well(&mut self) {
        let awaited: BTreeSet<NodeName> = self.rollout.awaited().into_iter().cloned().collect();
        let there = |node: &NodeName| self.rollout.nodes[node].connected && !self.unwell.contains(node);
        let nodes: BTreeSet<NodeName> = awaited.into_iter().filter(there).collect();
        let gates = nodes.iter().flat_map(|node| {
            let gates = self.rollout.nodes[node].gates.iter();
            gates.map(move |(gate, asked)| (node.clone(), gate.clone(), asked.answer.clone()))
        });
        for (node, gate, answer) in gates.collect::<Vec<_>>() {
            self.answer(node.as_str(), &gate, answer.is_some_and(|answer| answer.passed));
        }
        if !nodes.is_empty() {
            self.event(Event::Well { nodes });
        }
    }

    pub fn connect(&mut self, node: &str) {
        self.event(Event::Connected { node: name(node) });
    }

    pub fn lose(&mut self, node: &str) {
        self.event(Event::Lost { node: name(node) });
    }

    pub fn say(&mut self, node: &str, release: &str, step: Step) {
        let order = self.rollout.nodes[&name(node)].order;
        self.say_of(node, order, release, step);
    }

    pub fn say_of(&mut self, node: &str, order: u64, release: &str, step: Step) {
        self.event(Event::Report { node: name(node), order, target: release.into(), step, health: None });
    }

    /// Says where it stands, as newly as it can, and how it is.
    pub fn say_how(&mut self, node: &str, release: &str, step: Step, health: Health) {
        let (node, target) = (name(node), release.into());
        let order = self.rollout.nodes[&node].order;
        self.event(Event::Report { node, order, target, step, health: Some(health) });
    }

    pub fn answer(&mut self, node: &str, gate: &str, passed: bool) {
        let detail = "seen".to_owned();
        self.event(Event::Answer { node: name(node), gate: gate.into(), passed, detail });
    }

    pub fn window(&mut self, open: bool) {
        let ahead = if open { 0 } else { -12 * 3600 };
        self.event(Event::Offsets { seconds_ahead: BTreeMap::from([("Z".into(), ahead)]) });
    }

    pub fn state(&self, node: &str) -> State {
        self.rollout.nodes[&name(node)].state
    }

    /// Brings `node` all the way.
    pub fn update(&mut self, node: &str) {
        assert_eq!(self.state(node), State::Held, "{node}");
        self.answer(node, "before", true);
        self.say(node, NEW, Step::Trial);
        self.say(node, NEW, Step::Committed);
        self.answer(node, "after", true);
        assert_eq!(self.state(node), State::Committed);
    }

    /// The controller dies and another goes on from what is stored, having heard nothing meanwhile.
    pub fn fail_over(&mut self, absent: Duration) {
        let stored = serde_json::to_string(&self.rollout).expect("plain data");
        self.rollout = serde_json::from_str(&stored).expect("the same form");
        self.now = self.now.after(absent);
        let connected =
            self.rollout.nodes.values().filter(|n| n.connected).map(|n| n.member.node.clone()).collect();
        self.last = fleet_rollout::outstanding(&self.rollout);
        self.event(Event::Sessions { connected });
    }

    /// The log over the draft gives the state.
    pub fn replays(&self) {
        let mut again = self.draft.clone();
        for entry in &self.log {
            let text = serde_json::to_string(entry).expect("plain data");
            replay(&mut again, serde_json::from_str(&text).expect("the same form")).expect("it was lawful");
        }
        (again.clock, again.moment) = (self.rollout.clock, self.rollout.moment);
        assert_eq!(again, self.rollout, "the log gives the state");
    }
}

pub fn because(kind: Kind) -> Reason {
    Reason::new(kind, "")
}
