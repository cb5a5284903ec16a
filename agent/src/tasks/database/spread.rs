//! Where the replicas of a table go, and what is to be done about where they are. Pure.

use std::collections::{BTreeMap, BTreeSet};

use fleet_proto::v1::DatabaseTask;
use fleet_task::TaskError;

use crate::tasks::rethinkdb::cluster::{Layout, Replica, Spread, View};

/// State of a replica whose server cannot be reached.
const GONE: &str = "disconnected";
/// State of one that is as it should be.
const READY: &str = "ready";
/// Longest name of a database or table.
const MAX_NAME: usize = 128;

/// What is to be, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) spread: Spread,
    /// Names of all servers of the cluster.
    pub(super) members: BTreeSet<String>,
}

fn refuse(why: String) -> TaskError {
    TaskError::Refused { why, next: "correct the plan".into() }
}

impl Wanted {
    /// What a plan says.
    pub(super) fn read(spec: &DatabaseTask) -> Result<Self, TaskError> {
        for name in [&spec.database, &spec.table] {
            let letters =
                name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
            if name.is_empty() || name.len() > MAX_NAME || !letters || name == "rethinkdb" {
                return Err(refuse(format!("`{}` is no name for a database or table", name.escape_debug())));
            }
        }
        let members: BTreeSet<String> =
            spec.members.iter().map(|member| member.server_name.clone()).collect();
        if members.len() != spec.members.len() {
            return Err(refuse("two servers have one name".into()));
        }
        if spec.replicas.is_multiple_of(2) {
            return Err(refuse(format!(
                "{} replicas: an odd number survives the loss of one just as well and can still agree",
                spec.replicas
            )));
        }
        if spec.replicas as usize > members.len() {
            return Err(refuse(format!("{} replicas on {} servers", spec.replicas, members.len())));
        }
        if !spec.members.iter().any(|member| member.tag == spec.primary_tag) {
            return Err(refuse(format!("no server has the tag `{}` of the primary", spec.primary_tag)));
        }
        let spread = Spread {
            database: spec.database.clone(),
            table: spec.table.clone(),
            replicas: spread(spec),
            primary: spec.primary_tag.clone(),
        };
        Ok(Self { spread, members })
    }

    fn count(&self) -> usize {
        self.spread.replicas.values().sum::<u32>() as usize
    }

    /// Names of members that are not in the cluster.
    pub(super) fn missing<'a>(&'a self, view: &View) -> Vec<&'a str> {
        view.missing(self.members.iter().map(String::as_str))
    }

    /// Where the replicas go, for people.
    pub(super) fn places(&self) -> String {
        let all: Vec<String> =
            self.spread.replicas.iter().map(|(tag, count)| format!("{count} in {tag}")).collect();
        all.join(", ")
    }
}

/// The primary's tag first, then the other tags in order, one each; then another round, as far as there are servers.
fn spread(spec: &DatabaseTask) -> BTreeMap<String, u32> {
    let mut free: BTreeMap<&str, u32> = BTreeMap::new();
    for member in &spec.members {
        *free.entry(&member.tag).or_default() += 1;
    }
    let others = free.keys().copied().filter(|tag| *tag != spec.primary_tag);
    let order: Vec<&str> = std::iter::once(spec.primary_tag.as_str()).chain(others).collect();
    let (mut placed, mut left) = (BTreeMap::<String, u32>::new(), spec.replicas);
    while left > 0 {
        let before = left;
        for tag in &order {
            if left > 0
                && let Some(servers) = free.get_mut(tag)
                && *servers > 0
            {
                *servers -= 1;
                left -= 1;
                *placed.entry((*tag).to_owned()).or_default() += 1;
            }
        }
        if left == before {
            break;
        }
    }
    placed
}

/// What is to be done about a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is as it should be, or better left alone.
    Leave,
    /// Nothing may be changed before this has come.
    Wait(String),
    /// There is none.
    Create,
    /// Its replicas are to be laid out anew, for these reasons.
    Move(Vec<String>),
}

/// Judges what is there. Also what is worth a person's attention.
///
/// Which machine a replica is on is told by the server's id: its name may be another machine's by now. A replica is
/// given up only if its server is not connected while every member of the plan is, each with a name of its own; a
/// state that is not known, or contradicts who is connected, is waited out.
pub(super) fn judge(wanted: &Wanted, view: &View, table: Option<&Layout>) -> (Verdict, Vec<String>) {
    let missing = wanted.missing(view);
    let obstacle = obstacle(wanted, view, &missing);
    let Some(table) = table else {
        return (obstacle.map_or(Verdict::Create, Verdict::Wait), Vec::new());
    };
    let mut warnings = Vec::new();
    let name = format!("`{}.{}`", wanted.spread.database, wanted.spread.table);
    let Some(shards) = &table.shards else {
        let verdict = Verdict::Wait(match obstacle {
            Some(what) => format!("{what}; nobody who holds {name} can be asked"),
            None => format!(
                "a server that holds {name} to come back; if all of them are gone for good so is the data: then drop \
                 the table on the console (port 8080), and it is made anew"
            ),
        });
        return (verdict, warnings);
    };
    let [replicas] = shards.as_slice() else {
        warnings.push(format!("{name} has {} shards and is left alone", shards.len()));
        return (Verdict::Leave, warnings);
    };
    if table.durability != "hard" || table.write_acks != "majority" {
        let (durability, acks) = (&table.durability, &table.write_acks);
        warnings.push(format!("{name} has durability {durability} and write_acks {acks}, and is left so"));
    }
    let unready = unready(view, replicas);
    let lost: Vec<&Replica> = replicas.iter().filter(|replica| view.of(&replica.server).is_none()).collect();
    if !unready.is_empty() || !(table.writable || lost.is_empty()) {
        let mut what = format!("the replicas of {name} to be ready: {}", unready.join(", "));
        if unready.is_empty() {
            what = format!("{name} to take writes");
        }
        if !table.writable && !lost.is_empty() && obstacle.is_none() {
            let names: Vec<&str> = lost.iter().map(|replica| replica.name.as_str()).collect();
            what.push_str(&format!(
                "; what {} held is gone: if no majority is left, repair the table on the console (port 8080)",
                names.join(", ")
            ));
        }
        return (Verdict::Wait(what), warnings);
    }
    let mut reasons = Vec::new();
    // As many as are missing may be theirs, and come back with them.
    if lost.len() > missing.len() {
        reasons.extend(
            lost.iter().map(|replica| {
                format!("a replica of {name} is on a server `{}` that is no more", replica.name)
            }),
        );
    }
    if replicas.len() < wanted.count() {
        reasons.push(format!("{name} has {} replicas, to have {}", replicas.len(), wanted.places()));
    }
    if !reasons.is_empty() {
        let verdict = match obstacle {
            Some(what) => Verdict::Wait(format!("{what}, before replicas are moved: {}", reasons.join(", "))),
            None => Verdict::Move(reasons),
        };
        return (verdict, warnings);
    }
    if replicas.len() > wanted.count() {
        warnings.push(format!(
            "{name} has {} replicas, more than {}, and is left so",
            replicas.len(),
            wanted.count()
        ));
    } else if places(view, replicas).is_some_and(|places| places != wanted.spread.replicas) {
        warnings.push(format!("{name} has its replicas elsewhere than {}, and is left so", wanted.places()));
    }
    if !missing.is_empty() {
        warnings.push(format!("not in the cluster: {}", missing.join(", ")));
    } else if !table.ready {
        return (Verdict::Wait(format!("{name} to be ready")), warnings);
    }
    (Verdict::Leave, warnings)
}

/// What keeps data from being laid out now: somebody who may hold it is away, or cannot be told apart.
fn obstacle(wanted: &Wanted, view: &View, missing: &[&str]) -> Option<String> {
    let unclear: Vec<&str> =
        view.unclear.iter().map(String::as_str).filter(|name| wanted.members.contains(*name)).collect();
    let twice: Vec<&str> = view.twice().into_iter().collect();
    if view.own().is_none() {
        return Some("this node's server to list itself among those connected".into());
    }
    if !unclear.is_empty() {
        return Some(format!("{} to say how they are", unclear.join(", ")));
    }
    if !missing.is_empty() {
        return Some(format!("{} to be in the cluster", missing.join(", ")));
    }
    (!twice.is_empty())
        .then(|| format!("every server to have a name of its own; two are called {}", twice.join(", ")))
}

/// Replicas of which it is not known, or known, that they are not as they should be; those of servers that are away
/// aside.
fn unready(view: &View, replicas: &[Replica]) -> Vec<String> {
    let word = |replica: &Replica| match (view.of(&replica.server), replica.state.as_deref()) {
        (Some(_), Some(READY)) | (None, Some(GONE)) => None,
        (_, None) => Some(format!("nothing is known of the one on {}", replica.name)),
        (Some(_), Some(GONE)) => Some(format!("{} is connected, and its replica out of reach", replica.name)),
        (Some(_), Some(state)) => Some(format!("{} is {state}", replica.name)),
        (None, Some(state)) => Some(format!("{} is away, and its replica {state}", replica.name)),
    };
    replicas.iter().filter_map(word).collect()
}

/// How many replicas are on servers of each tag; `None` if that cannot be told of all.
fn places(view: &View, replicas: &[Replica]) -> Option<BTreeMap<String, u32>> {
    let mut places = BTreeMap::new();
    for replica in replicas {
        *places.entry(view.of(&replica.server)?.tags.first()?.clone()).or_default() += 1;
    }
    Some(places)
}

#[cfg(test)]
pub(super) mod tests {
    use fleet_proto::v1::RethinkdbMember;
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn spec(replicas: u32, members: &[(&str, &str)]) -> DatabaseTask {
        DatabaseTask {
            database: "todo".into(),
            table: "tasks".into(),
            replicas,
            members: members
                .iter()
                .enumerate()
                .map(|(n, (name, tag))| RethinkdbMember {
                    server_name: (*name).into(),
                    tag: (*tag).into(),
                    address: format!("2001:db8::{n}"),
                })
                .collect(),
            primary_tag: members.first().map_or("", |(_, tag)| tag).into(),
        }
    }

    pub(in super::super) const FIVE: [(&str, &str); 5] = [
        ("seed", "Amsterdam"),
        ("a2", "Amsterdam"),
        ("b1", "Brussels"),
        ("f1", "Frankfurt"),
        ("l1", "London"),
    ];

    #[test]
    fn replicas_are_spread_primary_first() {
        let check = |replicas, members: &[(&str, &str)], expected: &[(&str, u32)]| {
            let wanted = Wanted::read(&spec(replicas, members)).expect("fine");
            let expected = expected.iter().map(|(tag, count)| ((*tag).to_owned(), *count)).collect();
            assert_eq!(wanted.spread.replicas, expected, "{replicas} {members:?}");
        };
        check(1, &FIVE, &[("Amsterdam", 1)]);
        check(3, &FIVE, &[("Amsterdam", 1), ("Brussels", 1), ("Frankfurt", 1)]);
        check(5, &FIVE, &[("Amsterdam", 2), ("Brussels", 1), ("Frankfurt", 1), ("London", 1)]);
        check(3, &[("a", "B"), ("b", "A"), ("c", "B")], &[("A", 1), ("B", 2)]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |spec: DatabaseTask, expected: &str| {
            let error = Wanted::read(&spec).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(spec(0, &FIVE), "0 replicas: an odd number");
        check(spec(2, &FIVE), "2 replicas: an odd number");
        check(spec(7, &FIVE), "7 replicas on 5 servers");
        check(spec(1, &[("a", "A"), ("a", "B")]), "two servers have one name");
        check(DatabaseTask { primary_tag: "Mars".into(), ..spec(1, &FIVE) }, "no server has the tag `Mars`");
        check(DatabaseTask { database: "a.b".into(), ..spec(1, &FIVE) }, "no name for a database");
        check(DatabaseTask { database: "rethinkdb".into(), ..spec(1, &FIVE) }, "no name for a database");
        check(DatabaseTask { table: String::new(), ..spec(1, &FIVE) }, "no name for a database");
    }

    proptest! {
        #[test]
        fn as_many_as_asked_never_more_than_there_are(tags in proptest::collection::vec("[A-D]", 1..9), n in 0..4_u32) {
            let names: Vec<String> = (0..tags.len()).map(|n| format!("s{n}")).collect();
            let members: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(tags.iter().map(String::as_str)).collect();
            let spec = spec(2 * n + 1, &members);
            match Wanted::read(&spec) {
                Ok(wanted) => {
                    prop_assert_eq!(wanted.count(), spec.replicas as usize);
                    for (tag, count) in &wanted.spread.replicas {
                        prop_assert!(*count as usize <= tags.iter().filter(|other| *other == tag).count());
                    }
                    let distinct: BTreeSet<&String> = tags.iter().collect();
                    prop_assert_eq!(wanted.spread.replicas.len(), distinct.len().min(wanted.count()));
                    prop_assert!(wanted.spread.replicas.contains_key(&spec.primary_tag));
                }
                Err(_) => prop_assert!(spec.replicas as usize > members.len()),
            }
        }
    }
}
