//! Where log lines go: journald when systemd started us, else standard error.

use tracing_subscriber::{
    Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// Default levels; `FLEET_LOG` takes the same form.
const LEVELS: &str =
    "warn,fleetctl=info,fleet_controller=info,fleet_provider=info,fleet_local_cloud=info,fleet_mcp=info";

/// Starts logging for long-running commands; others print and do not log.
pub fn start() {
    let wanted = std::env::var("FLEET_LOG").unwrap_or_else(|_| LEVELS.to_owned());
    let levels: Targets = wanted.parse().unwrap_or_else(|why| {
        eprintln!("warning: FLEET_LOG is not a list of target=level: {why}");
        LEVELS.parse().expect("the default levels parse")
    });
    let registry = tracing_subscriber::registry();
    // Set by systemd for services whose standard error is the journal.
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = tracing_journald::layer()
    {
        registry.with(journal.with_filter(levels)).init();
        return;
    }
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    registry.with(fmt::layer().with_writer(std::io::stderr).with_ansi(ansi).with_filter(levels)).init();
}
