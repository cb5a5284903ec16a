//! One session: the stream to a controller from its opening to its end.

mod answers;

use std::time::Duration;

use fleet_model::chain_from;
use fleet_proto::{
    refusal::Refusal,
    v1::{self, agents_client::AgentsClient, from_agent, to_agent},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, transport::Channel};

use fleet_task::{Repair, TaskId};

use self::answers::Answers;
use crate::{
    backoff::about, facts::notable, link::Shared, offset::ControllerTime, update::Word, worker::Look,
};

/// How long the controller may take to open the stream and to say welcome.
const OPENING: Duration = Duration::from_secs(15);
/// How long a message may wait for a controller that does not read.
const STALLED: Duration = Duration::from_secs(20);
/// Messages on their way up.
const OUTBOUND: usize = 16;
/// Answers on their way from gates to the stream.
const ANSWERS: usize = 16;
/// Commands that wait for the worker; it takes no more at once.
const COMMANDS: usize = 64;
/// Gates that are looked at or wait for their turn; more than this is a controller that floods.
const GATES: usize = 64;
/// Least time between two heartbeats or two sets of facts, whatever the controller asks for.
const LEAST_PACE: Duration = Duration::from_secs(1);

/// What this side can do beyond protocol 1.
const CAPABILITIES: [&str; 3] = ["orders", "gates", "leaves"];

/// How a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The controller said why.
    Refused(Refusal),
    /// It broke before the controller had said welcome.
    NeverOpened(String),
    /// It broke after that.
    Lost(String),
    /// There is a new certificate: dial again with it.
    Renewed,
}

/// What an agent says of itself first.
pub(crate) fn hello(shared: &Shared) -> v1::Hello {
    v1::Hello {
        agent_version: crate::VERSION.into(),
        protocol_min: shared.protocol.0,
        protocol_max: shared.protocol.1,
        boot_nonce: shared.nonce.clone(),
        machine: shared.machine(),
        node_time_ms: shared.clock.now().as_millis(),
        generation: shared.board.borrow().generation.0,
        capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
    }
}

/// A stream after the controller has said welcome.
pub(crate) struct Session {
    up: mpsc::Sender<v1::FromAgent>,
    down: Streaming<v1::ToAgent>,
    pub(crate) client: AgentsClient<Channel>,
    welcome: v1::Welcome,
    answers: Answers,
    seen: (mpsc::Sender<v1::GateAnswer>, mpsc::Receiver<v1::GateAnswer>),
    /// Looks under way; they end with the session, and whoever asked asks again at the next.
    looks: JoinSet<()>,
}

impl Session {
    /// Opens the stream: hello up, welcome down.
    pub(crate) async fn open(channel: Channel, shared: &mut Shared) -> Result<Self, End> {
        let (up, outbound) = mpsc::channel(OUTBOUND);
        let asked = Instant::now();
        say(&up, from_agent::Message::Hello(hello(shared))).await?;
        let mut client = AgentsClient::new(channel);
        let opening = async {
            let mut down = client.session(Request::new(ReceiverStream::new(outbound))).await?.into_inner();
            let first = down.message().await?;
            Ok::<_, Status>((down, first))
        };
        let never = |why: &str| End::NeverOpened(why.to_owned());
        let (down, first) = timeout(OPENING, opening)
            .await
            .map_err(|_| never("no welcome in time"))?
            .map_err(|status| ended(&status, End::NeverOpened))?;
        let Some(v1::ToAgent { message: Some(to_agent::Message::Welcome(welcome)) }) = first else {
            return Err(never("the first message was no welcome"));
        };
        shared.controller = Some(ControllerTime::heard(welcome.controller_time_ms, asked));
        let (answers, seen) = (Answers::default(), mpsc::channel(ANSWERS));
        Ok(Self { up, down, client, welcome, answers, seen, looks: JoinSet::new() })
    }

    /// As the controller calls its own.
    pub(crate) fn controller_version(&self) -> &str {
        &self.welcome.controller_version
    }

    /// Serves the stream until it ends.
    pub(crate) async fn serve(mut self, shared: &mut Shared) -> End {
        let pace = |ms: u32| Duration::from_millis(ms.into()).max(LEAST_PACE);
        let (heartbeat, facts) = (pace(self.welcome.heartbeat_ms), pace(self.welcome.facts_ms));
        let mut board = shared.board.clone();
        board.mark_changed();
        let mut stands = shared.stands.clone();
        stands.mark_changed();
        let mut next_beat = Instant::now() + about(heartbeat, &mut rand::rng());
        let mut next_facts = Instant::now();
        let mut told = shared.facts();
        let permits = shared.permits.clone();
        permits.ask_again();
        loop {
            // Every arm waits on a stream, channel or timer and loses nothing when dropped.
            let result = tokio::select! {
                message = self.down.message() => match message {
                    Ok(Some(message)) => self.hear(message, shared).await,
                    Ok(None) => Err(End::Lost("the controller closed the session".into())),
                    Err(status) => Err(ended(&status, End::Lost)),
                },
                () = sleep_until(next_beat) => {
                    next_beat = Instant::now() + about(heartbeat, &mut rand::rng());
                    let beat = v1::Heartbeat { node_time_ms: shared.clock.now().as_millis() };
                    say(&self.up, from_agent::Message::Heartbeat(beat)).await
                }
                () = sleep_until(next_facts) => {
                    next_facts = Instant::now() + about(facts, &mut rand::rng());
                    told = shared.facts();
                    self.tell(&told, shared).await
                }
                Ok(()) = board.changed() => {
                    board.borrow_and_update();
                    let fresh = shared.facts();
                    let news = notable(&fresh) != notable(&told);
                    told = fresh;
                    if news { self.tell(&told, shared).await } else { self.report(&told, shared).await }
                }
                Ok(()) = stands.changed() => {
                    let standing = stands.borrow_and_update().clone();
                    match standing {
                        Some(standing) => say(&self.up, from_agent::Message::Standing(standing)).await,
                        None => Ok(()),
                    }
                }
                message = permits.next() => say(&self.up, message).await,
                answer = self.answers.next() => {
                    // What an answer is about is reported before it: whoever asked reads it then.
                    match self.report(&shared.facts(), shared).await {
                        Ok(()) => say(&self.up, from_agent::Message::Answer(answer)).await,
                        lost => lost,
                    }
                }
                Some(seen) = self.seen.1.recv() => say(&self.up, from_agent::Message::Gate(seen)).await,
                Some(_) = self.looks.join_next() => Ok(()),
                () = sleep_until(shared.renew_at()) => {
                    if shared.renew(&mut self.client).await { Err(End::Renewed) } else { Ok(()) }
                }
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    async fn tell(&self, facts: &v1::Facts, shared: &Shared) -> Result<(), End> {
        say(&self.up, from_agent::Message::Facts(facts.clone())).await?;
        self.report(facts, shared).await
    }

    async fn report(&self, facts: &v1::Facts, shared: &Shared) -> Result<(), End> {
        say(&self.up, from_agent::Message::Observed(shared.observed(facts))).await
    }

    async fn hear(&mut self, message: v1::ToAgent, shared: &Shared) -> Result<(), End> {
        match message.message {
            Some(to_agent::Message::Desired(desired)) => {
                shared.orders.offers.send_replace(Some(desired.into()));
                Ok(())
            }
            Some(to_agent::Message::Command(command)) => self.obey(command, shared).await,
            Some(to_agent::Message::Permit(answer)) => {
                shared.permits.answered(answer);
                Ok(())
            }
            Some(to_agent::Message::Order(order)) => pass(shared, Word::Order(order)),
            Some(to_agent::Message::Withdraw(withdraw)) => pass(shared, Word::Withdraw(withdraw)),
            Some(to_agent::Message::Gate(asked)) => {
                self.look(asked, shared);
                Ok(())
            }
            // A second welcome changes nothing; what is of a newer protocol is not for us.
            Some(to_agent::Message::Welcome(_)) | None => Ok(()),
        }
    }

    /// Has a gate looked at; the session need not wait.
    fn look(&mut self, asked: v1::GateAsk, shared: &Shared) {
        if self.looks.len() >= GATES {
            tracing::warn!(gate = asked.gate, "too many gates at once; not looked at");
            return;
        }
        let (gates, seen) = (shared.gates.clone(), self.seen.0.clone());
        self.looks.spawn(async move {
            let answer = gates.answer(asked).await;
            // Nobody listens once the session has ended.
            let _ = seen.send(answer).await;
        });
    }

    async fn obey(&mut self, command: v1::Command, shared: &Shared) -> Result<(), End> {
        let id = command.id;
        let now = match command.what {
            Some(v1::command::What::Noop(_)) => Some(String::new()),
            Some(v1::command::What::Recheck(_)) => self.pass_on(id, Repair::None, shared),
            Some(v1::command::What::Repair(repair)) => {
                let repair = match repair.task {
                    task if task.is_empty() => Repair::All,
                    task => Repair::Task(TaskId::new(task)),
                };
                self.pass_on(id, repair, shared)
            }
            None => Some("this agent does not know that command; update the agent".into()),
        };
        match now {
            Some(error) => say(&self.up, from_agent::Message::Answer(v1::Answer { id, error })).await,
            None => Ok(()),
        }
    }

    /// Passes a request on to the worker; the answer comes when that is done. An error at once if it cannot.
    fn pass_on(&mut self, id: u64, repair: Repair, shared: &Shared) -> Option<String> {
        let (done, said) = oneshot::channel();
        let room = self.answers.waiting() < COMMANDS;
        if !room || shared.orders.looks.try_send(Look { repair, done }).is_err() {
            return Some("too many requests to look again; wait for those under way".into());
        }
        self.answers.expect(id, said);
        None
    }
}

/// Passes word of releases on. One that finds no room is said again at the next session.
fn pass(shared: &Shared, word: Word) -> Result<(), End> {
    if let Err(error) = shared.orders.updates.try_send(word) {
        tracing::warn!(%error, "too many orders at once");
    }
    Ok(())
}

async fn say(up: &mpsc::Sender<v1::FromAgent>, message: from_agent::Message) -> Result<(), End> {
    match up.send_timeout(v1::FromAgent { message: Some(message) }, STALLED).await {
        Ok(()) => Ok(()),
        Err(_) => Err(End::Lost("the controller does not read what the agent sends".into())),
    }
}

/// How a stream that failed with this status ended.
fn ended(status: &Status, otherwise: fn(String) -> End) -> End {
    match Refusal::from_status(status) {
        Some(refusal) => End::Refused(refusal),
        None => otherwise(chain_from(status.message().to_owned(), status)),
    }
}
