//! Runs the host's programs, each under a deadline, and turns what goes wrong into a [`BackingError`].

use std::{
    ffi::{OsStr, OsString},
    io,
    process::Stdio,
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use crate::backing::BackingError;

/// Most programs here take milliseconds; a host this slow cannot run machines.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of what a failing program said is kept.
const KEPT_STDERR: usize = 1500;

/// One program to run to its end.
#[derive(Debug)]
pub struct Program {
    name: String,
    args: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    input: Option<Vec<u8>>,
    timeout: Duration,
}

impl Program {
    /// A program found through `PATH`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            args: Vec::new(),
            environment: Vec::new(),
            input: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets one variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Gives the program something to read; without it there is nothing to read.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Allows more or less time than the default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs it; a failing exit status is an error. Answers what it printed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills the program.
    pub async fn run(self, doing: &str) -> Result<String, BackingError> {
        let seconds = self.timeout.as_secs();
        let (name, limit) = (self.name.clone(), self.timeout);
        let output = match timeout(limit, self.output()).await {
            Ok(output) => output.map_err(|source| Doing::new(format!("{doing}: run `{name}`")).io(source))?,
            Err(_) => {
                return Err(BackingError::Deadline {
                    doing: format!("{doing} with `{name}`"),
                    after_s: seconds,
                });
            }
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(BackingError::Program {
                doing: doing.to_owned(),
                program: name,
                stderr: match tail(said.trim()) {
                    "" => output.status.to_string(),
                    said => said.to_owned(),
                },
            });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    async fn output(self) -> io::Result<std::process::Output> {
        let mut command = Command::new(&self.name);
        command
            .args(&self.args)
            .envs(self.environment)
            .env("LC_ALL", "C.UTF-8")
            .stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        let feed = async {
            if let (Some(mut stdin), Some(input)) = (stdin, self.input) {
                // A program that stops reading says why on its standard error and by its status.
                let _ = stdin.write_all(&input).await;
            }
        };
        let ((), output) = tokio::join!(feed, child.wait_with_output());
        output
    }
}

/// What is being done, for errors of files and sockets.
#[derive(Debug)]
pub struct Doing(String);

impl Doing {
    /// Names it, with the path.
    pub fn new(doing: impl Into<String>) -> Self {
        Self(doing.into())
    }

    /// The error that stopped it.
    pub fn io(self, source: io::Error) -> BackingError {
        BackingError::Io { doing: self.0, source }
    }
}

/// The last part of a text: programs say what matters at the end.
fn tail(text: &str) -> &str {
    let mut from = text.len().saturating_sub(KEPT_STDERR);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_reads_its_input() {
        let said = Program::new("cat").input("hello").run("test").await.expect("cat runs");
        assert_eq!(said, "hello");
    }

    #[tokio::test]
    async fn failures_say_what_the_program_said() {
        let error = Program::new("sh").args(["-c", "echo reason >&2; exit 3"]).run("try").await;
        assert_eq!(error.expect_err("fails").to_string(), "try: `sh` failed: reason");
        let error = Program::new("sh").args(["-c", "exit 3"]).run("try").await;
        assert_eq!(error.expect_err("fails").to_string(), "try: `sh` failed: exit status: 3");
        let error = Program::new("/nonexistent").run("try").await.expect_err("fails");
        assert_eq!(error.to_string(), "try: run `/nonexistent`");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended() {
        let error = Program::new("sleep")
            .arg("60")
            .timeout(Duration::from_millis(50))
            .run("wait")
            .await
            .expect_err("fails");
        assert!(matches!(error, BackingError::Deadline { .. }));
    }

    #[test]
    fn the_tail_cuts_between_characters() {
        let text = format!("é{}", "x".repeat(KEPT_STDERR - 1));
        assert_eq!(tail(&text), "x".repeat(KEPT_STDERR - 1));
    }
}
