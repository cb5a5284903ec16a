//! Telling systemd: ready, alive, stopping. Without the feature, or outside systemd, silence.

use tokio_util::sync::CancellationToken;

/// Says that the service answers.
pub fn ready() {
    tell(&[("READY", "1")]);
}

/// Says that the service is ending on purpose.
pub fn stopping() {
    tell(&[("STOPPING", "1")]);
}

/// Feeds the watchdog, if there is one, until `stop`.
///
/// It runs on the same runtime as everything else: when that is stuck, so is this, and systemd restarts us.
pub async fn watchdog(stop: CancellationToken) {
    let Some(every) = interval() else { return };
    loop {
        tell(&[("WATCHDOG", "1")]);
        tokio::select! {
            // Neither side holds anything: dropping either is free.
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

#[cfg(feature = "systemd")]
fn tell(state: &[(&str, &str)]) {
    if let Err(why) = systemd::daemon::notify(state.iter()) {
        tracing::debug!(%why, "systemd was not told");
    }
}

#[cfg(not(feature = "systemd"))]
fn tell(_state: &[(&str, &str)]) {}

/// Half the time systemd allows between signs of life.
#[cfg(feature = "systemd")]
fn interval() -> Option<std::time::Duration> {
    match systemd::daemon::watchdog_enabled() {
        Ok(micros) if micros > 0 => Some(std::time::Duration::from_micros(micros / 2)),
        _ => None,
    }
}

#[cfg(not(feature = "systemd"))]
fn interval() -> Option<std::time::Duration> {
    None
}
