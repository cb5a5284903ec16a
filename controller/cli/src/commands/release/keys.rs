//! The releaser's keys and the chain of roots, on the releaser's host and nowhere else.
//!
//! ```text
//! release-keys/            0700, in the home folder
//!   root.key release.key permit.key    0600: private keys, PEM
//!   root.1 root.2 …        signed: who may sign what; these alone travel
//!   ROLE.key.next          a rotation that was cut: finished or undone by whoever comes next
//!   kept                   somebody looked at them or signed with them: they stay when the last fleet of this home goes
//!   lock                   held while keys change
//! ```
//!
//! `root.key` may be kept elsewhere: it is needed to rotate keys, and for nothing else.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;
use fleet_model::{Clock as _, Secret, SystemClock};
use fleet_release::{Body, PublicKey, Role, Root, Signed, SigningKey, Trust};

use crate::{
    failure::{Exit, Failure},
    home::{Home, make_private},
};

/// Below the home folder.
const DIR: &str = "release-keys";
/// The file that says that somebody counts on them.
const KEPT: &str = "kept";
/// How long a root is good for. It is followed by the next long before: every command warns four weeks ahead.
const ROOT_LIFE: Duration = Duration::from_secs(730 * 86_400);

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// Signs roots: who may sign what.
    Root,
    /// Signs releases.
    Release,
    /// Signs leave to go back.
    Permit,
}

impl RoleName {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Root, Self::Release, Self::Permit];

    /// In words and file names.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Release => "release",
            Self::Permit => "permit",
        }
    }

    /// What a root says of it.
    pub const fn of(self, root: &Root) -> &Role {
        match self {
            Self::Root => &root.root,
            Self::Release => &root.release,
            Self::Permit => &root.permit,
        }
    }

    fn of_mut(self, root: &mut Root) -> &mut Role {
        match self {
            Self::Root => &mut root.root,
            Self::Release => &mut root.release,
            Self::Permit => &mut root.permit,
        }
    }
}

/// The folder, read.
#[derive(Debug)]
pub struct Keys {
    dir: PathBuf,
    chain: Vec<Vec<u8>>,
    trust: Trust,
}

impl Keys {
    /// The keys of this home, made now if there are none.
    ///
    /// # Errors
    /// The folder cannot be used, or others can read it.
    pub fn ensure(home: &Home, note: impl Fn(&str)) -> Result<Self, Failure> {
        let dir = home.dir().join(DIR);
        make_private(&dir).map_err(|why| failed("make", &dir, &why))?;
        private(&dir)?;
        let _lock = lock(&dir)?;
        if !root_file(&dir, 1).exists() {
            first(&dir)?;
            note(&format!(
                "made keys that sign this user's releases, in {}: keep a copy where nobody else comes",
                dir.display()
            ));
        }
        Self::read(dir)
    }

    /// The keys of this home, if there are any.
    ///
    /// # Errors
    /// As [`ensure`](Self::ensure).
    pub fn open(home: &Home) -> Result<Option<Self>, Failure> {
        let dir = home.dir().join(DIR);
        if !root_file(&dir, 1).exists() {
            return Ok(None);
        }
        private(&dir)?;
        let _lock = lock(&dir)?;
        Self::read(dir).map(Some)
    }

    fn read(dir: PathBuf) -> Result<Self, Failure> {
        let mut chain = Vec::new();
        for number in 1.. {
            let file = root_file(&dir, number);
            match fs::read(&file) {
                Ok(root) => chain.push(root),
                Err(why) if why.kind() == io::ErrorKind::NotFound => break,
                Err(why) => return Err(failed("read", &file, &why)),
            }
        }
        let trust = Trust::of_chain(&chain).map_err(|refusal| {
            Failure::new(Exit::Input, format!("the roots in {} are damaged: {refusal}", dir.display()))
                .hint("put back your copy of them")
        })?;
        let keys = Self { dir, chain, trust };
        RoleName::ALL.into_iter().try_for_each(|role| keys.settle(role))?;
        Ok(keys)
    }

    /// Finishes a rotation whose root was written, undoes one whose was not.
    fn settle(&self, role: RoleName) -> Result<(), Failure> {
        let (next, file) = (next_file(&self.dir, role), key_file(&self.dir, role));
        if !next.exists() {
            return Ok(());
        }
        let named = self.named(role, &load(&next)?.public());
        let done = if named { fs::rename(&next, &file) } else { fs::remove_file(&next) };
        done.and_then(|()| sync(&self.dir)).map_err(|why| failed("put in its place", &next, &why))
    }

    fn named(&self, role: RoleName, key: &PublicKey) -> bool {
        role.of(self.trust.root()).keys.contains(key)
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Signed roots, the first one first.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// The newest root.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Whether the key of `role` is here.
    pub fn has(&self, role: RoleName) -> bool {
        key_file(&self.dir, role).exists()
    }

    /// `body`, signed by the key of `role`.
    ///
    /// # Errors
    /// The key is not here, or is not the one the newest root names.
    pub fn sign<B: Body>(&self, role: RoleName, body: &B) -> Result<Vec<u8>, Failure> {
        let mut signed = new(body)?;
        signed.sign(&self.key(role)?);
        self.keep()?;
        Ok(signed.encode())
    }

    /// Notes that somebody counts on these keys.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn keep(&self) -> Result<(), Failure> {
        let kept = self.dir.join(KEPT);
        write(&kept, b"").map_err(|why| failed("write", &kept, &why))
    }

    fn key(&self, role: RoleName) -> Result<SigningKey, Failure> {
        let file = key_file(&self.dir, role);
        let key = load(&file)?;
        if self.named(role, &key.public()) {
            return Ok(key);
        }
        let number = self.trust.root().number;
        Err(Failure::new(Exit::Input, format!("{} is not the key that root {number} names", file.display()))
            .hint(format!(
                "put the right one back; or withdraw it: `fleetctl release rotate {}`",
                role.word()
            )))
    }

    /// Another key for `role`, told by the next root; the one of before is withdrawn and destroyed.
    ///
    /// # Errors
    /// The root key is not here.
    pub fn rotate(home: &Home, role: RoleName) -> Result<Self, Failure> {
        let dir = home.dir().join(DIR);
        if !root_file(&dir, 1).exists() {
            return Err(Failure::new(
                Exit::Input,
                format!("there are no release keys in {}", home.dir().display()),
            )
            .hint("`fleetctl release keys` makes them"));
        }
        private(&dir)?;
        let _lock = lock(&dir)?;
        let keys = Self::read(dir.clone())?;
        let old_root = keys.key(RoleName::Root)?;
        let (fresh, pem) = generate()?;
        let now = SystemClock.now();
        let mut root = keys.trust.root().clone();
        root.number += 1;
        (root.created, root.expires) = (now, now.after(ROOT_LIFE));
        let told = role.of_mut(&mut root);
        // Keys of other people in the same role stay.
        if let Ok(old) = load(&key_file(&dir, role)) {
            told.keys.remove(&old.public());
        } else if told.keys.len() == 1 {
            told.keys.clear();
        }
        told.keys.insert(fresh.public());
        let mut signed = new(&root)?;
        signed.sign(&old_root);
        if role == RoleName::Root {
            signed.sign(&fresh);
        }
        let bytes = signed.encode();
        keys.trust.follow(&bytes).map_err(|refusal| {
            Failure::new(Exit::Input, format!("root {} would not be followed: {refusal}", root.number))
        })?;
        // In this order: cut anywhere between, `settle` puts it right.
        let (next, link) = (next_file(&dir, role), root_file(&dir, root.number));
        write(&next, pem.reveal().as_bytes()).map_err(|why| failed("write", &next, &why))?;
        keys.keep()?;
        write(&link, &bytes).map_err(|why| failed("write", &link, &why))?;
        Self::read(dir)
    }
}

/// Removes keys that `up` made and nobody has looked at or signed with since: nobody will miss them.
///
/// # Errors
/// They cannot be removed.
pub fn remove_unused(home: &Home) -> io::Result<()> {
    let dir = home.dir().join(DIR);
    let root = root_file(&dir, 1);
    if dir.join(KEPT).exists() || root_file(&dir, 2).exists() {
        return Ok(());
    }
    if root.exists() {
        // Root 1 goes last: cut anywhere, what is left is still known for what it is.
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path != root {
                fs::remove_file(path)?;
            }
        }
        fs::remove_file(root)?;
    }
    // Keys that somebody laid there without their root stay, and so does their folder.
    match fs::remove_dir(&dir) {
        Err(why) if !matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Err(why)
        }
        _ => Ok(()),
    }
}

/// Keys and root 1.
fn first(dir: &Path) -> Result<(), Failure> {
    let mut public = Vec::new();
    for role in RoleName::ALL {
        let file = key_file(dir, role);
        // There already if the last attempt was cut.
        if !file.exists() {
            let (_, pem) = generate()?;
            write(&file, pem.reveal().as_bytes()).map_err(|why| failed("write", &file, &why))?;
        }
        public.push(load(&file)?.public());
    }
    let [root, release, permit] = <[PublicKey; 3]>::try_from(public).expect("one for each of three roles");
    let now = SystemClock.now();
    let role = |key| Role::new(1, [key]);
    let body = Root {
        number: 1,
        created: now,
        expires: now.after(ROOT_LIFE),
        root: role(root),
        release: role(release),
        permit: role(permit),
    };
    let mut signed = new(&body)?;
    signed.sign(&load(&key_file(dir, RoleName::Root))?);
    let file = root_file(dir, 1);
    write(&file, &signed.encode()).map_err(|why| failed("write", &file, &why))
}

fn new<B: Body>(body: &B) -> Result<Signed, Failure> {
    Signed::new(body).map_err(|refusal| Failure::new(Exit::Input, refusal.to_string()))
}

fn generate() -> Result<(SigningKey, Secret), Failure> {
    SigningKey::generate().map_err(|why| Failure::new(Exit::Failed, format!("make a key: {why}")))
}

fn load(file: &Path) -> Result<SigningKey, Failure> {
    let text = fs::read_to_string(file).map_err(|why| match why.kind() {
        io::ErrorKind::NotFound => Failure::new(Exit::Input, format!("{} is not here", file.display()))
            .hint("put it back for as long as it is needed; `fleetctl release keys` shows what is here"),
        _ => failed("read", file, &why),
    })?;
    let text = Secret::new(text);
    private(file)?;
    SigningKey::from_pem(&text).map_err(|why| {
        Failure::new(Exit::Input, format!("{}: {why}", file.display())).hint("put back your copy of it")
    })
}

/// Refuses what others on this host can read: such a key is nobody's any more.
fn private(path: &Path) -> Result<(), Failure> {
    let mode = fs::metadata(path).map_err(|why| failed("look at", path, &why))?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(Failure::new(Exit::Input, format!("others on this host can get at {}", path.display())).hint(
        format!(
            "`chmod go= {}`; if somebody may have read a key, withdraw it with `fleetctl release rotate`",
            path.display()
        ),
    ))
}

/// Released by the kernel when the process ends, however it ends.
fn lock(dir: &Path) -> Result<File, Failure> {
    let path = dir.join("lock");
    let open = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let locked = open.and_then(|file| file.lock().map(|()| file));
    locked.map_err(|why| failed("lock", &path, &why))
}

/// Whole or not at all, for the owner only.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".draft");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), sync)
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn key_file(dir: &Path, role: RoleName) -> PathBuf {
    dir.join(format!("{}.key", role.word()))
}

fn next_file(dir: &Path, role: RoleName) -> PathBuf {
    dir.join(format!("{}.key.next", role.word()))
}

fn root_file(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("root.{number}"))
}

fn failed(what: &str, path: &Path, why: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{what} {}: {why}", path.display()))
}

#[cfg(test)]
mod tests;
