//! A unit of systemd: running or not, started at boot or not, and restarted when what it reads has changed.

use std::time::Duration;

use async_trait::async_trait;
use fleet_proto::v1::ServiceTask;
use fleet_task::{Finding, Node, Task, TaskError, TaskId};

use super::support::{
    names,
    unit::{self, Before, Unit},
};

/// How long check, apply and check may take together: a stop and a start, each as long as systemd lets it.
const DEADLINE: Duration = Duration::from_secs(600);
/// A program with a bad configuration is seldom gone before its start was reported; this long it has to stay.
const SETTLE: Duration = Duration::from_millis(1500);

/// Keeps a unit as it is to be.
#[derive(Clone, Debug)]
pub struct Service {
    id: TaskId,
    spec: ServiceTask,
}

/// One thing to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Reread,
    Enable,
    Disable,
    Start { state: String },
    Restart { changed: Vec<String> },
    Stop { state: String },
}

impl Service {
    /// A unit as `spec` says.
    pub fn new(id: TaskId, spec: ServiceTask) -> Self {
        Self { id, spec }
    }

    fn unit(&self) -> &str {
        &self.spec.unit
    }

    async fn plan(&self, node: &Node) -> Result<(Unit, Vec<Step>), TaskError> {
        names::unit(self.unit())?;
        self.spec.restart_on.iter().try_for_each(|path| names::path("a file of restart_on,", path))?;
        let found = unit::show(node, self.unit()).await?;
        let changed = match found.is_running() && self.spec.running {
            true => unit::changed_since_start(node, &self.id, &found, &self.spec.restart_on)?,
            false => Vec::new(),
        };
        let steps = decide(&self.spec, &found, changed)?;
        Ok((found, steps))
    }

    async fn start(&self, node: &Node, verb: &str) -> Result<(), TaskError> {
        let before = Before::starting(node, &self.spec.restart_on)?;
        if verb == "start" {
            // One that has failed too often in a row is not started again without this; best effort.
            let _ = unit::act(node, "reset-failed", self.unit()).await;
        }
        unit::act(node, verb, self.unit()).await?;
        tokio::time::sleep(SETTLE).await;
        let found = unit::show(node, self.unit()).await?;
        if !found.is_running() {
            let why = format!("{} was started and is {} again", self.unit(), found.state());
            return Err(unit::failing(node, self.unit(), &why).await);
        }
        before.started(node, &self.id, &found)
    }
}

/// What it takes. Pure.
fn decide(spec: &ServiceTask, found: &Unit, changed: Vec<String>) -> Result<Vec<Step>, TaskError> {
    let wanted = spec.running || spec.enabled;
    match found.load.as_str() {
        "not-found" if !wanted => return Ok(Vec::new()),
        "not-found" if !found.outdated => {
            return Err(TaskError::Refused {
                why: format!("there is no unit {} on the node", spec.unit),
                next: "install its package with an earlier task of the plan, or correct the name".into(),
            });
        }
        "masked" if wanted => {
            return Err(TaskError::Refused {
                why: format!("{} is masked: somebody forbade to start it", spec.unit),
                next: format!("run `systemctl unmask {}` on the node if that is no longer meant", spec.unit),
            });
        }
        _ => (),
    }
    let mut steps = Vec::new();
    if found.outdated {
        steps.push(Step::Reread);
    }
    match (spec.enabled, found.is_enabled()) {
        (true, false) => steps.push(Step::Enable),
        // What has no [Install] section cannot be disabled, and does not start by itself either.
        (false, true) if matches!(found.file.as_str(), "enabled" | "alias") => steps.push(Step::Disable),
        _ => (),
    }
    let stopped = matches!(found.active.as_str(), "inactive" | "failed" | "");
    match (spec.running, found.is_running()) {
        (true, false) => steps.push(Step::Start { state: found.state() }),
        (true, true) if !changed.is_empty() => steps.push(Step::Restart { changed }),
        (false, _) if !stopped => steps.push(Step::Stop { state: found.state() }),
        _ => (),
    }
    Ok(steps)
}

impl Step {
    fn line(&self, unit: &str) -> String {
        match self {
            Self::Reread => format!("have systemd read the changed file of {unit}"),
            Self::Enable => format!("start {unit} at boot"),
            Self::Disable => format!("start {unit} at boot no longer"),
            Self::Start { state } => format!("start {unit} (it is {state})"),
            Self::Restart { changed } => {
                format!("restart {unit}: {} changed since it was started", changed.join(", "))
            }
            Self::Stop { state } => format!("stop {unit} (it is {state})"),
        }
    }
}

#[async_trait]
impl Task for Service {
    fn id(&self) -> &TaskId {
        &self.id
    }

    async fn check(&self, node: &Node) -> Result<Finding, TaskError> {
        let (_, steps) = self.plan(node).await?;
        Ok(Finding::drift(steps.iter().map(|step| step.line(self.unit()))))
    }

    async fn apply(&self, node: &Node) -> Result<(), TaskError> {
        let (_, steps) = self.plan(node).await?;
        for step in steps {
            match step {
                Step::Reread => unit::daemon_reload(node).await?,
                Step::Enable => unit::act(node, "enable", self.unit()).await?,
                Step::Disable => unit::act(node, "disable", self.unit()).await?,
                Step::Start { .. } => self.start(node, "start").await?,
                Step::Restart { .. } => self.start(node, "restart").await?,
                Step::Stop { .. } => unit::act(node, "stop", self.unit()).await?,
            }
        }
        Ok(())
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::support::fake::Debian;

    const CONF: &str = "/etc/nginx/nginx.conf";

    fn spec(running: bool, enabled: bool) -> ServiceTask {
        ServiceTask { unit: "nginx.service".into(), running, enabled, restart_on: vec![CONF.into()] }
    }

    fn task(spec: ServiceTask) -> Service {
        Service::new(TaskId::new("service"), spec)
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_started_restarted_and_stopped() {
        let (debian, rig) = Debian::rig(&[(CONF, "one")]);
        debian.unit("nginx.service", false, false);
        let up = task(spec(true, true));
        assert_eq!(
            rig.changed(&up).await,
            ["start nginx.service at boot", "start nginx.service (it is inactive, dead)"]
        );
        rig.unchanged(&up).await;
        std::fs::write(rig.path(CONF), "two").expect("configuration");
        let expected = "restart nginx.service: /etc/nginx/nginx.conf changed since it was started";
        assert_eq!(rig.changed(&up).await, [expected]);
        rig.unchanged(&up).await;
        let down = task(spec(false, false));
        assert_eq!(
            rig.changed(&down).await,
            ["start nginx.service at boot no longer", "stop nginx.service (it is active, running)"]
        );
        rig.unchanged(&down).await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_dies_at_once_is_a_failure_with_its_log() {
        let (debian, rig) = Debian::rig(&[]);
        debian.unit("nginx.service", false, true).dies("nginx.service", "bad port 99999");
        let why = rig.failed(&task(spec(true, true))).await;
        assert!(
            why.contains("is failed, failed again") && why.contains("its log ends: bad port 99999"),
            "{why}"
        );
        assert!(why.contains("journalctl -u nginx.service"), "{why}");
    }

    #[tokio::test]
    async fn what_systemd_does_not_have_or_may_not_start_is_refused() {
        let (debian, rig) = Debian::rig(&[]);
        let why = rig.failed(&task(spec(true, true))).await;
        assert!(why.contains("there is no unit nginx.service"), "{why}");
        rig.unchanged(&task(spec(false, false))).await;
        debian.unit("nginx.service", false, false).masked("nginx.service");
        let why = rig.failed(&task(spec(true, true))).await;
        assert!(why.contains("is masked"), "{why}");
    }

    #[tokio::test]
    async fn bad_input_is_refused_before_anything_runs() {
        let check = async |spec: ServiceTask, expected: &str| {
            let (debian, rig) = Debian::rig(&[]);
            let why = rig.failed(&task(spec)).await;
            assert!(why.contains(expected) && why.contains("next: correct the plan"), "{why}");
            assert_eq!(debian.ran("").len(), 0);
        };
        check(ServiceTask { unit: "--host=x.service".into(), ..spec(true, true) }, "not the name of a unit")
            .await;
        check(ServiceTask { unit: "nginx".into(), ..spec(true, true) }, "`nginx` is not the name of a unit")
            .await;
        check(ServiceTask { restart_on: vec!["etc/x".into()], ..spec(true, true) }, "not an absolute path")
            .await;
    }

    #[test]
    fn a_changed_unit_file_is_read_first() {
        let found =
            Unit { outdated: true, load: "loaded".into(), active: "inactive".into(), ..Unit::default() };
        let steps = decide(&spec(true, false), &found, Vec::new()).expect("fine");
        assert_eq!(steps, [Step::Reread, Step::Start { state: "inactive".into() }]);
    }
}
