//! A local cloud in this process that can die at any moment and come back.

use std::{path::PathBuf, sync::Arc, thread, time::Duration};

use fleet_local_cloud::{Access, Settings, backing::NoBacking, serve};
use fleet_tests::LocalCloud;
use tokio::{runtime::Builder, sync::oneshot};
use tokio_util::sync::CancellationToken;

/// How long a cloud may take to come up, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cloud with a folder of its own; dropping it ends it.
pub struct Cloud {
    dir: tempfile::TempDir,
    delay: Duration,
    running: Option<Running>,
}

struct Running {
    stop: CancellationToken,
    kill: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Cloud {
    /// A cloud whose operations take `delay` at least.
    pub fn new(delay: Duration) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut cloud = Self { dir, delay, running: None };
        cloud.start();
        cloud
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("cloud")
    }

    fn start(&mut self) {
        let mut settings = Settings::new(self.folder());
        settings.delays.default = self.delay;
        let (stop, (kill, killed)) = (CancellationToken::new(), oneshot::channel());
        let (ready, is_ready) = std::sync::mpsc::channel();
        let stopping = stop.clone();
        let thread = thread::spawn(move || {
            let runtime =
                Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    ended = serve(settings, Arc::new(NoBacking::default()), stopping, |_| {
                        // Whoever waits for this may have given up.
                        let _ = ready.send(());
                    }) => ended.expect("the cloud serves"),
                    _ = killed => {}
                }
            });
            // Whatever it was doing is dropped where it was, as a kill does; writes to disk end.
            runtime.shutdown_timeout(PATIENCE);
        });
        is_ready.recv_timeout(PATIENCE).expect("the cloud comes up");
        self.running = Some(Running { stop, kill, thread });
    }

    /// Ends it as a power cut does, or as `fleetctl cloud stop` does, and starts it again.
    pub fn restart(&mut self, kill: bool) {
        self.end(kill);
        self.start();
    }

    fn end(&mut self, kill: bool) {
        let Some(running) = self.running.take() else { return };
        if kill {
            // It may have ended by itself.
            let _ = running.kill.send(());
        } else {
            running.stop.cancel();
        }
        running.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }

    /// How to reach it.
    pub fn access(&self) -> Access {
        Access::load(&self.folder()).expect("readable").expect("it serves")
    }

    /// Its API, asked behind the provider's back.
    pub fn behind(&self) -> LocalCloud {
        LocalCloud::of(&self.folder()).expect("the cloud answers")
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.end(true);
    }
}
