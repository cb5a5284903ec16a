//! What is remembered of releases: whom to trust, the highest accepted, the newest order. One small file each.

use std::{
    io::{self, Read},
    path::PathBuf,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fleet_proto::v1::{self, StandingReason};
use fleet_release::{Accepted, Refusal, Trust};
use fleet_supervisor::{
    digest::Digest,
    disk::{self, Disk, Host},
};
use fleet_task::atomic::AtomicError;
use prost::Message;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::words::Verdict;
use crate::Places;

/// The newest order, and what is known of it. Where it stands is read from the supervisor's record, never from here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Newest order seen; zero if none was.
    pub(super) number: u64,
    /// As it came, base64; none if it was withdrawn.
    order: Option<String>,
    /// What ran when it came.
    pub(super) before: String,
    /// What it leads to, once its signatures were found good.
    pub(super) target: Option<Target>,
    /// It led there once: it is not done again, whatever happened since.
    pub(super) done: bool,
    /// Why nothing more is done about it until it is said again, by no later process either: what was in its way may be
    /// gone long after whoever gave the order has given up as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<(i32, String)>,
}

/// What an order leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    /// Of the program, in hexadecimal.
    pub(super) digest: String,
    /// As the release calls it.
    pub(super) version: String,
}

impl Target {
    pub(super) fn digest(&self) -> Option<Digest> {
        self.digest.parse().ok()
    }
}

impl Record {
    /// Of an order that has just come.
    pub(super) fn new(order: &v1::Order, before: String) -> Self {
        let text = STANDARD.encode(order.encode_to_vec());
        Self { number: order.number, order: Some(text), before, target: None, done: false, failed: None }
    }

    /// Of an order that was withdrawn.
    pub(super) fn withdrawn(number: u64) -> Self {
        Self { number, ..Self::default() }
    }

    /// What is wanted, unless nothing is.
    pub(super) fn want(&self) -> Option<v1::order::Want> {
        let bytes = STANDARD.decode(self.order.as_ref()?).ok()?;
        v1::Order::decode(bytes.as_slice()).ok()?.want
    }

    /// Why nothing more is done about it, if so.
    pub(super) fn failed(&self) -> Option<Verdict> {
        let (reason, detail) = self.failed.clone()?;
        let reason = StandingReason::try_from(reason).unwrap_or(StandingReason::StandingOther);
        Some(Verdict { reason, detail })
    }

    /// Nothing more is done about it for this reason; or something is, after all.
    pub(super) fn fail(&mut self, why: Option<&Verdict>) {
        self.failed = why.map(|Verdict { reason, detail }| ((*reason).into(), detail.clone()));
    }

    /// Whether there is an order that was not withdrawn.
    pub(super) fn stands(&self) -> bool {
        self.order.is_some()
    }
}

/// The folder of all that.
#[derive(Clone, Debug)]
pub(super) struct Store<D = Host> {
    folder: PathBuf,
    disk: D,
}

impl Store {
    pub(super) fn new(places: &Places) -> Self {
        Self { folder: places.release(), disk: Host }
    }
}

impl<D: Disk + Clone> Store<D> {
    #[cfg(test)]
    pub(super) fn on(folder: &str, disk: D) -> Self {
        Self { folder: folder.into(), disk }
    }

    /// Where packed programs come to.
    pub(super) fn packed(&self) -> PathBuf {
        self.folder.join("packed")
    }

    /// The newest order. Anything unreadable counts as none: the controller says it again.
    pub(super) fn record(&self) -> Record {
        let read = self.read("order").inspect_err(|error| {
            tracing::warn!(path = %self.folder.join("order").display(), %error, "the order cannot be read");
        });
        read.ok().flatten().unwrap_or_default()
    }

    pub(super) fn keep_record(&self, record: &Record) -> Result<(), AtomicError> {
        self.write("order", &serde_json::to_vec(record).expect("text and numbers always become JSON"))
    }

    /// The highest release ever accepted here.
    ///
    /// # Errors
    /// It is there and cannot be read, or is damaged: then nobody may say that there is none, which would let in what
    /// was left behind.
    pub(super) fn highest(&self) -> io::Result<Option<Accepted>> {
        let Some(bytes) = self.bytes("highest")? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            let path = self.folder.join("highest");
            io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged: {error}", path.display()))
        })
    }

    pub(super) fn keep_highest(&self, highest: &Accepted) -> Result<(), AtomicError> {
        let held =
            self.highest().map_err(|error| AtomicError::from_io(&self.folder.join("highest"), 0, error))?;
        if held.as_ref() == Some(highest) {
            return Ok(());
        }
        self.write("highest", &serde_json::to_vec(highest).expect("text and numbers always become JSON"))
    }

    /// Whom this node trusts; nobody if it was given no root.
    ///
    /// # Errors
    /// The root kept here is damaged.
    pub(super) fn trust(&self) -> Result<Option<Trust>, Refusal> {
        let held = self.bytes("root").inspect_err(|error| {
            tracing::warn!(path = %self.folder.join("root").display(), %error, "the root cannot be read");
        });
        held.ok().flatten().map(|bytes| Trust::new(&bytes)).transpose()
    }

    pub(super) fn keep_root(&self, signed: &[u8]) -> Result<(), AtomicError> {
        self.write("root", signed)
    }

    /// What is kept under `name`; damage counts as nothing.
    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let Some(bytes) = self.bytes(name)? else { return Ok(None) };
        let read = serde_json::from_slice(&bytes).inspect_err(|error| {
            tracing::warn!(path = %self.folder.join(name).display(), %error, "is damaged");
        });
        Ok(read.ok())
    }

    fn bytes(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(mut file) = self.disk.clone().open(&self.folder.join(name))? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), AtomicError> {
        let mut disk = self.disk.clone();
        // The agent's own folder lets nobody else in.
        let made = disk.make_folder(&self.folder).and_then(|()| disk.sync_folder(disk::folder(&self.folder)));
        made.map_err(|error| AtomicError::from_io(&self.folder, 0, error))?;
        let path = self.folder.join(name);
        disk::replace_as(&mut disk, &path, bytes, 0o600)
            .map_err(|error| AtomicError::from_io(&path, bytes.len() as u64, error))
    }
}

/// Takes over the root that came with a seed, by the same trusted way as what the node trusts else. A lower one than is
/// known already is not taken: a seed may lie about for some time.
pub(crate) fn trust_seed(places: &Places, root: &str) {
    let store = Store::new(places);
    let new = match Trust::new(root.as_bytes()) {
        Ok(new) => new,
        Err(error) => {
            tracing::warn!(%error, "the root of releases in the seed is not taken; this node takes no releases");
            return;
        }
    };
    if let Ok(Some(held)) = store.trust()
        && held.root().number > new.root().number
    {
        return;
    }
    if let Err(error) = store.keep_root(root.as_bytes()) {
        tracing::warn!(%error, "the root of releases in the seed is not kept");
    }
}

#[cfg(test)]
mod crash;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_damage_counts_as_nothing_but_for_the_highest() {
        let root = tempfile::tempdir().expect("folder");
        let store = Store::new(&Places::below(root.path()));
        assert_eq!(store.record(), Record::default());
        let back = v1::order::Want::Back(v1::Return { reason: "slow".into(), leave: "old".into() });
        let order = v1::Order { number: 7, want: Some(back.clone()) };
        let record = Record::new(&order, "old".into());
        store.keep_record(&record).expect("kept");
        assert_eq!((store.record(), store.record().want()), (record.clone(), Some(back)));
        let full = Verdict::new(StandingReason::StandingDiskFull, "no room");
        let mut failed = record;
        failed.fail(Some(&full));
        store.keep_record(&failed).expect("kept");
        assert_eq!((store.record().failed(), &store.record()), (Some(full), &failed));
        fs::write(root.path().join("var/lib/fleet-agent/release/order"), "{").expect("damage");
        assert_eq!(store.record(), Record::default());
        let accepted = Accepted { version: "0.3.0".parse().expect("a version"), artifacts: "00".into() };
        let lower = Accepted { version: "0.2.0".parse().expect("a version"), ..accepted.clone() };
        store.keep_highest(&accepted).expect("kept");
        let path = root.path().join("var/lib/fleet-agent/release/highest");
        fs::write(&path, "{").expect("damage");
        let why = store.highest().expect_err("no word that there is none").to_string();
        assert!(why.contains("/highest is damaged: "), "{why}");
        store.keep_highest(&lower).expect_err("it may have been higher");
        assert_eq!(fs::read(&path).expect("there"), b"{", "untouched");
        let withdrawn = Record::withdrawn(8);
        assert_eq!((withdrawn.stands(), withdrawn.want()), (false, None));
    }
}
