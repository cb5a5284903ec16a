//! What the programs of a node say to those who started them: log lines, what systemd wants to know, and the last word.

mod notify;

use std::{
    env,
    error::Error,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

pub use notify::{tell_systemd, watchdog};

/// Log lines to standard error, where journald picks them up; level by `FLEET_LOG`.
///
/// # Errors
/// What is wrong with `FLEET_LOG`.
pub fn log() -> Result<(), String> {
    let targets: Targets = match env::var("FLEET_LOG") {
        Ok(text) => text.parse().map_err(|error| format!("{error}"))?,
        Err(_) => Targets::new().with_default(tracing::Level::INFO),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
    let lines = lines.with_ansi(io::stderr().is_terminal());
    // journald writes the time itself.
    let lines = match env::var_os("JOURNAL_STREAM") {
        Some(_) => lines.without_time().with_filter(targets).boxed(),
        None => lines.with_filter(targets).boxed(),
    };
    tracing_subscriber::registry().with(lines).init();
    Ok(())
}

/// Says something, and ends with this status.
pub fn say(to: &mut dyn Write, text: &str, code: u8) -> ExitCode {
    // Nobody left to tell.
    let _ = writeln!(to, "{text}");
    ExitCode::from(code)
}

/// Says what went wrong, with every cause, and ends with a failure.
pub fn fail(to: &mut dyn Write, error: &(dyn Error + 'static)) -> ExitCode {
    say(to, &format!("error: {}", fleet_model::chain(error)), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("read the plan")]
    struct Outer(#[source] io::Error);

    #[test]
    fn the_last_word_is_one_line_with_every_cause() {
        let mut said = Vec::new();
        let code = fail(&mut said, &Outer(io::Error::other("gone")));
        assert_eq!(String::from_utf8(said).expect("text"), "error: read the plan: gone\n");
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(1)));
    }
}
