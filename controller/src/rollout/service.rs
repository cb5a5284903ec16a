//! The `Rollouts` service, for operators only.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use fleet_model::NodeName;
use fleet_proto::v1::{self, rollouts_server::Rollouts};
use fleet_rollout::Event;
use futures::{Stream, StreamExt, stream::BoxStream};
use tonic::{Request, Response, Status};

use super::{Driver, Trouble, core::Core, view};
use crate::authority::operator;

/// At most four messages a second: nobody reads faster.
const PACE: Duration = Duration::from_millis(250);
/// Time that is left passes without an event, so a rollout is shown now and then anyway.
const ANYWAY: Duration = Duration::from_secs(5);
/// Longest reason taken, in characters.
const REASON: usize = 300;

/// What operators may ask about rollouts.
#[derive(Clone, Debug)]
pub struct RolloutsService {
    driver: Arc<Driver>,
}

impl RolloutsService {
    /// Over this driver.
    pub fn new(driver: Arc<Driver>) -> Self {
        Self { driver }
    }
}

async fn reply(core: &mut Core, id: &str, warnings: Vec<String>) -> Result<v1::RolloutReply, Trouble> {
    let stored = core.stored().await?;
    let rollout = stored.chosen(id)?.map(|kept| view::whole(core, &kept.head, &kept.rollout));
    Ok(v1::RolloutReply { rollout, line: Some(view::line(stored.line.as_ref())), warnings })
}

fn node(name: &str) -> Result<NodeName, Trouble> {
    name.parse().map_err(|why| {
        Trouble::request(format!("no node is called so: {why}"), "`fleetctl rollout status` lists them")
    })
}

#[tonic::async_trait]
impl Rollouts for RolloutsService {
    type WatchStream = WatchStream;

    async fn start(&self, request: Request<v1::StartRollout>) -> Result<Response<v1::RolloutReply>, Status> {
        let who = operator(&request)?;
        let v1::StartRollout { release, policy, preview } = request.into_inner();
        let mut core = self.driver.turn().await;
        if preview {
            let drawn = core.draw(&release, &policy).await?;
            let rollout = view::drawn(&core, &who, &drawn);
            let line = core.line();
            return Ok(Response::new(v1::RolloutReply {
                rollout: Some(rollout),
                line: Some(view::line(line.as_ref())),
                warnings: drawn.warnings,
            }));
        }
        let warnings = core.start(&who, &release, &policy).await?;
        Ok(Response::new(reply(&mut core, "", warnings).await?))
    }

    async fn get(&self, request: Request<v1::RolloutRequest>) -> Result<Response<v1::RolloutReply>, Status> {
        operator(&request)?;
        let mut core = self.driver.turn().await;
        Ok(Response::new(reply(&mut core, &request.into_inner().id, Vec::new()).await?))
    }

    async fn watch(&self, request: Request<v1::RolloutRequest>) -> Result<Response<WatchStream>, Status> {
        operator(&request)?;
        let id = request.into_inner().id;
        // What is asked for in vain is said at once. Whatever begins or ends meanwhile, it is that one which is watched.
        let stored = self.driver.turn().await.stored().await?;
        let id = stored.chosen(&id)?.map_or(id, |kept| kept.rollout.spec.id.clone());
        Ok(Response::new(WatchStream::new(self.driver.clone(), id)))
    }

    async fn list(&self, request: Request<v1::RolloutRequest>) -> Result<Response<v1::RolloutList>, Status> {
        operator(&request)?;
        let stored = self.driver.turn().await.stored().await?;
        let rollouts = stored.rollouts.values().rev();
        Ok(Response::new(v1::RolloutList {
            rollouts: rollouts.map(|kept| view::brief(&kept.head, &kept.rollout)).collect(),
            line: Some(view::line(stored.line.as_ref())),
        }))
    }

    async fn act(&self, request: Request<v1::RolloutAct>) -> Result<Response<v1::RolloutReply>, Status> {
        let who = operator(&request)?;
        let request = request.into_inner();
        let act = request.act();
        let reason = match request.reason.trim() {
            "" => "no reason was given".to_owned(),
            reason => reason.chars().take(REASON).collect(),
        };
        let event = match act {
            v1::RolloutActKind::RolloutHalt => Event::Halt { by: who.clone(), reason },
            v1::RolloutActKind::RolloutResume => Event::Resume { retry: request.retry },
            v1::RolloutActKind::RolloutUndo => Event::Undo,
            v1::RolloutActKind::RolloutActUnspecified => {
                let hint = "use a command line of this controller's version";
                return Err(Trouble::request("it is not said what to do", hint).into());
            }
        };
        let mut core = self.driver.turn().await;
        let id = core.act(&request.id, event).await?;
        tracing::info!(operator = who, act = act.as_str_name(), rollout = id, "rollout");
        Ok(Response::new(reply(&mut core, &id.to_string(), Vec::new()).await?))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainReply>, Status> {
        operator(&request)?;
        let node = node(&request.into_inner().node)?;
        let mut core = self.driver.turn().await;
        let stored = core.stored().await?;
        // The first one in mind that the node is part of.
        let meant = stored.in_mind();
        let part_of = meant.iter().find(|kept| kept.rollout.nodes.contains_key(&node));
        let Some(kept) = part_of.or(meant.first()) else {
            return Err(Trouble::request(
                "there is no rollout",
                "`fleetctl rollout start RELEASE` starts one",
            )
            .into());
        };
        Ok(Response::new(view::why(&core, &kept.rollout, &node)?))
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::RollbackReply>, Status> {
        let who = operator(&request)?;
        let node = node(&request.into_inner().node)?;
        let (version, connected) = self.driver.turn().await.send_back(&who, &node).await?;
        Ok(Response::new(v1::RollbackReply { version, connected }))
    }

    async fn stop_line(
        &self,
        request: Request<v1::StopLineRequest>,
    ) -> Result<Response<v1::LineReply>, Status> {
        let who = operator(&request)?;
        let line = self.driver.turn().await.stop_line(&who, &request.into_inner().reason).await?;
        Ok(Response::new(view::line(Some(&line))))
    }

    /// Says how it was.
    async fn clear_line(
        &self,
        request: Request<v1::ClearLineRequest>,
    ) -> Result<Response<v1::LineReply>, Status> {
        let who = operator(&request)?;
        let was = self.driver.turn().await.clear_line(&who).await?;
        Ok(Response::new(view::line(was.as_ref())))
    }
}

/// A rollout at once, then after every change.
pub struct WatchStream(BoxStream<'static, Result<v1::RolloutReply, Status>>);

impl WatchStream {
    fn new(driver: Arc<Driver>, id: String) -> Self {
        let mut watch = driver.watch();
        // What is there already counts as news once.
        watch.mark_changed();
        let replies = futures::stream::unfold((watch, true), move |(mut watch, first)| {
            let (driver, id) = (driver.clone(), id.clone());
            async move {
                // Lapsed is as good as changed, closed is the end.
                if let Ok(Err(_)) = tokio::time::timeout(ANYWAY, watch.changed()).await {
                    return None;
                }
                if !first {
                    tokio::time::sleep(PACE).await;
                }
                watch.borrow_and_update();
                let mut core = driver.turn().await;
                let reply = reply(&mut core, &id, Vec::new()).await.map_err(Status::from);
                drop(core);
                Some((reply, (watch, false)))
            }
        });
        Self(replies.boxed())
    }
}

impl Stream for WatchStream {
    type Item = Result<v1::RolloutReply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}
