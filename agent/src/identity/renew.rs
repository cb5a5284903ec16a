//! The next certificate, over the current identity. When is decided in pure code, apart from asking.

use std::time::Duration;

use fleet_model::Timestamp;
use fleet_proto::v1::{self, agents_client::AgentsClient};
use rand::Rng;
use tonic::transport::Channel;

use super::{Credentials, Holdings, Key, enrol::EnrolError};
use crate::Places;

/// How long the controller may take to answer.
const ANSWER: Duration = Duration::from_secs(20);
/// Least time between two attempts.
const LEAST_PAUSE: Duration = Duration::from_secs(30);
/// Most time between two attempts.
const MOST_PAUSE: Duration = Duration::from_secs(3600);

/// How long to wait before the first attempt: until `renew_at`, which the controller has jittered.
pub(crate) fn first_wait(now: Timestamp, credentials: &Credentials) -> Duration {
    credentials.renew_at.since(now)
}

/// How long to wait after a failed attempt: a tenth of what is left, give or take half, within bounds. Many
/// attempts fit before the end, and a fleet does not ask in step.
pub(crate) fn next_wait(now: Timestamp, not_after: Timestamp, random: &mut impl Rng) -> Duration {
    let tenth = not_after.since(now) / 10;
    tenth.mul_f64(random.random_range(0.5..=1.5)).clamp(LEAST_PAUSE, MOST_PAUSE)
}

/// Asks for the next certificate with `key`, a new one, and stores it beside the current one, which stays
/// until the new one has worked.
///
/// # Errors
/// [`EnrolError`]; the current credentials stand.
pub(crate) async fn renew(
    places: &Places,
    current: &Credentials,
    key: &Key,
    client: &mut AgentsClient<Channel>,
) -> Result<Holdings, EnrolError> {
    let request = v1::RenewRequest { csr: key.request(current.node.as_str())? };
    let answer = tokio::time::timeout(ANSWER, client.renew(request))
        .await
        .map_err(|_| EnrolError::Late)?
        .map_err(EnrolError::from_status)?
        .into_inner();
    let next = Credentials::from_answer(&answer, key, &current.origin())?;
    let holdings = Holdings { current: next, previous: Some(current.clone()) };
    holdings.store(places)?;
    Ok(holdings)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn attempts_get_denser_towards_the_end_and_never_frantic() {
        let mut random = StdRng::seed_from_u64(1);
        let end = Timestamp::from_millis(0).after(Duration::from_secs(24 * 3600));
        let mut check = |left: Duration, low: Duration, high: Duration| {
            for _ in 0..200 {
                let wait = next_wait(end.before(left), end, &mut random);
                assert!(wait >= low && wait <= high, "{left:?}: {wait:?}");
            }
        };
        let minutes = |n: u64| Duration::from_secs(60 * n);
        check(minutes(24 * 60), MOST_PAUSE, MOST_PAUSE);
        check(minutes(100), minutes(5), minutes(15));
        check(minutes(1), LEAST_PAUSE, LEAST_PAUSE);
        check(Duration::ZERO, LEAST_PAUSE, LEAST_PAUSE);
    }
}
