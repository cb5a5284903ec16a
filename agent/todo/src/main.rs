//! The program `fleet-todo`: reads its flags, starts logging, serves.

mod flags;

use std::{
    env, fs, io,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fleet_program::{fail, log, say, tell_systemd};
use fleet_reql::{Client, Options};
use fleet_todo::{
    VERSION, feed,
    http::{self, App, Parts},
    hub::Hub,
    listen::listen,
    rethink::Rethink,
    serve::{self, TlsError},
};
use ring::digest;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::flags::{Action, Flags, Surroundings};

/// Exit status for a mistake on the command line.
const USAGE: u8 = 2;

/// A database that hangs is found out within three of these, and the page says so.
const PULSE: Duration = Duration::from_secs(3);

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
enum TodoError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("listen on {address}")]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("receive signals")]
    Signals(#[source] io::Error),
}

fn main() -> ExitCode {
    let around = Surroundings {
        credentials: env::var_os("CREDENTIALS_DIRECTORY").map(Into::into),
        hostname: fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned()),
    };
    let flags = match Action::parse(env::args().skip(1), &around) {
        Ok(Action::Run(flags)) => flags,
        Ok(Action::Help) => return say(&mut io::stdout(), flags::HELP, 0),
        Ok(Action::Version) => return say(&mut io::stdout(), &format!("fleet-todo {VERSION}"), 0),
        Err(error) => return say(&mut io::stderr(), &format!("error: {error}\n{}", flags::HELP), USAGE),
    };
    if let Err(error) = log() {
        return say(&mut io::stderr(), &format!("error: FLEET_LOG: {error}"), USAGE);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(*flags)),
        Err(error) => return say(&mut io::stderr(), &format!("error: start the runtime: {error}"), 1),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&mut io::stderr(), &error),
    }
}

async fn run(flags: Flags) -> Result<(), TodoError> {
    let stop = CancellationToken::new();
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (mut terminate, mut interrupt) =
        (signals.0.map_err(TodoError::Signals)?, signals.1.map_err(TodoError::Signals)?);
    let tls = serve::tls(&flags.cert, &flags.key)?;
    let listener =
        listen(flags.listen).map_err(|source| TodoError::Listen { address: flags.listen, source })?;

    let options = Options { pulse: PULSE, ..Options::default() };
    let client = Client::start(flags.driver, options);
    let hub = Hub::new(now());
    let store = Arc::new(Rethink::new(client.clone(), &flags.database, &flags.table));
    let following = feed::follow(client.clone(), flags.database, flags.table, hub.clone(), stop.clone());
    let app =
        App::new(Parts { hub, store, node: flags.node.clone(), build: build(), now, stop: stop.clone() });
    let serving = serve::serve(listener, tls, http::router(app), stop.clone());
    tracing::info!(version = VERSION, node = flags.node, listen = %flags.listen, "fleet-todo serves");
    // Ready means serving: while the database is away the page says so.
    tell_systemd("READY=1");
    let stopped = async {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
        tracing::info!("stopping");
        tell_systemd("STOPPING=1");
        stop.cancel();
    };
    tokio::join!(following, serving, stopped);
    client.close().await;
    Ok(())
}

/// Names the build by its bytes, so that whoever installed it can tell whether it runs.
fn build() -> String {
    let program = fs::read("/proc/self/exe").unwrap_or_default();
    let sum = digest::digest(&digest::SHA256, &program);
    sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
