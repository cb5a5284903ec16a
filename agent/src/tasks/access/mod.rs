//! Who gets in over SSH: the plan's keys for one login user, who may become root; no passwords, no root, nobody else's
//! way in left open that we know of.
//!
//! The order keeps a way in open at every moment: the user, its right to become root and its keys come first; that it
//! gets in is proved by getting in ([`prove`]); only then are passwords and root closed by a drop-in of sshd, which is
//! checked by sshd itself, read, and proved once more, and taken back if that fails. Then the root password is locked,
//! and host keys that came with the machine's image are made anew.
//!
//! Looking reads files only. That a proof succeeded is remembered together with what was proved.

mod harden;
mod host_keys;
mod keys;
mod login;
mod prove;
mod sshd;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use fleet_proto::v1::AccessTask;
use fleet_task::{Command, Finding, Node, Task, TaskError, TaskId};

use super::support::{
    accounts::{self, Account},
    apt, dpkg,
    folder::{Access as Grant, Folder},
    names,
};
use login::Login;

/// What it takes; the client comes with the server.
const PACKAGES: [&str; 2] = ["openssh-server", "sudo"];
const SUDOERS: &str = "/etc/sudoers.d";
/// Where a file for sudo is checked before it is put in place: a broken one there would break sudo for everybody.
const TRIAL: &str = "/var/lib/fleet-agent/sudoers";
/// Debian's group of those who may become root.
const GROUP: &str = "sudo";
/// Installing, and several logins on an emulated processor.
const DEADLINE: Duration = Duration::from_secs(20 * 60);

/// Keeps the doors.
#[derive(Clone, Debug)]
pub struct Access {
    id: TaskId,
    spec: AccessTask,
    done: Arc<Mutex<Vec<String>>>,
}

/// All that differs.
#[derive(Debug, Default)]
struct Plan {
    packages: Vec<&'static str>,
    keys: Vec<String>,
    login: Option<Login>,
    groups: Vec<String>,
    sudoers: bool,
    home: login::Differs,
    left_over: bool,
    harden: harden::Plan,
    root_open: bool,
}

impl Access {
    /// Access as `spec` says.
    pub fn new(id: TaskId, spec: AccessTask) -> Self {
        Self { id, spec, done: Arc::default() }
    }

    fn told(&self) -> MutexGuard<'_, Vec<String>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self) -> &str {
        &self.spec.login
    }

    fn plan(&self, node: &Node) -> Result<Plan, TaskError> {
        names::account("user", self.name())?;
        if self.name() == "root" {
            return Err(names::refuse("root is whose login is closed; name another user"));
        }
        let keys = keys::checked(&self.spec.authorized_keys)?;
        let packages = dpkg::Packages::read(node)?;
        let missing: Vec<_> = PACKAGES.into_iter().filter(|name| packages.version(name).is_none()).collect();
        if !missing.is_empty() {
            return Ok(Plan { packages: missing, keys, ..Plan::default() });
        }
        let login = Login::find(node, self.name())?;
        let home = match &login {
            Some(login) => login.differs(node, &keys)?,
            None => login::Differs::default(),
        };
        Ok(Plan {
            packages: Vec::new(),
            keys,
            groups: self.missing_groups(node)?,
            sudoers: !self.may_become_root(node)?,
            left_over: prove::is_left_over(node, login.as_ref())?,
            harden: harden::plan(node, &self.id, self.name())?,
            root_open: root_is_open(node)?,
            home,
            login,
        })
    }

    fn missing_groups(&self, node: &Node) -> Result<Vec<String>, TaskError> {
        let (Some(user), Some(_)) = (accounts::user(node, self.name())?, accounts::group(node, GROUP)?)
        else {
            return Ok(Vec::new());
        };
        accounts::missing_groups(node, &user, &[GROUP.to_owned()])
    }

    fn sudoers_file(&self) -> String {
        format!("fleet-{}", self.name())
    }

    fn sudoers_text(&self) -> String {
        let name = self.name();
        format!(
            "# Written by the fleet's agent; changes in here are lost.\n{name} ALL=(ALL:ALL) NOPASSWD: ALL\n"
        )
    }

    fn may_become_root(&self, node: &Node) -> Result<bool, TaskError> {
        let Some(folder) = Folder::open(node, SUDOERS)? else { return Ok(false) };
        let file = self.sudoers_file();
        let fine = folder.entry(&file)?.is_some_and(|entry| entry.mode == 0o440);
        Ok(fine && folder.read(&file)?.as_deref() == Some(self.sudoers_text().as_bytes()))
    }

    async fn make_login(&self, node: &Node) -> Result<Login, TaskError> {
        let groups = match accounts::group(node, GROUP)? {
            Some(_) => vec![GROUP.to_owned()],
            None => Vec::new(),
        };
        let account =
            Account { name: self.name(), system: false, shell: "/bin/bash", home: "", groups: &groups };
        node.run(&account.make(node)?).await?;
        Login::find(node, self.name())?.ok_or_else(|| TaskError::Answer {
            program: "useradd".into(),
            detail: format!("it was content, and there is no user {}", self.name()),
        })
    }

    async fn let_become_root(&self, node: &Node) -> Result<(), TaskError> {
        let text = self.sudoers_text();
        node.write(TRIAL, text.as_bytes(), 0o440)?;
        let trial = node.path(TRIAL).display().to_string();
        node.run(&Command::new("visudo", ["-c", "-f", &trial])).await?;
        let (uid, gid) = accounts::root(node)?;
        let folder = Folder::make(node, SUDOERS, Grant { mode: 0o750, uid, gid })?;
        let grant = Grant { mode: 0o440, uid, gid };
        folder.replace(&self.sudoers_file(), &mut text.as_bytes(), text.len() as u64, grant)?;
        Ok(fleet_task::atomic::remove(&node.path(TRIAL))?)
    }
}

impl Plan {
    fn lines(&self, name: &str) -> Vec<String> {
        let mut lines: Vec<String> = self.packages.iter().map(|name| format!("install {name}")).collect();
        if !lines.is_empty() {
            return lines;
        }
        if self.login.is_none() {
            lines.push(format!("make user {name}, with {} keys", self.keys.len()));
        }
        if !self.groups.is_empty() {
            lines.push(format!("add {name} to {}", self.groups.join(", ")));
        }
        if self.sudoers {
            lines.push(format!("let {name} become root ({SUDOERS}/fleet-{name})"));
        }
        lines.extend(self.home.lines.iter().cloned());
        if self.left_over {
            lines.push("take away the throwaway key of a proof that was cut off".into());
        }
        lines.extend(self.harden.lines());
        if self.root_open {
            lines.push("lock the password of root".into());
        }
        lines
    }
}

/// Whether root has a password, or an empty one: a lock is a `!` in front, `*` is none at all (shadow(5)).
fn root_is_open(node: &Node) -> Result<bool, TaskError> {
    let bytes = node.read("/etc/shadow")?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let password =
        text.lines().find_map(|line| line.strip_prefix("root:")).map(|rest| rest.split(':').next());
    Ok(password.flatten().is_some_and(|field| !field.starts_with(['!', '*'])))
}

#[async_trait]
impl Task for Access {
    fn id(&self) -> &TaskId {
        &self.id
    }

    async fn check(&self, node: &Node) -> Result<Finding, TaskError> {
        let plan = self.plan(node)?;
        if !plan.packages.is_empty()
            && let Some(what) = apt::busy(node)
        {
            return Ok(Finding::waiting(what));
        }
        Ok(Finding { warnings: plan.harden.warnings(), ..Finding::drift(plan.lines(self.name())) })
    }

    async fn apply(&self, node: &Node) -> Result<(), TaskError> {
        self.told().clear();
        let mut plan = self.plan(node)?;
        let mut lines = plan.lines(self.name());
        if !plan.packages.is_empty() {
            apt::install(node, &plan.packages).await?;
            plan = self.plan(node)?;
            lines.extend(plan.lines(self.name()));
        }
        let login = match plan.login {
            Some(login) => login,
            None => self.make_login(node).await?,
        };
        for group in self.missing_groups(node)? {
            node.run(&Command::new("usermod", ["--append", "--groups", &group, "--", self.name()])).await?;
        }
        if plan.sudoers {
            self.let_become_root(node).await?;
        }
        // Looked at once more: the home may be new, and a cut-off proof's key goes first.
        if prove::is_left_over(node, Some(&login))? {
            prove::clean(node, &login)?;
        }
        login.settle(node, &login.differs(node, &plan.keys)?)?;
        harden::harden(node, &self.id, &login).await?;
        if plan.root_open {
            node.run(&Command::new("usermod", ["--lock", "--", "root"])).await?;
        }
        harden::renew_keys(node, &self.id, &login).await?;
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
pub(super) mod tests;
