//! With what a service was started, so that it is restarted when that has changed and only then.

use fleet_task::{Node, TaskError, TaskId};
use serde::{Deserialize, Serialize};

use super::support::unit::{self, Unit};

const NOTE: &str = "start";

#[derive(Serialize, Deserialize)]
struct Start {
    invocation: String,
    digest: String,
}

/// Whether a running service was started with something else than `digest`, the digest of all it reads at its start.
/// Of a start that was not ours it is only known when it was: then `files` must not be younger.
pub(super) fn is_older(
    node: &Node,
    id: &TaskId,
    unit: &Unit,
    digest: &str,
    files: &[String],
) -> Result<bool, TaskError> {
    let note: Option<Start> =
        node.journal().recall(id, NOTE).and_then(|text| serde_json::from_str(&text).ok());
    match note.filter(|start| start.invocation == unit.invocation) {
        Some(start) => Ok(start.digest != digest),
        None => Ok(!unit::changed_since_start(node, id, unit, files)?.is_empty()),
    }
}

/// The service as it runs has read what has this digest.
pub(super) fn remember(node: &Node, id: &TaskId, unit: &Unit, digest: &str) -> Result<(), TaskError> {
    let start = Start { invocation: unit.invocation.clone(), digest: digest.to_owned() };
    let text = serde_json::to_string(&start).expect("text always becomes JSON");
    Ok(node.journal().remember(id, NOTE, &text)?)
}
