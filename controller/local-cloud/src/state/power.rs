//! Servers switched on and off, and the end of every operation on a server.

use fleet_mcp::types::{ChangeServerMonitoringPlan, EnableServerMonitoring};
use fleet_mcp::{
    resource::ServerCall,
    types::{EditServerMetadata, Monitoring, Progress, State as Phase, ToolsStatus},
};
use fleet_model::Timestamp;

use super::{
    Context, Done, Operation, Refused, State, Work,
    operation::power,
    record::{Part, Record, Under},
};
use crate::backing::Id;

type Changed = Result<(Done, Vec<Work>), Refused>;

impl State {
    /// Calls that name a server and nothing else.
    pub(crate) fn server_call(&mut self, call: ServerCall, id: &str, cx: &mut Context<'_>) -> Changed {
        if call == ServerCall::DisableMonitoring {
            return self.disable_monitoring(id);
        }
        let record = self.record(id)?;
        if call == ServerCall::Clean {
            idle(record)?;
            return match record.entity.state {
                Phase::FailedAdd | Phase::FailedDelete => self.begin(id, Operation::Clean, cx),
                _ => Err(Refused::new("INVALID_STATUS", format!("Server {id} has not failed."))),
            };
        }
        usable(record)?;
        let started = record.entity.started;
        let is_started = || Refused::new("SERVER_STARTED", format!("Server {id} is started."));
        let is_stopped = || Refused::new("SERVER_STOPPED", format!("Server {id} is stopped."));
        // Two spellings, as the platform has them.
        let no_tools = |code| Refused::new(code, format!("VMware Tools of server {id} are not running."));
        let operation = match call {
            ServerCall::Start if started => return Err(is_started()),
            ServerCall::Start => Operation::Start,
            ServerCall::UpdateTools if record.entity.tools_outdated() => Operation::UpdateTools,
            ServerCall::UpdateTools => {
                return Err(Refused::new(
                    "NO_CHANGE",
                    format!("VMware Tools of server {id} are up to date."),
                ));
            }
            _ if !started => return Err(is_stopped()),
            ServerCall::Shutdown if !record.entity.tools_running() => {
                return Err(no_tools("VMWARE_TOOLS_INVALID_STATUS"));
            }
            ServerCall::Reboot if !record.entity.tools_running() => {
                return Err(no_tools("VM_TOOLS_INVALID_STATUS"));
            }
            ServerCall::Shutdown => Operation::Shutdown,
            ServerCall::Reboot => Operation::Reboot,
            ServerCall::Reset => Operation::Reset,
            ServerCall::PowerOff | ServerCall::Clean | ServerCall::DisableMonitoring => Operation::PowerOff,
        };
        if operation == Operation::Start {
            let record = self.record_mut(id)?;
            record.ghost = cx.twist.never_boots;
            // The platform shows a starting server as started; a public client reads STARTING out of that.
            record.entity.started = true;
        }
        self.begin(id, operation, cx)
    }

    /// Puts a server under an operation. The caller has checked that it may.
    pub(crate) fn begin(&mut self, id: &str, operation: Operation, cx: &Context<'_>) -> Changed {
        let record = self.record_mut(id)?;
        let action = operation.action();
        record.entity.state = operation.pending();
        record.entity.progress = Some(Progress {
            action: action.clone(),
            request_time: Some(cx.now.to_string()),
            user_name: Some(cx.user.to_owned()),
            number_of_steps: None,
            update_time: None,
            step: None,
            failure_reason: None,
        });
        let fails = cx.twist.fail_deploy && matches!(operation, Operation::Deploy { .. });
        let part = if fails { Part::Failed("failure asked for".to_owned()) } else { Part::Open };
        record.pending = Some(Under { operation, due: cx.now.after(cx.delays.of(action.as_str())), part });
        let done = Done::accepted(format!("Request {action} for server {id} accepted."));
        Ok((done, self.server_work(id)))
    }

    /// What the backing has to do for the server's operation, if it has not yet.
    fn server_work(&mut self, id: &str) -> Vec<Work> {
        let Some(record) = self.servers.iter().find(|server| server.id() == id) else { return Vec::new() };
        let Some(Under { operation, part: Part::Open, .. }) = &record.pending else { return Vec::new() };
        let steps = operation.steps(record, self.server_spec(record));
        if !steps.is_empty() {
            return vec![Work::Server(id.to_owned(), steps)];
        }
        self.server_done(id, Ok(()));
        Vec::new()
    }

    /// The backing has finished, or failed, its part of the server's operation.
    pub fn server_done(&mut self, id: &str, result: Result<(), String>) {
        let Ok(record) = self.record_mut(id) else { return };
        let Some(under) = &mut record.pending else { return };
        if under.part == Part::Open {
            under.part = match result {
                Ok(()) => Part::Done,
                Err(why) => Part::Failed(why),
            };
        }
    }

    /// Ends what can end.
    pub(crate) fn tick_servers(&mut self, now: Timestamp) -> bool {
        let mut changed = false;
        let mut copied = Vec::new();
        self.servers.retain_mut(|record| {
            let ready = |under: &mut Under| under.due <= now && under.part != Part::Open;
            let Some(under) = record.pending.take_if(ready) else { return true };
            changed = true;
            record.settled = now;
            if let Operation::Clone(image) = &under.operation {
                let failure = if let Part::Failed(why) = &under.part { Some(why.clone()) } else { None };
                copied.push((image.clone(), failure));
            }
            if let Part::Failed(why) = under.part {
                fail(record, &under.operation, why, now);
                return true;
            }
            under.operation.effect(&mut record.entity);
            record.entity.state = Phase::Normal;
            record.entity.progress = None;
            if matches!(under.operation, Operation::Deploy { .. }) {
                record.made = true;
                record.password = None;
            }
            match under.operation {
                Operation::Shutdown | Operation::PowerOff => record.ghost = false,
                _ if record.ghost => no_tools(record),
                _ => {}
            }
            !matches!(under.operation, Operation::Delete | Operation::Clean)
        });
        for (image, failure) in copied {
            self.copied(&image, failure.as_deref());
        }
        changed
    }

    /// What runs, as the backing saw it at `seen`. Guests that powered themselves off are noticed.
    pub fn notice_running(&mut self, running: &[Id], seen: Timestamp) -> bool {
        let mut changed = false;
        for record in &mut self.servers {
            let idle = record.pending.is_none() && !record.ghost && record.settled < seen;
            if idle && record.entity.started && !running.iter().any(|id| id == record.id()) {
                tracing::info!(
                    server = record.id(),
                    name = record.entity.name,
                    "server has powered itself off"
                );
                power(&mut record.entity, false);
                changed = true;
            }
        }
        changed
    }

    /// Work of operations that were under way when the process ended.
    pub(crate) fn resume_servers(&mut self) -> Vec<Work> {
        let ids: Vec<Id> = self.servers.iter().map(|server| server.id().to_owned()).collect();
        for record in &mut self.servers {
            let deploying = matches!(
                &record.pending,
                Some(Under { operation: Operation::Deploy { .. }, part: Part::Open, .. })
            );
            // Passwords are never written down, so a server whose files were not made cannot be finished.
            if deploying
                && !record.made
                && record.password.is_none()
                && !record.uncustomised
                && let Some(under) = &mut record.pending
            {
                under.part = Part::Failed("the cloud was restarted before the server was made".to_owned());
            }
        }
        ids.iter().flat_map(|id| self.server_work(id)).collect()
    }

    pub(crate) fn edit_server(&mut self, request: &EditServerMetadata) -> Changed {
        let record = self.record_mut(request.id.as_str())?;
        if let Some(name) = &request.name {
            super::deploy::check_name(name)?;
            record.entity.name.clone_from(name);
        }
        if request.description.is_some() {
            record.entity.description.clone_from(&request.description);
        }
        Ok((Done::at_once("Server metadata has been changed."), Vec::new()))
    }

    pub(crate) fn enable_monitoring(&mut self, request: &EnableServerMonitoring) -> Changed {
        self.given.monitors += 1;
        let number = 11_000 + self.given.monitors;
        let record = self.record_mut(request.id.as_str())?;
        if record.entity.monitoring.is_some() {
            return Err(Refused::new("NO_CHANGE", "Monitoring is already enabled."));
        }
        record.entity.monitoring = Some(Monitoring {
            monitoring_id: Some(number.to_string()),
            service_plan: request.service_plan.clone(),
            state: Some(Phase::Normal),
        });
        Ok((Done::at_once("Monitoring has been enabled."), Vec::new()))
    }

    pub(crate) fn change_monitoring(&mut self, request: &ChangeServerMonitoringPlan) -> Changed {
        let record = self.record_mut(request.id.as_str())?;
        match &mut record.entity.monitoring {
            None => Err(Refused::new("OPERATION_NOT_SUPPORTED", "Monitoring is not enabled.")),
            Some(monitoring) if monitoring.service_plan == request.service_plan => {
                Err(Refused::new("NO_CHANGE", "Monitoring has this plan already."))
            }
            Some(monitoring) => {
                monitoring.service_plan = request.service_plan.clone();
                Ok((Done::at_once("The monitoring plan has been changed."), Vec::new()))
            }
        }
    }

    fn disable_monitoring(&mut self, id: &str) -> Changed {
        let record = self.record_mut(id)?;
        match record.entity.monitoring.take() {
            None => Err(Refused::new("NO_CHANGE", "Monitoring is not enabled.")),
            Some(_) => Ok((Done::at_once("Monitoring has been disabled."), Vec::new())),
        }
    }

    pub(crate) fn record(&self, id: &str) -> Result<&Record, Refused> {
        self.servers.iter().find(|server| server.id() == id).ok_or_else(|| Refused::not_found("Server", id))
    }

    pub(crate) fn record_mut(&mut self, id: &str) -> Result<&mut Record, Refused> {
        self.servers
            .iter_mut()
            .find(|server| server.id() == id)
            .ok_or_else(|| Refused::not_found("Server", id))
    }
}

/// One operation at a time.
pub(crate) fn idle(record: &Record) -> Result<(), Refused> {
    match &record.pending {
        Some(under) => Err(Refused::busy("Server", record.id(), under.describe())),
        None => Ok(()),
    }
}

/// Idle, and not one that was never made.
pub(crate) fn usable(record: &Record) -> Result<(), Refused> {
    idle(record)?;
    if record.entity.state == Phase::FailedAdd {
        let message = format!("Server {} is FAILED_ADD; only cleanServer is possible.", record.id());
        return Err(Refused::new("INVALID_STATUS", message));
    }
    Ok(())
}

fn fail(record: &mut Record, operation: &Operation, why: String, now: Timestamp) {
    tracing::warn!(server = record.id(), name = record.entity.name, operation = %operation.action(), why, "operation failed");
    let server = &mut record.entity;
    server.state = operation.failed();
    if let Some(progress) = &mut server.progress {
        progress.failure_reason = Some(why);
        progress.update_time = Some(now.to_string());
    }
    match operation {
        Operation::Deploy { .. } => {
            power(server, false);
            record.password = None;
        }
        Operation::Start => power(server, false),
        // What was to be added is not there.
        Operation::AddDisk(id) => Operation::RemoveDisk(id.clone()).effect(server),
        Operation::AddNic(id) => Operation::RemoveNic(id.clone()).effect(server),
        _ => {}
    }
}

fn no_tools(record: &mut Record) {
    if let Some(tools) = record.entity.guest.as_mut().and_then(|guest| guest.vm_tools.as_mut()) {
        tools.running_status = Some(ToolsStatus::NotRunning);
    }
}
