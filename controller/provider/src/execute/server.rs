//! What is done to a server that is there: disks, monitoring, power. One operation at a time each.

use fleet_mcp::{
    Id, McpError,
    types::{AddDisk, ChangeServerMonitoringPlan, EnableServerMonitoring, ReconfigureServer, Server},
};
use fleet_model::NodeName;
use fleet_plan::resolved::{Cpu, Disk, Service};
use futures::FutureExt;
use tokio::sync::SemaphorePermit;

use super::{
    Failure, Run,
    act::About,
    looks::Kind,
    wait::{Began, Settled},
};
use crate::{
    cloud::Change,
    diff::{has_size, service_plan},
    event::Step,
    graph::Resource,
    restart::Turn,
};

impl Run {
    /// The node's server by what is known of the cloud.
    fn server_of(&self, resource: &Resource, node: &NodeName) -> Result<Id<Server>, Failure> {
        let view = self.view();
        let held = view.our_domain(&self.mark, &resource.location, &resource.domain);
        let server = held.and_then(|held| held.server(&self.mark, node.as_str()));
        server
            .filter(|server| self.mark.is_ours(server.description.as_deref()))
            .map(|server| server.id.clone())
            .ok_or_else(|| Failure(format!("server `{node}` is gone; run again to make it anew")))
    }

    /// A server as it is once nothing is under way. What this run saw last counts: whoever has its turn changes it, and
    /// what others began since shows as busy.
    async fn idle_server(&self, step: &Step, id: &Id<Server>) -> Result<Server, Failure> {
        match self.seen_idle(id) {
            Some(server) => Ok(server),
            None => self.sound_server(step, id, Began::some_time_ago()).await,
        }
    }

    /// A server that was idle when this run saw it last.
    pub(super) fn seen_idle(&self, id: &Id<Server>) -> Option<Server> {
        let view = self.view();
        let seen = view.domains.values().find_map(|held| held.servers.get(id));
        seen.filter(|server| server.is_idle()).cloned()
    }

    /// One look at a server that says whether it is as `wanted`.
    async fn look_server(
        &self,
        id: &Id<Server>,
        wanted: impl Fn(&Server) -> bool,
    ) -> Result<Option<Server>, McpError> {
        Ok(self.cloud.server(id).await?.filter(wanted))
    }

    /// CPUs and memory change while a server is off; one that was on is on again afterwards, however that went.
    pub(super) async fn make_size(
        &self,
        step: &Step,
        resource: &Resource,
        node: &NodeName,
        (cpu, memory_gb): (&Cpu, u32),
    ) -> Result<(), Failure> {
        let _turn = self.turn(node.as_str()).await;
        let id = self.server_of(resource, node)?;
        let server = self.idle_server(step, &id).await?;
        if has_size(&server, cpu, memory_gb) {
            return Ok(());
        }
        let was_on = server.started;
        // A member of a database has a turn of its own: those that wait for it must not keep other servers waiting, nor
        // the one member whose restart they wait for.
        let turn = if was_on { self.leave(step, node).await? } else { None };
        let _restart = if was_on && turn.is_none() { Some(self.restart(step).await) } else { None };
        if was_on {
            self.shut_down(step, &id).await?;
        }
        let resized = self.resize(step, &id, cpu, memory_gb).await;
        if was_on {
            // However that went: what it is now only the cloud knows.
            let server = self.sound_server(step, &id, Began::some_time_ago()).await?;
            self.start(step, &server).await?;
        }
        resized
    }

    /// Leave to restart a server; so many at a time are down together.
    async fn restart(&self, step: &Step) -> SemaphorePermit<'_> {
        if let Ok(leave) = self.restarts.try_acquire() {
            return leave;
        }
        let why = format!("{} other servers are being restarted", self.pace.restarts);
        self.waiting(step, why).await;
        self.restarts.acquire().await.expect("leaves are never closed")
    }

    /// Leave of the database to restart the server, if it is one of its members.
    async fn leave(&self, step: &Step, node: &NodeName) -> Result<Option<Turn>, Failure> {
        let mut asking = self.leave.to_restart(node);
        // Whoever is told at once did not wait.
        if let Some(leave) = asking.as_mut().now_or_never() {
            return leave.map_err(Failure);
        }
        self.waiting(step, "its database has to be whole before it goes down").await;
        // Cancel safe: asking changes nothing.
        tokio::select! {
            () = self.stop.cancelled() => Err(Failure("stopped before its server went down".into())),
            leave = asking => leave.map_err(Failure),
        }
    }

    async fn resize(&self, step: &Step, id: &Id<Server>, cpu: &Cpu, memory_gb: u32) -> Result<(), Failure> {
        let change = Change::Reconfigure(ReconfigureServer {
            id: id.clone(),
            memory_gb: Some(memory_gb),
            cpu_count: Some(cpu.count),
            cpu_speed: Some(cpu.speed.clone()),
            cores_per_socket: Some(cpu.cores_per_socket),
        });
        let as_wanted = |server: &Server| has_size(server, cpu, memory_gb);
        let done = self.act(step, About::default(), &change, || self.look_server(id, as_wanted)).await?;
        if as_wanted(&self.sound_server(step, id, Began::by(&change, &done)).await?) {
            return Ok(());
        }
        Err(Failure("the cloud accepted the change, yet the size is not as wanted; look at it there".into()))
    }

    /// Asks the guest to go down, so that what it has in memory reaches its disks; one that does not is cut off.
    async fn shut_down(&self, step: &Step, id: &Id<Server>) -> Result<(), Failure> {
        let change = Change::ShutdownServer(id.clone());
        let off = |server: &Server| !server.started;
        let began = match self.act(step, About::default(), &change, || self.look_server(id, off)).await {
            Ok(done) => Began::by(&change, &done),
            Err(Failure(why)) => {
                self.waiting(step, format!("the guest does not shut down ({why}); its power is cut")).await;
                Began::some_time_ago()
            }
        };
        match self.settle(step, id, began).await? {
            Settled::Normal(server) if server.started => self.cut_power(step, id).await,
            _ => Ok(()),
        }
    }

    pub(super) async fn make_disk(
        &self,
        step: &Step,
        resource: &Resource,
        node: &NodeName,
        disk: &Disk,
    ) -> Result<(), Failure> {
        let _turn = self.turn(node.as_str()).await;
        let id = self.server_of(resource, node)?;
        let large_enough = |server: &Server| {
            server.disks().iter().any(|found| found.scsi_id == disk.scsi_id && found.size_gb >= disk.size_gb)
        };
        let server = self.idle_server(step, &id).await?;
        if large_enough(&server) {
            return Ok(());
        }
        let held = server.disks().into_iter().find(|found| found.scsi_id == disk.scsi_id);
        let change = match held.map(|held| held.id.clone()) {
            None => Change::AddDisk(AddDisk {
                id: id.clone(),
                size_gb: disk.size_gb,
                speed: Some(disk.speed.clone()),
                scsi_id: Some(disk.scsi_id),
            }),
            Some(Some(held)) => Change::ExpandDisk { server: id.clone(), disk: held, size_gb: disk.size_gb },
            Some(None) => return Err(Failure("the cloud does not say the disk's id; grow it there".into())),
        };
        // Disks have no name: what was there before tells whether one came.
        let before = server.disks().iter().map(|found| found.scsi_id.to_string()).collect();
        let about = About { before, ..About::default() };
        let done = self.act(step, about, &change, || self.look_server(&id, large_enough)).await?;
        let server = self.sound_server(step, &id, Began::by(&change, &done)).await?;
        if large_enough(&server) {
            return Ok(());
        }
        Err(Failure("the cloud accepted the change, yet the disk is not as wanted; look at it there".into()))
    }

    pub(super) async fn make_monitoring(
        &self,
        step: &Step,
        resource: &Resource,
        node: &NodeName,
        plan: Option<Service>,
    ) -> Result<(), Failure> {
        let _turn = self.turn(node.as_str()).await;
        let id = self.server_of(resource, node)?;
        let server = self.idle_server(step, &id).await?;
        let plan = plan.map(service_plan);
        let as_wanted = |server: &Server| {
            server.monitoring.as_ref().map(|monitoring| &monitoring.service_plan) == plan.as_ref()
        };
        if as_wanted(&server) {
            return Ok(());
        }
        let change = match (plan.clone(), server.monitoring.is_some()) {
            (None, _) => Change::DisableMonitoring(id.clone()),
            (Some(service_plan), false) => {
                Change::EnableMonitoring(EnableServerMonitoring { id: id.clone(), service_plan })
            }
            (Some(service_plan), true) => {
                Change::ChangeMonitoring(ChangeServerMonitoringPlan { id: id.clone(), service_plan })
            }
        };
        // Done at once: there is nothing to wait for.
        self.act(step, About::default(), &change, || self.look_server(&id, as_wanted)).await.map(drop)
    }

    pub(super) async fn power_on(
        &self,
        step: &Step,
        resource: &Resource,
        node: &NodeName,
    ) -> Result<(), Failure> {
        let _turn = self.turn(node.as_str()).await;
        let id = self.server_of(resource, node)?;
        let server = self.idle_server(step, &id).await?;
        self.start(step, &server).await
    }

    pub(super) async fn start(&self, step: &Step, server: &Server) -> Result<(), Failure> {
        if server.started {
            return Ok(());
        }
        let id = &server.id;
        let change = Change::StartServer(id.clone());
        let done = self
            .act(step, About::default(), &change, || self.look_server(id, |server| server.started))
            .await?;
        if self.sound_server(step, id, Began::by(&change, &done)).await?.started {
            return Ok(());
        }
        Err(Failure("the cloud started the server, yet it is off; look at its console".into()))
    }

    pub(super) async fn power_off(&self, step: &Step, id: &Id<Server>) -> Result<(), Failure> {
        let server = match self.seen_idle(id) {
            Some(server) => Settled::Normal(server),
            None => self.settle(step, id, Began::some_time_ago()).await?,
        };
        match server {
            Settled::Normal(server) if server.started => self.cut_power(step, id).await,
            // Gone, off, or failed: deleting it will show.
            _ => Ok(()),
        }
    }

    async fn cut_power(&self, step: &Step, id: &Id<Server>) -> Result<(), Failure> {
        let off = |server: &Server| !server.started;
        let change = Change::PowerOffServer(id.clone());
        let done = self.act(step, About::default(), &change, || self.look_server(id, off)).await?;
        self.settle(step, id, Began::by(&change, &done)).await.map(drop)
    }
}
