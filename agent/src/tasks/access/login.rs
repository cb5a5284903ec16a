//! The login user's home, its `.ssh` and the keys in it, with the modes sshd insists on (`StrictModes`).

use fleet_task::{Node, TaskError};

use crate::tasks::support::{
    accounts, block,
    folder::{Access, Folder, Kind},
    names,
};

const KEYS: &str = "authorized_keys";
/// Bits that let others write.
const WRITABLE: u32 = 0o022;

/// A login user that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// What differs in its home.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Differs {
    pub(super) lines: Vec<String>,
    /// The keys as they are to be, if they are not.
    keys: Option<Vec<u8>>,
}

impl Login {
    /// The user of that name, if there is one.
    ///
    /// # Errors
    /// [`TaskError::Refused`] for a home nobody could log in to.
    pub(super) fn find(node: &Node, name: &str) -> Result<Option<Self>, TaskError> {
        let Some(user) = accounts::user(node, name)? else { return Ok(None) };
        names::path(&format!("the home of {name},"), &user.home)?;
        Ok(Some(Self { name: user.name, uid: user.uid, gid: user.gid, home: user.home }))
    }

    fn ssh(&self) -> String {
        format!("{}/.ssh", self.home)
    }

    fn access(&self, mode: u32) -> Access {
        Access { mode, uid: self.uid, gid: self.gid }
    }

    /// What its `authorized_keys` holds.
    ///
    /// # Errors
    /// [`TaskError`]; a link is not followed.
    pub(super) fn authorized(&self, node: &Node) -> Result<Option<Vec<u8>>, TaskError> {
        let Some(folder) = Folder::open(node, &self.ssh())? else { return Ok(None) };
        match folder.entry(KEYS)?.map(|entry| entry.kind) {
            None => Ok(None),
            Some(Kind::File) => folder.read(KEYS),
            Some(_) => Err(TaskError::Refused {
                why: format!("{}/{KEYS} is not a plain file", self.ssh()),
                next: "see who put it there, and move it away".into(),
            }),
        }
    }

    /// What differs from these keys and from what sshd insists on.
    ///
    /// # Errors
    /// [`TaskError`]; broken markers are a refusal.
    pub(super) fn differs(&self, node: &Node, keys: &[String]) -> Result<Differs, TaskError> {
        let mut differs = Differs::default();
        let now = self.authorized(node)?;
        let text = now.clone().unwrap_or_default();
        let wanted = block::edit(&text, keys, |_| false).map_err(|error| TaskError::Refused {
            why: format!("{}/{KEYS}: {error}", self.ssh()),
            next: format!("delete the marker lines `{}` and `{}` there by hand", block::BEGIN, block::END),
        })?;
        if wanted != text || now.is_none() {
            differs.lines.push(format!("{} keys in {}/{KEYS}", keys.len(), self.ssh()));
            differs.keys = Some(wanted);
        }
        match Folder::open(node, &self.home)? {
            None => differs.lines.push(format!("make {}", self.home)),
            Some(home) => {
                let access = home.itself()?;
                if access.mode & WRITABLE != 0 {
                    differs.lines.push(format!("others may write to {} ({:04o})", self.home, access.mode));
                }
            }
        }
        if let Some(folder) = Folder::open(node, &self.ssh())? {
            if folder.itself()? != self.access(0o700) {
                differs.lines.push(format!("{} to be {}'s alone", self.ssh(), self.name));
            }
            if let Some(entry) = folder.entry(KEYS)?
                && (Access { mode: entry.mode, uid: entry.uid, gid: entry.gid }) != self.access(0o600)
            {
                differs.lines.push(format!("{}/{KEYS} to be {}'s alone", self.ssh(), self.name));
            }
        }
        Ok(differs)
    }

    /// Settles what differs; every step may be the last one before a power cut.
    ///
    /// # Errors
    /// [`TaskError`].
    pub(super) fn settle(&self, node: &Node, differs: &Differs) -> Result<(), TaskError> {
        if differs.lines.is_empty() {
            return Ok(());
        }
        let home = Folder::make(node, &self.home, self.access(0o700))?;
        let access = home.itself()?;
        if access.mode & WRITABLE != 0 {
            home.grant(".", Access { mode: access.mode & !WRITABLE, ..access })?;
        }
        let folder = Folder::make(node, &self.ssh(), self.access(0o700))?;
        if folder.itself()? != self.access(0o700) {
            folder.grant(".", self.access(0o700))?;
        }
        match &differs.keys {
            Some(bytes) => self.write(node, bytes),
            None => folder.grant(KEYS, self.access(0o600)),
        }
    }

    /// Replaces `authorized_keys`.
    ///
    /// # Errors
    /// [`TaskError`].
    pub(super) fn write(&self, node: &Node, bytes: &[u8]) -> Result<(), TaskError> {
        let folder = Folder::make(node, &self.ssh(), self.access(0o700))?;
        folder.replace(KEYS, &mut &*bytes, bytes.len() as u64, self.access(0o600))
    }
}
