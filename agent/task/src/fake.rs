//! Stand-ins for tests: a task that does as told, a runner that answers from a list, a controller that gives what it
//! is told to.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt, fs,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use fleet_proto::v1;

use crate::{
    AWAY, Command, CommandError, Controller, Finding, Node, Output, Permission, Runner, Task, TaskError,
    TaskId,
};

/// How a [`FakeTask`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// `apply` repairs the drift.
    Works,
    /// `apply` says it worked, and nothing changed.
    Lies,
    /// `apply` fails.
    Fails,
    /// `apply` never ends.
    Hangs,
    /// `check` says it waits.
    Waits,
    /// `check` fails.
    CannotLook,
    /// `apply` meets something to wait for.
    NotYet,
}

/// A task with one bit of state and a chosen behaviour.
#[derive(Debug)]
pub struct FakeTask {
    id: TaskId,
    behaviour: Behaviour,
    /// Whether the node is as desired.
    pub converged: AtomicBool,
    /// How often `check` was called.
    pub checks: AtomicU32,
    /// How often `apply` was called.
    pub applies: AtomicU32,
    /// What check, apply and check may take together.
    pub deadline: Duration,
    /// What its `apply` needs.
    pub permit: Option<String>,
    /// Whether nobody is the worse for an `apply` that fails under it.
    pub gentle: bool,
    /// Whether later phases wait for what it waits for.
    pub holds: bool,
}

impl FakeTask {
    /// A task that finds drift at first.
    pub fn new(name: &str, behaviour: Behaviour) -> Self {
        Self {
            id: TaskId::new(name),
            behaviour,
            converged: AtomicBool::new(false),
            checks: AtomicU32::new(0),
            applies: AtomicU32::new(0),
            deadline: Duration::from_secs(60),
            permit: None,
            gentle: false,
            holds: true,
        }
    }

    /// The same, needing a permit.
    #[must_use]
    pub fn needing(mut self, permit: &str) -> Self {
        self.permit = Some(permit.into());
        self
    }
}

#[async_trait]
impl Task for FakeTask {
    fn id(&self) -> &TaskId {
        &self.id
    }

    async fn check(&self, _node: &Node) -> Result<Finding, TaskError> {
        self.checks.fetch_add(1, Ordering::SeqCst);
        match self.behaviour {
            Behaviour::Waits => Ok(Finding::waiting("a disk")),
            Behaviour::CannotLook => Err(refusal("cannot look")),
            _ if self.converged.load(Ordering::SeqCst) => Ok(Finding::converged()),
            _ => {
                let finding = Finding::drift([format!("{} differs", self.id)]);
                Ok(Finding { permit: self.permit.clone(), gentle: self.gentle, ..finding })
            }
        }
    }

    async fn apply(&self, _node: &Node) -> Result<(), TaskError> {
        self.applies.fetch_add(1, Ordering::SeqCst);
        match self.behaviour {
            Behaviour::Fails => Err(refusal("cannot move")),
            Behaviour::NotYet => Err(TaskError::NotYet("a lock".into())),
            Behaviour::Hangs => std::future::pending().await,
            Behaviour::Lies => Ok(()),
            _ => {
                self.converged.store(true, Ordering::SeqCst);
                Ok(())
            }
        }
    }

    fn holds(&self) -> bool {
        self.holds
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }
}

fn refusal(why: &str) -> TaskError {
    TaskError::Refused { why: why.into(), next: "look at the test".into() }
}

/// A runner that hands out prepared answers in order and notes what it was asked.
#[derive(Debug, Default)]
pub struct FakeRunner {
    answers: Mutex<VecDeque<Output>>,
    asked: Mutex<Vec<String>>,
}

impl FakeRunner {
    /// A runner with these answers; it fails as a missing program would when they run out.
    pub fn answering(answers: impl IntoIterator<Item = Output>) -> Self {
        Self { answers: Mutex::new(answers.into_iter().collect()), asked: Mutex::default() }
    }

    /// The commands it was asked to run, as text.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Runner for FakeRunner {
    async fn output(&self, command: &Command) -> Result<Output, CommandError> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(command.to_string());
        let answer = self.answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        answer.ok_or_else(|| CommandError::Start {
            program: command.program.clone(),
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        })
    }
}

type Certify = dyn Fn(Vec<u8>) -> Result<v1::ServiceCredentials, TaskError> + Send + Sync;

/// A controller that gives what it was told to give.
#[derive(Default)]
pub struct FakeController {
    state: Mutex<Given>,
}

#[derive(Default)]
struct Given {
    away: bool,
    permits: BTreeSet<String>,
    asked: Vec<String>,
    released: Vec<String>,
    artifacts: BTreeMap<String, PathBuf>,
    certify: Option<Box<Certify>>,
}

impl fmt::Debug for FakeController {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeController").field("permits", &self.given().permits).finish_non_exhaustive()
    }
}

impl FakeController {
    /// Gives this permit from now on.
    pub fn grant(&self, permit: &str) {
        self.given().permits.insert(permit.into());
    }

    /// Gives this permit no more.
    pub fn revoke(&self, permit: &str) {
        self.given().permits.remove(permit);
    }

    /// There is no session from now on, or there is one again.
    pub fn away(&self, away: bool) {
        self.given().away = away;
    }

    /// Holds these bytes as an artifact, in a file of `folder`; what names it in a desired state.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn hold(&self, folder: &std::path::Path, name: &str, bytes: &[u8]) -> v1::Artifact {
        let digest = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        // As long as a real digest, and as telling for a test.
        let sha256 = format!("{digest:016x}").repeat(4);
        let path = folder.join(&sha256);
        fs::write(&path, bytes).expect("a folder of the test's");
        self.given().artifacts.insert(sha256.clone(), path);
        v1::Artifact { name: name.into(), sha256, size: bytes.len() as u64 }
    }

    /// Holds these bytes as the artifact of that digest.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn hold_as(&self, folder: &std::path::Path, sha256: &str, bytes: &[u8]) {
        let path = folder.join(sha256);
        fs::write(&path, bytes).expect("a folder of the test's");
        self.given().artifacts.insert(sha256.to_owned(), path);
    }

    /// Holds this file as an artifact.
    pub fn holds(&self, artifact: &v1::Artifact, path: PathBuf) {
        self.given().artifacts.insert(artifact.sha256.clone(), path);
    }

    /// Answers requests for certificates.
    pub fn certifies(
        &self,
        certify: impl Fn(Vec<u8>) -> Result<v1::ServiceCredentials, TaskError> + Send + Sync + 'static,
    ) {
        self.given().certify = Some(Box::new(certify));
    }

    /// The permits it was asked for, in order.
    pub fn asked(&self) -> Vec<String> {
        self.given().asked.clone()
    }

    /// The permits it was given back, in order.
    pub fn released(&self) -> Vec<String> {
        self.given().released.clone()
    }

    fn given(&self) -> MutexGuard<'_, Given> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Controller for FakeController {
    fn is_connected(&self) -> bool {
        !self.given().away
    }

    fn permit(&self, permit: &str, _task: &TaskId) -> Permission {
        let mut given = self.given();
        given.asked.push(permit.to_owned());
        match (given.away, given.permits.contains(permit)) {
            (true, _) => Permission::Waiting(AWAY.into()),
            (false, true) => Permission::Held,
            (false, false) => Permission::Waiting(format!("its turn for `{permit}`")),
        }
    }

    fn release(&self, permit: &str) {
        self.given().released.push(permit.to_owned());
    }

    async fn artifact(&self, artifact: &v1::Artifact) -> Result<PathBuf, TaskError> {
        let given = self.given();
        match given.artifacts.get(&artifact.sha256) {
            Some(path) => Ok(path.clone()),
            None if given.away => Err(TaskError::NotYet(AWAY.into())),
            None => Err(refusal("no such artifact")),
        }
    }

    async fn certify(&self, csr: Vec<u8>) -> Result<v1::ServiceCredentials, TaskError> {
        let given = self.given();
        match &given.certify {
            _ if given.away => Err(TaskError::NotYet(AWAY.into())),
            Some(certify) => certify(csr),
            None => Err(refusal("no certificates here")),
        }
    }
}
