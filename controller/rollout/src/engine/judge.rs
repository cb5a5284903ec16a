//! How much is too much.

use fleet_model::NodeName;

use super::Turn;
use crate::{
    event::Kind,
    policy::Limits,
    state::{Finish, Node, Phase, Rollout, State},
};

impl Turn<'_> {
    /// Halts at the first threshold that is reached.
    pub(super) fn judge(&mut self) {
        let idle =
            matches!(self.rollout.phase, Phase::Draft | Phase::Finished { finish: Finish::Superseded });
        if idle || self.rollout.halt.is_some() {
            return;
        }
        if let Some((reason, nodes)) = too_much(self.rollout) {
            self.halt(reason, nodes);
        }
    }
}

fn too_much(rollout: &Rollout) -> Option<(String, Vec<NodeName>)> {
    let whole = std::iter::once((None, rollout.limits()));
    // An undo has no waves.
    let waves = if rollout.goes_back() { 0 } else { rollout.wave + 1 };
    let scopes = whole.chain((0..waves).map(|wave| (Some(wave), rollout.wave_limits(wave))));
    scopes.into_iter().find_map(|(wave, limits)| exceeded(rollout, wave, limits))
}

fn exceeded(rollout: &Rollout, wave: Option<usize>, limits: Limits) -> Option<(String, Vec<NodeName>)> {
    let back = rollout.goes_back();
    let inside = |node: &&Node| wave.is_none_or(|wave| node.wave == wave) && !node.forgiven;
    let wanted = |node: &Node| node.reason.as_ref().is_some_and(|reason| reason.kind == Kind::SentBack);
    let failed = |node: &&Node| {
        (node.state == State::Failed || (!back && node.state == State::RolledBack)) && !wanted(node)
    };
    let silent = |node: &&Node| node.state == State::Silent && node.touched;
    let list = |of: &dyn Fn(&&Node) -> bool| -> Vec<NodeName> {
        rollout.nodes.values().filter(inside).filter(|n| of(n)).map(|n| n.member.node.clone()).collect()
    };
    let place = match wave {
        Some(0) => " of the canaries".to_owned(),
        Some(wave) => format!(" of wave {}", wave + 1),
        None => String::new(),
    };
    let failed = list(&failed);
    if failed.len() >= limits.failed {
        return Some((format!("{}{place} failed, and {} are too many", failed.len(), limits.failed), failed));
    }
    let silent = list(&silent);
    (silent.len() >= limits.silent)
        .then(|| (format!("{}{place} fell silent, and {} are too many", silent.len(), limits.silent), silent))
}
