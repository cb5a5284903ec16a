//! What an agent is started with.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fleet_model::{Clock, SystemClock};
use fleet_proto::PROTOCOL;
use fleet_supervisor::agent::Supervised;
use fleet_task::{NoRunner, Runner, SystemRunner};

/// Mean time between two looks at every task when nothing else asks for one.
const RECHECK: Duration = Duration::from_secs(600);

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder below which all of the node's files are; `/` on a node.
    pub root: PathBuf,
    /// Mean time between two looks at every task when nothing else asks for one.
    pub recheck: Duration,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// What runs programs; `None` means the host's for `/`, and nothing for any other root.
    pub runner: Option<Arc<dyn Runner>>,
    /// What started this agent, if that can start another one.
    pub supervised: Option<Supervised>,
    /// Oldest and newest protocol version to speak.
    pub protocol: (u32, u32),
}

impl Settings {
    /// The usual settings for this root folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            recheck: RECHECK,
            clock: Arc::new(SystemClock),
            runner: None,
            supervised: None,
            protocol: PROTOCOL,
        }
    }

    pub(crate) fn runner(&self) -> Arc<dyn Runner> {
        match &self.runner {
            Some(runner) => runner.clone(),
            None if self.root == Path::new("/") => Arc::new(SystemRunner),
            // A rehearsal in a folder must never reach the host's disks.
            None => Arc::new(NoRunner),
        }
    }
}
