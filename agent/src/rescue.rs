//! The way to an update when no other is left: asking the frozen door whether there is an order to this node.
//!
//! Used only by a node whose certificate ran out and which is not let back in, or which is told [`MISMATCHES`] times that
//! it does not speak the controller's protocol; and not by one that has no supervisor or is on trial. The door needs no
//! certificate of ours, and the fleet's authority proves whose it is. Nothing it says is kept before its signatures were
//! found good, its version rises and nothing has expired; from then on it is an order like any other.

use std::time::Duration;

use fleet_proto::{
    refusal::RefusalKind,
    rescue::{AskReply, AskRequest, rescue_client::RescueClient},
    v1::{self, StandingStep, order::Want},
};
use fleet_supervisor::agent::Supervised;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    Places,
    backoff::{Backoff, about},
    contact::Named,
    controller::{Giver, Line},
    dial::Dialler,
    identity::{Credentials, enrol::EnrolError},
    link::Shared,
    session::End,
    update::{self, Word},
};

/// Refusals for want of a common protocol, one after the other, before the door is asked: one may be of a controller
/// that is being replaced.
const MISMATCHES: u32 = 3;
/// How long the controller may take to answer.
const ANSWER: Duration = Duration::from_secs(20);
/// Pauses between two asks; the last of them is what a fleet that waits for its release comes to.
const PAUSE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(900));
/// How long an order that is over stays over before that is believed: one that is said again begins anew.
const SETTLE: Duration = Duration::from_secs(2);
/// How long the door is held open for an order to be done. Whatever has not come by then is fetched at the next.
const HOLD: Duration = Duration::from_secs(900);

/// Whether and when to ask.
#[derive(Debug)]
pub(crate) struct Rescue {
    /// What runs, if it could be replaced.
    runs: Option<String>,
    mismatches: u32,
    pause: Backoff,
    /// Not to be asked again before.
    again: Instant,
}

/// What the end of a session says about the ordinary way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It is there.
    Open,
    /// No word on it.
    Unknown,
    /// One side has to move first.
    Mismatch,
    /// The certificate ran out, and we are not let back in.
    Shut,
}

impl Rescue {
    pub(crate) fn new(supervised: Option<&Supervised>, own: Option<&str>) -> Self {
        let (first, most) = PAUSE;
        let runs = supervised.and(own).map(str::to_owned);
        Self { runs, mismatches: 0, pause: Backoff::new(first, most), again: Instant::now() }
    }

    /// Takes in how a session ended; whether it is time to ask.
    pub(crate) fn due(&mut self, end: &Result<End, EnrolError>, expired: bool) -> bool {
        match way(end, expired) {
            Way::Open => {
                self.mismatches = 0;
                self.pause.reset();
                return false;
            }
            Way::Unknown => return false,
            Way::Mismatch => self.mismatches += 1,
            Way::Shut => self.mismatches = MISMATCHES,
        }
        self.runs.is_some() && self.mismatches >= MISMATCHES && self.again <= Instant::now()
    }

    /// Asks, and has an order done that is there. Returns when that is settled, or after a while.
    pub(crate) async fn ask(
        &mut self,
        credentials: &Credentials,
        places: &Places,
        shared: &Shared,
        giver: &watch::Sender<Line>,
    ) {
        let Some(runs) = self.runs.clone() else { return };
        if step(&shared.stands) == Some(StandingStep::StandingTrial) {
            return;
        }
        let pause = self.pause.next(&mut rand::rng()).max(about(PAUSE.0, &mut rand::rng()));
        self.again = Instant::now() + pause;
        let answer = match timeout(ANSWER, inquire(credentials, places, runs)).await {
            Ok(answer) => answer,
            Err(_) => Err(EnrolError::Late),
        };
        let (client, reply) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::info!(why = fleet_model::chain(&error), "the rescue door does not answer");
                return;
            }
        };
        if reply.order == 0 {
            self.again =
                self.again.max(Instant::now() + Duration::from_millis(reply.retry_after_ms.min(3_600_000)));
            tracing::info!(
                "no other way in, and no order to this node at the rescue door; asking again later"
            );
            return;
        }
        let node = credentials.node.clone();
        let order = match accepted(places, reply, credentials.named(), shared.clock.now()) {
            Ok(order) => order,
            Err(why) => {
                tracing::warn!(why, "what the rescue door gave is not taken");
                return;
            }
        };
        tracing::warn!(order = order.number, "taking an order from the rescue door");
        let number = order.number;
        giver.send_replace(Some(Giver::Door { client, node: node.to_string() }));
        // Nobody takes it when this process is about to end.
        if shared.orders.updates.send(Word::Order(order)).await.is_ok() {
            settled(shared.stands.clone(), number).await;
        }
        giver.send_replace(None);
    }
}

/// What this end says. Only typed refusals count: somebody who cuts lines must not drive a node here.
fn way(end: &Result<End, EnrolError>, expired: bool) -> Way {
    let refusal = match end {
        Ok(End::Refused(refusal)) | Err(EnrolError::Refused(refusal)) => refusal,
        Ok(End::Renewed | End::Lost(_)) => return Way::Open,
        // The listener answers, and does not know that call any more.
        Err(EnrolError::Call(status)) if expired && status.code() == tonic::Code::Unimplemented => {
            return Way::Mismatch;
        }
        Ok(End::NeverOpened(_)) | Err(_) => return Way::Unknown,
    };
    match refusal.kind() {
        RefusalKind::RefusalVersion => Way::Mismatch,
        // Whoever was put out has nothing to ask for; whoever is only busy, or sees a clone of us at work, says so.
        RefusalKind::RefusalRetired
        | RefusalKind::RefusalRevoked
        | RefusalKind::RefusalClone
        | RefusalKind::RefusalBusy => Way::Unknown,
        _ if expired => Way::Shut,
        _ => Way::Unknown,
    }
}

async fn inquire(
    credentials: &Credentials,
    places: &Places,
    runs: String,
) -> Result<(RescueClient<tonic::transport::Channel>, AskReply), EnrolError> {
    let tls = credentials.anonymous_tls(places)?;
    let channel = Dialler::new(&credentials.fleet)?.dial(&credentials.enrol_addresses, tls).await?;
    let mut client = RescueClient::new(channel);
    let request = AskRequest { node: credentials.node.to_string(), runs };
    let reply = client.ask(request).await.map_err(EnrolError::from_status)?.into_inner();
    Ok((client, reply))
}

/// The order, if its release may be installed here now; why not otherwise.
fn accepted(
    places: &Places,
    reply: AskReply,
    named: Named,
    now: fleet_model::Timestamp,
) -> Result<v1::Order, String> {
    let AskReply { order, roots, manifest, permit, again, ready_ms, ceiling_ms, tries, .. } = reply;
    let trial = Some(v1::Trial { ready_ms, ceiling_ms, tries });
    let offer = v1::ReleaseOffer { roots, manifest, permit, again, trial };
    update::acceptable(places, &offer, named, now)?;
    Ok(v1::Order { number: order, want: Some(Want::Release(offer)) })
}

fn step(stands: &watch::Receiver<Option<v1::Standing>>) -> Option<StandingStep> {
    stands.borrow().as_ref().map(v1::Standing::step)
}

/// Returns when the order is done or given up. One that leads to a trial ends this process.
async fn settled(mut stands: watch::Receiver<Option<v1::Standing>>, number: u64) {
    use StandingStep::{StandingBusy, StandingFetching, StandingTrial};
    let given_up = Instant::now() + HOLD;
    loop {
        let over = stands.borrow_and_update().as_ref().is_some_and(|standing| {
            standing.order >= number
                && ![StandingBusy, StandingFetching, StandingTrial].contains(&standing.step())
        });
        let until = if over { given_up.min(Instant::now() + SETTLE) } else { given_up };
        tokio::select! {
            changed = stands.changed() => if changed.is_err() { return },
            () = sleep_until(until) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use fleet_proto::refusal::Refusal;
    use tonic::Status;

    use super::*;

    fn refused(kind: RefusalKind) -> Result<End, EnrolError> {
        Ok(End::Refused(Refusal::new(kind, "no", "do something")))
    }

    #[test]
    fn what_an_end_says_about_the_ordinary_way() {
        use RefusalKind as R;
        let check = |end: Result<End, EnrolError>, fresh: Way, expired: Way| {
            assert_eq!((way(&end, false), way(&end, true)), (fresh, expired), "{end:?}");
        };
        check(Ok(End::Renewed), Way::Open, Way::Open);
        check(Ok(End::Lost("x".into())), Way::Open, Way::Open);
        check(Ok(End::NeverOpened("x".into())), Way::Unknown, Way::Unknown);
        check(Err(EnrolError::Late), Way::Unknown, Way::Unknown);
        let call = |code| Err(EnrolError::Call(Box::new(Status::new(code, "x"))));
        check(call(tonic::Code::Unimplemented), Way::Unknown, Way::Mismatch);
        check(call(tonic::Code::Unavailable), Way::Unknown, Way::Unknown);
        check(refused(R::RefusalVersion), Way::Mismatch, Way::Mismatch);
        for out in [R::RefusalRetired, R::RefusalRevoked, R::RefusalClone, R::RefusalBusy] {
            check(refused(out), Way::Unknown, Way::Unknown);
        }
        for shut in [R::RefusalExpired, R::RefusalUnknown, R::RefusalClockSkew, R::RefusalBadRequest] {
            check(refused(shut), Way::Unknown, Way::Shut);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn asked_only_when_no_other_way_is_left_and_never_in_a_row() {
        let supervised =
            Supervised { slots: "/s".into(), slot: fleet_supervisor::record::Slot::A, trial: None };
        let mismatch = refused(RefusalKind::RefusalVersion);
        let mut rescue = Rescue::new(Some(&supervised), Some("00"));
        let mut told = || rescue.due(&mismatch, false);
        assert_eq!([told(), told(), told(), told()], [false, false, true, true]);
        rescue.again = Instant::now() + PAUSE.0;
        assert!(!rescue.due(&mismatch, false), "asked a moment ago");
        tokio::time::advance(PAUSE.0).await;
        assert!(rescue.due(&mismatch, false));
        assert!(!rescue.due(&Ok(End::Lost("x".into())), false), "the ordinary way is open again");
        assert!(!rescue.due(&mismatch, false), "counted anew");
        assert!(rescue.due(&refused(RefusalKind::RefusalExpired), true), "nothing to wait for");
        let mut bare = Rescue::new(None, Some("00"));
        assert!(!bare.due(&refused(RefusalKind::RefusalExpired), true), "nobody could replace this agent");
    }
}
