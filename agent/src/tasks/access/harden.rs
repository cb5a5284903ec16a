//! Closing passwords and root: a drop-in that is tried by sshd, read, proved, and taken back if the proof fails. Once it
//! was proved it stays: a later proof that fails is told, and opens nothing again.

use fleet_task::{Command, Node, TaskError, TaskId, atomic};

use super::{
    host_keys,
    login::Login,
    prove,
    sshd::{self, FOLDER, Files, NAMES, Open},
};
use crate::tasks::support::{
    accounts,
    folder::{Access, Folder},
    hex, unit,
};

const UNIT: &str = "ssh.service";
/// What is remembered of a proof: which user, with which settings.
const PROVED: &str = "proved";
/// What is remembered of a drop-in that was proved, as long as nothing about it changes.
const CLOSED: &str = "closed";

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The drop-in is missing, or not what or where it is to be.
    drop_in: Option<String>,
    open: Vec<Open>,
    open_for_some: Vec<Open>,
    keys: host_keys::Wrong,
    unproved: bool,
}

impl Plan {
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.open.iter().map(|open| format!("{open}, to become no")).collect();
        lines.extend(self.drop_in.clone());
        lines.extend(self.keys.lines());
        if lines.is_empty() && self.unproved {
            lines.push("prove that the login user gets in with a key".into());
        }
        lines
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let line =
            |open: &Open| format!("{open} for whom that Match block means; next: see whether that is meant");
        self.open_for_some.iter().map(line).collect()
    }

    fn is_empty(&self) -> bool {
        self.drop_in.is_none() && self.open.is_empty() && self.keys.is_empty() && !self.unproved
    }
}

/// What differs, by reading files only.
///
/// # Errors
/// [`TaskError::Refused`] if no drop-in of ours can win.
pub(super) fn plan(node: &Node, task: &TaskId, login: &str) -> Result<Plan, TaskError> {
    let name = sshd::name(node)?;
    let settings = Files::of(node).settings()?;
    Ok(Plan {
        drop_in: misplaced(node, name)?,
        open: sshd::open(&settings),
        open_for_some: sshd::open_for_some(&settings),
        keys: host_keys::wrong(node, task, &settings)?,
        unproved: node.journal().recall(task, PROVED) != Some(digest(&[login, name])),
    })
}

/// Does it, with the way in proved before and after.
///
/// # Errors
/// [`TaskError`]; what was there before is there again.
pub(super) async fn harden(node: &Node, task: &TaskId, login: &Login) -> Result<(), TaskError> {
    let plan = plan(node, task, &login.name)?;
    if plan.is_empty() {
        return Ok(());
    }
    let name = sshd::name(node)?;
    // Before anything else: sshd does not even say where it listens without a key.
    host_keys::mend(node, &plan.keys).await?;
    start(node).await?;
    let closed = digest(&[name]);
    if plan.drop_in.is_none() && !plan.unproved {
        // Of an agent that did not remember it, or was cut off before.
        node.journal().remember(task, CLOSED, &closed)?;
    }
    // Cut off anywhere from here, the next look finds it unproved.
    node.journal().forget(task, PROVED)?;
    let stays = plan.drop_in.is_none() && node.journal().recall(task, CLOSED).as_ref() == Some(&closed);
    if stays {
        // Host keys may have been made anew before it was cut off: until it reads them, sshd serves the old ones.
        reload(node).await.map_err(|error| stays_closed(&error))?;
        return prove::prove(node, login)
            .await
            .map_err(|error| stays_closed(&error))
            .and_then(|()| Ok(node.journal().remember(task, PROVED, &digest(&[&login.name, name]))?));
    }
    node.journal().forget(task, CLOSED)?;
    let before = Before::read(node)?;
    let done = async {
        // Nothing is closed before the new way in is known to work, by sshd as it runs now. That may have read a
        // drop-in that was never proved, when the agent was cut off; then it is what keeps the key out.
        prove::prove(node, login).await?;
        place(node, name)?;
        take_effect(node, login).await
    };
    if let Err(error) = done.await {
        if before.restore(node)? {
            // Whatever it says now, the error before is what matters.
            let _ = reload(node).await;
        }
        return Err(put_back(&error));
    }
    node.journal().remember(task, CLOSED, &closed)?;
    Ok(node.journal().remember(task, PROVED, &digest(&[&login.name, name]))?)
}

/// Makes host keys anew that came with the image. After the doors are closed: whoever knows those keys may stand
/// between a person and the node, and must not be told a password there.
///
/// # Errors
/// [`TaskError`]; SSH stays closed.
pub(super) async fn renew_keys(node: &Node, task: &TaskId, login: &Login) -> Result<(), TaskError> {
    let shared = plan(node, task, &login.name)?.keys.shared;
    if shared.is_empty() {
        return Ok(());
    }
    let proved = node.journal().recall(task, PROVED);
    node.journal().forget(task, PROVED)?;
    host_keys::renew(node, task, &shared).await?;
    reload(node).await?;
    prove::prove(node, login).await.map_err(|error| stays_closed(&error))?;
    Ok(proved.map_or(Ok(()), |proved| node.journal().remember(task, PROVED, &proved))?)
}

/// An sshd that ended for want of a key is started; one that somebody stopped is left so.
async fn start(node: &Node) -> Result<(), TaskError> {
    if unit::show(node, UNIT).await?.active == "failed" {
        unit::act(node, "reset-failed", UNIT).await?;
        unit::act(node, "start", UNIT).await?;
    }
    Ok(())
}

/// Tried by sshd, read by it, proved.
async fn take_effect(node: &Node, login: &Login) -> Result<(), TaskError> {
    node.run(&Command::new("/usr/sbin/sshd", ["-t"])).await?;
    let whose = "user=root,host=localhost,addr=192.0.2.1,laddr=192.0.2.2,lport=22";
    let output = node.run(&Command::new("/usr/sbin/sshd", ["-T", "-C", whose])).await?;
    let text = String::from_utf8_lossy(&output.stdout).to_ascii_lowercase();
    for (keyword, value, _) in sshd::WANTED {
        let wanted = format!("{} {value}", keyword.to_ascii_lowercase());
        if !text.lines().any(|line| line.trim() == wanted) {
            return Err(TaskError::Refused {
                why: format!("sshd does not take `{keyword} {value}` from our drop-in"),
                next: format!("compare `sshd -T` with the files in {FOLDER} on the node"),
            });
        }
    }
    reload(node).await?;
    prove::prove(node, login).await
}

async fn reload(node: &Node) -> Result<(), TaskError> {
    unit::act(node, "try-reload-or-restart", UNIT).await
}

fn stays_closed(error: &TaskError) -> TaskError {
    TaskError::Refused {
        why: format!("SSH is closed, as it was proved before, and stays so: {error}"),
        next: error.next_step(),
    }
}

fn put_back(error: &TaskError) -> TaskError {
    TaskError::Refused {
        why: format!("SSH was not closed, and is as it was: {error}"),
        next: error.next_step(),
    }
}

/// Of these words and the text of our drop-in.
fn digest(words: &[&str]) -> String {
    let text = format!("{}\n{}", words.join("\n"), sshd::text());
    hex(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref())
}

/// What is to be done about the drop-in, if anything.
fn misplaced(node: &Node, name: &str) -> Result<Option<String>, TaskError> {
    let wanted = sshd::text();
    for other in NAMES {
        let found = node.read(&format!("{FOLDER}/{other}"))?;
        match (other == name, found) {
            (true, Some(bytes)) if bytes == wanted.as_bytes() => (),
            (true, _) => return Ok(Some(format!("write {FOLDER}/{name}"))),
            (false, Some(_)) => return Ok(Some(format!("move {FOLDER}/{other} to {name}, which wins"))),
            (false, None) => (),
        }
    }
    Ok(None)
}

fn place(node: &Node, name: &str) -> Result<(), TaskError> {
    let (uid, gid) = accounts::root(node)?;
    let folder = Folder::make(node, FOLDER, Access { mode: 0o755, uid, gid })?;
    let text = sshd::text();
    folder.replace(name, &mut text.as_bytes(), text.len() as u64, Access { mode: 0o644, uid, gid })?;
    for other in NAMES.into_iter().filter(|other| *other != name) {
        atomic::remove(&node.path(&format!("{FOLDER}/{other}")))?;
    }
    Ok(())
}

/// Our drop-ins as they were before, unless they were only half of a change that was cut off and never proved.
struct Before(Vec<(&'static str, Option<Vec<u8>>)>);

impl Before {
    fn read(node: &Node) -> Result<Self, TaskError> {
        let text = sshd::text();
        let mut files = Vec::new();
        for name in NAMES {
            let found = node.read(&format!("{FOLDER}/{name}"))?;
            // The same text as is about to be tried cannot be what worked before.
            files.push((name, found.filter(|bytes| bytes != text.as_bytes())));
        }
        Ok(Self(files))
    }

    /// Whether there was anything to put back.
    fn restore(&self, node: &Node) -> Result<bool, TaskError> {
        let mut changed = false;
        for (name, bytes) in &self.0 {
            let path = format!("{FOLDER}/{name}");
            if node.read(&path)? == *bytes {
                continue;
            }
            changed = true;
            match bytes {
                Some(bytes) => node.write(&path, bytes, 0o644)?,
                None => atomic::remove(&node.path(&path))?,
            }
        }
        Ok(changed)
    }
}
