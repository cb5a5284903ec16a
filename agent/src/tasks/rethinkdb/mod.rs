//! A RethinkDB server that is a member of the fleet's cluster, proved by asking it.
//!
//! In two stages, since only the second needs others to stand back. First package and units, on every node at once.
//! Then, one node at a time under a permit, files, data directory and start; likewise every restart. The seed founds
//! the cluster only if nobody answers who could be joined, under a permit given once.

pub(crate) mod cluster;
mod files;
mod look;
mod openpgp;
mod package;
mod settings;
mod units;

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use fleet_proto::v1::RethinkdbTask;
use fleet_task::{
    Command, Finding, Node, Permission, Task, TaskError, TaskId,
    atomic::{self, AtomicError},
};
use tokio::time::{Instant, sleep};

use self::{
    cluster::{Cluster, Loopback},
    look::{Look, look},
    settings::Settings,
};
use super::support::{accounts, unit};

pub(crate) use look::issues;

/// Whose server and files it is; the package makes it.
const USER: &str = "rethinkdb";
/// How long check, apply and check may take together: packages on an emulated processor take most of it.
const DEADLINE: Duration = Duration::from_secs(45 * 60);
/// How long a server that was started may take to be a member before the rest is left to the next look.
const READY: Duration = Duration::from_secs(90);
/// How often it is asked meanwhile.
const ASK: Duration = Duration::from_secs(1);

/// Keeps the server.
#[derive(Clone, Debug)]
pub struct Rethinkdb {
    id: TaskId,
    spec: RethinkdbTask,
    cluster: Arc<dyn Cluster>,
    /// Whether later phases wait for what the last look waits for.
    holds: Arc<AtomicBool>,
}

impl Rethinkdb {
    /// A server as `spec` says.
    pub fn new(id: TaskId, spec: RethinkdbTask) -> Self {
        Self { id, spec, cluster: Arc::new(Loopback), holds: Arc::new(AtomicBool::new(true)) }
    }

    /// What package and units lack.
    fn base(&self, node: &Node) -> Result<Vec<String>, TaskError> {
        let mut drift = package::drift(node, &self.id, self.spec.source.as_ref())?;
        drift.extend(units::drift(node)?);
        Ok(drift)
    }

    async fn look(&self, node: &Node, settings: &Settings) -> Result<Look, TaskError> {
        let version = package::version(node)?.unwrap_or_default();
        look(node, &self.id, settings, self.cluster.as_ref(), &version).await
    }

    async fn build_base(&self, node: &Node) -> Result<(), TaskError> {
        if !package::drift(node, &self.id, self.spec.source.as_ref())?.is_empty() {
            units::mask(node)?;
            package::install(node, &self.id, self.spec.source.as_ref()).await?;
        }
        if units::put(node)? {
            unit::daemon_reload(node).await?;
        }
        if accounts::user(node, USER)?.is_none() {
            let account = accounts::Account { name: USER, system: true, shell: "", home: "", groups: &[] };
            node.run(&account.make(node)?).await?;
        }
        Ok(())
    }

    /// Does what a look found to be done.
    async fn work(&self, node: &Node, settings: &Settings, found: &Look) -> Result<(), TaskError> {
        let (work, name) = (&found.work, settings.unit());
        if work.tls
            && let Some(material) = files::material(node)?
        {
            files::copy(node, &material)?;
        }
        if let Some(file) = &work.file {
            units::folder_of(node, &settings.file())?;
            node.write(&settings.file(), file.as_bytes(), 0o644)?;
        }
        if work.create {
            create(node, settings).await?;
        }
        if work.enable {
            unit::act(node, "enable", &name).await?;
        }
        if work.start || work.restart {
            if found.unit.active == "failed" {
                unit::act(node, "reset-failed", &name).await?;
            }
            unit::act(node, if work.restart { "restart" } else { "start" }, &name).await?;
            found.started(node, &self.id, &unit::show(node, &name).await?)?;
            self.settle(node, settings).await?;
        } else if found.unit.is_running() && !found.unit.invocation.is_empty() {
            // Only what a running server does not read has changed.
            found.started(node, &self.id, &found.unit)?;
        }
        if let Some(id) = &work.label {
            let said = self.cluster.label(id, &settings.name, &settings.tags).await;
            said.map_err(|error| TaskError::Refused {
                why: format!("RethinkDB does not give the server its name and tags: {error}"),
                next: "look at the cluster's console (port 8080)".into(),
            })?;
        }
        Ok(())
    }

    /// Waits until the server is a member, or has ended. One that takes long is no failure: the next look says what
    /// it waits for.
    async fn settle(&self, node: &Node, settings: &Settings) -> Result<(), TaskError> {
        let until = Instant::now() + READY;
        let name = settings.unit();
        while Instant::now() < until {
            if let Ok(view) = self.cluster.view().await
                && (view.servers.len() > 1 || settings.seed || settings.others.is_empty())
            {
                return Ok(());
            }
            let unit = unit::show(node, &name).await?;
            if !unit.is_running() {
                let why = format!("{name} was started and is {}", unit.state());
                return Err(unit::failing(node, &name, &why).await);
            }
            sleep(ASK).await;
        }
        Ok(())
    }
}

/// Makes the data directory, whole or not at all: it is made beside its place and put there in one step.
async fn create(node: &Node, settings: &Settings) -> Result<(), TaskError> {
    let data = settings.data();
    let beside = format!("/var/lib/rethinkdb/.{}.new", settings.instance);
    let (path, new) = (node.path(&data), node.path(&beside));
    let broken = |source: io::Error| AtomicError::from_io(&path, 0, source);
    if let Some(parent) = path.parent() {
        atomic::make_folder(parent)?;
        let (uid, gid) = (accounts::uid(node, USER)?, accounts::gid(node, USER)?);
        let mode = fs::metadata(parent).map_err(broken)?.mode() & 0o7777;
        atomic::give(parent, Some((uid, gid)), mode)?;
    }
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(broken(error).into()),
        // Left over from a cut-off attempt; only we use that name.
        _ => (),
    }
    let mut args: Vec<String> =
        ["-u", USER, "--", "/usr/bin/rethinkdb", "create", "--directory"].map(Into::into).into();
    args.extend([new.display().to_string(), "--server-name".into(), settings.name.clone()]);
    args.extend(settings.tags.iter().flat_map(|tag| ["--server-tag".to_owned(), tag.clone()]));
    node.run(&Command::new("runuser", args)).await?;
    // All of it, before it has its name: half of one would be taken for data, and refused by the server.
    atomic::settle(&new)?;
    fs::rename(&new, &path).map_err(broken)?;
    let parent = path.parent().map(fs::File::open).transpose().map_err(broken)?;
    Ok(parent.map_or(Ok(()), |folder| folder.sync_all()).map_err(broken)?)
}

#[async_trait]
impl Task for Rethinkdb {
    fn id(&self) -> &TaskId {
        &self.id
    }

    async fn check(&self, node: &Node) -> Result<Finding, TaskError> {
        self.holds.store(true, Relaxed);
        let settings = Settings::read(&self.spec)?;
        let base = self.base(node)?;
        if !base.is_empty() {
            return Ok(Finding::drift(base));
        }
        let look = self.look(node, &settings).await?;
        self.holds.store(look.holds, Relaxed);
        if !look.holds {
            // Whoever is missing may need it to come in.
            node.controller().release(&look::join(&settings));
        }
        Ok(look.finding)
    }

    async fn apply(&self, node: &Node) -> Result<(), TaskError> {
        let settings = Settings::read(&self.spec)?;
        let built = !self.base(node)?.is_empty();
        if built {
            self.build_base(node).await?;
        }
        let found = self.look(node, &settings).await?;
        if found.finding.drift.is_empty() {
            return Ok(());
        }
        if let Some(permit) = &found.finding.permit
            && (built || node.controller().permit(permit, &self.id) != Permission::Held)
        {
            // The engine asks for it, knows that it did, and comes back.
            return Ok(());
        }
        self.work(node, &settings, &found).await
    }

    fn holds(&self) -> bool {
        self.holds.load(Relaxed)
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }
}

#[cfg(test)]
pub(super) mod tests;
