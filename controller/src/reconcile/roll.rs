//! What a run has to do with rollouts: it has the plan's changes rolled out, and tells how that goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use fleet_model::NodeName;
use fleet_proto::v1::NodeState;
use fleet_rollout::{Finish, Phase, Rollout, Standing, State};
use tokio_util::sync::CancellationToken;

use super::{driver::Tools, progress::Teller};
use crate::rollout::archive::{Kept, Told};

/// Between two looks at a rollout: nobody reads faster.
const PACE: Duration = Duration::from_millis(250);
/// A rollout is looked at now and then anyway: another controller may drive it.
const ANYWAY: Duration = Duration::from_secs(5);

/// How a rollout ended as far as a run waited for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rolled {
    /// Why nothing new starts any more: cause and next step.
    pub(super) halted: Option<String>,
    /// What it could not be for everybody, one line each.
    pub(super) problems: Vec<String>,
    /// Nodes that have not what they should, and why.
    pub(super) behind: BTreeMap<NodeName, String>,
}

/// Has the changes of the plan in force rolled out, and waits until that is finished or halted.
pub(super) async fn out(tools: Tools, by: String, teller: Arc<Teller>, stop: CancellationToken) -> Rolled {
    let started = tools.rollouts.turn().await.start_plan(&by).await;
    let id = match started {
        Ok(Some(id)) => id,
        Ok(None) => return Rolled::default(),
        Err(trouble) => {
            let problems = vec![format!("changes of the plan are not rolled out: {}", trouble.told())];
            return Rolled { problems, ..Rolled::default() };
        }
    };
    let mut watch = tools.rollouts.watch();
    let mut following = Following { tools, teller, id, told: None, at_work: BTreeSet::new() };
    loop {
        // Cancel safe: a change that was not seen is seen by the next look.
        tokio::select! {
            () = stop.cancelled() => {
                following.teller.note(format!("rollout {id} goes on without `up`: `fleetctl rollout watch` shows how, `halt` stops it"));
                return Rolled::default();
            }
            ended = following.look() => {
                if let Some(rolled) = ended {
                    return rolled;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = async {
                tokio::time::sleep(PACE).await;
                // Lapsed is as good as changed; the driver lives as long as the controller.
                tokio::time::timeout(ANYWAY, watch.changed()).await.ok();
            } => {}
        }
    }
}

struct Following {
    tools: Tools,
    teller: Arc<Teller>,
    id: u64,
    /// The last notice that was told.
    told: Option<Told>,
    /// Nodes last shown as at work.
    at_work: BTreeSet<NodeName>,
}

impl Following {
    /// Tells what is new; says how it ended if it did.
    async fn look(&mut self) -> Option<Rolled> {
        let kept = self.tools.rollouts.turn().await.see(self.id).await;
        let kept = match kept {
            Ok(Some(kept)) => kept,
            Ok(None) => return Some(Rolled::default()),
            // The driver tries again, and so does this.
            Err(trouble) => {
                tracing::debug!(error = fleet_model::chain(&trouble), "rollout not seen");
                return None;
            }
        };
        self.tell(&kept);
        let rollout = &kept.rollout;
        match rollout.standing() {
            Standing::Finished | Standing::Halted => Some(ended(self.id, &kept)),
            _ => None,
        }
    }

    fn tell(&mut self, kept: &Kept) {
        let notices = &kept.head.notices;
        let known = self.told.as_ref().and_then(|told| notices.iter().rposition(|notice| notice == told));
        for notice in notices.iter().skip(known.map_or(0, |known| known + 1)) {
            self.teller.note(format!("rollout {}: {}", self.id, notice.text));
        }
        self.told = notices.last().cloned();
        let board = &self.tools.homecoming.board;
        let mut at_work = BTreeSet::new();
        for (name, node) in &kept.rollout.nodes {
            let (state, detail) = match node.state {
                state if state.in_flight() => {
                    at_work.insert(name.clone());
                    (NodeState::NodeConverging, format!("rollout {}: {state}", self.id))
                }
                State::Committed if self.at_work.contains(name) => (NodeState::NodeReady, String::new()),
                State::Failed if self.at_work.contains(name) => {
                    let why = node.reason.as_ref().map(ToString::to_string).unwrap_or_default();
                    (NodeState::NodeFailed, why)
                }
                _ => continue,
            };
            if board.set_stage(name, state, &detail) {
                self.teller.node(name, state, &detail);
            }
        }
        self.at_work = at_work;
    }
}

fn ended(id: u64, kept: &Kept) -> Rolled {
    let rollout = &kept.rollout;
    let behind: BTreeMap<NodeName, String> = rollout
        .nodes
        .iter()
        .filter_map(|(name, node)| {
            let reason = node.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            let why = match node.state {
                State::Failed => format!("rollout {id} failed there{reason}"),
                State::RolledBack => format!("rollout {id} was taken back there{reason}"),
                State::Silent | State::CatchingUp => {
                    format!("rollout {id} did not find it{reason}; it catches up when it returns")
                }
                _ => return None,
            };
            Some((name.clone(), why))
        })
        .collect();
    let problems = match &rollout.phase {
        Phase::Finished { finish: Finish::Superseded } => {
            vec![format!("rollout {id} was not finished: another `up` took its place")]
        }
        Phase::Finished { finish: Finish::Undone } => {
            vec![format!("rollout {id} was undone; the next `up` rolls out what its plan says")]
        }
        _ => Vec::new(),
    };
    Rolled { halted: halted(id, rollout), problems, behind }
}

fn halted(id: u64, rollout: &Rollout) -> Option<String> {
    if rollout.standing() != Standing::Halted {
        return None;
    }
    let (reason, nodes, next) = match (&rollout.halt, &rollout.line) {
        (Some(halt), _) => (
            halt.reason.clone(),
            halt.nodes.as_slice(),
            "correct the plan and run `fleetctl up`, or `fleetctl rollout undo`; `resume` goes on, \
             `resume --retry` with those that failed too",
        ),
        (None, line) => {
            let line = line.as_ref()?;
            let reason = format!("{} stopped the line: {}", line.by, line.reason);
            (reason, [].as_slice(), "`fleetctl clear-the-line` lets it go on")
        }
    };
    let nodes: Vec<String> = nodes
        .iter()
        .map(|name| match rollout.nodes.get(name).and_then(|node| node.reason.as_ref()) {
            Some(why) => format!("{name}: {why}"),
            None => name.to_string(),
        })
        .collect();
    let nodes = if nodes.is_empty() { String::new() } else { format!(" ({})", nodes.join("; ")) };
    Some(format!("rollout {id} is halted: {reason}{nodes}; {next}"))
}
