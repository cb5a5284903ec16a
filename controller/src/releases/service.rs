//! The `Releases` service, for operators only.

use std::{collections::BTreeMap, sync::Arc};

use fleet_proto::v1::{self, releases_server::Releases as Service};
use fleet_release::Warning;
use tonic::{Request, Response, Status};

use super::{Offered, ReleaseError, Releases, StoredRelease};
use crate::{
    authority::operator,
    reconcile::board::Board,
    rollout::Driver,
    session::{registry::Holds, stream::Desk},
};

/// Names told of nodes that need a release.
const NAMES: usize = 10;

/// What operators may ask about releases.
#[derive(Clone, Debug)]
pub struct ReleasesService {
    releases: Arc<Releases>,
    board: Arc<Board>,
    desk: Arc<Desk>,
    rollouts: Arc<Driver>,
}

impl ReleasesService {
    /// Over these releases; the nodes of the board's plan are those that run some version.
    pub fn new(releases: Arc<Releases>, board: Arc<Board>, desk: Arc<Desk>, rollouts: Arc<Driver>) -> Self {
        Self { releases, board, desk, rollouts }
    }

    /// Who has it, in words.
    fn holders(&self, kept: &StoredRelease) -> Vec<String> {
        let holders = self.desk.registry.holders(&kept.release, &kept.manifest.version.to_string());
        let of = |what: Holds, words: &str| {
            let names: Vec<&str> =
                holders.iter().filter(|(_, holds)| **holds == what).map(|(node, _)| node.as_str()).collect();
            let more = names.len().saturating_sub(NAMES);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let told = names.iter().take(NAMES).copied().collect::<Vec<_>>().join(", ");
            (!names.is_empty()).then(|| format!("{told}{more} {words}"))
        };
        [of(Holds::Runs, "run it"), of(Holds::Other, "may go back to it")].into_iter().flatten().collect()
    }

    fn kept(&self, kept: StoredRelease) -> v1::KeptRelease {
        v1::KeptRelease {
            refused: self.releases.verdict(&kept).err().map(|why| why.to_string()).unwrap_or_default(),
            warnings: words(&self.releases.outlook(Some(&kept))),
            release: kept.release,
            manifest: kept.manifest_bytes,
            permits: kept.permits.into_iter().map(|one| one.bytes).collect(),
            published_ms: kept.published.as_millis(),
            published_by: kept.by,
        }
    }

    /// Which nodes run what, as they said last.
    fn running(&self) -> Vec<v1::RunningVersion> {
        let Some(plan) = self.board.plan() else { return Vec::new() };
        let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for placed in plan.nodes() {
            let name = &placed.node.name;
            let version = self.desk.registry.view(name).agent_version;
            if !version.is_empty() {
                versions.entry(version).or_default().push(name.to_string());
            }
        }
        versions.into_iter().map(|(version, nodes)| v1::RunningVersion { version, nodes }).collect()
    }
}

/// What expires, in words.
fn words(warnings: &[Warning]) -> Vec<String> {
    let word = |warning: &Warning| {
        let Warning { kind, expires, left } = warning;
        if left.is_zero() {
            return format!("the {kind} expired at {expires}: nothing is updated by it, what runs goes on");
        }
        format!("the {kind} expires at {expires}, in {} days", left.as_secs() / 86_400)
    };
    warnings.iter().map(word).collect()
}

#[tonic::async_trait]
impl Service for ReleasesService {
    async fn trust(&self, request: Request<v1::RootChain>) -> Result<Response<v1::TrustReply>, Status> {
        let who = operator(&request)?;
        let before = self.releases.roots().len();
        let root = self.releases.trust(&request.into_inner().roots).await?;
        if self.releases.roots().len() > before {
            tracing::info!(operator = who, root, "releases are taken by this root now");
        }
        Ok(Response::new(v1::TrustReply { root }))
    }

    async fn publish(
        &self,
        request: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishReply>, Status> {
        let who = operator(&request)?;
        let v1::PublishRequest { chain, manifest, permit } = request.into_inner();
        let roots = chain.unwrap_or_default().roots;
        let offered = Offered { roots, manifest, permit: Some(permit).filter(|permit| !permit.is_empty()) };
        let permitted = offered.permit.is_some();
        let kept = self.releases.publish(&who, offered).await?;
        tracing::info!(operator = who, version = %kept.manifest.version, release = kept.release, permitted, "release kept");
        let warnings = [self.releases.outlook(None), self.releases.outlook(Some(&kept))].concat();
        Ok(Response::new(v1::PublishReply { release: kept.release, warnings: words(&warnings) }))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveReleaseRequest>,
    ) -> Result<Response<v1::RemoveReleaseReply>, Status> {
        let who = operator(&request)?;
        let text = request.into_inner().version;
        let version = text.parse().map_err(|_| ReleaseError::NoVersion(text.chars().take(80).collect()))?;
        // In hand until it is gone: no rollout of it starts meanwhile.
        let mut rollouts = self.rollouts.turn().await;
        let kept = self.releases.of_version(version)?;
        let mut by: Vec<String> = rollouts.need_of(&kept.release).await?.into_iter().collect();
        by.extend(self.holders(&kept));
        if !by.is_empty() {
            return Err(ReleaseError::Needed { version, by }.into());
        }
        let (release, artifacts) = self.releases.remove(version, self.board.named_artifacts()).await?;
        tracing::info!(operator = who, %version, release, artifacts, "release removed");
        Ok(Response::new(v1::RemoveReleaseReply { release, artifacts }))
    }

    async fn list(
        &self,
        request: Request<v1::ReleasesRequest>,
    ) -> Result<Response<v1::ReleasesReply>, Status> {
        operator(&request)?;
        Ok(Response::new(v1::ReleasesReply {
            roots: self.releases.roots(),
            releases: self.releases.list().into_iter().map(|kept| self.kept(kept)).collect(),
            warnings: words(&self.releases.outlook(None)),
            running: self.running(),
        }))
    }
}
