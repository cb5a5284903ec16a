//! The desired state as last accepted, kept on disk so that the node works without a controller.

use std::{fs, io, sync::Arc};

use fleet_model::{Generation, Stale};
use fleet_proto::v1;
use fleet_task::{
    OnDrift, Phases, TaskId, Terms,
    atomic::{self, AtomicError},
};
use prost::Message;

use crate::{Places, tasks};

/// What this node should be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    pub(crate) desired: v1::Desired,
}

/// Why an offer was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OfferError {
    #[error(transparent)]
    Stale(#[from] Stale),
    #[error("keep the desired state")]
    Write(#[source] AtomicError),
}

impl Held {
    /// What is on disk. Anything unreadable counts as nothing: the controller offers it again.
    pub(crate) fn load(places: &Places) -> Self {
        let path = places.desired();
        match fs::read(&path) {
            Ok(bytes) => match v1::Desired::decode(bytes.as_slice()) {
                Ok(desired) => Self { desired },
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "the desired state is damaged; waiting for another");
                    Self::default()
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the desired state cannot be read");
                Self::default()
            }
        }
    }

    /// Its generation; zero means nothing is desired yet.
    pub(crate) fn generation(&self) -> Generation {
        Generation(self.desired.generation)
    }

    /// Takes `offered` unless it is older; on disk before anything is applied. Whether it is news.
    pub(crate) fn accept(&mut self, offered: v1::Desired, places: &Places) -> Result<bool, OfferError> {
        let held = self.generation();
        let taken = held.accept(Generation(offered.generation))?;
        if taken == held {
            if offered != self.desired {
                tracing::warn!(generation = %held, "another content under the same generation was ignored");
            }
            return Ok(false);
        }
        places.outdate().map_err(OfferError::Write)?;
        atomic::write(&places.desired(), &offered.encode_to_vec(), 0o600).map_err(OfferError::Write)?;
        self.desired = offered;
        Ok(true)
    }

    /// The tasks it asks for.
    pub(crate) fn phases(&self) -> Phases {
        let mut phases = Phases::new();
        for spec in &self.desired.tasks {
            let task = tasks::from_spec(TaskId::new(&spec.name), spec.kind.as_ref());
            let on_drift = match spec.on_drift() {
                v1::OnDrift::Repair => OnDrift::Repair,
                v1::OnDrift::Report => OnDrift::Report,
                v1::OnDrift::Hold => OnDrift::Hold,
            };
            phases.add_under(&spec.phase, task, Terms { on_drift, wish: Some(wish(spec)) });
        }
        phases
    }
}

/// Digest of what a task is to bring about. Its place among the others and its policy are no part of that: they may
/// change without the node being any different.
fn wish(spec: &v1::TaskSpec) -> String {
    let bare = v1::TaskSpec { kind: spec.kind.clone(), ..v1::TaskSpec::default() };
    let digest = ring::digest::digest(&ring::digest::SHA256, &bare.encode_to_vec());
    digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The newest offer, on its way from the session to the worker.
pub(crate) type Offer = Option<Arc<v1::Desired>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(generation: u64, name: &str) -> v1::Desired {
        let spec = v1::TaskSpec { name: name.into(), phase: "p".into(), ..v1::TaskSpec::default() };
        v1::Desired { generation, tasks: vec![spec], recheck_s: 0 }
    }

    #[test]
    fn only_newer_is_news_and_it_is_kept() {
        let root = tempfile::tempdir().expect("folder");
        let places = Places::below(root.path());
        let _lock = places.claim().expect("claim");
        let mut held = Held::load(&places);
        assert_eq!(held.generation(), Generation(0));
        assert!(held.accept(desired(3, "a"), &places).expect("first"));
        assert!(!held.accept(desired(3, "b"), &places).expect("equal"));
        assert!(matches!(held.accept(desired(2, "c"), &places), Err(OfferError::Stale(_))));
        assert_eq!(Held::load(&places).desired, desired(3, "a"));
    }

    #[test]
    fn a_wish_is_what_is_to_be_and_nothing_else() {
        let hostname = |hostname: &str| v1::TaskSpec {
            name: "hostname".into(),
            kind: Some(v1::task_spec::Kind::Hostname(v1::HostnameTask { hostname: hostname.into() })),
            ..v1::TaskSpec::default()
        };
        let elsewhere = v1::TaskSpec { phase: "other".into(), on_drift: 2, ..hostname("a") };
        assert_eq!(wish(&hostname("a")), wish(&elsewhere));
        assert_ne!(wish(&hostname("a")), wish(&hostname("b")));
    }

    #[test]
    fn a_damaged_file_counts_as_nothing() {
        let root = tempfile::tempdir().expect("folder");
        let places = Places::below(root.path());
        let _lock = places.claim().expect("claim");
        fs::write(places.desired(), [0xff, 0xff, 0xff]).expect("damage");
        assert_eq!(Held::load(&places).generation(), Generation(0));
    }
}
