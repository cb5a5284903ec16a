//! What systemd knows of a unit, and having it do something about it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fleet_task::{Command, Node, TaskError, TaskId};
use serde::{Deserialize, Serialize};

const PROPERTIES: &str = "LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,InvocationID,\
                          ExecMainStartTimestampMonotonic";
/// How long starting or stopping may take; systemd's own limit is 90 s for each.
const ACT: Duration = Duration::from_secs(200);
/// Lines of a unit's log quoted in a failure.
const QUOTED: &str = "4";

/// A unit as systemd has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// Its name, with its kind.
    pub name: String,
    /// `loaded`, `not-found`, `masked`…
    pub load: String,
    /// `active`, `inactive`, `failed`, `activating`…
    pub active: String,
    /// Finer than that: `running`, `dead`, `auto-restart`…
    pub sub: String,
    /// `enabled`, `disabled`, `static`…
    pub file: String,
    /// Another one with every start.
    pub invocation: String,
    /// When its main process was started, since the boot of the node.
    pub started: Option<Duration>,
    /// Its file is not the one systemd has read.
    pub outdated: bool,
}

impl Unit {
    /// Whether it is at work.
    pub fn is_running(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading")
    }

    /// Whether it is started at boot, or cannot be said to be: what has no `[Install]` section is started by others.
    pub fn is_enabled(&self) -> bool {
        matches!(self.file.as_str(), "enabled" | "alias" | "static" | "indirect" | "generated" | "transient")
    }

    /// How it is, for people.
    pub fn state(&self) -> String {
        match self.sub.as_str() {
            "" => self.active.clone(),
            sub => format!("{}, {sub}", self.active),
        }
    }

    fn parse(name: &str, text: &str) -> Self {
        let mut unit = Self { name: name.to_owned(), ..Self::default() };
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "LoadState" => value.clone_into(&mut unit.load),
                "ActiveState" => value.clone_into(&mut unit.active),
                "SubState" => value.clone_into(&mut unit.sub),
                "UnitFileState" => value.clone_into(&mut unit.file),
                "InvocationID" => value.clone_into(&mut unit.invocation),
                "NeedDaemonReload" => unit.outdated = value == "yes",
                "ExecMainStartTimestampMonotonic" => {
                    let micros = value.parse().ok().filter(|micros| *micros > 0);
                    unit.started = micros.map(Duration::from_micros);
                }
                _ => (),
            }
        }
        unit
    }
}

/// How a unit is; one short program.
///
/// # Errors
/// [`TaskError::Command`] if systemd does not answer.
pub async fn show(node: &Node, name: &str) -> Result<Unit, TaskError> {
    let output = node.run(&Command::new("systemctl", ["show", "-p", PROPERTIES, "--", name])).await?;
    Ok(Unit::parse(name, &String::from_utf8_lossy(&output.stdout)))
}

/// Has systemd read its files again.
///
/// # Errors
/// [`TaskError::Command`].
pub async fn daemon_reload(node: &Node) -> Result<(), TaskError> {
    node.run(&Command::new("systemctl", ["daemon-reload"]).within(ACT)).await?;
    Ok(())
}

/// Has systemd `start`, `stop`, `restart`, `enable`… a unit; a failure quotes the end of the unit's log.
///
/// # Errors
/// [`TaskError::Refused`].
pub async fn act(node: &Node, verb: &str, name: &str) -> Result<(), TaskError> {
    tracing::info!(verb, unit = name, "unit");
    let output = node.output(&Command::new("systemctl", [verb, "--", name]).within(ACT)).await?;
    if output.code == Some(0) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("systemctl said nothing");
    Err(failing(node, name, &format!("`systemctl {verb} {name}` ended with {}: {said}", output.status()))
        .await)
}

/// A failure of a unit, with the end of its log.
pub async fn failing(node: &Node, name: &str, why: &str) -> TaskError {
    TaskError::Refused {
        why: match log(node, name).await {
            Some(log) => format!("{why}; its log ends: {log}"),
            None => why.to_owned(),
        },
        next: format!("look at `journalctl -u {name}` on the node"),
    }
}

/// The last lines of a unit's log, if they can be had.
async fn log(node: &Node, name: &str) -> Option<String> {
    let command = Command::new("journalctl", ["--no-pager", "-q", "-o", "cat", "-n", QUOTED, "-u", name]);
    let output = node.output(&command).await.ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// The files as a certain start of a unit found them.
#[derive(Debug, Serialize, Deserialize)]
struct Start {
    invocation: String,
    digests: BTreeMap<String, String>,
}

/// Which of `files` have changed since the unit was started.
///
/// A start of ours is known with the files' digests ([`remember_start`]), so that a clock set back in between restarts
/// nothing; any other start is compared with when the files were changed.
///
/// # Errors
/// [`TaskError::Read`].
pub fn changed_since_start(
    node: &Node,
    task: &TaskId,
    unit: &Unit,
    files: &[String],
) -> Result<Vec<String>, TaskError> {
    let known = node.journal().recall(task, &note(&unit.name));
    let known: Option<Start> = known.and_then(|text| serde_json::from_str(&text).ok());
    let known = known.filter(|start| !start.invocation.is_empty() && start.invocation == unit.invocation);
    let mut changed = Vec::new();
    for file in files {
        let differs = match known.as_ref().and_then(|start| start.digests.get(file)) {
            Some(digest) => *digest != digest_of(node, file)?,
            None => is_younger(node, file, unit)?,
        };
        if differs {
            changed.push(file.clone());
        }
    }
    Ok(changed)
}

/// What [`changed_since_start`] compares with from now on. The digests are taken before a start and stored after it:
/// a file changed while a unit starts asks for another one.
#[derive(Debug)]
pub struct Before(BTreeMap<String, String>);

impl Before {
    /// The files as they are now.
    ///
    /// # Errors
    /// [`TaskError::Read`].
    pub fn starting(node: &Node, files: &[String]) -> Result<Self, TaskError> {
        let digest = |file: &String| Ok((file.clone(), digest_of(node, file)?));
        Ok(Self(files.iter().map(digest).collect::<Result<_, TaskError>>()?))
    }

    /// The unit was started with them.
    ///
    /// # Errors
    /// [`TaskError::Journal`].
    pub fn started(self, node: &Node, task: &TaskId, unit: &Unit) -> Result<(), TaskError> {
        let start = Start { invocation: unit.invocation.clone(), digests: self.0 };
        let text = serde_json::to_string(&start).expect("text keys and values");
        Ok(node.journal().remember(task, &note(&unit.name), &text)?)
    }
}

fn note(unit: &str) -> String {
    format!("start of {unit}")
}

fn digest_of(node: &Node, file: &str) -> Result<String, TaskError> {
    Ok(match node.read(file)? {
        Some(bytes) => super::hex(ring::digest::digest(&ring::digest::SHA256, &bytes).as_ref()),
        None => "absent".into(),
    })
}

/// Whether a file was changed after the unit was started; the change of its inode counts, which a copy with an old date
/// has too.
fn is_younger(node: &Node, file: &str, unit: &Unit) -> Result<bool, TaskError> {
    let (Ok(meta), Some(started)) = (fs::metadata(node.path(file)), unit.started) else { return Ok(false) };
    let Some(up) = uptime(node)? else { return Ok(false) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let begun = now.saturating_sub(up.saturating_sub(started));
    let changed =
        Duration::new(meta.ctime().try_into().unwrap_or(0), meta.ctime_nsec().try_into().unwrap_or(0));
    Ok(changed > begun)
}

/// Time since the node was booted.
///
/// # Errors
/// [`TaskError::Read`].
pub fn uptime(node: &Node) -> Result<Option<Duration>, TaskError> {
    let bytes = node.read("/proc/uptime")?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let seconds = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Ok(seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::tests::Rig;

    fn unit(invocation: &str, started: u64) -> Unit {
        let text = format!(
            "LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\nNeedDaemonReload=no\n\
             InvocationID={invocation}\nExecMainStartTimestampMonotonic={}\n",
            started * 1_000_000
        );
        Unit::parse("x.service", &text)
    }

    #[test]
    fn systemds_answer_is_read() {
        let found = unit("a1", 5);
        assert!(found.is_running() && found.is_enabled() && !found.outdated);
        assert_eq!(
            (found.state().as_str(), found.started),
            ("active, running", Some(Duration::from_secs(5)))
        );
        let dead = Unit::parse("y.service", "ActiveState=inactive\nExecMainStartTimestampMonotonic=0\n");
        assert_eq!((dead.is_running(), dead.started, dead.state().as_str()), (false, None, "inactive"));
    }

    #[test]
    fn a_start_of_ours_is_compared_by_content() {
        let rig = Rig::new(&[("/etc/x", "one"), ("/proc/uptime", "100.0 1.0\n")]);
        let (node, task, files) = (rig.node(), TaskId::new("t"), ["/etc/x".to_owned(), "/etc/y".to_owned()]);
        let changed = |unit: &Unit| changed_since_start(&node, &task, unit, &files).expect("look");
        // By the clock: started five seconds after the boot 100 s ago, and the file is of now.
        assert_eq!(changed(&unit("a1", 5)), ["/etc/x"]);
        assert_eq!(changed(&unit("a1", 200)), [""; 0], "started after the file was written");
        Before::starting(&node, &files).expect("look").started(&node, &task, &unit("a1", 5)).expect("noted");
        assert_eq!(changed(&unit("a1", 5)), [""; 0], "whatever the clock says");
        fs::write(rig.path("/etc/y"), "new").expect("write");
        assert_eq!(changed(&unit("a1", 5)), ["/etc/y"], "a file that was not there");
        assert_eq!(changed(&unit("b2", 200)), [""; 0], "another start");
    }

    #[tokio::test]
    async fn a_failure_quotes_the_log() {
        use fleet_task::{Output, fake::FakeRunner};
        let answers = [
            Output {
                code: Some(1),
                stdout: Vec::new(),
                stderr: b"Job for x.service failed.\nSee status\n".into(),
            },
            Output::ok("starting\nbad port\n"),
        ];
        let rig = Rig::with(std::sync::Arc::new(FakeRunner::answering(answers)), &[]);
        let why = act(&rig.node(), "start", "x.service").await.expect_err("fails").explain();
        let expected = "`systemctl start x.service` ended with status 1: Job for x.service failed.; its log ends: \
                        starting; bad port; next: look at `journalctl -u x.service` on the node";
        assert_eq!(why, expected);
    }
}
