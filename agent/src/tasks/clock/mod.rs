//! The clock: chrony installed, running, asking the plan's servers, and how far off it is.
//!
//! A network without time servers is no failure: chrony runs, and that nobody answered is a warning once it has been
//! so for a while. With servers in the plan, those of the distribution are commented out of chrony's own file, and come
//! back when the plan names none any more.

mod config;
mod tracking;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use fleet_proto::v1::ClockTask;
use fleet_task::{Command, Finding, Node, Task, TaskError, TaskId};

use super::support::{
    apt, dpkg, names,
    unit::{self, Before, Unit},
};

pub(crate) use tracking::OFF;

const PACKAGE: &str = "chrony";
const UNIT: &str = "chrony.service";
const CONFIG: &str = "/etc/chrony/chrony.conf";
/// Where Debian's package has the file it makes the other one from.
const TEMPLATE: &str = "/usr/share/chrony/chrony.conf";
const SOURCES: &str = "/etc/chrony/sources.d/fleet.sources";
/// Allowed if the plan says nothing: more than a slew after boot, less than people notice in logs.
const USUAL_OFFSET: Duration = Duration::from_millis(500);
/// Installing on an emulated machine, with lists to fetch.
const DEADLINE: Duration = Duration::from_secs(20 * 60);
/// chronyc asks a local socket.
const ASK: Duration = Duration::from_secs(10);

/// Keeps the clock.
#[derive(Clone, Debug)]
pub struct Clock {
    id: TaskId,
    spec: ClockTask,
    done: Arc<Mutex<Vec<String>>>,
}

/// One thing to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Install,
    Write { path: &'static str, text: Vec<u8>, line: String },
    Remove { path: &'static str },
    Enable,
    Start,
    Restart { changed: Vec<String> },
}

impl Clock {
    /// A clock as `spec` says.
    pub fn new(id: TaskId, spec: ClockTask) -> Self {
        Self { id, spec, done: Arc::default() }
    }

    fn told(&self) -> MutexGuard<'_, Vec<String>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be done before chrony is there, or to its files.
    fn files(&self, node: &Node) -> Result<Vec<Step>, TaskError> {
        self.spec.servers.iter().try_for_each(|server| names::host(server))?;
        if dpkg::Packages::read(node)?.version(PACKAGE).is_none() {
            return Ok(vec![Step::Install]);
        }
        let mut steps = Vec::new();
        let wanted = config::sources(&self.spec.servers);
        let now = node.read(SOURCES)?;
        match (&now, wanted) {
            (now, Some(text)) if now.as_deref() != Some(text.as_bytes()) => {
                let line = format!("ask {}", self.spec.servers.join(", "));
                steps.push(Step::Write { path: SOURCES, text: text.into_bytes(), line });
            }
            (Some(_), None) => steps.push(Step::Remove { path: SOURCES }),
            _ => (),
        }
        let (now, line) = match node.read(CONFIG)? {
            Some(now) => (now, None),
            None => {
                let template = node.read(TEMPLATE)?.ok_or_else(|| TaskError::Refused {
                    why: format!("chrony is installed, but {CONFIG} is gone"),
                    next: "reinstall it on the node: `apt-get install --reinstall chrony`".into(),
                })?;
                (template, Some(format!("make {CONFIG} from the package's")))
            }
        };
        let (text, change) = config::edit(&String::from_utf8_lossy(&now), !self.spec.servers.is_empty());
        if let Some(line) = line.or(change) {
            steps.push(Step::Write { path: CONFIG, text: text.into_bytes(), line });
        }
        Ok(steps)
    }

    /// What is to be done to the service, once its files are as they are to be.
    fn service(&self, node: &Node, found: &Unit) -> Result<Vec<Step>, TaskError> {
        let mut steps = Vec::new();
        if !found.is_enabled() {
            steps.push(Step::Enable);
        }
        if !found.is_running() {
            steps.push(Step::Start);
            return Ok(steps);
        }
        let changed = unit::changed_since_start(node, &self.id, found, &read_by_chrony())?;
        if !changed.is_empty() {
            steps.push(Step::Restart { changed });
        }
        Ok(steps)
    }

    async fn take(&self, node: &Node, step: Step) -> Result<(), TaskError> {
        match step {
            Step::Install => apt::install(node, &[PACKAGE]).await,
            Step::Write { path, text, .. } => {
                if let Some((folder, _)) = path.rsplit_once('/') {
                    fleet_task::atomic::make_folder(&node.path(folder))?;
                }
                node.write(path, &text, 0o644)
            }
            Step::Remove { path } => Ok(fleet_task::atomic::remove(&node.path(path))?),
            Step::Enable => unit::act(node, "enable", UNIT).await,
            Step::Start => self.start(node, "start").await,
            Step::Restart { .. } => self.start(node, "restart").await,
        }
    }

    async fn start(&self, node: &Node, verb: &str) -> Result<(), TaskError> {
        let before = Before::starting(node, &read_by_chrony())?;
        unit::act(node, verb, UNIT).await?;
        before.started(node, &self.id, &unit::show(node, UNIT).await?)
    }

    /// What is to be said of the clock itself.
    async fn offset(&self, node: &Node, found: &Unit) -> Result<Option<String>, TaskError> {
        let most = match self.spec.most_offset_ms {
            0 => USUAL_OFFSET,
            millis => Duration::from_millis(millis.into()),
        };
        // A daemon that does not answer yet has not asked anybody yet either.
        let said = node.output(&Command::new("chronyc", ["-c", "tracking"]).within(ASK)).await;
        let tracking = said.ok().and_then(|output| tracking::parse(&String::from_utf8_lossy(&output.stdout)));
        let up = unit::uptime(node)?.zip(found.started).map(|(up, started)| up.saturating_sub(started));
        let warning = tracking::judge(tracking, up, most);
        tracing::debug!(task = %self.id, ?tracking, ?warning, "clock");
        Ok(warning)
    }
}

fn read_by_chrony() -> Vec<String> {
    vec![CONFIG.to_owned(), SOURCES.to_owned()]
}

impl Step {
    /// The file it is about.
    fn path(&self) -> Option<&'static str> {
        match self {
            Self::Write { path, .. } | Self::Remove { path } => Some(path),
            Self::Install | Self::Enable | Self::Start | Self::Restart { .. } => None,
        }
    }

    fn line(&self) -> String {
        match self {
            Self::Install => format!("install {PACKAGE}"),
            Self::Write { line, .. } => line.clone(),
            Self::Remove { path } => format!("remove {path}: the plan names no servers"),
            Self::Enable => format!("start {UNIT} at boot"),
            Self::Start => format!("start {UNIT}"),
            Self::Restart { changed } => {
                format!("restart {UNIT}: {} changed since it was started", changed.join(", "))
            }
        }
    }
}

#[async_trait]
impl Task for Clock {
    fn id(&self) -> &TaskId {
        &self.id
    }

    async fn check(&self, node: &Node) -> Result<Finding, TaskError> {
        let mut steps = self.files(node)?;
        if steps.contains(&Step::Install) {
            if let Some(what) = apt::busy(node) {
                return Ok(Finding::waiting(what));
            }
            return Ok(Finding::drift(steps.iter().map(Step::line)));
        }
        let found = unit::show(node, UNIT).await?;
        steps.extend(self.service(node, &found)?);
        let mut finding = Finding::drift(steps.iter().map(Step::line));
        if steps.is_empty() {
            finding.warnings.extend(self.offset(node, &found).await?);
        }
        Ok(finding)
    }

    async fn apply(&self, node: &Node) -> Result<(), TaskError> {
        self.told().clear();
        let mut lines = Vec::new();
        let mut steps = self.files(node)?;
        if steps == [Step::Install] {
            lines.push(Step::Install.line());
            self.take(node, Step::Install).await?;
            // Only now is there something to write to.
            steps = self.files(node)?;
        }
        // The clock of files is too coarse to tell a start from a change right after it.
        let touched: Vec<String> = steps.iter().filter_map(Step::path).map(str::to_owned).collect();
        for step in steps {
            lines.push(step.line());
            self.take(node, step).await?;
        }
        let found = unit::show(node, UNIT).await?;
        let mut steps = self.service(node, &found)?;
        let restarts = steps.iter().any(|step| matches!(step, Step::Restart { .. }));
        if found.is_running() && !touched.is_empty() && !restarts {
            steps.push(Step::Restart { changed: touched });
        }
        for step in steps {
            lines.push(step.line());
            self.take(node, step).await?;
        }
        *self.told() = lines;
        Ok(())
    }

    fn done(&self) -> Vec<String> {
        self.told().clone()
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }
}

#[cfg(test)]
mod tests;
