//! systemctl and journalctl.

use fleet_task::Output;

use super::{Debian, failure};

#[derive(Clone, Debug, Default)]
pub(super) struct FakeUnit {
    active: &'static str,
    sub: &'static str,
    enabled: bool,
    masked: bool,
    invocation: String,
    /// Microseconds after the boot.
    started: u64,
    /// It ends as soon as it is started, having said this.
    dies: Option<String>,
}

impl FakeUnit {
    /// As after a boot; `can` it start?
    pub(super) fn boots(&mut self, can: bool) {
        (self.active, self.sub) = match (self.enabled && !self.masked, can) {
            (false, _) => ("inactive", "dead"),
            (true, false) => ("failed", "failed"),
            (true, true) => ("active", "running"),
        };
        "boot".clone_into(&mut self.invocation);
        self.started = 999_000_000_000;
    }
}

impl Debian {
    /// A unit, as it is.
    pub(crate) fn unit(&self, name: &str, running: bool, enabled: bool) -> &Self {
        let (active, sub) = if running { ("active", "running") } else { ("inactive", "dead") };
        // Long after any file of the test was written, and not started by a task.
        let unit = FakeUnit { active, sub, enabled, started: 999_000_000_000, ..FakeUnit::default() };
        self.lock().units.insert(name.into(), unit);
        self
    }

    /// It ends as soon as it is started.
    pub(crate) fn dies(&self, name: &str, said: &str) -> &Self {
        self.lock().units.entry(name.into()).or_default().dies = Some(said.into());
        self
    }

    /// It ended, and not as it should have.
    pub(crate) fn failed_unit(&self, name: &str) {
        let mut state = self.lock();
        let unit = state.units.entry(name.into()).or_default();
        (unit.active, unit.sub) = ("failed", "failed");
    }

    /// Somebody forbade it.
    pub(crate) fn masked(&self, name: &str) -> &Self {
        self.lock().units.entry(name.into()).or_default().masked = true;
        self
    }

    /// Whether it runs, and is started at boot.
    pub(crate) fn is_up(&self, name: &str) -> (bool, bool) {
        self.lock().units.get(name).map_or((false, false), |unit| (unit.active == "active", unit.enabled))
    }

    /// What chrony says of the clock.
    pub(crate) fn tracks(&self, line: &str) -> &Self {
        self.lock().tracking = line.into();
        self
    }

    /// How long ago it was started, in seconds.
    pub(crate) fn started_ago(&self, name: &str, seconds: u64) {
        let micros = (1000 - seconds) * 1_000_000;
        self.lock().units.entry(name.into()).or_default().started = micros;
    }

    /// What a package's own script does: its service starts.
    pub(super) fn installed(&self, package: &str) {
        let unit = match package {
            "chrony" => "chrony.service",
            "openssh-server" => "ssh.service",
            _ => return,
        };
        if !self.lock().units.contains_key(unit) {
            self.unit(unit, true, true);
        }
        if package == "openssh-server" {
            self.reload_sshd();
        }
    }

    pub(super) fn systemctl(&self, args: &[&str]) -> Output {
        let (verb, name) =
            (args.first().copied().unwrap_or_default(), args.last().copied().unwrap_or_default());
        if matches!(verb, "daemon-reload" | "reboot") {
            return Output::ok("");
        }
        if verb == "show" {
            return self.show(name);
        }
        let mut state = self.lock();
        state.starts += 1;
        let starts = state.starts;
        let Some(unit) = state.units.get_mut(name) else {
            return failure(5, &format!("Unit {name} not found."));
        };
        match verb {
            "enable" => unit.enabled = true,
            "disable" => unit.enabled = false,
            "stop" => (unit.active, unit.sub) = ("inactive", "dead"),
            "start" | "restart" => {
                (unit.active, unit.sub) =
                    if unit.dies.is_some() { ("failed", "failed") } else { ("active", "running") };
                unit.invocation = format!("start{starts}");
                unit.started = 999_000_000_000;
            }
            "reset-failed" | "reload" | "try-reload-or-restart" => (),
            other => return failure(1, &format!("Unknown command verb {other}.")),
        }
        let up = unit.active == "active";
        drop(state);
        if name == "ssh.service"
            && up
            && matches!(verb, "start" | "restart" | "reload" | "try-reload-or-restart")
        {
            self.reload_sshd();
        }
        Output::ok("")
    }

    fn show(&self, name: &str) -> Output {
        let state = self.lock();
        let Some(unit) = state.units.get(name) else {
            return Output::ok("LoadState=not-found\nActiveState=inactive\nSubState=dead\nUnitFileState=\n");
        };
        let load = if unit.masked { "masked" } else { "loaded" };
        let file = if unit.enabled { "enabled" } else { "disabled" };
        Output::ok(format!(
            "LoadState={load}\nActiveState={}\nSubState={}\nUnitFileState={file}\nNeedDaemonReload=no\n\
             InvocationID={}\nExecMainStartTimestampMonotonic={}\n",
            unit.active, unit.sub, unit.invocation, unit.started
        ))
    }

    pub(super) fn journalctl(&self, args: &[&str]) -> Output {
        let state = self.lock();
        let unit = args.last().and_then(|name| state.units.get(*name));
        Output::ok(unit.and_then(|unit| unit.dies.clone()).unwrap_or_default())
    }
}
