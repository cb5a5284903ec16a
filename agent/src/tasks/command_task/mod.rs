//! A command: run until its guard says that it is done, or once for each change of its own text if it has no guard.
//!
//! Output goes to files below [`OUTPUT`], bounded; every byte is counted all the same. Cut off half way, or failed, it
//! is run again: a command without a guard runs at least once.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use fleet_proto::v1::CommandTask;
use fleet_task::{Command as Program, Finding, Node, Said, Spill, Spilled, Task, TaskError, TaskId};

use super::support::{hex, names};

/// Where output is kept, one pair of files for each task.
const OUTPUT: &str = "/var/lib/fleet-agent/output";
/// Most bytes kept of each output.
const MOST: u64 = 16 << 20;
/// How long a command may take if the plan says nothing.
const USUAL: Duration = Duration::from_secs(300);
/// How long looking whether it is done may take.
const GUARD: Duration = Duration::from_secs(60);
/// Longest command line shown, in characters.
const SHOWN: usize = 120;
/// Longest last line shown, in characters.
const LAST: usize = 200;
/// What is remembered of a command without a guard.
const RAN: &str = "ran";

/// Runs a command when it has to be.
#[derive(Clone, Debug)]
pub struct Command {
    id: TaskId,
    spec: CommandTask,
    done: Arc<Mutex<Vec<String>>>,
}

impl Command {
    /// A command as `spec` says.
    pub fn new(id: TaskId, spec: CommandTask) -> Self {
        Self { id, spec, done: Arc::default() }
    }

    fn is_fine(&self) -> Result<(), TaskError> {
        program("the command", &self.spec.args)?;
        if !self.spec.unless.is_empty() {
            program("`unless`", &self.spec.unless)?;
        }
        if !self.spec.creates.is_empty() {
            names::path("`creates`", &self.spec.creates)?;
        }
        Ok(())
    }

    fn limit(&self) -> Duration {
        match self.spec.timeout_s {
            0 => USUAL,
            seconds => Duration::from_secs(seconds.into()),
        }
    }

    fn has_guard(&self) -> bool {
        !self.spec.unless.is_empty() || !self.spec.creates.is_empty()
    }

    /// Of its own text, so that another one is run again.
    fn digest(&self) -> String {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        for arg in &self.spec.args {
            context.update(arg.as_bytes());
            context.update(&[0]);
        }
        hex(context.finish().as_ref())
    }

    /// `None` if it is done, else why it is not.
    async fn pending(&self, node: &Node) -> Result<Option<String>, TaskError> {
        if !self.has_guard() {
            let ran = node.journal().recall(&self.id, RAN);
            return Ok(match ran {
                Some(digest) if digest == self.digest() => None,
                Some(_) => Some("it is another one than was run before".into()),
                None => Some("it was not run yet".into()),
            });
        }
        let mut why = Vec::new();
        if !self.spec.creates.is_empty() {
            if node.path(&self.spec.creates).exists() {
                return Ok(None);
            }
            why.push(format!("{} is not there", self.spec.creates));
        }
        if let Some((name, args)) = self.spec.unless.split_first() {
            let output = node.output(&Program::new(name, args).within(GUARD.min(self.limit()))).await?;
            if output.code == Some(0) {
                return Ok(None);
            }
            why.push(format!("`{}` ends with {}", shown(&self.spec.unless), output.status()));
        }
        Ok(Some(why.join(", ")))
    }

    fn files(&self, node: &Node) -> Result<Spill, TaskError> {
        let folder = node.path(OUTPUT);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|source| {
            TaskError::Refused {
                why: format!("{OUTPUT} cannot be made: {source}"),
                next: "look at the folder and at its free space on the node".into(),
            }
        })?;
        // Names of tasks come from the plan.
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' };
        let name: String = self.id.as_str().chars().map(plain).collect();
        let file = |ending| folder.join(format!("{name}.{ending}"));
        Ok(Spill { stdout: file("out"), stderr: file("err"), most: MOST })
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A program to be found in the usual folders, or by its path, and its arguments.
fn program(what: &str, args: &[String]) -> Result<(), TaskError> {
    let Some(name) = args.first() else { return Err(names::refuse(format!("{what} is empty"))) };
    if args.iter().any(|arg| arg.contains('\0')) {
        return Err(names::refuse(format!("{what} has a NUL character in it")));
    }
    if name.starts_with('/') {
        return names::path("the program", name);
    }
    if name.is_empty() || name.contains('/') || name.starts_with('-') || name.chars().any(char::is_control) {
        let why = format!(
            "{what} begins with `{}`, neither an absolute path nor a plain name",
            name.escape_debug()
        );
        return Err(names::refuse(why));
    }
    Ok(())
}

fn shown(args: &[String]) -> String {
    cut(&args.join(" "), SHOWN)
}

fn cut(text: &str, most: usize) -> String {
    let mut short: String = text.chars().take(most).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() > most {
        short.push('…');
    }
    short
}

/// How it went, with exact counts. Pure.
fn account(args: &[String], ended: &Spilled, took: Duration) -> String {
    let count = |said: &Said| match said.bytes - said.kept {
        0 => format!("{} bytes", said.bytes),
        _ => format!("{} bytes (the first {} kept)", said.bytes, said.kept),
    };
    let mut line = format!(
        "ran `{}`: {} in {:.1} s, {} out, {} err",
        shown(args),
        ended.status(),
        took.as_secs_f64(),
        count(&ended.stdout),
        count(&ended.stderr)
    );
    let failed = ended.code != Some(0);
    let order = if failed { [&ended.stderr, &ended.stdout] } else { [&ended.stdout, &ended.stderr] };
    if let Some(last) = order.into_iter().find_map(last) {
        line.push_str(&format!("; its last line: {last}"));
    }
    line
}

fn last(said: &Said) -> Option<String> {
    let text = String::from_utf8_lossy(&said.tail);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(cut(line, LAST))
}

#[async_trait]
impl Task for Command {
    fn id(&self) -> &TaskId {
        &self.id
    }

    async fn check(&self, node: &Node) -> Result<Finding, TaskError> {
        self.is_fine()?;
        let pending = self.pending(node).await?;
        Ok(Finding::drift(pending.map(|why| format!("run `{}`: {why}", shown(&self.spec.args)))))
    }

    async fn apply(&self, node: &Node) -> Result<(), TaskError> {
        self.told().clear();
        self.is_fine()?;
        let Some((name, args)) = self.spec.args.split_first() else { return Ok(()) };
        let files = self.files(node)?;
        let began = Instant::now();
        let ended = node.spill(&Program::new(name, args).within(self.limit()), &files).await?;
        let line = account(&self.spec.args, &ended, began.elapsed());
        tracing::info!(task = %self.id, %line, "command");
        if ended.code != Some(0) {
            return Err(TaskError::Refused {
                why: line,
                next: format!("read {} and {} on the node", files.stderr.display(), files.stdout.display()),
            });
        }
        if !self.has_guard() {
            node.journal().remember(&self.id, RAN, &self.digest())?;
        }
        *self.told() = vec![line];
        Ok(())
    }

    fn done(&self) -> Vec<String> {
        self.told().clone()
    }

    fn deadline(&self) -> Duration {
        // Looked at twice, with a moment for the rest.
        self.limit() + 2 * GUARD + Duration::from_secs(30)
    }
}

#[cfg(test)]
mod tests {
    use fleet_task::{Output, SystemRunner};

    use super::*;
    use crate::tasks::{support::fake::Debian, tests::Rig};

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn task(spec: CommandTask) -> Command {
        Command::new(TaskId::new("a/name"), spec)
    }

    /// With the host's own programs: they write nowhere but into their pipes.
    fn real() -> Rig {
        Rig::with(Arc::new(SystemRunner), &[])
    }

    #[tokio::test]
    async fn without_a_guard_it_runs_once_for_each_change_of_its_text() {
        let rig = real();
        let spec = CommandTask { args: words("printf one\\ntwo"), ..CommandTask::default() };
        let changes = rig.changed(&task(spec.clone())).await;
        let line = &changes[0];
        assert!(line.starts_with("ran `printf one\\ntwo`: status 0 in 0."), "{line}");
        assert!(line.ends_with(" s, 7 bytes out, 0 bytes err; its last line: two"), "{line}");
        assert_eq!(rig.text("/var/lib/fleet-agent/output/a_name.out"), "one\ntwo");
        rig.unchanged(&task(spec)).await;
        let other = CommandTask { args: words("printf three"), ..CommandTask::default() };
        rig.changed(&task(other.clone())).await;
        rig.unchanged(&task(other)).await;
    }

    #[tokio::test]
    async fn output_without_end_is_counted_to_the_last_byte() {
        let rig = real();
        let script = "head -c 20000000 /dev/zero; echo; echo the end";
        let args = vec!["sh".into(), "-c".into(), script.into()];
        let changes = rig.changed(&task(CommandTask { args, ..CommandTask::default() })).await;
        assert!(
            changes[0].contains("20000009 bytes (the first 16777216 kept) out, 0 bytes err"),
            "{changes:?}"
        );
        assert!(changes[0].ends_with("its last line: the end"), "{changes:?}");
        let kept = std::fs::metadata(rig.path("/var/lib/fleet-agent/output/a_name.out")).expect("file").len();
        assert_eq!(kept, MOST);
    }

    #[tokio::test]
    async fn guards_say_when_it_is_done() {
        let rig = real();
        let marker = rig.path("/marker").display().to_string();
        let make =
            |guard: CommandTask| task(CommandTask { args: vec!["touch".into(), marker.clone()], ..guard });
        let creates = make(CommandTask { creates: "/marker".into(), ..CommandTask::default() });
        rig.changed(&creates).await;
        rig.unchanged(&creates).await;
        std::fs::remove_file(&marker).expect("marker");
        let unless = vec!["test".into(), "-e".into(), marker.clone()];
        let unless = make(CommandTask { unless, ..CommandTask::default() });
        rig.changed(&unless).await;
        rig.unchanged(&unless).await;
        std::fs::remove_file(&marker).expect("marker");
        rig.changed(&unless).await;
        let never = make(CommandTask { creates: "/elsewhere".into(), ..CommandTask::default() });
        let why = rig.failed(&never).await;
        assert!(why.contains("still differs") && why.contains("/elsewhere is not there"), "{why}");
    }

    #[tokio::test]
    async fn a_failure_says_how_it_went_and_where_to_read() {
        let rig = real();
        let args = vec!["sh".into(), "-c".into(), "echo out; echo wrong >&2; exit 3".into()];
        let failing = task(CommandTask { args, ..CommandTask::default() });
        let why = rig.failed(&failing).await;
        assert!(why.contains("status 3 in 0.") && why.contains("4 bytes out, 6 bytes err"), "{why}");
        assert!(why.contains("its last line: wrong; next: read ") && why.contains("a_name.err"), "{why}");
        rig.failed(&failing).await;
    }

    #[tokio::test]
    async fn bad_input_is_refused_before_anything_runs() {
        let check = async |spec: CommandTask, expected: &str| {
            let (debian, rig) = Debian::rig(&[]);
            debian.answers("x", Output::ok(""));
            let why = rig.failed(&task(spec)).await;
            assert!(why.contains(expected) && why.contains("next: correct the plan"), "{why}");
            assert_eq!(debian.ran("").len(), 0);
        };
        let fine = || CommandTask { args: words("x"), ..CommandTask::default() };
        check(CommandTask::default(), "the command is empty").await;
        check(CommandTask { args: words("./x"), ..fine() }, "neither an absolute path nor a plain name")
            .await;
        check(CommandTask { args: words("/usr/../x"), ..fine() }, "has empty parts").await;
        check(CommandTask { args: vec!["x".into(), "a\0b".into()], ..fine() }, "has a NUL character").await;
        check(CommandTask { unless: words("-x"), ..fine() }, "`unless` begins with `-x`").await;
        check(CommandTask { creates: "x".into(), ..fine() }, "`creates` `x` is not an absolute path").await;
    }
}
