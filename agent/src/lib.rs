//! The agent on each node: it dials home over mutual TLS, does its node's work, and reports.
//!
//! Start with [`run`]. Three loops share one thread: the *worker* owns the desired state and runs the task
//! engine, the *link* owns identity and session, *update* has this very program replaced. They meet in a few channels, so that a controller that is
//! away never stops the node's work, and work that takes long never stops the session.
//!
//! What it deliberately does not do: it opens no port, decides nothing for another node, and calls no
//! name-service function (a static binary would load the node's shared objects and crash): names are
//! resolved by hickory.

mod backoff;
mod contact;
mod controller;
mod desired;
mod dial;
mod ends;
mod facts;
mod gates;
mod health;
#[cfg(test)]
mod held_disk;
pub mod identity;
mod link;
#[cfg(test)]
#[path = "../supervisor/tests/crash/model.rs"]
mod model;
mod offset;
mod places;
mod rescue;
mod session;
mod settings;
mod state;
pub mod tasks;
mod update;
mod worker;

use std::sync::Arc;

use fleet_task::{Journal, Node};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use controller::{Permits, Remote};

pub use backoff::Backoff;
pub use health::{Inputs as HealthInputs, assess};
pub use places::Places;
pub use settings::Settings;
pub use state::StateError;

/// This agent's version, as it reports it.
pub const VERSION: &str = fleet_proto::VERSION;

/// Orders that wait for a part that is at work on one.
const WORDS: usize = 16;
/// Requests to look again that wait for the worker; more than this is a controller that floods.
const LOOKS: usize = 16;

/// Why an agent could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its folder could not be made.
    #[error("make the agent's folder {}", path.display())]
    Folder {
        /// The folder.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another agent works for this node.
    #[error("another agent is running for this root folder ({} is locked)", path.display())]
    Running {
        /// The lock.
        path: std::path::PathBuf,
    },
    /// What it remembers cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The journal could not be opened.
    #[error(transparent)]
    Journal(#[from] fleet_task::JournalError),
    /// A part of the agent ended abnormally.
    #[error("the agent's {part} ended abnormally")]
    Broken {
        /// `link`, `worker` or `update`.
        part: &'static str,
    },
}

/// Runs the agent until `stop` is cancelled, or until it has to make room for another version; then ends within two
/// seconds.
///
/// # Errors
/// [`AgentError`] when it cannot start. A controller that cannot be reached is no error: the agent goes on
/// working from the desired state it holds.
pub async fn run(settings: Settings, stop: CancellationToken) -> Result<(), AgentError> {
    let places = Places::below(&settings.root);
    let _lock = places.claim()?;
    let ends = ends::Ends::begin(&places);
    let own = state::digest(settings.supervised.as_ref());
    let places = state::take(places, own)?;
    let journal = Arc::new(Journal::open(places.journal())?);
    let permits = Arc::new(Permits::default());
    let (line, on_line) = watch::channel(None);
    let (giver, given) = watch::channel(None);
    let controller = Remote::new(permits.clone(), on_line, places.artifacts());
    let node = Node::new(&settings.root, settings.runner(), journal).with_controller(Arc::new(controller));
    let (offers, offered) = watch::channel(None);
    let (asked, looks) = mpsc::channel(LOOKS);
    let inbox = worker::Inbox { offers: offered, looks, permits: permits.clone() };
    let (updates, words) = mpsc::channel(WORDS);
    let orders = link::Orders { offers, looks: asked, updates };
    let (contact, met) = watch::channel(contact::Contact::default());
    let (standing, stands) = watch::channel(None);
    let (board, observed) = watch::channel(worker::Board::default());
    let ways = update::Ways { words, contact: met, board: observed.clone(), line: given, standing };
    let gates = gates::Gates::new(node.clone());
    let rescue = rescue::Rescue::new(settings.supervised.as_ref(), own.map(|own| own.to_string()).as_deref());
    let wires = link::Wires { permits, line, giver, contact, stands, gates, rescue };

    // One part ending means the agent ends: the guard stops the other.
    let stop = stop.child_token();
    let guard = stop.clone().drop_guard();
    let mut parts = JoinSet::new();
    let worker = worker::Worker::new(&settings, &places, node, board, stop.clone());
    parts.spawn(async move {
        worker.run(inbox).await;
        Part::Worker
    });
    let crashes = ends.crashes();
    let update =
        update::Update::new(&places, settings.clock.clone(), settings.supervised.clone(), own, crashes, ways);
    let stopped = stop.clone();
    parts.spawn(async move {
        // Whatever it waits for may be dropped: where an order stands is on disk.
        tokio::select! {
            () = stopped.cancelled() => (),
            () = update.run() => (),
        }
        Part::Update
    });
    let link = link::Link::new(settings, places, orders, wires, observed, stop.clone());
    parts.spawn(async move {
        link.run().await;
        Part::Link
    });
    let first = parts.join_next().await;
    let asked_to_stop = stop.is_cancelled();
    drop(guard);
    while parts.join_next().await.is_some() {}
    let ended = match first {
        Some(Ok(_)) if asked_to_stop => Ok(()),
        Some(Ok(Part::Update)) => Ok(()),
        Some(Ok(Part::Link)) => Err(AgentError::Broken { part: "link" }),
        Some(Ok(Part::Worker)) => Err(AgentError::Broken { part: "worker" }),
        Some(Err(_)) | None => Err(AgentError::Broken { part: "link, worker or update" }),
    };
    if ended.is_ok() {
        ends.in_order();
    }
    ended
}

/// The parts that run beside each other.
enum Part {
    Link,
    Worker,
    /// Ends in order to make room for another version.
    Update,
}

/// Does the node's work once, from the desired state it holds, without a controller. Whether all of it
/// converged, and what came of each task.
///
/// # Errors
/// [`AgentError`] when it cannot start.
pub async fn once(
    settings: &Settings,
    stop: &CancellationToken,
) -> Result<Vec<fleet_task::Report>, AgentError> {
    let places = Places::below(&settings.root);
    let _lock = places.claim()?;
    let places = state::take(places, state::digest(settings.supervised.as_ref()))?;
    let journal = Arc::new(Journal::open(places.journal())?);
    let node = Node::new(&settings.root, settings.runner(), journal);
    let (board, _) = watch::channel(worker::Board::default());
    let mut worker = worker::Worker::new(settings, &places, node, board, stop.clone());
    Ok(worker.converge(true).await)
}
