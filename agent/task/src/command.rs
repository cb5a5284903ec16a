//! Running programs on the node: arguments as a list, a clean environment, a deadline, bounded output.

use std::{fmt, io, path::PathBuf, time::Duration};

use async_trait::async_trait;

use crate::process::{self, Sink};

/// Longest piece of standard error quoted in a message.
const QUOTED: usize = 400;
/// Where programs are looked for; the environment is otherwise empty but for the language.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program and its arguments; never a shell line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Name, looked for in the usual folders.
    pub program: String,
    /// Arguments, one each.
    pub args: Vec<String>,
    /// What its environment holds beside `PATH` and `LC_ALL`.
    pub env: Vec<(String, String)>,
    /// How long it may take.
    pub deadline: Duration,
}

impl Command {
    /// A command with a deadline of a minute.
    pub fn new<A: Into<String>>(program: impl Into<String>, args: impl IntoIterator<Item = A>) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            deadline: Duration::from_secs(60),
        }
    }

    /// The same with another deadline.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The same with one more variable in its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program)?;
        self.args.iter().try_for_each(|arg| write!(f, " {arg}"))
    }
}

/// What a program that ended said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Exit status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output, at most 1 MiB.
    pub stdout: Vec<u8>,
    /// Standard error, at most 1 MiB.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Success with this on standard output.
    pub fn ok(stdout: impl Into<Vec<u8>>) -> Self {
        Self { code: Some(0), stdout: stdout.into(), stderr: Vec::new() }
    }

    /// `status 5`, or that a signal ended it.
    pub fn status(&self) -> String {
        status(self.code)
    }
}

/// `status 5`, or that a signal ended it.
pub(crate) fn status(code: Option<i32>) -> String {
    code.map_or_else(|| "a signal".into(), |code| format!("status {code}"))
}

/// Where a program's words are put, and how many of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spill {
    /// File for standard output; replaced.
    pub stdout: PathBuf,
    /// File for standard error; replaced.
    pub stderr: PathBuf,
    /// Most bytes kept in each; the rest is counted and dropped.
    pub most: u64,
}

/// What a program that ended said, its words being in files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spilled {
    /// Exit status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Of standard output.
    pub stdout: Said,
    /// Of standard error.
    pub stderr: Said,
}

impl Spilled {
    /// `status 5`, or that a signal ended it.
    pub fn status(&self) -> String {
        status(self.code)
    }
}

/// How much was said, and what came last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// All bytes, also those that were dropped.
    pub bytes: u64,
    /// How many of them are in the file.
    pub kept: u64,
    /// The last bytes, at most 1 KiB.
    pub tail: Vec<u8>,
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("start `{program}`")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Reading what it said failed.
    #[error("read the output of `{program}`")]
    Read {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What it said could not be kept.
    #[error("keep the output of `{program}` in {}", path.display())]
    Keep {
        /// The program.
        program: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("`{command}` was still running after {} s and was ended", deadline.as_secs())]
    Deadline {
        /// The whole command.
        command: String,
        /// What it was given.
        deadline: Duration,
    },
    /// It ended with another status than 0.
    #[error("`{command}` ended with {status}: {said}")]
    Failed {
        /// The whole command.
        command: String,
        /// `status 5`, or that a signal ended it.
        status: String,
        /// The end of its standard error.
        said: String,
    },
    /// Programs are not run for this node: its root folder is not the host's.
    #[error("`{program}` is not run: this agent works below another root folder than /")]
    Elsewhere {
        /// The program.
        program: String,
    },
}

impl CommandError {
    /// What a person can do about it.
    pub fn next_step(&self) -> String {
        match self {
            Self::Start { program, .. } => {
                format!("install the package that brings `{program}` (`apt-file search bin/{program}`)")
            }
            Self::Elsewhere { .. } => "run the agent with --root / on a node".into(),
            Self::Read { program, .. } => format!("run `{program}` on the node by hand"),
            Self::Keep { path, .. } => {
                format!("look at the folder of {} on the node, and at its free space", path.display())
            }
            Self::Deadline { command, .. } | Self::Failed { command, .. } => {
                format!("run `{command}` on the node by hand and look at what it says")
            }
        }
    }
}

/// Runs programs.
#[async_trait]
pub trait Runner: Send + Sync + fmt::Debug {
    /// Runs `command` to its end.
    ///
    /// # Cancel safety
    /// Dropping the future ends the program.
    async fn output(&self, command: &Command) -> Result<Output, CommandError>;

    /// Runs `command` to its end, what it says going to files.
    ///
    /// # Cancel safety
    /// Dropping the future ends the program; the files keep what has come so far.
    async fn spill(&self, command: &Command, files: &Spill) -> Result<Spilled, CommandError> {
        let output = self.output(command).await?;
        let (mut stdout, mut stderr) = process::sinks(command, files)?;
        stdout.take(&output.stdout);
        stderr.take(&output.stderr);
        Ok(Spilled { code: output.code, stdout: stdout.end()?, stderr: stderr.end()? })
    }
}

/// Runs real programs on this host. Each is the leader of a process group, and when it has to be ended the whole group
/// is: a program left behind would go on with work that nobody waits for.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRunner;

#[async_trait]
impl Runner for SystemRunner {
    async fn output(&self, command: &Command) -> Result<Output, CommandError> {
        let (mut stdout, mut stderr) = (process::Kept::default(), process::Kept::default());
        let code = process::run(command, &mut stdout, &mut stderr).await?;
        Ok(Output { code, stdout: stdout.0, stderr: stderr.0 })
    }

    async fn spill(&self, command: &Command, files: &Spill) -> Result<Spilled, CommandError> {
        let (mut stdout, mut stderr) = process::sinks(command, files)?;
        let code = process::run(command, &mut stdout, &mut stderr).await?;
        Ok(Spilled { code, stdout: stdout.end()?, stderr: stderr.end()? })
    }
}

/// Refuses to run anything: the runner of an agent whose root folder is not the host's, so that a rehearsal
/// in a folder can never reach the host's disks.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRunner;

#[async_trait]
impl Runner for NoRunner {
    async fn output(&self, command: &Command) -> Result<Output, CommandError> {
        Err(CommandError::Elsewhere { program: command.program.clone() })
    }
}

/// Success, or the failure as an error that quotes what the program said.
pub(crate) fn succeeded(command: &Command, output: Output) -> Result<Output, CommandError> {
    if output.code == Some(0) {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let said = said.join("; ");
    let from = said.char_indices().rev().nth(QUOTED).map_or(0, |(at, _)| at);
    Err(CommandError::Failed {
        command: command.to_string(),
        status: output.status(),
        said: said[from..].to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    async fn sh(script: &str, deadline: Duration) -> Result<Output, CommandError> {
        let command = Command::new("sh", ["-c", script]).within(deadline);
        let output = SystemRunner.output(&command).await?;
        succeeded(&command, output)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn the_environment_is_clean() {
        let output = SystemRunner.output(&Command::new("env", [""; 0])).await.expect("env");
        let text = String::from_utf8(output.stdout).expect("text");
        let seen: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        assert_eq!(seen, BTreeMap::from([("PATH", PATH), ("LC_ALL", "C")]));
    }

    #[tokio::test]
    async fn a_failure_quotes_what_was_said() {
        let error = sh("echo one >&2; echo two >&2; exit 5", LONG).await.expect_err("status 5");
        assert!(error.to_string().ends_with("ended with status 5: one; two"), "{error}");
    }

    #[tokio::test]
    async fn a_deadline_ends_it() {
        let error = sh("sleep 600", Duration::from_millis(50)).await.expect_err("too long");
        assert!(matches!(error, CommandError::Deadline { .. }), "{error}");
    }

    #[tokio::test]
    async fn output_is_bounded() {
        let output = sh("head -c 3000000 /dev/zero", LONG).await.expect("zeros");
        assert_eq!(output.stdout.len(), process::MAX_OUTPUT);
    }

    #[tokio::test]
    async fn a_missing_program_names_itself() {
        let error =
            SystemRunner.output(&Command::new("no-such-program", [""; 0])).await.expect_err("missing");
        assert_eq!(error.to_string(), "start `no-such-program`");
        assert!(error.next_step().contains("install"));
    }

    #[tokio::test]
    async fn elsewhere_nothing_runs() {
        let error = NoRunner.output(&Command::new("true", [""; 0])).await.expect_err("refused");
        assert!(matches!(error, CommandError::Elsewhere { .. }));
    }
}
