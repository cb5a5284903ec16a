//! What chrony says of the clock, and what that is worth. Pure.

use std::time::Duration;

/// How every warning about an offset begins; health tells the same trouble once.
pub(crate) const OFF: &str = "the clock is ";
/// How long chrony may be without an answer before anybody is told.
const PATIENCE: Duration = Duration::from_secs(600);
/// Place of the offset among the words of `chronyc -c tracking`.
const OFFSET: usize = 4;
/// Place of the leap status, the last word.
const LEAP: usize = 13;

/// The clock as chrony has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tracking {
    /// Whether any server has told the time.
    pub synchronised: bool,
    /// Seconds to be added to the clock; positive means it is behind.
    pub offset: f64,
}

/// Reads `chronyc -c tracking` (chronyc(1)); `None` for anything else.
pub(super) fn parse(text: &str) -> Option<Tracking> {
    let words: Vec<&str> = text.trim().split(',').collect();
    let offset = words.get(OFFSET)?.parse().ok()?;
    Some(Tracking { synchronised: *words.get(LEAP)? != "Not synchronised", offset })
}

/// What a person should hear; `up` is how long chrony has been running.
pub(super) fn judge(tracking: Option<Tracking>, up: Option<Duration>, most: Duration) -> Option<String> {
    match tracking {
        Some(Tracking { synchronised: true, offset }) => {
            let off = Duration::try_from_secs_f64(offset.abs()).unwrap_or(Duration::MAX);
            let direction = if offset > 0.0 { "behind" } else { "ahead of" };
            let warning =
                || format!("{OFF}{} {direction} its time servers; {} are allowed", span(off), span(most));
            (off > most).then(warning)
        }
        _ => {
            let up = up.filter(|up| *up > PATIENCE)?;
            let minutes = up.as_secs() / 60;
            Some(format!(
                "no time server has answered chrony, which has been running for {minutes} min: the clock runs free; \
                 next: see `chronyc sources` on the node"
            ))
        }
    }
}

fn span(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        return format!("{} ms", time.as_millis());
    }
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: &str = "00000000,,0,0.000000000,0.000000000,0.000000000,0.000000000,0.000,0.000,0.000,\
                          1.000000000,1.000000000,0.0,Not synchronised\n";

    fn check(text: &str, minutes_up: u64, expected: Option<&str>) {
        let up = Some(Duration::from_secs(minutes_up * 60));
        assert_eq!(judge(parse(text), up, Duration::from_millis(500)).as_deref(), expected, "{text}");
    }

    #[test]
    fn offsets_and_silence() {
        let off = |seconds: &str| {
            format!("A29FC87B,192.0.2.1,3,1795471658.0,{seconds},0.0,0.0,1.0,0.0,0.1,0.01,0.01,64.2,Normal\n")
        };
        check(&off("0.000012"), 90, None);
        check(&off("-0.499"), 90, None);
        check(&off("1.234"), 0, Some("the clock is 1.2 s behind its time servers; 500 ms are allowed"));
        check(&off("-0.501"), 0, Some("the clock is 501 ms ahead of its time servers; 500 ms are allowed"));
        check(NOBODY, 10, None);
        let silent = "no time server has answered chrony, which has been running for 11 min: the clock runs free; \
                      next: see `chronyc sources` on the node";
        check(NOBODY, 11, Some(silent));
        check("506 Cannot talk to daemon\n", 1, None);
        check("506 Cannot talk to daemon\n", 11, Some(silent));
        assert_eq!(judge(None, None, Duration::ZERO), None);
    }
}
