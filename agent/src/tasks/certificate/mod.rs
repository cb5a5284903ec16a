//! A key made on this node and the fleet's certificate for it, for the node's services.
//!
//! The key never leaves the node; the certificate opens no door of the controller. The controller says when to renew
//! it, long before it runs out, so that a controller that is away for days is only a warning: while a certificate is
//! good, nothing waits.

mod files;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fleet_model::{Clock, SystemClock, Timestamp};
use fleet_proto::v1;
use fleet_task::{Finding, Node, Task, TaskError, TaskId, age};
use serde::{Deserialize, Serialize};

use crate::identity::Key;

pub(crate) use files::{CA, CERTIFICATE, KEY, certificates, ran_out};
use files::{Names, Pair};

/// What is remembered of the certificate in the journal.
const NOTE: &str = "certificate";
/// Least time between two attempts to renew a certificate that is still good.
const RETRY: Duration = Duration::from_secs(600);
/// With less than this left, a renewal that does not come is worth a warning even without a session.
const CLOSE: Duration = Duration::from_secs(2 * 86_400);

/// Keeps the certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    id: TaskId,
    names: Vec<String>,
    clock: Arc<dyn Clock>,
}

/// What is remembered of the certificate the controller gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    /// Of certificate and trust, as they are on disk.
    digest: String,
    /// What it was asked for.
    names: Vec<String>,
    not_after: Timestamp,
    renew_at: Timestamp,
    /// When and why renewing it last failed.
    #[serde(default)]
    failed: Option<(Timestamp, String)>,
}

/// What a look found.
struct Look {
    /// What keeps the services from using it; it has to be made right before anything else.
    broken: Vec<String>,
    /// Why another certificate is wanted although this one is good.
    due: Option<String>,
    record: Option<Record>,
    now: Timestamp,
}

impl Certificate {
    /// The services' certificate is to hold these names and addresses.
    pub fn new(id: TaskId, names: Vec<String>) -> Self {
        Self { id, names, clock: Arc::new(SystemClock) }
    }

    fn look(&self, node: &Node) -> Result<Look, TaskError> {
        let names = Names::parse(&self.names)?;
        let now = self.clock.now();
        let record = self.record(node);
        let mut look = Look { broken: Vec::new(), due: None, record, now };
        let pair = Pair::read(node)?;
        look.broken.extend(pair.faults(&names));
        let Some(record) = &look.record else {
            if look.broken.is_empty() {
                look.broken.push(format!("{CERTIFICATE} is not the one the controller gave"));
            }
            return Ok(look);
        };
        if pair.is_there() && pair.digest() != record.digest {
            look.broken.push(format!("{CERTIFICATE} or {CA} is not the one the controller gave"));
        }
        if !names.are(&record.names) {
            let (had, to) = (record.names.join(", "), self.names.join(", "));
            look.broken.push(format!("the certificate was made for {had}, to be for {to}"));
        }
        if now >= record.not_after {
            look.broken.push(format!("the certificate ran out {} ago", age(now.since(record.not_after))));
        } else if now >= record.renew_at {
            look.due = Some(format!("the certificate is to be renewed since {}", record.renew_at));
        }
        Ok(look)
    }

    fn record(&self, node: &Node) -> Option<Record> {
        serde_json::from_str(&node.journal().recall(&self.id, NOTE)?).ok()
    }

    fn remember(&self, node: &Node, record: &Record) -> Result<(), TaskError> {
        let text = serde_json::to_string(record).expect("text and numbers always become JSON");
        Ok(node.journal().remember(&self.id, NOTE, &text)?)
    }

    /// Asks for a certificate for the node's key and puts it in place, but only if it is one that works.
    async fn ask(&self, node: &Node, key: &Key) -> Result<(), TaskError> {
        let names = Names::parse(&self.names)?;
        let csr = key.request(&self.names[0]).map_err(|error| files::refuse(&error))?;
        let answer = node.controller().certify(csr).await?;
        let now = self.clock.now();
        let pair = Pair::answered(&answer, node, &names, now)?;
        pair.write(node)?;
        let v1::ServiceCredentials { not_after_ms, renew_at_ms, .. } = answer;
        self.remember(
            node,
            &Record {
                digest: pair.digest(),
                names: self.names.clone(),
                not_after: Timestamp::from_millis(not_after_ms),
                renew_at: Timestamp::from_millis(renew_at_ms),
                failed: None,
            },
        )
    }
}

#[async_trait]
impl Task for Certificate {
    fn id(&self) -> &TaskId {
        &self.id
    }

    async fn check(&self, node: &Node) -> Result<Finding, TaskError> {
        let Look { broken, due, record, now } = self.look(node)?;
        if !broken.is_empty() {
            return Ok(Finding::drift(broken));
        }
        let (Some(due), Some(record)) = (due, record) else { return Ok(Finding::converged()) };
        let mut finding = Finding::converged();
        match record.failed {
            Some((at, why)) if now.since(at) < RETRY => {
                finding.warnings.push(format!("{due}, and it is not: {why}"));
            }
            _ if node.controller().is_connected() => finding.drift.push(due),
            _ if record.not_after.since(now) < CLOSE => {
                let left = age(record.not_after.since(now));
                finding.warnings.push(format!("the certificate runs out in {left}, and there is no session"));
            }
            _ => (),
        }
        Ok(finding)
    }

    async fn apply(&self, node: &Node) -> Result<(), TaskError> {
        // First: a key made anew makes the certificate useless, a key only shut again does not.
        let key = files::key(node)?;
        let look = self.look(node)?;
        match (look.broken.is_empty(), look.due, look.record) {
            (false, _, _) => self.ask(node, &key).await,
            (true, Some(_), Some(record)) => match self.ask(node, &key).await {
                Err(error) => {
                    // What is there is good: nothing waits for another one.
                    let failed = Some((look.now, error.explain()));
                    self.remember(node, &Record { failed, ..record })
                }
                Ok(()) => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
