//! `/fleet/…`: what the real API does not have. Faults, the log of calls, status.

use http::Method;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Service;
use crate::{driver::Command, fault::Fault};

/// Status and body of an answer.
type Answer = (u16, Value);

impl Service {
    /// Answers a call below `/fleet/`. Always JSON.
    pub(super) async fn admin(
        &self,
        method: &Method,
        name: &str,
        query: &[(String, String)],
        body: &[u8],
    ) -> Answer {
        match (method.as_str(), name) {
            ("GET", "fault") => (200, json!({"faults": self.faults().all()})),
            ("POST", "fault") => match serde_json::from_slice::<Fault>(body) {
                Ok(fault) if self.faults().add(fault.clone()) => {
                    tracing::info!(?fault, "fault asked for");
                    (200, json!({"faults": self.faults().all()}))
                }
                Ok(_) => (400, json!({"error": "too many faults"})),
                Err(error) => (400, json!({"error": format!("not a fault: {error}")})),
            },
            ("DELETE", "fault") => {
                self.faults().clear();
                (200, json!({"faults": []}))
            }
            ("GET", "log") => {
                let value =
                    |name: &str| query.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
                let after = value("after").and_then(|after| after.parse().ok()).unwrap_or(0);
                let changing = value("changing").map(|only| only == "true");
                let log = self.log();
                let wanted = |entry: &&super::Entry| changing.is_none_or(|only| only == entry.changing);
                let calls: Vec<_> = log.after(after).into_iter().filter(wanted).collect();
                (200, json!({"count": log.count(), "calls": calls}))
            }
            ("GET", "status") => self.status().await,
            (_, "fault" | "log" | "status") => (405, json!({"error": "no such method"})),
            _ => (404, json!({"error": "no such path"})),
        }
    }

    async fn status(&self) -> Answer {
        let (reply, status) = oneshot::channel();
        let sent = self.calls.send(Command::Status { reply }).await;
        match (sent, status.await) {
            (Ok(()), Ok(status)) => (200, json!(status)),
            _ => (503, json!({"error": "the cloud is stopping"})),
        }
    }
}
