//! The end of a fleet that was given one: `expires: 8h` in its plan.
//!
//! The moment is kept as wall time and renewed by each `up`. Since a clock may jump, one look at it destroys nothing:
//! the moment has to be seen past twice, a minute of monotonic time apart, and again as the run begins.

use std::{sync::Arc, time::Duration};

use fleet_model::Timestamp;
use fleet_proto::v1;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    down,
    driver::{Driver, Order, StartError, Tools},
    given::Given,
    progress::Teller,
};
use crate::records::{ExpiryRecord, RecordError};

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How far apart two looks must be that both find the end past.
const APART: Duration = Duration::from_secs(60);

/// Since when the end is seen past, without a look in between that found otherwise.
#[derive(Clone, Copy, Debug, Default)]
struct Doubt(Option<Instant>);

impl Doubt {
    /// Whether the end has come, by a look at both clocks.
    fn look(&mut self, end: Timestamp, wall: Timestamp, monotonic: Instant) -> bool {
        if wall < end {
            self.0 = None;
            return false;
        }
        let first = *self.0.get_or_insert_with(|| {
            tracing::warn!(%end, %wall, "the fleet has expired, if the clock is right; looked at again in a minute");
            monotonic
        });
        monotonic.saturating_duration_since(first) >= APART
    }
}

/// Gives the fleet the end its plan says, counted from now.
pub(super) async fn renew(tools: &Tools, given: &Given) -> Result<(), RecordError> {
    let now = tools.clock().now();
    let expiry = given.plan.expires.map(|after| ExpiryRecord { at: now.after(after), done: false });
    tools.homecoming.board.set_expiry(expiry).await
}

/// Takes the fleet down because it ended at `end`, unless that was renewed meanwhile.
pub(super) async fn run(
    tools: &Tools,
    end: Timestamp,
    teller: &Arc<Teller>,
    stop: &CancellationToken,
) -> Result<v1::Finished, RecordError> {
    let board = &tools.homecoming.board;
    let held = ExpiryRecord { at: end, done: false };
    if board.expiry() != Some(held) || tools.clock().now() < end {
        teller.note("the fleet was given another end meanwhile");
        return Ok(v1::Finished { ok: true, ..v1::Finished::default() });
    }
    let finished = down::run(tools, teller, stop).await?;
    if finished.ok {
        board.set_expiry(Some(ExpiryRecord { done: true, ..held })).await?;
    }
    Ok(finished)
}

/// Takes the fleet down once it has ended, until `stop`.
pub async fn watch(driver: Arc<Driver>, stop: CancellationToken) {
    let mut doubt = Doubt::default();
    // Cancel safe: nothing is under way while it sleeps.
    while tokio::time::timeout(LOOK, stop.cancelled()).await.is_err() {
        let tools = driver.tools();
        let Some(ExpiryRecord { at: end, done: false }) = tools.homecoming.board.expiry() else {
            doubt = Doubt::default();
            continue;
        };
        if !doubt.look(end, tools.clock().now(), Instant::now()) {
            continue;
        }
        // Whatever comes of it, another try takes another two looks.
        doubt = Doubt::default();
        match driver.start_alone(Order::Expire { end }).await {
            Ok(_) => tracing::warn!(%end, "the fleet has expired and is taken down"),
            Err(StartError::Busy) => tracing::info!("the fleet has expired; waiting for the run under way"),
            Err(StartError::Record(error)) => {
                tracing::error!(error = %fleet_model::chain(&error), "the expired fleet is not taken down");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at (wall, monotonic) seconds, and whether each finds the end come; it is at 1000.
    fn check(looks: &[(i64, u64, bool)]) {
        let (start, mut doubt) = (Instant::now(), Doubt::default());
        let end = Timestamp::from_millis(1_000_000);
        for (wall, monotonic, come) in looks {
            let at = start + Duration::from_secs(*monotonic);
            assert_eq!(doubt.look(end, Timestamp::from_millis(wall * 1000), at), *come, "{wall} {monotonic}");
        }
    }

    #[test]
    fn the_end_comes_once_it_is_past_for_a_minute() {
        check(&[(990, 0, false), (1000, 10, false), (1059, 69, false), (1060, 70, true)]);
    }

    #[test]
    fn a_clock_that_jumps_ahead_and_comes_back_destroys_nothing() {
        check(&[(500, 0, false), (9000, 5, false), (9030, 35, false), (540, 40, false), (600, 100, false)]);
        // The minute begins anew: two looks long apart are not enough if one between them found otherwise.
        check(&[
            (9000, 0, false),
            (999, 30, false),
            (9000, 61, false),
            (9060, 120, false),
            (9061, 121, true),
        ]);
    }

    #[test]
    fn a_jump_of_the_wall_clock_is_no_minute() {
        check(&[(1000, 0, false), (9000, 1, false), (9000, 59, false), (9000, 60, true)]);
    }
}
