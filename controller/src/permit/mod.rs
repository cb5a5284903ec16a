//! Permits: what only so many nodes of a fleet may do at a time, decided here.
//!
//! [`policy`] decides, without I/O; [`inbox`] takes what sessions say, without waiting; [`keeper`] is the one task
//! that reads it, writes leases down and answers.
//!
//! - `reboot` has one holder in the fleet, and none while another node is silent.
//! - `join/INSTANCE` has one holder; members ask for it too, to restart their server.
//! - `found/INSTANCE` is given once: afterwards only to the same enrolment of the same node, and only while nobody
//!   else may hold the cluster's data.
//! - Members are away one at a time, machine or server, and only while the servers of all others have converged. A
//!   member that has no session keeps others from rebooting, not from restarting their servers: whether its server is
//!   there the cluster itself knows, and who asks for that permit has asked it.
//!   Whoever is no member yet takes nothing away, and neither waits for that nor is waited for.
//! - A lease belongs to an enrolment: the same name with another identity is another machine.

#[cfg(test)]
mod cuts;
pub mod inbox;
pub mod keeper;
pub mod policy;

use std::{fmt, str::FromStr, time::Duration};

use fleet_proto::v1::{self, task_spec::Kind};
use serde::{Deserialize, Serialize};

/// Longest name of an instance.
const INSTANCE: usize = 64;

/// Something only so many nodes may do at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Permit {
    /// Restart the machine.
    Reboot,
    /// Join a cluster.
    Join(String),
    /// Begin a cluster.
    Found(String),
}

/// A text that names no permit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no permit")]
pub struct NoPermit(String);

impl FromStr for Permit {
    type Err = NoPermit;

    fn from_str(text: &str) -> Result<Self, NoPermit> {
        let instance = |name: &str| {
            let inner = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            (!name.is_empty() && name.len() <= INSTANCE && inner).then(|| name.to_owned())
        };
        match text.split_once('/') {
            None if text == "reboot" => Some(Self::Reboot),
            Some(("join", name)) => instance(name).map(Self::Join),
            Some(("found", name)) => instance(name).map(Self::Found),
            _ => None,
        }
        // It comes from outside and may be long.
        .ok_or_else(|| NoPermit(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reboot => f.write_str("reboot"),
            Self::Join(instance) => write!(f, "join/{instance}"),
            Self::Found(instance) => write!(f, "found/{instance}"),
        }
    }
}

impl TryFrom<String> for Permit {
    type Error = NoPermit;

    fn try_from(text: String) -> Result<Self, NoPermit> {
        text.parse()
    }
}

impl From<Permit> for String {
    fn from(permit: Permit) -> Self {
        permit.to_string()
    }
}

impl Permit {
    /// How long it is held without being asked for again.
    pub const fn life(&self) -> Duration {
        match self {
            Self::Reboot => Duration::from_secs(15 * 60),
            Self::Join(_) | Self::Found(_) => Duration::from_secs(10 * 60),
        }
    }

    /// Whether this task is one that asks for it.
    pub fn is_for(&self, task: &v1::TaskSpec) -> bool {
        match (self, &task.kind) {
            (Self::Reboot, Some(Kind::Update(update))) => update.reboot,
            (Self::Join(instance), Some(Kind::Rethinkdb(rethinkdb))) => rethinkdb.instance == *instance,
            (Self::Found(instance), Some(Kind::Rethinkdb(rethinkdb))) => {
                rethinkdb.seed && rethinkdb.instance == *instance
            }
            _ => false,
        }
    }
}

/// A question as a session asks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// For what.
    pub permit: Permit,
    /// On behalf of which task.
    pub task: String,
}

impl Ask {
    /// Reads a question of a node that should be `desired`.
    ///
    /// # Errors
    /// Why it makes no sense, in words for its task.
    pub fn read(ask: &v1::PermitAsk, desired: Option<&v1::Desired>) -> Result<Self, String> {
        let permit: Permit = ask.permit.parse().map_err(|error: NoPermit| error.to_string())?;
        let task = desired.and_then(|desired| desired.tasks.iter().find(|task| task.name == ask.task));
        match task {
            Some(task) if permit.is_for(task) => Ok(Self { permit, task: task.name.clone() }),
            _ => Err(format!("no task of this node's newest desired state asks for `{permit}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |text: &str, good: bool| match text.parse::<Permit>() {
            Ok(permit) => {
                assert!(good, "{text}");
                assert_eq!(permit.to_string(), text);
            }
            Err(error) => assert!(!good, "{error}"),
        };
        check("reboot", true);
        check("join/fleet", true);
        check("found/my-db_2.x", true);
        check("", false);
        check("reboot/x", false);
        check("join", false);
        check("join/", false);
        check("join/a/b", false);
        check("join/a b", false);
        check(&format!("join/{}", "x".repeat(65)), false);
        check("leave/fleet", false);
    }

    #[test]
    fn only_tasks_that_exist_may_ask() {
        let task = |name: &str, kind| v1::TaskSpec {
            name: name.to_owned(),
            kind: Some(kind),
            ..v1::TaskSpec::default()
        };
        let member = |seed| {
            Kind::Rethinkdb(v1::RethinkdbTask {
                instance: "fleet".to_owned(),
                seed,
                ..v1::RethinkdbTask::default()
            })
        };
        let update = |reboot| Kind::Update(v1::UpdateTask { every_hours: 24, reboot });
        let desired = |tasks| v1::Desired { tasks, ..v1::Desired::default() };
        let seed = desired(vec![task("update", update(true)), task("db", member(true))]);
        let joiner = desired(vec![task("update", update(false)), task("db", member(false))]);
        let check = |desired: Option<&v1::Desired>, permit: &str, task: &str, good: bool| {
            let ask = v1::PermitAsk { permit: permit.to_owned(), task: task.to_owned() };
            assert_eq!(Ask::read(&ask, desired).is_ok(), good, "{permit} for {task}");
        };
        check(Some(&seed), "reboot", "update", true);
        check(Some(&joiner), "reboot", "update", false);
        check(Some(&seed), "reboot", "db", false);
        check(Some(&seed), "found/fleet", "db", true);
        check(Some(&joiner), "found/fleet", "db", false);
        check(Some(&joiner), "join/fleet", "db", true);
        check(Some(&joiner), "join/other", "db", false);
        check(Some(&joiner), "join/fleet", "other", false);
        check(None, "join/fleet", "db", false);
    }
}
