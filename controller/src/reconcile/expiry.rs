//! The end of a fleet that was given one: `expires: 8h` in its plan.
//!
//! The moment is kept as wall time and renewed by each `up`. Since a clock may jump, one look at it destroys nothing:
//! the moment has to be seen past twice, a minute of monotonic time apart, and again as the run begins. Since it may be
//! wrong from the start, others are asked what time it is: the cloud, and the nodes in session. While they disagree, or
//! nobody says anything, the fleet stays and status says why.

use std::{sync::Arc, time::Duration};

use fleet_model::Timestamp;
use fleet_plan::ResolvedPlan;
use fleet_proto::v1;
use fleet_provider::event::{Step, StepState, Verb};
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
/// How far others' clocks may be from ours.
const DISAGREE: Duration = Duration::from_secs(5 * 60);
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

/// What `up` of this plan does to the fleet's end. That it moves it on is no change.
pub fn step(tools: &Tools, plan: &ResolvedPlan) -> Option<Step> {
    let board = &tools.homecoming.board;
    let held = board.expiry().filter(|held| !held.done).map(|held| held.at);
    let before = held.map(|at| (at, board.plan().and_then(|plan| plan.expires)));
    let (verb, detail) = change(before, plan.expires)?;
    let name = tools.fleet_name.to_string();
    Some(Step { verb, kind: "expiry", name, location: String::new(), detail, outside: false })
}

/// How an end changes: when it is and how long after an `up`, and how long after one it shall be.
fn change(held: Option<(Timestamp, Option<Duration>)>, wanted: Option<Duration>) -> Option<(Verb, String)> {
    match (held, wanted) {
        (None, None) => None,
        (None, Some(after)) => {
            Some((Verb::Create, format!("the fleet is taken down {} after this", words(after))))
        }
        (Some((at, _)), None) => {
            Some((Verb::Destroy, format!("the fleet is not taken down any more, as it was to be at {at}")))
        }
        (Some((_, Some(before))), Some(after)) if before == after => None,
        (Some((at, _)), Some(after)) => Some((
            Verb::Change,
            format!("the fleet is taken down {} after this, and not at {at}", words(after)),
        )),
    }
}

/// `90s`, `10m` or `8h`, as plans write it.
fn words(after: Duration) -> String {
    match after.as_secs() {
        seconds if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        seconds if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

/// Gives the fleet the end its plan says, counted from now.
pub(super) async fn renew(tools: &Tools, given: &Given, teller: &Teller) -> Result<(), RecordError> {
    if let Some(step) = step(tools, &given.plan) {
        teller.step(&step, &StepState::Done);
    }
    let now = tools.clock().now();
    let expiry = given.plan.expires.map(|after| ExpiryRecord { at: now.after(after), done: false });
    tools.homecoming.board.set_expiry(expiry).await
}

/// Why the time is not certain enough to destroy anything: cause and next step. `cloud` is its clock, `agents` how far
/// those of nodes are ahead of ours, in milliseconds.
fn doubtful(now: Timestamp, cloud: Option<Timestamp>, mut agents: Vec<i64>) -> Option<String> {
    let apart = |ahead_ms: i64, whose: &str| {
        if u128::from(ahead_ms.unsigned_abs()) <= DISAGREE.as_millis() {
            return None;
        }
        let (minutes, way) =
            (ahead_ms.unsigned_abs() / 60_000, if ahead_ms > 0 { "ahead of" } else { "behind" });
        Some(format!(
            "{whose} {minutes} min {way} the controller's: compare with `date -u` and set the one that is wrong; \
             `fleetctl up PLAN` renews the end, `fleetctl down` takes the fleet down now"
        ))
    };
    agents.sort_unstable();
    // One wrong clock among the nodes is that node's affair.
    let median = agents.get(agents.len() / 2).copied();
    let cloud = cloud.map(|at| at.as_millis().saturating_sub(now.as_millis()));
    match (cloud, median) {
        (None, None) => Some(
            "neither the cloud nor a node says what time it is: see that the cloud answers; `fleetctl down` takes the \
             fleet down now"
                .to_owned(),
        ),
        (cloud, median) => cloud
            .and_then(|ahead| apart(ahead, "the cloud's clock is"))
            .or_else(|| median.and_then(|ahead| apart(ahead, "the nodes' clocks are"))),
    }
}

/// Asks others what time it is; why that leaves the end in doubt, if it does.
async fn ask(tools: &Tools) -> Result<Option<String>, RecordError> {
    let fleet = tools.fleet().await?.value;
    // Nothing was ever brought up: nothing is destroyed either.
    let Some(cloud) = &fleet.cloud else { return Ok(None) };
    let asked = match tools.provisioners.open(cloud, &fleet.id) {
        Ok(provision) => provision.time().await,
        Err(error) => Err(error),
    };
    let cloud = match asked {
        Ok(time) => time,
        Err(error) => return Ok(Some(format!("the cloud cannot be asked for the time: {error}"))),
    };
    Ok(doubtful(tools.clock().now(), cloud, tools.homecoming.desk.registry.clocks()))
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
        match ask(tools).await {
            Ok(None) => {}
            Ok(Some(why)) => {
                tracing::error!(%end, why, "the fleet has expired by this clock alone and is not taken down");
                let notice =
                    format!("expired at {end} by this controller's clock, and not taken down: {why}");
                tools.homecoming.board.set_activity(notice);
                continue;
            }
            Err(error) => {
                tracing::error!(error = %fleet_model::chain(&error), "the expired fleet is not taken down");
                continue;
            }
        }
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
    fn others_say_what_time_it_is() {
        let now = Timestamp::from_millis(1_000_000_000);
        let at = |minutes: i64| Timestamp::from_millis(now.as_millis() + minutes * 60_000);
        let check = |cloud: Option<i64>, agents: &[i64], word: Option<&str>| {
            let agents = agents.iter().map(|minutes| minutes * 60_000).collect();
            let why = doubtful(now, cloud.map(at), agents);
            match word {
                None => assert_eq!(why, None),
                Some(word) => {
                    let why = why.expect("a doubt");
                    assert!(why.contains(word) && why.contains("`fleetctl down`"), "{why}");
                }
            }
        };
        check(Some(0), &[], None);
        check(Some(5), &[-5, 5], None);
        check(None, &[1], None);
        check(Some(-6), &[], Some("the cloud's clock is 6 min behind the controller's"));
        check(Some(6), &[0, 0], Some("6 min ahead of"));
        // A local cloud has the controller's clock, right or wrong; the nodes have their own.
        check(Some(0), &[-600, -599, 0], Some("the nodes' clocks are 599 min behind"));
        check(Some(0), &[-600, 0, 0], None);
        check(None, &[], Some("neither the cloud nor a node"));
    }

    #[test]
    fn a_changed_end_is_said_and_a_renewed_one_is_not() {
        let hours = |count: u64| Duration::from_secs(count * 3600);
        let held = |after: Option<Duration>| Some((Timestamp::from_millis(0), after));
        let told = |held, wanted| change(held, wanted).map(|(verb, detail)| format!("{verb:?}: {detail}"));
        assert_eq!(told(None, None), None);
        assert_eq!(told(held(Some(hours(8))), Some(hours(8))), None);
        let check = |held, wanted, line: &str| assert_eq!(told(held, wanted).as_deref(), Some(line));
        check(None, Some(hours(8)), "Create: the fleet is taken down 8h after this");
        let moment = Timestamp::from_millis(0);
        check(
            held(Some(hours(8))),
            Some(Duration::from_secs(5400)),
            &format!("Change: the fleet is taken down 90m after this, and not at {moment}"),
        );
        check(
            held(Some(hours(8))),
            None,
            &format!("Destroy: the fleet is not taken down any more, as it was to be at {moment}"),
        );
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
