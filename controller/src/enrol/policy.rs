//! Who gets a certificate: pure decisions, typed refusals.

use std::time::Duration;

use fleet_model::{NodeName, Timestamp};
use fleet_proto::{
    PROTOCOL,
    refusal::{Refusal, RefusalKind},
    v1::Hello,
};
use fleet_release::Version;

use crate::records::{EnrolmentRecord, RetiredRecord, TokenRecord};

/// Clocks further apart than this are refused: certificates are back-dated by as much, so that beyond it a new
/// certificate is not valid yet where it has to be used.
pub const SKEW_LIMIT: Duration = super::ca::BACKDATED;

/// How often a node may come back with an expired certificate between two ordinary renewals. Each return
/// proves possession of the known key only; a node that needs this often has a problem a person should see.
pub const RETURNS_LIMIT: u32 = 5;

/// What a request asks to be decided on.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Hash of the public key that signed the request.
    pub key: &'a str,
    /// What the agent says of itself; none if it left it out.
    pub hello: Option<&'a Hello>,
}

/// What is done about a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// First use of the token: mark it used by this key, then issue.
    Grant,
    /// The same key asks again: its answer was lost. Issue or replay; nothing is marked.
    Replay,
    /// No.
    Refuse(Refusal),
}

/// Decides on a request that carries a token. `enrolment` is what the token's node has now, `retired` whether the
/// request's key was.
pub fn with_token(
    token: Option<&TokenRecord>,
    enrolment: Option<&EnrolmentRecord>,
    retired: Option<&RetiredRecord>,
    request: &Request<'_>,
    now: Timestamp,
) -> Decision {
    let Some(token) = token else {
        return refuse(
            RefusalKind::RefusalUnknown,
            "no such enrolment token",
            "run `fleetctl up` again: it gives every node that is not home a fresh token",
        );
    };
    if let Some(refusal) = about_peer(request.hello, now) {
        return Decision::Refuse(refusal);
    }
    if let Some(retired) = retired {
        return Decision::Refuse(gone(&retired.node));
    }
    // Looked at before expiry: an answer that was lost is replayed however long ago it was.
    match token.used_by.as_deref() {
        Some(key) if key == request.key && superseded(token, enrolment) => refuse(
            RefusalKind::RefusalUsed,
            format!("node `{}` has enrolled another key since this token was used", token.node),
            "if this is the right machine, run `fleetctl up` again for a fresh token; if not, find out who used it",
        ),
        Some(key) if key == request.key => Decision::Replay,
        Some(_) => refuse(
            RefusalKind::RefusalUsed,
            format!("the enrolment token of node `{}` was used by another key", token.node),
            "if this is the right machine, run `fleetctl up` again for a fresh token; if not, find out who used it",
        ),
        None if token.expires <= now => refuse(
            RefusalKind::RefusalExpired,
            format!("the enrolment token of node `{}` ran out at {}", token.node, token.expires),
            "run `fleetctl up` again for a fresh token",
        ),
        None => Decision::Grant,
    }
}

/// Whether the node has another key by now than the one that used `token`, and not from before it did.
fn superseded(token: &TokenRecord, enrolment: Option<&EnrolmentRecord>) -> bool {
    enrolment.is_some_and(|enrolment| {
        token.used_by.as_deref() != Some(&enrolment.key)
            && token.used_at.is_none_or(|used| used <= enrolment.since)
    })
}

/// Decides on a request without a token: a known node whose certificate ran out while it was off.
pub fn returning(
    known: Option<(&NodeName, &EnrolmentRecord)>,
    retired: Option<&RetiredRecord>,
    request: &Request<'_>,
    now: Timestamp,
) -> Decision {
    if let Some(retired) = retired {
        return Decision::Refuse(gone(&retired.node));
    }
    let Some((node, enrolment)) = known.filter(|(_, enrolment)| enrolment.key == request.key) else {
        return refuse(
            RefusalKind::RefusalUnknown,
            "no token was sent and no node has this key",
            "run `fleetctl up` again: it gives every node that is not home a fresh token",
        );
    };
    if let Some(refusal) = about_peer(request.hello, now) {
        return Decision::Refuse(refusal);
    }
    if enrolment.returns >= RETURNS_LIMIT {
        return refuse(
            RefusalKind::RefusalExpired,
            format!("node `{node}` came back with an expired certificate {RETURNS_LIMIT} times"),
            "look at its clock and its uptime, then run `fleetctl up` for a fresh token",
        );
    }
    Decision::Replay
}

/// What speaks against this peer whoever it is: versions and clocks.
pub fn about_peer(hello: Option<&Hello>, now: Timestamp) -> Option<Refusal> {
    let Some(hello) = hello else {
        return Some(Refusal::new(
            RefusalKind::RefusalBadRequest,
            "the request lacks its greeting",
            "use an agent of this controller's version",
        ));
    };
    version(hello).or_else(|| skew(hello.node_time_ms, now))
}

/// Both sides name the protocol versions they speak, and their own; without a common one, or too far apart, somebody
/// has to move first.
pub fn version(hello: &Hello) -> Option<Refusal> {
    protocol(hello).or_else(|| apart(&hello.agent_version, fleet_proto::VERSION))
}

/// Versions may be one minor apart, in either order: that is what is tested, and what an update takes.
fn apart(agent: &str, controller: &str) -> Option<Refusal> {
    let Ok(theirs) = agent.parse::<Version>() else {
        return Some(Refusal::new(
            RefusalKind::RefusalBadRequest,
            "the greeting names no version of its agent",
            "use an agent of this controller's version",
        ));
    };
    // The build checks its form.
    let ours: Version = controller.parse().ok()?;
    if ours.gets_along(theirs) {
        return None;
    }
    let hint = if theirs > ours {
        let next = theirs.oldest_counterpart();
        format!(
            "the controller moves first: install fleetctl {next} or newer where it runs, one minor version after \
             the other"
        )
    } else {
        format!(
            "the agent moves first: with a controller one minor version above {theirs}, roll out a release of \
             that; or make the node anew with `fleetctl replace`"
        )
    };
    let message = format!("agent {theirs} and controller {ours} are more than one minor version apart");
    Some(Refusal::new(RefusalKind::RefusalVersion, message, hint))
}

fn protocol(hello: &Hello) -> Option<Refusal> {
    let (ours_min, ours_max) = PROTOCOL;
    let who = if hello.protocol_min > ours_max {
        "the controller: update it first"
    } else if hello.protocol_max < ours_min {
        "the agent: update it first, or install it anew with `fleetctl up`"
    } else {
        return None;
    };
    let message = format!(
        "agent {} speaks protocol {} to {}, controller {} speaks {ours_min} to {ours_max}",
        hello.agent_version,
        hello.protocol_min,
        hello.protocol_max,
        fleet_proto::VERSION,
    );
    Some(Refusal::new(RefusalKind::RefusalVersion, message, format!("the older side is {who}")))
}

/// Whether a node's clock is so far from ours that certificates cannot work.
pub fn skew(node_time_ms: i64, now: Timestamp) -> Option<Refusal> {
    let ahead_ms = node_time_ms.saturating_sub(now.as_millis());
    if u128::from(ahead_ms.unsigned_abs()) <= SKEW_LIMIT.as_millis() {
        return None;
    }
    let seconds = ahead_ms / 1000;
    let (apart, direction) = (seconds.unsigned_abs(), if seconds > 0 { "ahead of" } else { "behind" });
    let mut refusal = Refusal::new(
        RefusalKind::RefusalClockSkew,
        format!("the node's clock is {apart} s {direction} the controller's"),
        "set the clock that is wrong (compare both with `date -u`); the agent tries again by itself",
    );
    refusal.skew_seconds = seconds;
    Some(refusal)
}

/// What the holder of a retired identity hears.
pub fn gone(node: &NodeName) -> Refusal {
    Refusal::new(
        RefusalKind::RefusalRetired,
        format!("this machine's identity as node `{node}` was retired for good"),
        "if it should be part of the fleet, delete /var/lib/fleet-agent there and enrol it anew: `fleetctl up` does",
    )
}

fn refuse(kind: RefusalKind, message: impl Into<String>, hint: impl Into<String>) -> Decision {
    Decision::Refuse(Refusal::new(kind, message, hint))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);

    fn hello() -> Hello {
        Hello {
            agent_version: fleet_proto::VERSION.to_owned(),
            protocol_min: 1,
            protocol_max: 1,
            node_time_ms: NOW.as_millis(),
            ..Hello::default()
        }
    }

    fn token(expires_in: i64, used_by: Option<&str>) -> TokenRecord {
        TokenRecord {
            node: "web-1".parse().expect("a name"),
            expires: Timestamp::from_millis(NOW.as_millis() + expires_in),
            used_by: used_by.map(str::to_owned),
            used_at: used_by.map(|_| NOW),
        }
    }

    fn retired() -> Option<RetiredRecord> {
        Some(RetiredRecord { node: "web-1".parse().expect("a name"), at: NOW })
    }

    fn enrolment(key: &str, returns: u32) -> EnrolmentRecord {
        EnrolmentRecord {
            key: key.to_owned(),
            machine: "m".to_owned(),
            // Before any token of these tests was used.
            since: NOW.before(Duration::from_secs(1)),
            certificates: vec![],
            leaf: String::new(),
            returns,
            services: vec![],
            id: String::new(),
        }
    }

    fn kind(decision: &Decision) -> &'static str {
        match decision {
            Decision::Grant => "grant",
            Decision::Replay => "replay",
            Decision::Refuse(refusal) => refusal.kind().as_str_name(),
        }
    }

    #[test]
    fn tokens() {
        let check = |token: Option<TokenRecord>, enrolment: Option<EnrolmentRecord>, hello: Hello, wanted| {
            let request = Request { key: "ours", hello: Some(&hello) };
            let decision = with_token(token.as_ref(), enrolment.as_ref(), None, &request, NOW);
            assert_eq!(kind(&decision), wanted, "{token:?} {enrolment:?} {hello:?}");
        };
        let at = |ms: i64| Hello { node_time_ms: NOW.as_millis().saturating_add(ms), ..hello() };
        let speaks = |protocol_min, protocol_max| Hello { protocol_min, protocol_max, ..hello() };
        check(None, None, hello(), "REFUSAL_UNKNOWN");
        check(Some(token(1, None)), None, hello(), "grant");
        check(Some(token(0, None)), None, hello(), "REFUSAL_EXPIRED");
        check(Some(token(1, Some("ours"))), None, hello(), "replay");
        check(Some(token(-1, Some("ours"))), None, hello(), "replay");
        check(Some(token(1, Some("theirs"))), None, hello(), "REFUSAL_USED");
        check(Some(token(-1, Some("theirs"))), None, hello(), "REFUSAL_USED");
        check(Some(token(1, None)), Some(enrolment("old", 0)), hello(), "grant");
        // Its answer was lost, perhaps before the enrolment was written.
        check(Some(token(1, Some("ours"))), Some(enrolment("ours", 0)), hello(), "replay");
        check(Some(token(1, Some("ours"))), Some(enrolment("old", 0)), hello(), "replay");
        // The node enrolled, or renewed with, another key since.
        let later = EnrolmentRecord { since: NOW.after(Duration::from_secs(1)), ..enrolment("newer", 0) };
        check(Some(token(1, Some("ours"))), Some(later), hello(), "REFUSAL_USED");
        let renewed = EnrolmentRecord { since: NOW, ..enrolment("newer", 0) };
        check(Some(token(1, Some("ours"))), Some(renewed), hello(), "REFUSAL_USED");
        check(Some(token(1, None)), None, at(300_000), "grant");
        check(Some(token(1, None)), None, at(-300_000), "grant");
        check(Some(token(1, None)), None, at(300_001), "REFUSAL_CLOCK_SKEW");
        check(Some(token(1, None)), None, at(-300_001), "REFUSAL_CLOCK_SKEW");
        check(Some(token(1, None)), None, at(i64::MAX), "REFUSAL_CLOCK_SKEW");
        check(Some(token(1, None)), None, speaks(2, 3), "REFUSAL_VERSION");
        check(Some(token(1, None)), None, speaks(0, 0), "REFUSAL_VERSION");
        check(Some(token(1, None)), None, speaks(0, 9), "grant");
    }

    #[test]
    fn a_retired_key_is_told_so_whatever_it_brings() {
        let hello = hello();
        let request = Request { key: "ours", hello: Some(&hello) };
        for token in [token(1, None), token(1, Some("ours"))] {
            let decision = with_token(Some(&token), None, retired().as_ref(), &request, NOW);
            assert_eq!(kind(&decision), "REFUSAL_RETIRED", "{token:?}");
        }
        assert_eq!(kind(&returning(None, retired().as_ref(), &request, NOW)), "REFUSAL_RETIRED");
    }

    #[test]
    fn returns() {
        let node: NodeName = "web-1".parse().expect("a name");
        let check = |known: Option<EnrolmentRecord>, wanted: &str| {
            let hello = hello();
            let request = Request { key: "ours", hello: Some(&hello) };
            let decision = returning(known.as_ref().map(|known| (&node, known)), None, &request, NOW);
            assert_eq!(kind(&decision), wanted, "{known:?}");
        };
        check(None, "REFUSAL_UNKNOWN");
        check(Some(enrolment("theirs", 0)), "REFUSAL_UNKNOWN");
        check(Some(enrolment("ours", 0)), "replay");
        check(Some(enrolment("ours", RETURNS_LIMIT - 1)), "replay");
        check(Some(enrolment("ours", RETURNS_LIMIT)), "REFUSAL_EXPIRED");
    }

    #[test]
    fn refusals_say_by_how_much_and_who_moves() {
        let hello = Hello { node_time_ms: NOW.as_millis() - 3_600_000, ..hello() };
        let refusal = about_peer(Some(&hello), NOW).expect("refused");
        assert_eq!(refusal.skew_seconds, -3600);
        assert_eq!(refusal.message, "the node's clock is 3600 s behind the controller's");
        let newer = Hello { protocol_min: 2, protocol_max: 2, ..hello };
        let refusal = about_peer(Some(&newer), NOW).expect("refused");
        let who = format!("agent {} speaks protocol 2 to 2", fleet_proto::VERSION);
        assert!(refusal.message.contains(&who), "{}", refusal.message);
        assert!(refusal.hint.contains("the controller: update it first"), "{}", refusal.hint);
        assert_eq!(about_peer(None, NOW).expect("refused").kind(), RefusalKind::RefusalBadRequest);
    }

    #[test]
    fn one_minor_version_apart_and_no_more() {
        let check = |agent: &str, controller: &str, moves: Option<&str>| {
            let refusal = apart(agent, controller);
            assert_eq!(refusal.is_some(), moves.is_some(), "{agent} {controller}");
            if let (Some(refusal), Some(who)) = (refusal, moves) {
                assert_eq!(refusal.kind(), RefusalKind::RefusalVersion);
                assert!(refusal.hint.starts_with(&format!("the {who} moves first")), "{}", refusal.hint);
                assert!(refusal.message.contains(agent) && refusal.message.contains(controller));
            }
        };
        check("0.1.0", "0.1.9", None);
        check("0.2.0", "0.1.0", None);
        check("0.1.0", "0.2.0", None);
        check("0.3.0", "0.1.0", Some("controller"));
        check("0.1.0", "0.3.0", Some("agent"));
        check("2.0.0", "0.9.0", Some("controller"));
        for none in ["", "latest", "0.1"] {
            let refusal = apart(none, "0.1.0").expect("refused");
            assert_eq!(refusal.kind(), RefusalKind::RefusalBadRequest, "{none}");
        }
    }

    proptest! {
        /// Whatever order requests come in: one key at most ever gets a certificate from a token.
        #[test]
        fn a_token_serves_one_key(
            asks in prop::collection::vec((0..4_u8, 0..200_i64), 1..40),
            life in 1..150_i64,
        ) {
            let mut record = token(life, None);
            let mut winner = None;
            let mut elapsed = 0;
            for (who, wait) in asks {
                elapsed += wait;
                let now = Timestamp::from_millis(NOW.as_millis() + elapsed);
                let key = format!("key-{who}");
                let hello = Hello { node_time_ms: now.as_millis(), ..hello() };
                match with_token(Some(&record), None, None, &Request { key: &key, hello: Some(&hello) }, now) {
                    Decision::Grant => {
                        prop_assert!(winner.is_none(), "granted twice");
                        prop_assert!(elapsed < life, "granted after it ran out");
                        record.used_by = Some(key.clone());
                        record.used_at = Some(now);
                        winner = Some(key);
                    }
                    Decision::Replay => prop_assert_eq!(winner.as_ref(), Some(&key)),
                    Decision::Refuse(_) => prop_assert_ne!(winner.as_ref(), Some(&key)),
                }
            }
        }
    }
}
