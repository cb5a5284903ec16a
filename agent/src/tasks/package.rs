//! Packages that are to be there, or not to be.
//!
//! Looking reads dpkg's own records; only a change starts apt. Removed packages leave their configuration, as
//! `apt-get remove` does.

use std::time::Duration;

use async_trait::async_trait;
use fleet_proto::v1::PackageTask;
use fleet_task::{Finding, Node, Task, TaskError, TaskId};

use super::support::{apt, dpkg, names};

/// How long check, apply and check may take together, emulated machines included.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// Keeps packages installed, or away.
#[derive(Clone, Debug)]
pub struct Package {
    id: TaskId,
    spec: PackageTask,
}

/// What is to be done, each list possibly empty.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan<'a> {
    install: Vec<&'a str>,
    remove: Vec<&'a str>,
    /// Left half done by somebody's interrupted run, ours or not.
    finish: Vec<&'a str>,
}

impl Package {
    /// Packages as `spec` says.
    pub fn new(id: TaskId, spec: PackageTask) -> Self {
        Self { id, spec }
    }

    fn plan(&self, node: &Node) -> Result<Plan<'_>, TaskError> {
        if self.spec.names.is_empty() {
            return Err(names::refuse("no package is named"));
        }
        self.spec.names.iter().try_for_each(|name| names::package(name))?;
        let packages = dpkg::Packages::read(node)?;
        let mut plan = Plan::default();
        for name in &self.spec.names {
            let name = name.as_str();
            match (self.spec.absent, packages.version(name).is_some(), packages.is_there(name)) {
                (true, _, true) => plan.remove.push(name),
                (false, false, true) => plan.finish.push(name),
                (false, false, false) => plan.install.push(name),
                (true, _, false) | (false, true, _) => (),
            }
        }
        Ok(plan)
    }
}

#[async_trait]
impl Task for Package {
    fn id(&self) -> &TaskId {
        &self.id
    }

    async fn check(&self, node: &Node) -> Result<Finding, TaskError> {
        let plan = self.plan(node)?;
        let lines =
            [("install", &plan.install), ("remove", &plan.remove), ("finish installing", &plan.finish)];
        let drift: Vec<String> = lines
            .iter()
            .flat_map(|(verb, names)| names.iter().map(move |name| format!("{verb} {name}")))
            .collect();
        Ok(match apt::busy(node) {
            Some(what) if !drift.is_empty() => Finding::waiting(what),
            _ => Finding::drift(drift),
        })
    }

    async fn apply(&self, node: &Node) -> Result<(), TaskError> {
        let plan = self.plan(node)?;
        if !plan.finish.is_empty() {
            apt::mend(node).await?;
        }
        // What mending did not settle is installed once more.
        let plan = self.plan(node)?;
        let install = [plan.install, plan.finish].concat();
        if !install.is_empty() {
            apt::install(node, &install).await?;
        }
        if !plan.remove.is_empty() {
            apt::remove(node, &plan.remove).await?;
        }
        Ok(())
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fleet_task::Outcome;

    use super::*;
    use crate::tasks::support::fake::Debian;

    fn task(names: &[&str], absent: bool) -> Package {
        let spec = PackageTask { names: names.iter().map(ToString::to_string).collect(), absent };
        Package::new(TaskId::new("package"), spec)
    }

    #[tokio::test]
    async fn what_is_missing_is_installed_and_nothing_else() {
        let (debian, rig) = Debian::rig(&[]);
        debian.offers("nginx").offers("curl").has("curl");
        let changes = rig.changed(&task(&["nginx", "curl"], false)).await;
        assert_eq!(changes, ["install nginx"]);
        assert_eq!(debian.ran("apt-get").len(), 1);
        rig.unchanged(&task(&["nginx", "curl"], false)).await;
        let changes = rig.changed(&task(&["nginx", "never"], true)).await;
        assert_eq!(changes, ["remove nginx"]);
        let before = debian.ran("").len();
        rig.unchanged(&task(&["nginx"], true)).await;
        assert_eq!(debian.ran("").len(), before, "a look starts no program");
    }

    #[tokio::test]
    async fn one_left_half_done_is_finished() {
        let (debian, rig) = Debian::rig(&[]);
        debian.offers("nginx").half_done("nginx");
        assert_eq!(rig.changed(&task(&["nginx"], false)).await, ["finish installing nginx"]);
        assert!(debian.ran("dpkg")[0].contains("--configure -a"), "{:?}", debian.ran(""));
        rig.unchanged(&task(&["nginx"], false)).await;
    }

    #[tokio::test]
    async fn somebody_elses_lock_is_waited_for() {
        let (debian, rig) = Debian::rig(&[]);
        debian.offers("nginx").locked_by(812, "unattended-upgrade");
        let report = rig.run(Arc::new(task(&["nginx"], false))).await;
        let expected = "unattended-upgrade (pid 812) to end, which holds /var/lib/dpkg/lock-frontend";
        assert_eq!(report.outcome, Outcome::Waiting(expected.into()));
        assert_eq!(debian.ran("").len(), 0);
        debian.unlocked();
        rig.changed(&task(&["nginx"], false)).await;
    }

    #[tokio::test]
    async fn bad_names_are_refused_before_anything_runs() {
        let check = async |names: &[&str], expected: &str| {
            let (debian, rig) = Debian::rig(&[]);
            let why = rig.failed(&task(names, false)).await;
            assert!(why.contains(expected) && why.contains("next: correct the plan"), "{why}");
            assert_eq!(debian.ran("").len(), 0);
        };
        check(&[], "no package is named").await;
        check(&["nginx", "-oDpkg::Pre-Invoke=x"], "`-oDpkg::Pre-Invoke=x` is not the name of a package")
            .await;
        check(&["nginx\n"], "is not the name of a package").await;
    }

    #[tokio::test]
    async fn an_unknown_one_fails_with_the_next_step() {
        let (_debian, rig) = Debian::rig(&[]);
        let why = rig.failed(&task(&["nowhere"], false)).await;
        assert!(why.contains("no repository of the node has it") && why.contains("nowhere"), "{why}");
    }
}
