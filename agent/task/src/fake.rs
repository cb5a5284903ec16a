//! Stand-ins for tests: a task that does as told, a runner that answers from a list.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use crate::{Command, CommandError, Finding, Node, Output, Runner, Task, TaskError, TaskId};

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
        }
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
            _ => Ok(Finding::drift([format!("{} differs", self.id)])),
        }
    }

    async fn apply(&self, _node: &Node) -> Result<(), TaskError> {
        self.applies.fetch_add(1, Ordering::SeqCst);
        match self.behaviour {
            Behaviour::Fails => Err(refusal("cannot move")),
            Behaviour::Hangs => std::future::pending().await,
            Behaviour::Lies => Ok(()),
            _ => {
                self.converged.store(true, Ordering::SeqCst);
                Ok(())
            }
        }
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
