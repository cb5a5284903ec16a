//! The one way a task reaches the node it works on.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Command, CommandError, Controller, Journal, NoController, Output, Runner, Spill, Spilled, TaskError,
    atomic, command,
};

/// The node: files below one root folder, programs through a [`Runner`], memory through the [`Journal`], the rest of
/// the fleet through the [`Controller`].
#[derive(Clone, Debug)]
pub struct Node {
    root: PathBuf,
    runner: Arc<dyn Runner>,
    journal: Arc<Journal>,
    controller: Arc<dyn Controller>,
}

impl Node {
    /// A node whose files are below `root`.
    pub fn new(root: impl Into<PathBuf>, runner: Arc<dyn Runner>, journal: Arc<Journal>) -> Self {
        Self { root: root.into(), runner, journal, controller: Arc::new(NoController) }
    }

    /// The same with a controller to ask.
    #[must_use]
    pub fn with_controller(mut self, controller: Arc<dyn Controller>) -> Self {
        self.controller = controller;
        self
    }

    /// Where the node's file `absolute` really is.
    pub fn path(&self, absolute: &str) -> PathBuf {
        below(&self.root, absolute)
    }

    /// The bytes of the node's file, or `None` if there is none.
    ///
    /// # Errors
    /// [`TaskError::Read`].
    pub fn read(&self, absolute: &str) -> Result<Option<Vec<u8>>, TaskError> {
        match fs::read(self.path(absolute)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(TaskError::Read { path: absolute.to_owned(), source }),
        }
    }

    /// Replaces the node's file in one step; see [`atomic::write`].
    ///
    /// # Errors
    /// [`TaskError::Write`].
    pub fn write(&self, absolute: &str, contents: &[u8], new_mode: u32) -> Result<(), TaskError> {
        Ok(atomic::write(&self.path(absolute), contents, new_mode)?)
    }

    /// Runs a program; any status but 0 is an error.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn run(&self, wanted: &Command) -> Result<Output, CommandError> {
        command::succeeded(wanted, self.runner.output(wanted).await?)
    }

    /// Runs a program; its status is the caller's to judge.
    ///
    /// # Errors
    /// [`CommandError`] if it could not be started, listened to, or ended in time.
    pub async fn output(&self, wanted: &Command) -> Result<Output, CommandError> {
        self.runner.output(wanted).await
    }

    /// Runs a program, what it says going to files; its status is the caller's to judge.
    ///
    /// # Errors
    /// As [`Node::output`], and [`CommandError::Keep`].
    pub async fn spill(&self, wanted: &Command, files: &Spill) -> Result<Spilled, CommandError> {
        self.runner.spill(wanted, files).await
    }

    /// What tasks remember between runs, also across a reboot.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// What the controller gives: permits, artifacts, certificates.
    pub fn controller(&self) -> &dyn Controller {
        self.controller.as_ref()
    }
}

/// `absolute` below `root`, which is `/` on a real node.
pub(crate) fn below(root: &Path, absolute: &str) -> PathBuf {
    root.join(absolute.trim_start_matches('/'))
}
