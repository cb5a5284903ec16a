//! A cloud for peers.

use std::{collections::BTreeSet, sync::Arc, thread::JoinHandle};

use fleet_local_cloud::{Access, CloudError, Settings, backing::NoBacking, serve};
use tokio_util::sync::CancellationToken;

/// A cloud without machines, on a thread of its own; stopped when dropped.
pub struct Cloud {
    access: Access,
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
        let stop = CancellationToken::new();
        let (ready, access) = std::sync::mpsc::sync_channel(1);
        let stopping = stop.clone();
        let serving = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(serve(settings, Arc::new(NoBacking::default()), stopping, move |access| {
                // Nobody waits any more if the test has failed already.
                let _ = ready.send(access.clone());
            }))
        });
        match access.recv() {
            Ok(access) => Self { access, _dir: dir, stop, serving: Some(serving) },
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
        if !std::thread::panicking() {
            assert!(matches!(ended, None | Some(Ok(Ok(())))), "the cloud did not end well: {ended:?}");
        }
    }
}
