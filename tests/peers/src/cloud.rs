//! A cloud for peers.

use std::{collections::BTreeSet, sync::Arc, thread::JoinHandle};

use fleet_local_cloud::{
    Access, CloudError, Settings,
    backing::{Backing, NoBacking},
    machines::{self, Machines},
    serve,
};
use tokio_util::sync::CancellationToken;

/// A cloud on a thread of its own; stopped when dropped, with all it has.
pub struct Cloud {
    access: Access,
    /// Where its machines are, if it has any.
    machines: Option<machines::Settings>,
    // Its files; removed when the cloud is gone.
    _dir: tempfile::TempDir,
    stop: CancellationToken,
    serving: Option<JoinHandle<Result<(), CloudError>>>,
}

impl Cloud {
    /// Starts one.
    ///
    /// # Panics
    /// It cannot serve.
    #[track_caller]
    pub fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().expect("a directory for the cloud");
        let mut settings = Settings::new(dir.path());
        change(&mut settings);
        Self::behind(Arc::new(NoBacking::default()), dir, settings, None)
    }

    /// Starts one with real machines. There can be one on a host.
    ///
    /// # Panics
    /// The host lacks something, or the cloud cannot serve.
    #[track_caller]
    pub fn with_machines() -> Self {
        let dir = tempfile::tempdir().expect("a directory for the cloud");
        let cache = std::env::var_os("FLEET_CACHE").unwrap_or_else(|| "/var/cache/fleet".into());
        let machines = machines::Settings::new(dir.path(), cache);
        let missing = machines::preflight(&machines);
        assert!(missing.is_empty(), "this host cannot run machines: {missing:?}");
        let backing = Arc::new(Machines::new(machines.clone()));
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let prepared = runtime.block_on(backing.prepare(&|line| eprintln!("local cloud: {line}")));
        prepared.expect("the machine image can be had");
        let settings = Settings::new(dir.path());
        Self::behind(backing, dir, settings, Some(machines))
    }

    #[track_caller]
    fn behind(
        backing: Arc<dyn Backing>,
        dir: tempfile::TempDir,
        settings: Settings,
        machines: Option<machines::Settings>,
    ) -> Self {
        let stop = CancellationToken::new();
        let (ready, access) = std::sync::mpsc::sync_channel(1);
        let stopping = stop.clone();
        let serving = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(serve(settings, backing, stopping, move |access| {
                // Nobody waits any more if the test has failed already.
                let _ = ready.send(access.clone());
            }))
        });
        match access.recv() {
            Ok(access) => Self { access, machines, _dir: dir, stop, serving: Some(serving) },
            Err(_) => panic!("the cloud did not start: {:?}", serving.join()),
        }
    }

    /// How to reach it.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// What a peer's process has in its environment: all it is told of this cloud.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let ca = self.access.ca_file.display().to_string();
        vec![
            ("HTTPS_PROXY", self.access.proxy()),
            ("SSL_CERT_FILE", ca.clone()),
            ("REQUESTS_CA_BUNDLE", ca),
            ("MCP_USERNAME", self.access.username.clone()),
            ("MCP_PASSWORD", self.access.password.reveal().to_owned()),
            // Whatever this host's own settings say, peers go through the cloud.
            ("NO_PROXY", String::new()),
            ("no_proxy", String::new()),
        ]
    }

    /// Operations that changed something and were accepted.
    ///
    /// # Panics
    /// The cloud does not answer.
    #[track_caller]
    pub fn accepted(&self) -> BTreeSet<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let log = runtime.block_on(fleet_local_cloud::log(&self.access)).expect("the log of calls");
        let accepted = log.into_iter().filter(|call| call.changing && call.status == 200);
        accepted.map(|call| call.operation).collect()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.serving.take().map(JoinHandle::join);
        if let Some(machines) = &self.machines {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            let removed = runtime.block_on(machines::reset(machines));
            if !std::thread::panicking() {
                removed.expect("every machine, namespace and link is removed");
            }
        }
        if !std::thread::panicking() {
            assert!(matches!(ended, None | Some(Ok(Ok(())))), "the cloud did not end well: {ended:?}");
        }
    }
}
