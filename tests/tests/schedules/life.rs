//! One life in this process: a provider, a store and a cloud.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use fleet_mcp::{Client, retry::Retry};
use fleet_model::{FleetName, NodeName, Secret, SystemClock};
use fleet_plan::ResolvedPlan;
use fleet_provider::{
    Outcome, Pace, Provider,
    event::{Event, StepState},
    journal::Journal,
    vault::{Vault, VaultError},
};
use fleet_store::{MemoryStore, Store};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    check,
    cloud::Cloud,
    schedule::{Moment, Schedule, What},
};

/// What marks everything of the fleet.
pub const FLEET: &str = "rethink";
const FLEET_ID: &str = "0001";
/// Looks at how many calls were sent.
const GLANCE: Duration = Duration::from_millis(1);

/// Patience in the proportions of a real run, faster.
fn pace() -> Pace {
    Pace {
        first: Duration::from_millis(2),
        longest: Duration::from_millis(60),
        settle: Duration::from_secs(20),
        busy: Duration::from_secs(2),
        // Not faster: what is in flight when its controller dies takes as long as this host is busy, and is then made
        // twice by whoever did not wait for it.
        unlisted: Duration::from_secs(1),
        ..Pace::default()
    }
}

/// Passwords in memory.
#[derive(Default)]
pub struct MemoryVault(Mutex<BTreeMap<NodeName, u32>>);

#[async_trait]
impl Vault for MemoryVault {
    async fn initial_password(&self, node: &NodeName) -> Result<Secret, VaultError> {
        let mut held = self.0.lock().expect("no panic while held");
        let drawn = *held.entry(node.clone()).or_insert_with(rand::random);
        Ok(Secret::new(format!("drawn-{drawn}")))
    }
    async fn forget(&self, node: &NodeName) -> Result<(), VaultError> {
        self.0.lock().expect("no panic while held").remove(node);
        Ok(())
    }
    async fn keep(&self, nodes: &BTreeSet<NodeName>) -> Result<(), VaultError> {
        self.0.lock().expect("no panic while held").retain(|node, _| nodes.contains(node));
        Ok(())
    }
}

/// What outlives a controller.
struct World {
    cloud: Cloud,
    store: Arc<dyn Store>,
    vault: Arc<MemoryVault>,
    loud: bool,
}

/// How a run ended.
enum Run {
    /// The controller died.
    Cut,
    Clean(Outcome),
    Reasons(Vec<String>),
}

/// Lives the life of `seed`; says what happens if it is to be `loud`.
pub fn live(seed: u64, loud: bool) {
    let schedule = Schedule::draw(seed);
    if loud {
        eprintln!("{schedule:#?}");
    }
    let mut world = World {
        cloud: Cloud::new(schedule.delay),
        store: Arc::new(MemoryStore::new(Arc::new(SystemClock))),
        vault: Arc::default(),
        loud,
    };
    let [up, again, down] = schedule.phases;
    world.phase("up", Some(&schedule.plan), up);
    world.phase("changed", Some(&schedule.changed), again);
    world.phase("down", None, down);
    let held = world.vault.0.lock().expect("no panic while held").len();
    assert_eq!(held, 0, "passwords of servers that are gone");
}

impl World {
    fn say(&self, what: impl std::fmt::Display) {
        if self.loud {
            eprintln!("{what}");
        }
    }

    /// Brings the cloud to `plan`, or to nothing, while `moments` happen.
    fn phase(&mut self, name: &str, plan: Option<&ResolvedPlan>, moments: Vec<Moment>) {
        self.say(format_args!("--- {name}"));
        let mut moments = moments.into_iter().peekable();
        let mut sent = 0;
        loop {
            match self.run(plan, &mut moments, &mut sent) {
                Run::Cut => self.say("the controller died"),
                Run::Clean(outcome) => {
                    self.say(format_args!("as planned, {} changing calls", outcome.changing_calls));
                    break;
                }
                Run::Reasons(reasons) => {
                    self.say(format_args!("reasons: {reasons:#?}"));
                    check::reasons(&reasons);
                    check::nothing_twice(&self.behind_healthy());
                    // Nothing more goes wrong: the next run must end as planned.
                    moments = Vec::new().into_iter().peekable();
                    let again = self.run(plan, &mut moments, &mut sent);
                    if let Run::Reasons(reasons) = again {
                        panic!("{name}: a run without any trouble ended with {reasons:#?}");
                    }
                    break;
                }
            }
            check::nothing_twice(&self.behind_healthy());
        }
        let behind = self.behind_healthy();
        let runtime = runtime();
        let journal = Journal::new(Arc::clone(&self.store), Arc::new(SystemClock));
        let (index, open) = runtime.block_on(async {
            (journal.index().await.expect("readable"), journal.open().await.expect("readable"))
        });
        assert!(open.is_empty(), "{name}: calls without outcome: {open:#?}");
        match plan {
            Some(plan) => {
                check::as_planned(&behind, plan, Some(&index));
                let before = behind.changing_calls();
                match self.run(Some(plan), &mut Vec::new().into_iter().peekable(), &mut 0) {
                    Run::Clean(outcome) => {
                        assert_eq!(outcome.changing_calls, 0, "{name}: another run changes things")
                    }
                    Run::Cut | Run::Reasons(_) => panic!("{name}: another run does not end as planned"),
                }
                let beyond: Vec<_> =
                    behind.log().into_iter().filter(|call| call["changing"] == true).skip(before).collect();
                assert!(beyond.is_empty(), "{name}: another run changes things: {beyond:#?}");
            }
            None => check::nothing_left(&behind, &index),
        }
    }

    /// The cloud behind the provider's back, with nothing left that goes wrong.
    fn behind_healthy(&self) -> fleet_tests::LocalCloud {
        let behind = self.cloud.behind();
        behind.clear_faults();
        behind
    }

    /// One run of one controller.
    fn run(
        &mut self,
        plan: Option<&ResolvedPlan>,
        moments: &mut std::iter::Peekable<std::vec::IntoIter<Moment>>,
        sent: &mut u64,
    ) -> Run {
        let mut settings = self.cloud.access().client_settings().expect("readable");
        settings.retry = Retry {
            first: Duration::from_millis(1),
            ceiling: Duration::from_millis(10),
            attempts: 4,
            patience: Duration::from_secs(1),
            // As the controller has it: the provider waits itself.
            busy_for: Duration::ZERO,
        };
        let client = Arc::new(Client::new(settings).expect("good settings"));
        let provider = Provider::new(
            client.clone(),
            Arc::clone(&self.store),
            Arc::clone(&self.vault) as Arc<dyn Vault>,
            FLEET.parse::<FleetName>().expect("a name"),
            FLEET_ID.to_owned(),
            Arc::new(SystemClock),
        )
        .with_pace(pace());
        let (cut, ended) = (CancellationToken::new(), CancellationToken::new());
        let loud = self.loud;
        let before = *sent;
        let run = std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                let run = runtime().block_on(async {
                    tokio::select! {
                        run = one_run(&provider, plan, loud) => run,
                        () = cut.cancelled() => Run::Cut,
                    }
                });
                ended.cancel();
                run
            });
            while let Some(next) = moments.peek() {
                while before + client.changing_calls() < next.after && !ended.is_cancelled() {
                    std::thread::sleep(GLANCE);
                }
                if ended.is_cancelled() {
                    break;
                }
                self.say(format_args!("{next:?}"));
                match moments.next().expect("it was there").what {
                    What::Fault(fault) => self.cloud.behind().fault(&fault),
                    What::RestartCloud { kill } => self.cloud.restart(kill),
                    What::RestartController => {
                        cut.cancel();
                        break;
                    }
                }
            }
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        *sent += client.changing_calls();
        run
    }
}

async fn one_run(provider: &Provider, plan: Option<&ResolvedPlan>, loud: bool) -> Run {
    let (sender, mut events) = mpsc::channel(16);
    let running = async {
        // Takes the sender along, so that the events end with it.
        let (sender, stop) = (sender, CancellationToken::new());
        match plan {
            Some(plan) => provider.apply(plan, &sender, &stop).await,
            None => provider.destroy(&sender, &stop).await,
        }
    };
    let listening = async {
        while let Some(event) = events.recv().await {
            if let Event::Step(step, state) = event
                && loud
            {
                let state = match state {
                    StepState::Started => "started".to_owned(),
                    StepState::Waiting(why) => format!("waits: {why}"),
                    StepState::Done => "done".to_owned(),
                    StepState::Failed(why) => format!("failed: {why}"),
                };
                eprintln!("    {:?} {} {} in {}: {state}", step.verb, step.kind, step.name, step.location);
            }
        }
    };
    let (result, ()) = tokio::join!(running, listening);
    match result {
        Ok(outcome) if outcome.problems.is_empty() => Run::Clean(outcome),
        Ok(outcome) => Run::Reasons(outcome.problems),
        Err(error) => Run::Reasons(vec![format!("{}; {}", fleet_model::chain(&error), error.hint())]),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
