//! Polling until something is settled or gone; what is gone leaves the index.

use std::future::Future;

use fleet_mcp::{
    Id, McpError,
    resource::Stateful,
    types::{NetworkDomain, Server, State, Vlan},
};
use tokio::time::{Instant, sleep};

use super::{Failure, Run};
use crate::{diff::is_idle, event::Step};

/// How waiting ended.
pub(super) enum Settled<T> {
    /// It is normal and idle.
    Normal(T),
    /// It failed: in which state, and why.
    Failed(T, String),
    /// It is not there any more.
    Gone,
}

impl Run {
    /// Waits for a network domain.
    pub(super) async fn settle_domain(
        &self,
        step: &Step,
        id: &Id<NetworkDomain>,
    ) -> Result<Settled<NetworkDomain>, Failure> {
        let settled =
            self.settle(step, || self.cloud.network_domain(id), |domain| domain.state.is_normal()).await?;
        if matches!(settled, Settled::Gone) {
            self.journal.gone("domain", id.as_str()).await?;
        }
        let mut view = self.view();
        match &settled {
            Settled::Normal(domain) | Settled::Failed(domain, _) => view.put_domain(domain.clone()),
            Settled::Gone => {
                view.domains.remove(id);
            }
        }
        Ok(settled)
    }

    /// Waits for a VLAN.
    pub(super) async fn settle_vlan(&self, step: &Step, id: &Id<Vlan>) -> Result<Settled<Vlan>, Failure> {
        let settled = self.settle(step, || self.cloud.vlan(id), |vlan| vlan.state.is_normal()).await?;
        if matches!(settled, Settled::Gone) {
            self.journal.gone("vlan", id.as_str()).await?;
        }
        let mut view = self.view();
        match &settled {
            Settled::Normal(vlan) | Settled::Failed(vlan, _) => view.put_vlan(vlan.clone()),
            Settled::Gone => view.domains.values_mut().for_each(|held| {
                held.vlans.remove(id);
            }),
        }
        Ok(settled)
    }

    /// Waits for a server.
    pub(super) async fn settle_server(
        &self,
        step: &Step,
        id: &Id<Server>,
    ) -> Result<Settled<Server>, Failure> {
        let settled = self.settle(step, || self.cloud.server(id), is_idle).await?;
        if matches!(settled, Settled::Gone) {
            self.journal.gone("server", id.as_str()).await?;
        }
        let mut view = self.view();
        match &settled {
            Settled::Normal(server) | Settled::Failed(server, _) => view.put_server(server.clone()),
            Settled::Gone => view.domains.values_mut().for_each(|held| {
                held.servers.remove(id);
            }),
        }
        Ok(settled)
    }

    /// Waits for a server that must be there and sound.
    pub(super) async fn idle_server(&self, step: &Step, id: &Id<Server>) -> Result<Server, Failure> {
        match self.settle_server(step, id).await? {
            Settled::Normal(server) => Ok(server),
            Settled::Failed(_, why) => Err(Failure(format!(
                "the server is {why}; look at it at the cloud, delete it there or have it repaired, and run again"
            ))),
            Settled::Gone => Err(Failure("the server is gone; run again to make it anew".into())),
        }
    }

    async fn settle<T, F, R>(
        &self,
        step: &Step,
        look: F,
        idle: impl Fn(&T) -> bool,
    ) -> Result<Settled<T>, Failure>
    where
        T: Stateful,
        F: Fn() -> R,
        R: Future<Output = Result<Option<T>, McpError>>,
    {
        let started = Instant::now();
        let mut pause = self.pace.first;
        let mut told = None;
        loop {
            let Some(found) = self.read(&look).await? else { return Ok(Settled::Gone) };
            let state = found.state().clone();
            if idle(&found) {
                return Ok(Settled::Normal(found));
            }
            if state.is_failed() {
                let reason = found.failure().map(|why| format!(" ({why})")).unwrap_or_default();
                return Ok(Settled::Failed(found, format!("{state}{reason}")));
            }
            if started.elapsed() > self.pace.settle {
                let minutes = self.pace.settle.as_secs() / 60;
                return Err(Failure(format!(
                    "still {state} after {minutes} minutes; see what the cloud does, and run again"
                )));
            }
            if told.as_ref() != Some(&state) {
                self.waiting(step, in_words(&state)).await;
                told = Some(state);
            }
            sleep(pause).await;
            pause = self.pace.next(pause);
        }
    }
}

fn in_words(state: &State) -> String {
    match state {
        State::PendingAdd => "being made".into(),
        State::PendingChange | State::Normal => "being changed".into(),
        State::PendingDelete | State::PendingClean => "being deleted".into(),
        other => other.to_string(),
    }
}
