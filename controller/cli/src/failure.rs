//! How a command ends when it does not end well.

use std::fmt;

/// Exit status of fleetctl; documented in the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Tried and failed.
    Failed = 1,
    /// `up --preview` or `rollout start --preview` found changes, or `cloud orphans` found some.
    Changes = 2,
    /// Done, but not every node is ready or updated, or not everything was imported.
    NotReady = 3,
    /// No controller or no cloud answers, or not every controller was told.
    Unreachable = 4,
    /// A rollout is halted: nothing more happens until somebody decides.
    Halted = 5,
    /// A rollout is under way.
    Running = 6,
    /// The plan or the arguments are wrong, or the host lacks something; nothing was touched (`EX_USAGE`).
    Input = 64,
    /// Ended by Ctrl-C.
    Interrupted = 130,
}

/// One clear error: what failed, and what to try.
#[derive(Debug)]
pub struct Failure {
    /// Status the program ends with.
    pub exit: Exit,
    what: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure with its exit status.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), hint: None }
    }

    /// A failure whose details are on the screen already.
    pub fn shown(exit: Exit) -> Self {
        Self::new(exit, String::new())
    }

    /// Adds the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Prints to standard error; legible without colour.
    pub fn print(&self) {
        if self.what.is_empty() {
            return;
        }
        let red = console::style("error:").red().bold().for_stderr();
        eprintln!("{red} {}", self.what);
        if let Some(hint) = &self.hint {
            let cyan = console::style("hint:").cyan().for_stderr();
            eprintln!("{cyan} {hint}");
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}
