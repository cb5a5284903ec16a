//! The `Rescue` service: reads, and changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex as Lock, PoisonError},
    time::Duration,
};

use fleet_model::NodeName;
use fleet_proto::{
    rescue::{AskReply, AskRequest, FetchRequest, Piece, rescue_server::Rescue},
    v1::{self, order::Want, to_agent},
};
use fleet_rollout::Rollout;
use futures::{StreamExt, stream::BoxStream};
use rand::Rng;
use tokio::{sync::Mutex, time::Instant};
use tonic::{Request, Response, Status};

use super::ordered::{ordered, waits};
use crate::{
    artifacts::{Digest, transfer::Transfers},
    records::RecordError,
    rollout::{
        archive::Archive,
        catalogue::{Catalogue, Offerable},
        wire,
    },
    session::service::busy,
};

/// How long what was read of the store stands for it. However often somebody asks, it is read once in this time; a halt
/// and a stopped line are heeded that much later at most.
const STANDS: Duration = Duration::from_secs(1);
/// Asks answered in a second; each costs little, and a fleet whose door this is asks once in many minutes.
const A_SECOND: u32 = 50;
/// When those sent away should come again: spread, so that they do not return together.
const AGAIN_MS: std::ops::Range<u64> = 5_000..30_000;

/// The door for those whom no other lets in.
#[derive(Debug)]
pub struct RescueService {
    archive: Archive,
    catalogue: Arc<dyn Catalogue>,
    transfers: Transfers,
    known: Mutex<Option<(Instant, Option<Arc<Rollout>>)>>,
    /// Who was told an order here and has not been heard of since, of which rollout, and until when that is waited for.
    told: Lock<BTreeMap<NodeName, (String, Instant)>>,
    asked: Lock<(Instant, u32)>,
}

/// What a node is ordered.
struct Ordered {
    node: NodeName,
    number: u64,
    again: bool,
    release: Offerable,
    rollout: Arc<Rollout>,
}

impl RescueService {
    /// Over what is stored; `transfers` are those of this door alone.
    pub fn new(archive: Archive, catalogue: Arc<dyn Catalogue>, transfers: Transfers) -> Self {
        let asked = Lock::new((Instant::now(), 0));
        Self { archive, catalogue, transfers, known: Mutex::default(), told: Lock::default(), asked }
    }

    /// Whether one more may be answered now.
    fn admit(&self) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.0.elapsed() >= Duration::from_secs(1) {
            *asked = (Instant::now(), 0);
        }
        asked.1 += 1;
        asked.1 <= A_SECOND
    }

    /// The newest rollout of a release, unless the line is stopped.
    async fn rollout(&self) -> Result<Option<Arc<Rollout>>, RecordError> {
        let mut known = self.known.lock().await;
        if let Some((at, rollout)) = known.as_ref()
            && at.elapsed() < STANDS
        {
            return Ok(rollout.clone());
        }
        // Of the time before it is read: what is stored meanwhile is seen at the next.
        let at = Instant::now();
        let rollout = match self.archive.line().await? {
            Some(_) => None,
            None => self.archive.newest_release().await?.map(|kept| Arc::new(kept.rollout)),
        };
        *known = Some((at, rollout.clone()));
        Ok(rollout)
    }

    /// What `node` is to take, as far as any node would take it.
    async fn order(&self, node: &str) -> Result<Option<Ordered>, Status> {
        let Ok(node) = node.parse::<NodeName>() else { return Ok(None) };
        let rollout = self.rollout().await.map_err(|error| {
            tracing::error!(error = fleet_model::chain(&error), "orders cannot be read");
            Status::internal("the controller could not complete this; its log says why")
        })?;
        let Some(rollout) = rollout else { return Ok(None) };
        let Some(number) = self.place(&rollout, &node) else { return Ok(None) };
        let release = self.catalogue.get(rollout.spec.target.digest());
        let Some(release) = release.filter(|release| release.refused.is_none()) else { return Ok(None) };
        let again = rollout.nodes.get(&node).is_some_and(|node| node.again);
        Ok(Some(Ordered { node, number, again, release, rollout }))
    }

    /// What `node` is ordered, if there is a place for it among those in flight, which it then takes.
    fn place(&self, rollout: &Rollout, node: &NodeName) -> Option<u64> {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|other, (of, until)| {
            *of == rollout.spec.id && *until > now && rollout.nodes.get(other).is_some_and(waits)
        });
        let others: BTreeSet<NodeName> = told.keys().cloned().collect();
        let number = ordered(rollout, node, &others)?;
        if rollout.nodes.get(node).is_some_and(waits) {
            let deadlines = &rollout.spec.policy.deadlines;
            let until = now + deadlines.fetch + deadlines.trial;
            told.entry(node.clone()).or_insert((rollout.spec.id.clone(), until));
        }
        Some(number)
    }

    fn reply(&self, ordered: &Ordered) -> AskReply {
        let Ordered { node, number, again, release, rollout } = ordered;
        let order = wire::offer(release, node, self.catalogue.roots(), *number, *again, &rollout.spec.policy);
        let to_agent::Message::Order(v1::Order { want: Some(Want::Release(offer)), .. }) = order else {
            return AskReply::default();
        };
        let v1::ReleaseOffer { roots, manifest, permit, again, trial } = offer;
        let v1::Trial { ready_ms, ceiling_ms, tries } = trial.unwrap_or_default();
        let order = *number;
        AskReply { order, roots, manifest, permit, again, ready_ms, ceiling_ms, tries, retry_after_ms: 0 }
    }
}

#[tonic::async_trait]
impl Rescue for RescueService {
    type FetchStream = BoxStream<'static, Result<Piece, Status>>;

    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<AskReply>, Status> {
        if !self.admit() {
            let retry_after_ms = rand::rng().random_range(AGAIN_MS);
            return Ok(Response::new(AskReply { retry_after_ms, ..AskReply::default() }));
        }
        let AskRequest { node, runs } = request.into_inner();
        // The same answer to a node that is not there and to one that has no order: nobody learns who there is.
        let ordered = self.order(&node).await?.filter(|ordered| ordered.release.release != runs);
        let Some(ordered) = ordered else { return Ok(Response::new(AskReply::default())) };
        tracing::info!(
            node,
            order = ordered.number,
            version = ordered.release.version,
            "told its order at the rescue door"
        );
        Ok(Response::new(self.reply(&ordered)))
    }

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        if !self.admit() {
            return Err(busy());
        }
        let FetchRequest { node, sha256, offset } = request.into_inner();
        let named = self.order(&node).await?.is_some_and(|ordered| ordered.release.packed.contains(&sha256));
        let digest = sha256.parse::<Digest>().ok().filter(|_| named);
        let (Some(digest), Ok(node)) = (digest, node.parse::<NodeName>()) else {
            return Err(Status::permission_denied("no order to this node names such bytes now"));
        };
        let chunks = self.transfers.begin(&node, &digest, offset).await?;
        let pieces = chunks.map(|chunk| chunk.map(|v1::Chunk { data }| Piece { data }));
        Ok(Response::new(pieces.boxed()))
    }
}
