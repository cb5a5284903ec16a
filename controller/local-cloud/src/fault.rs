//! Faults on request, for tests and rehearsals.
//!
//! `POST /fleet/fault` adds one, `GET` lists them, `DELETE` clears all. They live in memory only: a restarted
//! cloud is a healthy one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::state::Twist;

/// Most faults kept; more is a mistake of whoever adds them.
const MAX_FAULTS: usize = 1000;

/// Something to go wrong, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What.
    #[serde(flatten)]
    pub kind: FaultKind,
    /// In which calls: the API's name of the operation (`DEPLOY_SERVER`, `LIST_VLAN`, `GET_SERVER`), `change`
    /// for any changing call, `*` for any call.
    #[serde(default = "any")]
    pub operation: String,
    /// Only in calls that name this resource, by id or name.
    #[serde(default)]
    pub subject: Option<String>,
    /// How many times more.
    #[serde(default = "once")]
    pub count: u32,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FaultKind {
    /// The call takes this much longer.
    Slow {
        /// How much.
        millis: u64,
    },
    /// A changing call is refused with `RESOURCE_BUSY`.
    Busy,
    /// The call is answered with a 5xx and has no effect.
    ServerError {
        /// Which; 503 unless said otherwise.
        #[serde(default = "unavailable")]
        status: u16,
    },
    /// A changing call is refused with this code and has no effect.
    Refuse {
        /// One of the platform's response codes.
        code: Code,
    },
    /// The connection is closed before the call has an effect.
    Reset,
    /// The call has its effect, then the connection is closed without an answer.
    LostAnswer,
    /// A server being made ends `FAILED_ADD`.
    FailDeploy,
    /// A server being started is said to run, but nothing does.
    NeverBoots,
}

/// A response code of the platform that a call may be refused with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Code(&'static str);

/// Codes that can be asked for: those that only trouble of the platform brings about, and the common ones.
const CODES: [&str; 16] = [
    "RESOURCE_BUSY",
    "RESOURCE_LOCKED",
    "RESOURCE_NOT_FOUND",
    "NO_CHANGE",
    "HAS_DEPENDENCY",
    "INVALID_INPUT_DATA",
    "INVALID_STATUS",
    "OPERATION_NOT_SUPPORTED",
    "CONFIGURATION_NOT_SUPPORTED",
    "EXCEEDS_LIMIT",
    "OUT_OF_RESOURCES",
    "AUTHORIZATION_FAILURE",
    "INFRASTRUCTURE_IN_MAINTENANCE",
    "UNEXPECTED_ERROR",
    "RETRYABLE_SYSTEM_ERROR",
    "SYSTEM_ERROR",
];

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let known = CODES.into_iter().find(|known| *known == text).map(Self);
        known.ok_or_else(|| serde::de::Error::custom(format!("`{text}` is none of {}", CODES.join(", "))))
    }
}

fn any() -> String {
    "*".to_owned()
}

fn once() -> u32 {
    1
}

fn unavailable() -> u16 {
    503
}

/// A call as far as faults care.
#[derive(Clone, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) operation: &'a str,
    pub(crate) changing: bool,
    /// A server is started by it.
    pub(crate) starts: bool,
    /// Ids and names it has to do with.
    pub(crate) subjects: &'a [String],
}

/// What happens to one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) slow: Duration,
    pub(crate) busy: bool,
    pub(crate) refusal: Option<&'static str>,
    pub(crate) server_error: Option<u16>,
    pub(crate) reset: bool,
    pub(crate) lost_answer: bool,
    pub(crate) twist: Twist,
}

/// All faults asked for and not used up.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    /// Adds one; false if there are too many.
    pub(crate) fn add(&mut self, fault: Fault) -> bool {
        let fits = self.0.len() < MAX_FAULTS;
        if fits && fault.count > 0 {
            self.0.push(fault);
        }
        fits
    }

    pub(crate) fn all(&self) -> &[Fault] {
        &self.0
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether one of them is about a resource in particular.
    pub(crate) fn need_subjects(&self) -> bool {
        self.0.iter().any(|fault| fault.subject.is_some())
    }

    /// What happens to this call. Each fault that matches is used once; of two alike, the older.
    pub(crate) fn take(&mut self, target: &Target<'_>) -> Trouble {
        let mut trouble = Trouble::default();
        let mut used = Vec::new();
        for fault in &mut self.0 {
            let kind = std::mem::discriminant(&fault.kind);
            if !fault.matches(target) || used.contains(&kind) {
                continue;
            }
            used.push(kind);
            fault.count -= 1;
            match fault.kind {
                FaultKind::Slow { millis } => trouble.slow = Duration::from_millis(millis),
                FaultKind::Busy => trouble.busy = true,
                FaultKind::ServerError { status } => trouble.server_error = Some(status),
                FaultKind::Refuse { code } => trouble.refusal = Some(code.0),
                FaultKind::Reset => trouble.reset = true,
                FaultKind::LostAnswer => trouble.lost_answer = true,
                FaultKind::FailDeploy => trouble.twist.fail_deploy = true,
                FaultKind::NeverBoots => trouble.twist.never_boots = true,
            }
        }
        self.0.retain(|fault| fault.count > 0);
        trouble
    }
}

impl Fault {
    fn matches(&self, target: &Target<'_>) -> bool {
        let possible = match self.kind {
            FaultKind::Busy | FaultKind::Refuse { .. } => target.changing,
            FaultKind::FailDeploy => target.operation == "DEPLOY_SERVER",
            FaultKind::NeverBoots => target.starts,
            _ => true,
        };
        let operation = match self.operation.as_str() {
            "*" => true,
            "change" => target.changing,
            name => name == target.operation,
        };
        let subject = self.subject.as_ref().is_none_or(|wanted| target.subjects.contains(wanted));
        possible && operation && subject
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(json: &str) -> Fault {
        serde_json::from_str(json).expect("a fault")
    }

    #[test]
    fn the_shortest_form_is_enough() {
        let check = |json: &str, kind: FaultKind, operation: &str, count: u32| {
            let fault = fault(json);
            assert_eq!((fault.kind, fault.operation.as_str(), fault.count), (kind, operation, count));
        };
        check(r#"{"kind":"busy"}"#, FaultKind::Busy, "*", 1);
        check(
            r#"{"kind":"server_error","operation":"LIST_VLAN","count":3}"#,
            FaultKind::ServerError { status: 503 },
            "LIST_VLAN",
            3,
        );
        check(
            r#"{"kind":"slow","millis":5,"operation":"change"}"#,
            FaultKind::Slow { millis: 5 },
            "change",
            1,
        );
        check(
            r#"{"kind":"refuse","code":"RESOURCE_LOCKED"}"#,
            FaultKind::Refuse { code: Code("RESOURCE_LOCKED") },
            "*",
            1,
        );
        assert!(serde_json::from_str::<Fault>(r#"{"kind":"refuse","code":"NO_SUCH_CODE"}"#).is_err());
        assert!(serde_json::from_str::<Fault>(r#"{"kind":"fire"}"#).is_err());
    }

    #[test]
    fn faults_match_and_are_used_up() {
        let mut faults = Faults::default();
        for json in [
            r#"{"kind":"busy","operation":"START_SERVER","count":2}"#,
            r#"{"kind":"never_boots","subject":"web"}"#,
            r#"{"kind":"fail_deploy"}"#,
            r#"{"kind":"busy","count":0}"#,
        ] {
            assert!(faults.add(fault(json)));
        }
        let names = ["web".to_owned()];
        let start = Target { operation: "START_SERVER", changing: true, starts: true, subjects: &names };
        let list = Target { operation: "LIST_SERVER", changing: false, starts: false, subjects: &[] };
        assert_eq!(faults.take(&list), Trouble::default());
        let twist = Twist { never_boots: true, fail_deploy: false };
        assert_eq!(faults.take(&start), Trouble { busy: true, twist, ..Trouble::default() });
        assert_eq!(faults.take(&start), Trouble { busy: true, ..Trouble::default() });
        assert_eq!(faults.take(&start), Trouble::default());
        assert_eq!(faults.all().len(), 1);
    }
}
