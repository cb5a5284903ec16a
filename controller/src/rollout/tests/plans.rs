//! Rollouts of plans: the real board and registry, on a store that fails, with agents that do as told.

mod turns;

use fleet_provider::event::Addresses;
use futures::task::noop_waker;

use super::*;
use crate::{
    reconcile::{board::Board, given::Given},
    records::{EnrolmentRecord, FleetRecord, PlanRecord, keys},
    rollout::floor::Sessions,
    serve::remembered,
    session::{registry::Live, stream::Desk},
    tls::peer::Peer,
};

/// Nodes with a task each that says which work it is.
fn plan(nodes: &[&str], work: &str) -> Given {
    let nodes: Vec<String> = nodes.iter().map(|name| format!("{{name: {name}, image: Debian 12}}")).collect();
    given(&format!("{{{}}}", does(work)), &nodes)
}

/// The task that says it.
fn does(work: &str) -> String {
    format!("tasks: [{{command: {{args: [/bin/{work}], unless: [/bin/{work}]}}}}]")
}

fn given(defaults: &str, nodes: &[String]) -> Given {
    let text = format!(
        "fleet: Reference\nrollout: {{bake: 20s, waves: [50%]}}\ndefaults: {defaults}\n\
         locations:\n  - id: EU7\n    domain: D\n    networks:\n      - {{name: N, subnet: 10.0.0.0/24, nodes: [{}]}}\n",
        nodes.join(", ")
    );
    let record = PlanRecord {
        file: "plans/web.yaml".to_owned(),
        text,
        parameters: BTreeMap::new(),
        artifacts: Vec::new(),
        operator_keys: Vec::new(),
        operator_addresses: Vec::new(),
        todo: None,
    };
    Given::read(record).expect("sound")
}

/// The word by which [`plan`] tells one work from another.
fn work_of(desired: &v1::Desired) -> String {
    let mut commands = desired.tasks.iter().filter_map(|task| match &task.kind {
        Some(v1::task_spec::Kind::Command(command)) => command.args.first().cloned(),
        _ => None,
    });
    commands.next_back().expect("a command").trim_start_matches("/bin/").to_owned()
}

fn names_in(desired: &v1::Desired) -> usize {
    desired
        .tasks
        .iter()
        .map(|task| match &task.kind {
            Some(v1::task_spec::Kind::Hosts(hosts)) => hosts.entries.len(),
            _ => 0,
        })
        .sum()
}

/// A node, which outlives controllers.
#[derive(Debug, Default)]
struct Machine {
    away: bool,
    held: v1::Desired,
    /// Every work it was given, in order, each once in a row.
    works: Vec<String>,
    /// Works of which it cannot do the command.
    cannot: Vec<&'static str>,
    /// Whether it said that it is at work.
    begun: bool,
    /// Its session stays open, and nothing comes from it any more.
    dead: bool,
}

impl Machine {
    fn take(&mut self, desired: v1::Desired) {
        assert!(desired.generation > self.held.generation, "generations only grow");
        let work = work_of(&desired);
        if self.works.last() != Some(&work) {
            self.works.push(work);
        }
        self.held = desired;
        self.begun = false;
    }

    /// At work first, then done or not.
    fn observed(&mut self) -> v1::Observed {
        let fails = self.cannot.contains(&work_of(&self.held).as_str());
        let last = self.held.tasks.len().saturating_sub(1);
        let tasks = self.held.tasks.iter().enumerate().map(|(index, task)| {
            let (result, reason) = match (self.begun, fails && index == last) {
                (false, _) => (v1::TaskResult::Running, ""),
                (true, true) => (v1::TaskResult::Failed, "no such program"),
                (true, false) => (v1::TaskResult::Changed, ""),
            };
            v1::TaskReport {
                name: task.name.clone(),
                result: result.into(),
                reason: reason.to_owned(),
                ..v1::TaskReport::default()
            }
        });
        let tasks = tasks.collect();
        self.begun = true;
        v1::Observed { generation: self.held.generation, tasks, health: None }
    }
}

/// What outlives controllers.
struct Outside {
    clock: Arc<ManualClock>,
    store: Arc<Failing>,
    /// How long something may stay failed before it counts.
    patience: Duration,
    machines: BTreeMap<NodeName, Machine>,
}

/// A controller.
struct Controller {
    desk: Arc<Desk>,
    board: Arc<Board>,
    core: Core,
    lives: BTreeMap<NodeName, Arc<Live>>,
}

impl Outside {
    /// Nodes that do the work of the plan `old`.
    async fn new(nodes: &[&str]) -> (Self, Controller) {
        Self::patient(nodes, Duration::ZERO).await
    }

    /// The same, under controllers that give failures so much time.
    async fn patient(nodes: &[&str], patience: Duration) -> (Self, Controller) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        let inner = MemoryStore::new(clock.clone());
        let store = Failing::new(inner, i64::MAX, false);
        let machines = nodes.iter().map(|name| (node(name), Machine::default())).collect();
        let mut outside = Self { clock, store: Arc::new(store), patience, machines };
        let records = outside.records();
        let fleet = FleetRecord {
            id: "id".to_owned(),
            created: Timestamp::default(),
            plan: None,
            cloud: None,
            provision_only: false,
        };
        records.put(&keys::fleet(), &fleet, Expected::Absent).await.expect("written");
        for name in nodes {
            outside.enrol(name).await;
        }
        let mut controller = outside.start("first").await;
        outside.up(&mut controller, plan(nodes, "old")).await.expect("no running node changes");
        assert!(controller.core.newest().is_none(), "the first plan is no rollout");
        outside.round(&mut controller).await.expect("goes on");
        outside.round(&mut controller).await.expect("goes on");
        assert_eq!(outside.works(), vec![vec!["old".to_owned()]; nodes.len()]);
        (outside, controller)
    }

    fn records(&self) -> Records {
        Records::new(self.store.clone())
    }

    async fn enrol(&self, name: &str) {
        let record = EnrolmentRecord {
            key: "k".to_owned(),
            machine: name.to_owned(),
            since: Timestamp::default(),
            certificates: Vec::new(),
            leaf: String::new(),
            returns: 0,
            services: Vec::new(),
            id: format!("{name}-1"),
        };
        self.records().put(&keys::enrolment(&node(name)), &record, Expected::Any).await.expect("written");
    }

    /// A controller on what is stored, and everybody who is there.
    async fn start(&mut self, holder: &str) -> Controller {
        let records = self.records();
        let desk = Arc::new(Desk {
            registry: remembered(&records, self.clock.clone()).await.expect("reads"),
            dispatch: Default::default(),
            permits: Default::default(),
            rollouts: Default::default(),
            clock: self.clock.clone(),
        });
        let board = Arc::new(Board::load(records.clone(), desk.clone(), None).await.expect("reads"));
        let floor = Sessions::new(desk.clone(), board.clone(), records.clone(), self.patience);
        let core = Core::new(Archive::new(records), Arc::new(floor), Arc::new(Named(Shelf)), holder);
        let mut controller = Controller { desk, board, core, lives: BTreeMap::new() };
        for (name, machine) in &self.machines {
            if !machine.away {
                controller.enter(name, machine);
            }
        }
        controller
    }

    /// What `fleetctl up` has to do with it.
    async fn up(&mut self, controller: &mut Controller, given: Given) -> Result<Option<u64>, Trouble> {
        let records = self.records();
        let held = records.get::<FleetRecord>(&keys::fleet()).await?.expect("there is one");
        let fleet = FleetRecord { plan: Some(given.record.clone()), ..held.value };
        records.put(&keys::fleet(), &fleet, Expected::Any).await?;
        let addresses: Vec<(NodeName, Addresses)> = given
            .plan
            .nodes()
            .zip(1_u8..)
            .map(|(placed, number)| {
                let addresses = Addresses {
                    private_ipv4: Some([10, 0, 0, number].into()),
                    ipv6: Some([0xfd00, 0, 0, 0, 0, 0, 0, number.into()].into()),
                    ..Addresses::default()
                };
                (placed.node.name.clone(), addresses)
            })
            .collect();
        controller.board.set_given(Some(given));
        controller.core.plan_came_into_force().await?;
        controller.board.set_addresses(addresses.iter().map(|(node, known)| (node, known))).await?;
        controller.board.refresh_desired().await?;
        controller.core.start_plan("ops").await
    }

    async fn round(&mut self, controller: &mut Controller) -> Result<(), Trouble> {
        self.clock.advance(Duration::from_secs(5));
        let mut news: BTreeMap<NodeName, News> = BTreeMap::new();
        for (name, live) in &controller.lives {
            let machine = self.machines.get_mut(name).expect("a machine");
            while let Some(Ok(message)) = live.poll_outbox(&noop_waker()) {
                match message.message {
                    Some(to_agent::Message::Desired(desired)) => machine.take(desired),
                    // Whoever is called answers.
                    Some(to_agent::Message::Command(_)) if !machine.dead => live.heard(),
                    _ => {}
                }
            }
            if machine.held.generation > 0 && !machine.dead {
                live.heard();
                controller.desk.registry.observed(live, machine.observed());
                news.entry(name.clone()).or_default().observed = true;
            }
        }
        for (name, machine) in &self.machines {
            if machine.away == controller.lives.contains_key(name) {
                news.entry(name.clone()).or_default().session = true;
            }
        }
        for (name, machine) in &self.machines {
            match controller.lives.get(name) {
                Some(live) if machine.away => {
                    controller.desk.registry.leave(live);
                    controller.lives.remove(name);
                }
                None if !machine.away => controller.enter(name, machine),
                _ => {}
            }
        }
        controller.core.news(news).await?;
        controller.core.tick().await
    }

    async fn until(&mut self, controller: &mut Controller, wanted: Standing) {
        for _ in 0..200 {
            if controller.core.newest().is_some_and(|kept| kept.rollout.standing() == wanted) {
                return;
            }
            self.round(controller).await.expect("goes on");
        }
        panic!("not {wanted:?}: {:?}", controller.core.newest().map(|kept| &kept.rollout));
    }

    fn works(&self) -> Vec<Vec<String>> {
        self.machines.values().map(|machine| machine.works.clone()).collect()
    }

    fn machine(&mut self, name: &NodeName) -> &mut Machine {
        self.machines.get_mut(name).expect("a machine")
    }
}

impl Controller {
    fn enter(&mut self, name: &NodeName, machine: &Machine) {
        let hello = v1::Hello {
            machine: name.to_string(),
            generation: machine.held.generation,
            capabilities: vec!["orders".to_owned()],
            ..v1::Hello::default()
        };
        let peer = Arc::new(Peer::of_node(name.clone()));
        let (live, _) = self.desk.registry.enter(name, &hello, peer).expect("lets it in");
        self.lives.insert(name.clone(), live);
    }

    fn rollout(&self) -> &Rollout {
        &self.core.newest().expect("one").rollout
    }

    fn canary(&self) -> NodeName {
        let rollout = self.rollout();
        rollout.nodes.values().find(|node| node.wave == 0).expect("one").member.node.clone()
    }
}

/// A changed plan on running nodes; a controller that fails is followed by another, or goes on by itself. Says how many
/// writes there were.
async fn whole(failing: i64, after: bool, killed: bool) -> i64 {
    let (mut outside, mut controller) = Outside::new(&NODES).await;
    let what = format!("write {failing}, after {after}, killed {killed}");
    outside.store.after.store(after, Ordering::SeqCst);
    outside.store.left.store(failing, Ordering::SeqCst);
    let mut troubles = 0;
    // Whoever ran `up` runs it again.
    while outside.up(&mut controller, plan(&NODES, "new")).await.is_err() {
        troubles += 1;
        assert!(troubles < 3, "{what}");
        if killed {
            outside.clock.advance(LEASE);
            controller = outside.start("another").await;
        }
    }
    for _ in 0..200 {
        if controller.core.newest().is_some_and(|kept| kept.rollout.standing() == Standing::Finished) {
            break;
        }
        if outside.round(&mut controller).await.is_err() {
            troubles += 1;
            if killed {
                outside.clock.advance(LEASE);
                controller = outside.start("another").await;
            }
        }
    }
    assert_eq!(troubles, i32::from(failing < i64::MAX), "{what}");
    let rollout = controller.rollout();
    assert_eq!(outcomes(rollout), [Some(Outcome::Updated); NODES.len()], "{what}: {rollout:?}");
    let done = vec![vec!["old".to_owned(), "new".to_owned()]; NODES.len()];
    assert_eq!(outside.works(), done, "{what}: everybody changed once");
    for (name, machine) in &outside.machines {
        let desired = controller.desk.registry.desired(name).expect("something");
        assert_eq!(*desired, machine.held, "{what}: {name} has what it should");
    }
    failing - outside.store.left.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_controller_killed_at_any_write_is_followed_by_another() {
    let writes = whole(i64::MAX, false, false).await;
    assert!(writes > 15, "{writes} writes");
    for write in 1..=writes {
        for after in [false, true] {
            whole(write, after, true).await;
        }
    }
}

#[tokio::test]
async fn a_lost_answer_of_any_write_is_found_out() {
    let writes = whole(i64::MAX, false, false).await;
    for write in 1..=writes {
        for after in [false, true] {
            whole(write, after, false).await;
        }
    }
}

#[tokio::test]
async fn a_bad_plan_stops_at_the_canary_and_a_corrected_one_takes_its_place() {
    let (mut outside, mut controller) = Outside::new(&NODES).await;
    for machine in outside.machines.values_mut() {
        machine.cannot = vec!["bad"];
    }
    let first = outside.up(&mut controller, plan(&NODES, "bad")).await.expect("starts").expect("a rollout");
    let canary = controller.canary();
    outside.until(&mut controller, Standing::Halted).await;
    let halt = controller.rollout().halt.clone().expect("halted");
    assert_eq!(halt.nodes, std::slice::from_ref(&canary));
    let reason = controller.rollout().nodes[&canary].reason.clone().expect("why");
    assert_eq!(reason.kind, Kind::Work);
    assert!(reason.detail.contains("task `command` failed: no such program"), "{reason}");
    let touched = outside.works().iter().filter(|works| works.len() > 1).count();
    assert_eq!(touched, 1, "{:?}", outside.works());
    // The same plan once more waits for somebody to decide.
    let again = outside.up(&mut controller, plan(&NODES, "bad")).await.expect("nothing new");
    assert_eq!(again, Some(first));
    assert_eq!(controller.rollout().standing(), Standing::Halted);

    let second = outside.up(&mut controller, plan(&NODES, "good")).await.expect("starts").expect("a rollout");
    assert_ne!(second, first);
    outside.until(&mut controller, Standing::Finished).await;
    assert_eq!(outcomes(controller.rollout()), [Some(Outcome::Updated); NODES.len()]);
    for (name, machine) in &outside.machines {
        let wanted: &[&str] = if *name == canary { &["old", "bad", "good"] } else { &["old", "good"] };
        assert_eq!(machine.works, wanted, "{name}");
    }
    // What the canary never did is nothing to go back to.
    controller.core.act("", Event::Undo).await.expect("goes back");
    outside.until(&mut controller, Standing::Finished).await;
    assert!(controller.rollout().nodes.values().all(|node| node.state == State::RolledBack));
    assert!(
        outside.machines.values().all(|machine| work_of(&machine.held) == "old"),
        "{:?}",
        outside.works()
    );
    // The plan is in force still: the next `up` rolls it out again.
    let third = outside.up(&mut controller, plan(&NODES, "good")).await.expect("starts").expect("a rollout");
    assert!(third > second);
    outside.until(&mut controller, Standing::Finished).await;
    assert!(
        outside.machines.values().all(|machine| work_of(&machine.held) == "good"),
        "{:?}",
        outside.works()
    );
}

#[tokio::test]
async fn a_failed_task_is_tried_again_when_an_operator_says_so() {
    let (mut outside, mut controller) = Outside::new(&NODES).await;
    for machine in outside.machines.values_mut() {
        machine.cannot = vec!["new"];
    }
    outside.up(&mut controller, plan(&NODES, "new")).await.expect("starts");
    let canary = controller.canary();
    outside.until(&mut controller, Standing::Halted).await;
    let before = outside.machine(&canary).held.generation;
    for machine in outside.machines.values_mut() {
        machine.cannot.clear();
    }
    controller.core.act("", Event::Resume { retry: true }).await.expect("goes on");
    outside.until(&mut controller, Standing::Finished).await;
    assert!(outside.machine(&canary).held.generation > before, "it was told to look again");
    assert_eq!(outcomes(controller.rollout()), [Some(Outcome::Updated); NODES.len()]);
}

#[tokio::test]
async fn who_joins_is_known_to_all_at_once_and_gets_its_work_at_once() {
    let (mut outside, mut controller) = Outside::new(&NODES).await;
    let with = ["a", "b", "c", "d", "e"];
    let before = names_in(&outside.machine(&node("a")).held);
    let rollout = outside.up(&mut controller, plan(&with, "old")).await.expect("goes on");
    assert_eq!(rollout, None, "nobody's work changes");
    outside.round(&mut controller).await.expect("goes on");
    for (name, machine) in &outside.machines {
        assert!(names_in(&machine.held) > before, "{name} knows of the new one");
        assert_eq!(machine.works, ["old"]);
    }
    // It comes while other work is rolled out: that is the work it gets, and nobody waits for it.
    outside.enrol("e").await;
    outside.machines.insert(node("e"), Machine::default());
    outside.up(&mut controller, plan(&with, "new")).await.expect("starts").expect("a rollout");
    controller.desk.registry.set_enrolled(&node("e"), true);
    outside.until(&mut controller, Standing::Finished).await;
    assert_eq!(controller.rollout().nodes.len(), NODES.len());
    assert_eq!(outside.machine(&node("e")).works, ["new"]);
}

#[tokio::test]
async fn nodes_that_were_off_catch_up_and_a_stopped_line_holds_all() {
    let (mut outside, mut controller) = Outside::new(&NODES).await;
    outside.machine(&node("c")).away = true;
    outside.round(&mut controller).await.expect("goes on");
    controller.core.stop_line("ops", "a doubt").await.expect("stops");
    outside.up(&mut controller, plan(&NODES, "new")).await.expect("waits for the line").expect("a rollout");
    for _ in 0..20 {
        outside.round(&mut controller).await.expect("goes on");
    }
    assert_eq!(controller.rollout().standing(), Standing::Halted);
    assert_eq!(outside.works(), vec![vec!["old".to_owned()]; NODES.len()]);
    controller.core.clear_line("ops").await.expect("clears");
    outside.until(&mut controller, Standing::Finished).await;
    assert_eq!(controller.rollout().outcome(&node("c")), Some(Outcome::Silent));
    assert_eq!(outside.machine(&node("c")).works, ["old"]);
    // Nothing more is to be started for it: it comes by itself.
    let none = outside.up(&mut controller, plan(&NODES, "new")).await.expect("nothing new");
    assert_eq!(none, None);
    outside.machine(&node("c")).away = false;
    for _ in 0..8 {
        outside.round(&mut controller).await.expect("goes on");
    }
    assert_eq!(outside.machine(&node("c")).works, ["old", "new"]);
    assert_eq!(controller.rollout().outcome(&node("c")), Some(Outcome::Updated));
}

#[tokio::test]
async fn a_plan_waits_for_no_release_that_is_over_and_for_every_one_under_way() {
    let (mut outside, mut controller) = Outside::new(&NODES).await;
    controller.core.start("ops", "0.2.0", POLICY).await.expect("starts");
    let refused =
        outside.up(&mut controller, plan(&NODES, "new")).await.expect_err("a release is on its way");
    assert!(refused.told().contains("rollout 1 of release 0.2.0 is under way"), "{}", refused.told());
    controller
        .core
        .act("", Event::Halt { by: "ops".to_owned(), reason: "a doubt".to_owned() })
        .await
        .expect("halts");
    outside.up(&mut controller, plan(&NODES, "new")).await.expect("starts").expect("a rollout");
    let refused = controller.core.start("ops", "0.3.0", POLICY).await.expect_err("a plan is on its way");
    assert!(refused.told().contains("rollout 2 of plan web.yaml is under way"), "{}", refused.told());
    outside.until(&mut controller, Standing::Finished).await;
    let stored = controller.core.stored().await.expect("reads");
    assert_eq!(stored.driven(), [1, 2], "each goes on for those that come back");
    // Whoever asks and whoever acts mean the same one: that which is not over.
    let meant = stored.chosen("").expect("no name").expect("one");
    assert_eq!(meant.rollout.spec.id, "1");
    assert_eq!(controller.core.act("", Event::Resume { retry: false }).await.expect("goes on"), 1);
}

/// What it is to want lies ready for it and is sent as soon as it is there, whoever has stopped what meanwhile.
#[tokio::test]
async fn a_node_that_was_away_before_it_began_does_not_begin_once_all_is_stopped() {
    for line in [false, true] {
        let (mut outside, mut controller) = Outside::new(&NODES).await;
        outside.up(&mut controller, plan(&NODES, "new")).await.expect("starts").expect("a rollout");
        let canary = controller.canary();
        // It is gone before it takes what was sent.
        outside.machine(&canary).away = true;
        controller.desk.registry.leave(&controller.lives.remove(&canary).expect("a session"));
        let gone = BTreeMap::from([(canary.clone(), News { session: true, ..News::default() })]);
        controller.core.news(gone).await.expect("goes on");
        if line {
            controller.core.stop_line("ops", "a doubt").await.expect("stops");
        }
        // One that is silent is too many among canaries.
        for _ in 0..80 {
            outside.round(&mut controller).await.expect("goes on");
        }
        let stands = controller.rollout();
        assert_eq!((stands.standing(), stands.nodes[&canary].state), (Standing::Halted, State::Silent));
        outside.machine(&canary).away = false;
        for _ in 0..20 {
            outside.round(&mut controller).await.expect("goes on");
        }
        assert_eq!(outside.works(), vec![vec!["old".to_owned()]; NODES.len()], "line stopped: {line}");
        // It is no loss: whoever lets it go on has everybody brought there.
        if line {
            controller.core.clear_line("ops").await.expect("clears");
        }
        if controller.rollout().standing() == Standing::Halted {
            controller.core.act("", Event::Resume { retry: false }).await.expect("goes on");
        }
        outside.until(&mut controller, Standing::Finished).await;
        assert_eq!(outcomes(controller.rollout()), [Some(Outcome::Updated); NODES.len()]);
    }
}

/// It does what it was given, says so, and dies of it before anybody looks again.
#[tokio::test]
async fn a_node_that_dies_of_a_plan_passes_no_bake_however_short() {
    let (mut outside, mut controller) = Outside::new(&NODES).await;
    outside.up(&mut controller, plan(&NODES, "new")).await.expect("starts").expect("a rollout");
    let canary = controller.canary();
    outside.until(&mut controller, Standing::Baking).await;
    outside.machine(&canary).dead = true;
    for _ in 0..60 {
        outside.round(&mut controller).await.expect("goes on");
    }
    assert_eq!((controller.rollout().wave, controller.rollout().standing()), (0, Standing::Baking));
    assert!(controller.rollout().nodes.values().all(|node| !node.touched || node.wave == 0));
    outside.machine(&canary).dead = false;
    outside.until(&mut controller, Standing::Finished).await;
}

/// A task that failed a moment ago is tried again by its agent, and counts only later: the bake is not over before.
#[tokio::test]
async fn a_node_whose_work_fails_at_the_end_of_its_bake_does_not_pass() {
    let (mut outside, mut controller) = Outside::patient(&NODES, Duration::from_secs(3600)).await;
    outside.up(&mut controller, plan(&NODES, "new")).await.expect("starts").expect("a rollout");
    outside.until(&mut controller, Standing::Baking).await;
    let canary = controller.canary();
    outside.machine(&canary).cannot = vec!["new"];
    for _ in 0..60 {
        outside.round(&mut controller).await.expect("goes on");
    }
    assert_eq!((controller.rollout().wave, controller.rollout().standing()), (0, Standing::Baking));
    outside.machine(&canary).cannot.clear();
    outside.until(&mut controller, Standing::Finished).await;
}

#[tokio::test]
async fn a_store_that_is_older_than_what_nodes_hold_reaches_them_all_the_same() {
    let (mut outside, mut controller) = Outside::new(&NODES).await;
    for machine in outside.machines.values_mut() {
        machine.held.generation += 500;
    }
    outside.round(&mut controller).await.expect("goes on");
    outside.up(&mut controller, plan(&NODES, "new")).await.expect("starts").expect("a rollout");
    outside.until(&mut controller, Standing::Finished).await;
    assert_eq!(outcomes(controller.rollout()), [Some(Outcome::Updated); NODES.len()]);
}

/// What an earlier version left: desired states, and nothing of what they were made of.
#[tokio::test]
async fn a_fleet_of_an_earlier_version_is_rolled_out_to_as_well() {
    let (mut outside, controller) = Outside::new(&NODES).await;
    drop(controller);
    let records = outside.records();
    for name in NODES {
        records.delete(&keys::work(&node(name))).await.expect("deleted");
    }
    outside.clock.advance(LEASE);
    let mut controller = outside.start("newer").await;
    outside.up(&mut controller, plan(&NODES, "new")).await.expect("starts").expect("a rollout");
    // Nor does it forget, once it has found out.
    outside.clock.advance(LEASE);
    let mut controller = outside.start("another").await;
    outside.round(&mut controller).await.expect("goes on");
    let touched = outside.works().iter().filter(|works| works.len() > 1).count();
    assert_eq!(touched, 1, "the canary alone: {:?}", outside.works());
    outside.until(&mut controller, Standing::Finished).await;
    assert_eq!(outside.works(), vec![vec!["old".to_owned(), "new".to_owned()]; NODES.len()]);
}
