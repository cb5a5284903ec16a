//! The operating system: package lists refreshed and packages upgraded now and then, without questions; a reboot that
//! needs is reported, and done if the plan says so and the controller permits it. Nobody waits for either: a mirror that
//! lacks a package, or is out of reach once packages were upgraded, is a warning, and a reboot that waits for its turn
//! holds back no later phase.
//!
//! Whether an update is due is told by a stamp of ours, so that looking never starts apt. What was upgraded is known by
//! comparing dpkg's records before and after.

mod reboot;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use fleet_proto::v1::UpdateTask;
use fleet_task::{Command, Finding, Node, Task, TaskError, TaskId, age};
use serde::{Deserialize, Serialize};

use super::support::{
    apt,
    dpkg::{self, Packages},
};

const STAMP: &str = "/var/lib/fleet-agent/update.json";
/// How long an update counts as fresh if the plan says nothing.
const USUAL_HOURS: u32 = 24;
/// A stamp from further ahead than this was written by a clock that was wrong.
const AHEAD: Duration = Duration::from_secs(3600);
/// Emulated machines included.
const DEADLINE: Duration = Duration::from_secs(30 * 60);
/// How long a node may take to go down once told to.
const GOING_DOWN: Duration = Duration::from_secs(300);
/// Upgraded packages named in a report.
const NAMED: usize = 12;
/// The controller's permit; one node of a fleet at a time.
const PERMIT: &str = "reboot";
/// What is remembered of a reboot: in which boot it was begun, and what for.
const REBOOTED: &str = "rebooted";
/// What is remembered of package lists, or packages, that could not be fetched.
const UNFETCHED: &str = "unfetched";
/// How soon that is tried again.
const RETRY: Duration = Duration::from_secs(3600);

/// Keeps packages up to date.
#[derive(Clone, Debug)]
pub struct Update {
    id: TaskId,
    spec: UpdateTask,
    done: Arc<Mutex<Vec<String>>>,
    /// Whether the last look found a reboot to be the only thing left.
    only_reboot: Arc<AtomicBool>,
}

/// When packages were last upgraded, and which.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    at_ms: u64,
    upgraded: Vec<String>,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    /// Finish what an interrupted run left half done.
    Mend(Vec<String>),
    Upgrade(String),
    Reboot(String),
}

impl Update {
    /// Updates as `spec` says.
    pub fn new(id: TaskId, spec: UpdateTask) -> Self {
        Self { id, spec, done: Arc::default(), only_reboot: Arc::default() }
    }

    /// The next thing to be done, and what a person should know.
    fn next(&self, node: &Node) -> Result<(Next, Vec<String>), TaskError> {
        let unfinished = dpkg::unfinished(node)?;
        if !unfinished.is_empty() {
            return Ok((Next::Mend(unfinished), Vec::new()));
        }
        let stamp = Stamp::read(node)?;
        let hours = if self.spec.every_hours == 0 { USUAL_HOURS } else { self.spec.every_hours };
        let every = Duration::from_secs(u64::from(hours) * 3600);
        let mut warnings = Vec::new();
        if let Some(why) = due(stamp.as_ref(), now(), every) {
            let tried = Unfetched::read(node, &self.id);
            let Some(warning) = tried.and_then(|tried| tried.warning(stamp.as_ref(), now())) else {
                return Ok((Next::Upgrade(why), Vec::new()));
            };
            warnings.push(warning);
        }
        let Some(why) = reboot::needed(node)? else { return Ok((Next::Nothing, warnings)) };
        let mark = Mark::read(node, &self.id);
        if mark.is_some_and(|mark| mark.why == why && mark.boot != reboot::boot(node)) {
            warnings
                .push(format!("{why}, and a reboot did not change that; next: see what the node boots from"));
            return Ok((Next::Nothing, warnings));
        }
        if self.spec.reboot {
            return Ok((Next::Reboot(why), warnings));
        }
        warnings.push(format!("a reboot is needed: {why}"));
        Ok((Next::Nothing, warnings))
    }

    async fn upgrade(&self, node: &Node) -> Result<(), TaskError> {
        let before = versions(&Packages::read(node)?);
        if let Some(trouble) = apt::try_lists(node).await? {
            if Stamp::read(node)?.is_none() {
                return Err(trouble);
            }
            return self.unfetched(node, &trouble, "their lists");
        }
        if let Some(trouble) = apt::try_upgrade(node).await? {
            return self.unfetched(node, &trouble, "they");
        }
        let upgraded = compare(&before, &versions(&Packages::read(node)?));
        let stamp = Stamp { at_ms: milliseconds(now()), upgraded };
        let text = serde_json::to_vec_pretty(&stamp).expect("numbers and texts");
        node.write(STAMP, &text, 0o600)?;
        node.journal().forget(&self.id, UNFETCHED)?;
        if !stamp.upgraded.is_empty() {
            // What is new may ask for a reboot in the words of the last one; that is another matter.
            node.journal().forget(&self.id, REBOOTED)?;
        }
        *self.told() = vec![tell(&stamp.upgraded)];
        Ok(())
    }

    /// Nobody waits for a mirror: it is told, and tried again.
    fn unfetched(&self, node: &Node, trouble: &TaskError, what: &str) -> Result<(), TaskError> {
        let tried = Unfetched { at_ms: milliseconds(now()), why: trouble.explain() };
        let text = serde_json::to_string(&tried).expect("a number and a text");
        node.journal().remember(&self.id, UNFETCHED, &text)?;
        *self.told() = vec![format!("looked for newer packages, and {what} could not be fetched")];
        Ok(())
    }

    async fn reboot(&self, node: &Node, why: &str) -> Result<(), TaskError> {
        let mark = Mark { boot: reboot::boot(node), why: why.to_owned() };
        let text = serde_json::to_string(&mark).expect("texts");
        node.journal().remember(&self.id, REBOOTED, &text)?;
        tracing::warn!(%why, "the node reboots");
        node.run(&Command::new("systemctl", ["reboot"])).await?;
        // The end of this process is near; the journal knows what it was doing.
        tokio::time::sleep(GOING_DOWN).await;
        Err(TaskError::Refused {
            why: format!("the node was told to reboot and is still up after {} s", GOING_DOWN.as_secs()),
            next: "see `systemctl list-jobs` on the node for what holds it up".into(),
        })
    }

    fn told(&self) -> MutexGuard<'_, Vec<String>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stamp {
    fn read(node: &Node) -> Result<Option<Self>, TaskError> {
        Ok(node.read(STAMP)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
}

/// That package lists, or packages, could not be fetched: when that was tried, and why not.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Unfetched {
    at_ms: u64,
    why: String,
}

impl Unfetched {
    fn read(node: &Node, task: &TaskId) -> Option<Self> {
        serde_json::from_str(&node.journal().recall(task, UNFETCHED)?).ok()
    }

    /// What to say of it, unless it is time to try again.
    fn warning(&self, stamp: Option<&Stamp>, now: Duration) -> Option<String> {
        // By the clock of now; tried in its future means the clock was set back.
        let since = now.checked_sub(Duration::from_millis(self.at_ms)).filter(|since| *since < RETRY)?;
        let last = stamp.map(|stamp| age(now.saturating_sub(Duration::from_millis(stamp.at_ms))));
        Some(format!(
            "packages are not upgraded: {}; tried {} ago, and again soon; that last worked {}",
            self.why,
            age(since),
            last.map_or_else(|| "never".to_owned(), |last| format!("{last} ago"))
        ))
    }
}

/// In which boot a reboot was begun, and what for: one that settles nothing is not repeated.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    boot: String,
    why: String,
}

impl Mark {
    fn read(node: &Node, task: &TaskId) -> Option<Self> {
        serde_json::from_str(&node.journal().recall(task, REBOOTED)?).ok()
    }
}

/// Why an update is due, if it is. Pure.
fn due(stamp: Option<&Stamp>, now: Duration, every: Duration) -> Option<String> {
    let Some(stamp) = stamp else { return Some("upgrade packages: the agent has not done so yet".into()) };
    let at = Duration::from_millis(stamp.at_ms);
    if at > now + AHEAD {
        return Some("upgrade packages: the last time was by a clock that was wrong".into());
    }
    let age = now.saturating_sub(at);
    (age >= every).then(|| format!("upgrade packages: the last time was {} h ago", age.as_secs() / 3600))
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn versions(packages: &Packages) -> BTreeMap<String, String> {
    packages.installed().map(|(name, version)| (name.to_owned(), version.to_owned())).collect()
}

/// What is another version now, or new. Pure.
fn compare(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let line = |(name, version): (&String, &String)| match before.get(name) {
        Some(old) if old == version => None,
        Some(old) => Some(format!("{name} {old} → {version}")),
        None => Some(format!("{name} {version} (new)")),
    };
    after.iter().filter_map(line).collect()
}

fn tell(upgraded: &[String]) -> String {
    match upgraded.len() {
        0 => "looked for newer packages: there are none".into(),
        n => {
            let more = n.saturating_sub(NAMED);
            let named = upgraded.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            let more = if more > 0 { format!(" and {more} more (all in {STAMP})") } else { String::new() };
            format!("upgraded {n} packages: {named}{more}")
        }
    }
}

#[async_trait]
impl Task for Update {
    fn id(&self) -> &TaskId {
        &self.id
    }

    async fn check(&self, node: &Node) -> Result<Finding, TaskError> {
        let (next, warnings) = self.next(node)?;
        self.only_reboot.store(matches!(next, Next::Reboot(_)), Relaxed);
        let finding = match next {
            Next::Nothing => Finding::converged(),
            Next::Reboot(why) => Finding::drift([format!("reboot: {why}")]).with_permit(PERMIT),
            Next::Mend(_) | Next::Upgrade(_) if let Some(what) = apt::busy(node) => Finding::waiting(what),
            Next::Mend(left) => {
                Finding::drift([format!("finish what an interrupted run left: {}", left.join(", "))])
            }
            Next::Upgrade(why) => Finding::drift([why]),
        };
        Ok(Finding { warnings, ..finding })
    }

    async fn apply(&self, node: &Node) -> Result<(), TaskError> {
        self.told().clear();
        let (mut next, _) = self.next(node)?;
        if matches!(next, Next::Mend(_)) {
            apt::mend(node).await?;
            next = self.next(node)?.0;
        }
        match next {
            Next::Upgrade(_) => self.upgrade(node).await,
            Next::Reboot(why) => {
                // Only with the permit asked for in the look before: a need that has just come up is asked for next.
                match node.controller().permit(PERMIT, &self.id) {
                    fleet_task::Permission::Held => self.reboot(node, &why).await,
                    fleet_task::Permission::Waiting(_) => Ok(()),
                }
            }
            Next::Mend(_) | Next::Nothing => Ok(()),
        }
    }

    fn done(&self) -> Vec<String> {
        self.told().clone()
    }

    fn holds(&self) -> bool {
        !self.only_reboot.load(Relaxed)
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }
}

#[cfg(test)]
mod tests;
