//! The todo application: its program, its own user, its unit, and a real request that shows it serves.
//!
//! It is restarted when its program, its settings or its certificate have changed, and for nothing else.

pub(crate) mod probe;
mod unit;

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use async_trait::async_trait;
use fleet_proto::v1::{Artifact, TodoTask};
use fleet_task::{Finding, Node, Task, TaskError, TaskId, atomic};
use tokio::time::{Instant, sleep};

use self::{
    probe::{Health, Https, Probe},
    unit::{FILE, NAME, PROGRAM, USER},
};
use super::{
    certificate::{CA, CERTIFICATE, KEY, certificates},
    start,
    support::{accounts, hex, unit as systemd},
};

const MODE: u32 = 0o755;
/// How long a program that was started may take to answer before the rest is left to the next look.
const READY: Duration = Duration::from_secs(20);
/// How often it is asked meanwhile.
const ASK: Duration = Duration::from_millis(500);
/// How long check, apply and check may take together; fetching the program takes most of it.
const DEADLINE: Duration = Duration::from_secs(15 * 60);

/// Keeps the application.
#[derive(Clone, Debug)]
pub struct Todo {
    id: TaskId,
    spec: TodoTask,
    probe: Arc<dyn Probe>,
}

/// What a look found, but for the request.
struct Look {
    drift: Vec<String>,
    program: bool,
    user: bool,
    file: Option<String>,
    service: systemd::Unit,
    restart: bool,
    /// Of all the program reads at its start.
    digest: String,
}

impl Todo {
    /// An application as `spec` says.
    pub fn new(id: TaskId, spec: TodoTask) -> Self {
        Self { id, spec, probe: Arc::new(Https) }
    }

    fn program(&self) -> Result<&Artifact, TaskError> {
        self.spec.program.as_ref().ok_or_else(|| TaskError::Refused {
            why: "the desired state names no program of the todo application".into(),
            next: "run `fleetctl up` again on the operator's host".into(),
        })
    }

    /// `None` as long as there is no certificate to serve with.
    async fn look(&self, node: &Node) -> Result<Option<Look>, TaskError> {
        let program = self.program()?;
        let wanted = unit::render(&self.spec, &hostname(node)?)?;
        let (Some(key), Some(certificate), Some(_)) =
            (node.read(KEY)?, node.read(CERTIFICATE)?, node.read(CA)?)
        else {
            return Ok(None);
        };
        let mut drift = Vec::new();
        let there = node.read(PROGRAM)?.map(|bytes| digest(&[&bytes]));
        let mode = fs::metadata(node.path(PROGRAM)).map_or(0, |meta| meta.permissions().mode() & 0o7777);
        let replace = there.as_deref() != Some(program.sha256.as_str()) || mode != MODE;
        if replace {
            drift.push(match there {
                None => format!("{PROGRAM} is missing, to be {}", program.name),
                Some(_) => format!("{PROGRAM} is another one, to be {}", program.name),
            });
        }
        let user = accounts::user(node, USER)?.is_none();
        if user {
            drift.push(format!("there is no user `{USER}`"));
        }
        let file = (node.read(FILE)?.as_deref() != Some(wanted.as_bytes())).then_some(wanted.clone());
        if file.is_some() {
            drift.push(format!("{FILE} is not as it should be"));
        }
        let service = systemd::show(node, NAME).await?;
        let digest = digest(&[wanted.as_bytes(), program.sha256.as_bytes(), &key, &certificate]);
        let files = [PROGRAM, FILE, KEY, CERTIFICATE].map(str::to_owned);
        let running = service.is_running();
        let older = running && start::is_older(node, &self.id, &service, &digest, &files)?;
        if older && drift.is_empty() {
            drift.push(format!("{NAME} runs with an older program, certificate or settings"));
        }
        if !service.is_enabled() {
            drift.push(format!("{NAME} is not started at boot"));
        }
        if !running {
            drift.push(format!("{NAME} is {}", service.state()));
        }
        let restart = older || (running && (replace || file.is_some()));
        Ok(Some(Look { drift, program: replace, user, file, service, restart, digest }))
    }

    async fn health(&self, node: &Node) -> Result<Health, TaskError> {
        let trust = certificates(&node.read(CA)?.unwrap_or_default());
        Ok(self.probe.ask(unit::port(&self.spec)?, trust).await)
    }

    /// Replaces the program in one step: the old one serves until the new one is in place.
    async fn fetch(&self, node: &Node) -> Result<(), TaskError> {
        let program = self.program()?;
        let file = node.controller().artifact(program).await?;
        let path = node.path(PROGRAM);
        let bytes =
            fs::read(&file).map_err(|source| TaskError::Read { path: file.display().to_string(), source })?;
        if let Some(folder) = path.parent() {
            atomic::make_folder(folder)?;
        }
        node.write(PROGRAM, &bytes, MODE)?;
        Ok(atomic::give(&path, None, MODE)?)
    }

    /// Waits until the program answers, or has ended.
    async fn settle(&self, node: &Node) -> Result<(), TaskError> {
        let until = Instant::now() + READY;
        loop {
            if !matches!(self.health(node).await?, Health::Silent(_)) {
                return Ok(());
            }
            let service = systemd::show(node, NAME).await?;
            if !service.is_running() {
                let why = format!("{NAME} was started and is {}", service.state());
                return Err(systemd::failing(node, NAME, &why).await);
            }
            if Instant::now() >= until {
                return Ok(());
            }
            sleep(ASK).await;
        }
    }
}

fn digest(parts: &[&[u8]]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    if let [only] = parts {
        context.update(only);
    } else {
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
    }
    hex(context.finish().as_ref())
}

fn hostname(node: &Node) -> Result<String, TaskError> {
    let bytes = node.read("/etc/hostname")?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.next().unwrap_or("unnamed").to_owned())
}

#[async_trait]
impl Task for Todo {
    fn id(&self) -> &TaskId {
        &self.id
    }

    async fn check(&self, node: &Node) -> Result<Finding, TaskError> {
        let Some(look) = self.look(node).await? else {
            return Ok(Finding::waiting("the certificate of the node's services"));
        };
        if !look.drift.is_empty() {
            return Ok(Finding::drift(look.drift));
        }
        let port = self.spec.port;
        match self.health(node).await? {
            Health::Serves => Ok(Finding::converged()),
            Health::NoDatabase(why) => {
                let (database, table) = (&self.spec.database, &self.spec.table);
                Ok(Finding::waiting(format!(
                    "its table `{database}.{table}`, which it does not reach: {why}"
                )))
            }
            Health::Silent(why) => Ok(Finding::waiting(format!("{NAME} to answer on port {port}: {why}"))),
            Health::Foreign(why) => Err(TaskError::Refused {
                why: format!("port {port} answers, but not as this node's todo application: {why}"),
                next: format!(
                    "see on the node what listens there (`ss -tlnp`) and in `journalctl -u {NAME}`"
                ),
            }),
        }
    }

    async fn apply(&self, node: &Node) -> Result<(), TaskError> {
        let Some(look) = self.look(node).await? else { return Ok(()) };
        if look.program {
            self.fetch(node).await?;
        }
        if look.user {
            let account = accounts::Account { name: USER, system: true, shell: "", home: "", groups: &[] };
            node.run(&account.make(node)?).await?;
        }
        if let Some(text) = &look.file {
            let path = node.path(FILE);
            if let Some(folder) = path.parent() {
                atomic::make_folder(folder)?;
            }
            node.write(FILE, text.as_bytes(), 0o644)?;
        }
        if look.file.is_some() || look.service.outdated {
            systemd::daemon_reload(node).await?;
        }
        if !look.service.is_enabled() {
            systemd::act(node, "enable", NAME).await?;
        }
        if look.restart || !look.service.is_running() {
            if look.service.active == "failed" {
                systemd::act(node, "reset-failed", NAME).await?;
            }
            systemd::act(node, if look.restart { "restart" } else { "start" }, NAME).await?;
            let service = systemd::show(node, NAME).await?;
            start::remember(node, &self.id, &service, &look.digest)?;
            self.settle(node).await?;
        }
        Ok(())
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }
}

#[cfg(test)]
pub(super) mod tests;
