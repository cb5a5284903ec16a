//! The one task that drives rollouts: takes news in, lets time pass, keeps the lease.

use std::{path::PathBuf, sync::Arc, time::Duration};

use fleet_model::chain;
use tokio::{
    sync::{Mutex, MutexGuard, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{core::Core, trouble::Trouble};
use crate::session::stream::Desk;

/// How often time is let pass, and the lease looked at. Well below what the engine counts as unheard, and below the life
/// of the lease.
const TICK: Duration = Duration::from_secs(5);
/// The same while a rollout is under way: the shortest bakes are of seconds.
const BRISK: Duration = Duration::from_secs(1);

/// Drives the rollouts of a fleet.
#[derive(Debug)]
pub struct Driver {
    desk: Arc<Desk>,
    /// Held while something is decided, stored and done: one event after the other.
    core: Mutex<Core>,
    /// The controller's folder, where word may be left for it.
    dir: PathBuf,
    changed: watch::Sender<u64>,
}

/// The core in hand; whoever waits for changes is told when it is given back.
pub struct Turn<'a> {
    core: MutexGuard<'a, Core>,
    driver: &'a Driver,
}

impl Driver {
    /// Over this core; word that the line is stopped may be left in `dir`.
    pub fn new(desk: Arc<Desk>, core: Core, dir: PathBuf) -> Self {
        Self { desk, core: Mutex::new(core), dir, changed: watch::Sender::new(0) }
    }

    /// Works until told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut next = Instant::now();
        let mut watch = self.watch();
        let mut elsewhere = false;
        loop {
            // Nothing goes on while somebody wants it stopped and that is not stored.
            // Cancel safe: a bell that rang stays rung, the next tick keeps its time, a change is seen once.
            let done = tokio::select! {
                () = stop.cancelled() => break,
                () = self.desk.rollouts.bell() => {
                    let mut turn = self.turn().await;
                    // What is not taken in now is there at the next bell, and heard anew after a failure.
                    match turn.heed(&self.dir).await {
                        Ok(()) => turn.news(self.desk.rollouts.take()).await,
                        unheard => unheard,
                    }
                }
                () = sleep_until(next) => {
                    let mut turn = self.turn().await;
                    let done = match turn.heed(&self.dir).await {
                        Ok(()) => turn.tick().await,
                        unheard => unheard,
                    };
                    next = Instant::now() + if turn.moves() { BRISK } else { TICK };
                    done
                }
                // Somebody may have started one.
                _ = watch.changed() => {
                    next = next.min(Instant::now() + BRISK);
                    continue;
                }
            };
            let other = matches!(done, Err(Trouble::Elsewhere { .. }));
            match done {
                Ok(()) => {}
                Err(error) if other => {
                    if !elsewhere {
                        tracing::info!(%error, "rollouts");
                    }
                }
                Err(error) => tracing::warn!(error = chain(&error), "rollouts not driven; trying again"),
            }
            elsewhere = other;
        }
        self.core.lock().await.resign().await;
    }

    /// The core, when it is free.
    pub async fn turn(&self) -> Turn<'_> {
        Turn { core: self.core.lock().await, driver: self }
    }

    /// Grows with every change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

impl std::ops::Deref for Turn<'_> {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl std::ops::DerefMut for Turn<'_> {
    fn deref_mut(&mut self) -> &mut Core {
        &mut self.core
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // A rollout that is over still brings those on that come back; without any, nobody's news matter.
        self.driver.desk.rollouts.listen(self.core.drives());
        let changes = self.core.changes;
        self.driver.changed.send_if_modified(|seen| std::mem::replace(seen, changes) != changes);
    }
}
