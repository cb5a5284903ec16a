//! Following a run to its end.

use std::{pin::pin, time::Duration};

use fleet_proto::v1::{Finished, HaltRequest, NodeState, Progress, progress::What};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tonic::{Response, Status, Streaming};

use crate::{
    connect::{Operator, refused},
    failure::{Exit, Failure},
    progress::Screen,
    words,
};

/// How long the controller may take to hear a halt.
const HALT: Duration = Duration::from_secs(5);

/// How a followed run ended.
pub enum End {
    /// By itself.
    Finished(Finished),
    /// By Ctrl-C: the controller finished the steps in hand and started no more.
    Interrupted,
}

/// Opens a run and shows it until it ends. The first Ctrl-C halts it in good order, also while it waits for an
/// earlier run to end; the second leaves it to the controller.
pub async fn follow(
    operator: &mut Operator,
    opening: impl Future<Output = Result<Response<Streaming<Progress>>, Status>>,
    screen: &mut Screen,
) -> Result<End, Failure> {
    // Listened for before the call is sent, and until the end: none is missed in between.
    let listening = signal(SignalKind::interrupt());
    let mut interrupts =
        listening.map_err(|why| Failure::new(Exit::Failed, format!("listen for Ctrl-C: {why}")))?;
    let mut interrupted = false;
    let mut opening = pin!(opening);
    let mut stream = loop {
        tokio::select! {
            // Cancel-safe: the call is pinned outside, and signals stay until they are received.
            opened = &mut opening => break opened.map_err(|status| refused(&status))?.into_inner(),
            _ = interrupts.recv() => {
                if interrupted {
                    return Ok(End::Interrupted);
                }
                interrupted = true;
                halt(operator, screen).await?;
            }
        }
    };
    loop {
        let next = tokio::select! {
            // Cancel-safe: `message` keeps what it has read in the stream.
            next = stream.message() => next.map_err(|status| refused(&status))?,
            _ = interrupts.recv() => {
                if interrupted {
                    return Ok(End::Interrupted);
                }
                interrupted = true;
                halt(operator, screen).await?;
                continue;
            }
        };
        let Some(progress) = next else {
            return Err(Failure::new(Exit::Unreachable, "the controller went away during the run")
                .hint("run the same command again: it goes on where this one was"));
        };
        screen.show(&progress);
        if let Some(What::Finished(finished)) = progress.what {
            screen.end();
            return Ok(if interrupted { End::Interrupted } else { End::Finished(finished) });
        }
    }
}

async fn halt(operator: &mut Operator, screen: &Screen) -> Result<(), Failure> {
    screen.note("Ctrl-C: finishing the steps in hand; again to leave them to the controller");
    // Not waited for long: the second Ctrl-C must find us listening.
    if let Ok(halted) = timeout(HALT, operator.halt(HaltRequest {})).await {
        halted.map_err(|status| refused(&status))?;
    }
    Ok(())
}

/// Says what went wrong, one line a problem and one a node.
pub fn explain(finished: &Finished) {
    for problem in &finished.problems {
        eprintln!("error: {problem}");
    }
    for node in &finished.nodes {
        if !matches!(node.state(), NodeState::NodeReady | NodeState::NodeProvisioned | NodeState::NodeGone) {
            let why = if node.reason.is_empty() { "" } else { ": " };
            eprintln!("{}: {}{why}{}", node.node, words::state(node.state()), node.reason);
        }
    }
}
