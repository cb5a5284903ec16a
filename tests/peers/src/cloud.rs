//! A cloud for peers.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, thread::JoinHandle};

use fleet_local_cloud::{
    Access, CloudError, Settings,
    backing::{Backing, NoBacking},
    is_served,
    machines::{self, Machines},
    serve,
};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::abandoned::{abandoned_clouds, test_folder};

/// A cloud on a thread of its own. Stopped when dropped, and everything it had is gone then.
pub struct Cloud {
    access: Access,
    dir: PathBuf,
    /// What its machines need to be removed, if it has any.
    machines: Option<machines::Settings>,
    // Its files; removed when the cloud is gone.
    _folder: tempfile::TempDir,
    stop: CancellationToken,
    serving: Option<JoinHandle<Result<(), CloudError>>>,
}

impl Cloud {
    /// Starts one that is state only.
    ///
    /// # Panics
    /// It cannot serve.
    #[track_caller]
    pub fn start(change: impl FnOnce(&mut Settings)) -> Self {
        Self::behind(None, change)
    }

    /// Starts one with real machines. There can be one on a host; what a killed test left of one is removed first.
    ///
    /// # Panics
    /// The host lacks something, or the cloud cannot serve.
    #[track_caller]
    pub fn with_machines() -> Self {
        let cache = std::env::var_os("FLEET_CACHE").map_or_else(|| "/var/cache/fleet".into(), PathBuf::from);
        for home in abandoned_clouds() {
            let cloud = home.join("cloud");
            if !is_served(&cloud).expect("the lock of an abandoned cloud") {
                eprintln!("removing the local cloud a killed test left in {}", home.display());
                reset(&machines::Settings::new(cloud, &cache));
            }
        }
        Self::behind(Some(cache), |_| {})
    }

    /// `machines` is where their image is kept.
    #[track_caller]
    fn behind(machines: Option<PathBuf>, change: impl FnOnce(&mut Settings)) -> Self {
        let folder = test_folder();
        let dir = folder.path().join("home/cloud");
        std::fs::create_dir_all(&dir).expect("a folder in one just made");
        let machines = machines.map(|cache| machines::Settings::new(&dir, cache));
        let backing: Arc<dyn Backing> = match &machines {
            None => Arc::new(NoBacking::default()),
            Some(settings) => {
                let missing = machines::preflight(settings);
                assert!(missing.is_empty(), "this host cannot run machines: {missing:#?}");
                let machines = Machines::new(settings.clone());
                let progress = |line| eprintln!("local cloud: {line}");
                let prepared = Runtime::new().expect("a runtime").block_on(machines.prepare(&progress));
                prepared.expect("the machine image can be had");
                Arc::new(machines)
            }
        };
        let mut settings = Settings::new(&dir);
        change(&mut settings);
        let stop = CancellationToken::new();
        let (ready, access) = std::sync::mpsc::sync_channel(1);
        let stopping = stop.clone();
        let serving = std::thread::spawn(move || {
            Runtime::new().expect("a runtime").block_on(serve(settings, backing, stopping, move |access| {
                // Nobody waits any more if the test has failed already.
                let _ = ready.send(access.clone());
            }))
        });
        match access.recv() {
            Ok(access) => Self { access, dir, machines, _folder: folder, stop, serving: Some(serving) },
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
        let log = wait(fleet_local_cloud::log(&self.access)).expect("the log of calls");
        let accepted = log.into_iter().filter(|call| call.changing && call.status == 200);
        accepted.map(|call| call.operation).collect()
    }

    /// How many servers it has.
    ///
    /// # Panics
    /// The cloud does not answer.
    #[track_caller]
    pub fn servers(&self) -> usize {
        let status = wait(fleet_local_cloud::status(&self.dir)).expect("the status");
        status.expect("it serves").servers.len()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.serving.take().map(JoinHandle::join);
        if let Some(machines) = &self.machines {
            reset(machines);
        }
        if !std::thread::panicking() {
            assert!(matches!(ended, None | Some(Ok(Ok(())))), "the cloud did not end well: {ended:?}");
        }
    }
}

/// Removes machines, networks and files of a cloud that does not serve. Says what it could not remove: a test that
/// failed already has a better reason to end.
fn reset(machines: &machines::Settings) {
    match wait(machines::reset(machines)) {
        Err(error) if std::thread::panicking() => eprintln!("machines are left: {error}"),
        removed => drop(removed.expect("every machine, namespace and link is removed")),
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    Runtime::new().expect("a runtime").block_on(future)
}
