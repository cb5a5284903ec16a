//! A file, a folder, or nothing, at a path.
//!
//! Links are never followed out of the node's own tree (see [`super::support::folder`]), and one in the place of the
//! file is refused. What differs is shown as its first lines; of a file that not everybody may read, only as sizes.

mod difference;

use std::{fs::File as Opened, io::Read};

use async_trait::async_trait;
use fleet_proto::v1::{Artifact, FileTask, file_task::Content};
use fleet_task::{Finding, Node, Task, TaskError, TaskId};
use ring::digest::{Context, SHA256};

use super::support::{
    accounts,
    folder::{Access, Entry, Folder, Kind},
    hex, names,
};

/// Folders of the agent itself, where a plan has no business.
const OURS: [&str; 2] = ["/var/lib/fleet-agent", "/etc/fleet-agent"];
/// Files larger than this are not read to tell in what they differ.
const LARGE: u64 = 1 << 20;
/// Folders made on the way to a file.
const WAY: u32 = 0o755;

/// Keeps a file.
#[derive(Clone, Debug)]
pub struct File {
    id: TaskId,
    spec: FileTask,
}

/// What is there, and how it is to be.
struct Look {
    folder: Option<Folder>,
    entry: Option<Entry>,
    access: Access,
    /// The content differs, or it is not there.
    content: Option<String>,
    /// Mode or owner differ.
    granted: Vec<String>,
}

impl File {
    /// A file as `spec` says.
    pub fn new(id: TaskId, spec: FileTask) -> Self {
        Self { id, spec }
    }

    fn path(&self) -> &str {
        &self.spec.path
    }

    /// Folder and name.
    fn place(&self) -> (&str, &str) {
        let (folder, name) = self.path().rsplit_once('/').unwrap_or(("", self.path()));
        (if folder.is_empty() { "/" } else { folder }, name)
    }

    fn content(&self) -> Result<&Content, TaskError> {
        names::path("the path", self.path())?;
        let inside = |ours: &str| self.path() == ours || self.path().starts_with(&format!("{ours}/"));
        if let Some(ours) = OURS.into_iter().find(|ours| inside(ours)) {
            return Err(names::refuse(format!("{ours} is the agent's own")));
        }
        if self.spec.mode > 0o7777 {
            return Err(names::refuse(format!("{:o} is not a file mode", self.spec.mode)));
        }
        for (what, name) in [("user", &self.spec.owner), ("group", &self.spec.group)] {
            if !name.is_empty() {
                names::account(what, name)?;
            }
        }
        match &self.spec.content {
            Some(Content::Artifact(artifact)) if !is_digest(&artifact.sha256) => {
                Err(names::refuse(format!("`{}` is not a SHA-256 digest", artifact.sha256.escape_debug())))
            }
            None | Some(Content::Directory(false) | Content::Absent(false)) => {
                Err(names::refuse(format!("nothing is said of what {} is to be", self.path())))
            }
            Some(content) => Ok(content),
        }
    }

    fn look(&self, node: &Node) -> Result<(&Content, Look), TaskError> {
        let content = self.content()?;
        let access = self.access(node, content)?;
        let (folder, name) = self.place();
        let folder = Folder::open(node, folder)?;
        let entry = match &folder {
            Some(folder) => folder.entry(name)?,
            None => None,
        };
        let mut look = Look { folder, entry, access, content: None, granted: Vec::new() };
        look.content = self.compare(content, &look)?;
        if let Some(entry) = look.entry.filter(|_| !matches!(content, Content::Absent(_))) {
            look.granted = self.ungranted(&entry, access);
        }
        Ok((content, look))
    }

    fn access(&self, node: &Node, content: &Content) -> Result<Access, TaskError> {
        let default = if matches!(content, Content::Directory(_)) { 0o755 } else { 0o644 };
        if matches!(content, Content::Absent(_)) {
            return Ok(Access { mode: default, uid: 0, gid: 0 });
        }
        Ok(Access {
            mode: if self.spec.mode == 0 { default } else { self.spec.mode },
            uid: accounts::uid(node, &self.spec.owner)?,
            gid: accounts::gid(node, &self.spec.group)?,
        })
    }

    /// What is to be done about the content, if anything.
    fn compare(&self, content: &Content, look: &Look) -> Result<Option<String>, TaskError> {
        let path = self.path();
        match (content, look.entry) {
            (Content::Absent(_), None) => return Ok(None),
            (Content::Absent(_), Some(_)) => return Ok(Some(format!("remove {path}"))),
            (Content::Directory(_), None) => return Ok(Some(format!("make the folder {path}"))),
            (Content::Directory(_), Some(entry)) if entry.kind == Kind::Folder => return Ok(None),
            (Content::Text(_) | Content::Artifact(_), Some(entry)) if entry.kind == Kind::File => (),
            (_, Some(entry)) => return Err(self.in_the_way(entry.kind)),
            (Content::Text(text), None) => return Ok(Some(format!("make {path} ({} bytes)", text.len()))),
            (Content::Artifact(artifact), None) => {
                return Ok(Some(format!("make {path} ({} bytes)", artifact.size)));
            }
        }
        let (Some(folder), Some(entry)) = (&look.folder, look.entry) else { return Ok(None) };
        let (_, name) = self.place();
        match content {
            // Read only if it may be the same: it may be larger than the memory.
            Content::Text(wanted) if entry.size > LARGE && entry.size != wanted.len() as u64 => {
                Ok(Some(format!("{path}: {} bytes, to become {}", entry.size, wanted.len())))
            }
            Content::Text(wanted) => {
                let now = folder.read(name)?.unwrap_or_default();
                if now == *wanted {
                    return Ok(None);
                }
                let open = entry.mode & look.access.mode & 0o004 != 0;
                let how =
                    if open { difference::lines(&now, wanted) } else { difference::sizes(&now, wanted) };
                Ok(Some(format!("{path}: {how}")))
            }
            Content::Artifact(artifact) if entry.size != artifact.size => {
                Ok(Some(format!("{path}: {} bytes, to become {}", entry.size, artifact.size)))
            }
            Content::Artifact(artifact) => {
                let file = folder.file(name)?;
                let found = file.map(|file| self.digest(file)).transpose()?;
                let differs = found.as_deref() != Some(artifact.sha256.as_str());
                Ok(differs.then(|| format!("{path}: other {} bytes than it is to hold", entry.size)))
            }
            Content::Directory(_) | Content::Absent(_) => Ok(None),
        }
    }

    fn digest(&self, mut file: Opened) -> Result<String, TaskError> {
        let mut context = Context::new(&SHA256);
        let mut piece = vec![0; 64 * 1024];
        loop {
            let n = file
                .read(&mut piece)
                .map_err(|source| TaskError::Read { path: self.path().to_owned(), source })?;
            if n == 0 {
                return Ok(hex(context.finish().as_ref()));
            }
            context.update(&piece[..n]);
        }
    }

    fn ungranted(&self, entry: &Entry, access: Access) -> Vec<String> {
        let path = self.path();
        let mut lines = Vec::new();
        if entry.mode != access.mode {
            lines.push(format!("mode of {path} is {:04o}, to become {:04o}", entry.mode, access.mode));
        }
        if (entry.uid, entry.gid) != (access.uid, access.gid) {
            let name = |name: &str| if name.is_empty() { "root".to_owned() } else { name.to_owned() };
            let (owner, group) = (name(&self.spec.owner), name(&self.spec.group));
            lines.push(format!("{path} belongs to {}:{}, to become {owner}:{group}'s", entry.uid, entry.gid));
        }
        lines
    }

    fn in_the_way(&self, kind: Kind) -> TaskError {
        let what = match kind {
            Kind::File => "a file",
            Kind::Folder => "a folder",
            Kind::Link => "a symbolic link",
            Kind::Other => "a device, socket or pipe",
        };
        TaskError::Refused {
            why: format!("{} is {what}", self.path()),
            next: format!("move it away on the node (`mv {0} {0}.old`), or give another path", self.path()),
        }
    }

    async fn bring(&self, node: &Node, artifact: &Artifact) -> Result<Opened, TaskError> {
        let copy = node.controller().artifact(artifact).await?;
        Opened::open(&copy).map_err(|source| TaskError::Read { path: copy.display().to_string(), source })
    }
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[async_trait]
impl Task for File {
    fn id(&self) -> &TaskId {
        &self.id
    }

    async fn check(&self, node: &Node) -> Result<Finding, TaskError> {
        let (_, look) = self.look(node)?;
        Ok(Finding::drift(look.content.into_iter().chain(look.granted)))
    }

    async fn apply(&self, node: &Node) -> Result<(), TaskError> {
        let (content, look) = self.look(node)?;
        let (parent, name) = self.place();
        let (uid, gid) = accounts::root(node)?;
        let way = Access { mode: WAY, uid, gid };
        match content {
            Content::Absent(_) => {
                if let (Some(folder), Some(entry)) = (&look.folder, look.entry) {
                    folder.remove(name, entry.kind)?;
                }
            }
            Content::Directory(_) if look.content.is_some() => {
                Folder::make(node, parent, way)?;
                Folder::make(node, self.path(), look.access)?;
            }
            Content::Text(text) if look.content.is_some() => {
                let folder = Folder::make(node, parent, way)?;
                folder.replace(name, &mut text.as_slice(), text.len() as u64, look.access)?;
            }
            Content::Artifact(artifact) if look.content.is_some() => {
                // Before anything is made: what cannot be had leaves no trace.
                let mut copy = self.bring(node, artifact).await?;
                let folder = Folder::make(node, parent, way)?;
                folder.replace(name, &mut copy, artifact.size, look.access)?;
            }
            Content::Directory(_) | Content::Text(_) | Content::Artifact(_) => {
                if let Some(folder) = look.folder.filter(|_| !look.granted.is_empty()) {
                    folder.grant(name, look.access)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
