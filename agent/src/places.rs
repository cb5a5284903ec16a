//! Where the agent keeps things on the node.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use fleet_task::atomic::{self, AtomicError};
use nix::fcntl::{Flock, FlockArg};

use crate::{
    AgentError,
    state::{DESIRED, JOURNAL, Work},
};

/// The agent's files, all below one root folder.
#[derive(Clone, Debug)]
pub struct Places {
    root: PathBuf,
    /// Where its schema puts the work; the agent's own folder until that is known.
    work: Option<Work>,
}

impl Places {
    /// The places below `root`, which is `/` on a node.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), work: None }
    }

    pub(crate) fn with_work(self, work: Work) -> Self {
        Self { work: Some(work), ..self }
    }

    /// The folder of everything the agent remembers; only root may look.
    pub fn state(&self) -> PathBuf {
        self.root.join("var/lib/fleet-agent")
    }

    /// How to enrol: written by the seed, deleted once used.
    pub fn enrol(&self) -> PathBuf {
        self.root.join("etc/fleet-agent/enrol.json")
    }

    /// The node's first private key.
    pub fn key(&self) -> PathBuf {
        self.state().join("key")
    }

    /// Certificates, and where to dial.
    pub fn credentials(&self) -> PathBuf {
        self.state().join("credentials.json")
    }

    /// The desired state last accepted.
    pub fn desired(&self) -> PathBuf {
        self.work().join(DESIRED)
    }

    /// Outdates what the node was to be when another version left it its work: there is something newer, which a
    /// version that comes back must not undo.
    pub(crate) fn outdate(&self) -> Result<(), AtomicError> {
        match self.work.as_ref().and_then(|work| work.copy.as_ref()) {
            Some(copy) => atomic::remove(&copy.join(DESIRED)),
            None => Ok(()),
        }
    }

    fn work(&self) -> PathBuf {
        self.work.as_ref().map_or_else(|| self.state(), |work| work.folder.clone())
    }

    /// What was being applied.
    pub fn journal(&self) -> PathBuf {
        self.work().join(JOURNAL)
    }

    /// Artifacts of the controller, each under its digest.
    pub fn artifacts(&self) -> PathBuf {
        self.state().join("artifacts")
    }

    /// Whom releases of this agent are taken from, and the newest order to take one.
    pub fn release(&self) -> PathBuf {
        self.state().join("release")
    }

    /// There while an agent runs: during which boot it began.
    pub(crate) fn running(&self) -> PathBuf {
        self.state().join("running")
    }

    /// How often one ended otherwise than in order.
    pub(crate) fn crashes(&self) -> PathBuf {
        self.state().join("crashes")
    }

    /// The host's own id, drawn at its first boot.
    pub fn machine_id(&self) -> PathBuf {
        self.root.join("etc/machine-id")
    }

    /// The root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the agent's folder and takes its lock, held as long as the result lives. Two agents on one
    /// node would undo each other's work.
    pub(crate) fn claim(&self) -> Result<Flock<File>, AgentError> {
        let folder = self.state();
        let failed = |source| AgentError::Folder { path: folder.clone(), source };
        if !folder.is_dir() {
            if let Some(parent) = folder.parent() {
                fs::create_dir_all(parent).map_err(failed)?;
            }
            DirBuilder::new().mode(0o700).create(&folder).map_err(failed)?;
        }
        let path = folder.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| AgentError::Running { path })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn one_agent_at_a_time() {
        let root = tempfile::tempdir().expect("folder");
        let places = Places::below(root.path());
        let first = places.claim().expect("first");
        assert_eq!(fs::metadata(places.state()).expect("state").mode() & 0o777, 0o700);
        assert!(matches!(places.claim(), Err(AgentError::Running { .. })));
        drop(first);
        places.claim().expect("free again");
    }
}
