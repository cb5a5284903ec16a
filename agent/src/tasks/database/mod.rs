//! The database and its table, with replicas over the locations of the cluster; on the seed only.
//!
//! Every decision comes from what the cluster says now, none from memory: the seed's machine may be another one than
//! yesterday. Nothing is ever dropped, and nothing is moved while a member is missing.

mod spread;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fleet_proto::v1::DatabaseTask;
use fleet_reql::ReqlError;
use fleet_task::{Finding, Node, Task, TaskError, TaskId};

use super::rethinkdb::{
    cluster::{Cluster, Loopback},
    issues,
};
use spread::{Verdict, Wanted, judge};

/// What every look waits for that finds no server.
const SERVER: &str = "this node's RethinkDB server to take queries";

/// Keeps the database.
#[derive(Clone, Debug)]
pub struct Database {
    id: TaskId,
    spec: DatabaseTask,
    cluster: Arc<dyn Cluster>,
}

impl Database {
    /// A database as `spec` says.
    pub fn new(id: TaskId, spec: DatabaseTask) -> Self {
        Self { id, spec, cluster: Arc::new(Loopback) }
    }

    /// What is to be done, and what is to be said beside it.
    async fn look(&self, wanted: &Wanted) -> Result<(Verdict, Finding), TaskError> {
        // The table first: should a server go in between, its replica is one of a server that is away, and not one
        // that a server which is there has lost.
        let table = self.cluster.table(&wanted.spread.database, &wanted.spread.table).await;
        let table = table.map_err(|error| trouble(&error))?;
        let view = self.cluster.view().await.map_err(|error| trouble(&error))?;
        let (verdict, mut warnings) = judge(wanted, &view, table.as_ref());
        warnings.extend(issues(&view));
        let missing = wanted.missing(&view).into_iter().map(str::to_owned).collect();
        Ok((verdict, Finding { warnings, missing_members: Some(missing), ..Finding::default() }))
    }
}

/// What the server's silence or refusal means.
fn trouble(error: &ReqlError) -> TaskError {
    if error.is_retryable() {
        return TaskError::NotYet(format!("{SERVER} ({error})"));
    }
    TaskError::Refused {
        why: format!("the database cannot be set up: {error}"),
        next: "look at the cluster's console (port 8080); nothing was dropped".into(),
    }
}

#[async_trait]
impl Task for Database {
    fn id(&self) -> &TaskId {
        &self.id
    }

    async fn check(&self, _node: &Node) -> Result<Finding, TaskError> {
        let wanted = Wanted::read(&self.spec)?;
        let (verdict, mut finding) = self.look(&wanted).await?;
        match verdict {
            Verdict::Leave => {}
            Verdict::Wait(what) => finding.waiting = Some(what),
            Verdict::Create => finding.drift.push(format!(
                "there is no table `{}.{}`, to have replicas: {}",
                wanted.spread.database,
                wanted.spread.table,
                wanted.places()
            )),
            Verdict::Move(reasons) => finding.drift = reasons,
        }
        Ok(finding)
    }

    async fn apply(&self, _node: &Node) -> Result<(), TaskError> {
        let wanted = Wanted::read(&self.spec)?;
        // Looked at anew: a member may have gone since.
        let (verdict, _) = self.look(&wanted).await?;
        let done = match verdict {
            Verdict::Leave | Verdict::Wait(_) => Ok(()),
            Verdict::Create => self.cluster.create(&wanted.spread).await,
            Verdict::Move(_) => self.cluster.reconfigure(&wanted.spread).await,
        };
        done.map_err(|error| trouble(&error))
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(300)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use fleet_task::{Outcome, Report};

    use super::{
        spread::tests::{FIVE, spec},
        *,
    };
    use crate::tasks::{
        rethinkdb::cluster::{
            Layout, Replica, Server, View,
            fake::{Asked, FakeCluster},
        },
        support::fake::Debian,
        tests::Rig,
    };

    /// A seed in a cluster that is whole and has no table yet.
    pub(in crate::tasks) fn made() -> (Arc<Debian>, Rig, Arc<dyn Task>) {
        let (debian, rig) = Debian::rig(&[]);
        let cluster = Arc::new(Asked { debian: debian.clone(), cluster: FakeCluster::with(&FIVE) });
        let task = Database { cluster, ..Database::new(TaskId::new("database"), spec(3, &FIVE)) };
        (debian, rig, Arc::new(task))
    }

    /// What is made of what was seen, for people.
    pub(in crate::tasks) fn verdict(spec: &DatabaseTask, view: &View, table: Option<&Layout>) -> String {
        format!("{:?}", judge(&Wanted::read(spec).expect("fine"), view, table).0)
    }

    struct Bench {
        rig: Rig,
        cluster: FakeCluster,
    }

    impl Bench {
        fn new() -> Self {
            Self { rig: Rig::new(&[]), cluster: FakeCluster::with(&FIVE) }
        }

        async fn made() -> Self {
            let bench = Self::new();
            bench.rig.changed(&bench.task(3)).await;
            bench
        }

        fn task(&self, replicas: u32) -> Database {
            let spec = spec(replicas, &FIVE);
            Database {
                cluster: Arc::new(self.cluster.clone()),
                ..Database::new(TaskId::new("database"), spec)
            }
        }

        async fn report(&self, replicas: u32) -> Report {
            self.rig.run(Arc::new(self.task(replicas))).await
        }

        fn edit(&self, edit: impl FnOnce(&mut Layout)) {
            edit(self.cluster.state().tables.get_mut(&("todo".into(), "tasks".into())).expect("made"));
        }

        fn servers(&self, edit: impl FnOnce(&mut Vec<Server>)) {
            edit(&mut self.cluster.state().view.as_mut().expect("set").servers);
        }

        fn changes(&self) -> Vec<String> {
            self.cluster.state().changes.clone()
        }
    }

    fn replica(table: &mut Layout, nth: usize) -> &mut Replica {
        &mut table.shards.as_mut().expect("known")[0][nth]
    }

    const CREATE: &str = "create todo.tasks {\"Amsterdam\": 1, \"Brussels\": 1, \"Frankfurt\": 1} Amsterdam";
    const MOVE: &str =
        "reconfigure todo.tasks {\"Amsterdam\": 1, \"Brussels\": 1, \"Frankfurt\": 1} Amsterdam";

    #[tokio::test]
    async fn made_once_everybody_is_there() {
        let bench = Bench::new();
        bench.cluster.set(&FIVE[..3]);
        assert_eq!(bench.rig.waits(&bench.task(3)).await, "f1, l1 to be in the cluster");
        bench.cluster.set(&FIVE);
        let changes = bench.rig.changed(&bench.task(3)).await;
        assert_eq!(
            changes,
            [
                "there is no table `todo.tasks`, to have replicas: 1 in Amsterdam, 1 in Brussels, 1 in Frankfurt"
            ]
        );
        assert_eq!(bench.changes(), [CREATE]);
        bench.rig.unchanged(&bench.task(3)).await;
        assert_eq!(bench.changes().len(), 1);
    }

    #[tokio::test]
    async fn more_replicas_are_made_and_fewer_are_not() {
        let bench = Bench::made().await;
        let changes = bench.rig.changed(&bench.task(5)).await;
        assert!(changes[0].contains("has 3 replicas, to have 2 in Amsterdam"), "{changes:?}");
        let report = bench.report(3).await;
        assert_eq!(report.outcome, Outcome::Unchanged);
        assert_eq!(report.warnings, ["`todo.tasks` has 5 replicas, more than 3, and is left so"]);
    }

    #[tokio::test]
    async fn a_replica_on_a_machine_that_was_replaced_is_moved() {
        let bench = Bench::made().await;
        // The machine is down: nothing is moved, and nothing waits for it.
        assert_eq!(bench.report(3).await.missing_members, Some(Vec::new()));
        bench.edit(|table| (replica(table, 1).state, table.ready) = (Some("disconnected".into()), false));
        bench.cluster.set(&[FIVE[0], FIVE[1], FIVE[3], FIVE[4]]);
        let report = bench.report(3).await;
        assert_eq!(
            (&report.outcome, report.warnings.as_slice()),
            (&Outcome::Unchanged, &["not in the cluster: b1".to_owned()][..])
        );
        assert_eq!(report.missing_members, Some(vec!["b1".to_owned()]));
        // The same machine is back before its replica is: it is its id that counts, and that has not changed.
        bench.cluster.set(&FIVE);
        let waits = bench.rig.waits(&bench.task(3)).await;
        assert!(waits.ends_with("to be ready: b1 is connected, and its replica out of reach"), "{waits}");
        // Its name is back on another machine, its data is not.
        bench.servers(|servers| servers[2].id = "new".into());
        let changes = bench.rig.changed(&bench.task(3)).await;
        assert_eq!(changes, ["a replica of `todo.tasks` is on a server `b1` that is no more"]);
        assert_eq!(bench.changes(), [CREATE, MOVE]);
        bench.rig.unchanged(&bench.task(3)).await;
    }

    #[tokio::test]
    async fn what_is_not_known_is_waited_for_and_never_acted_upon() {
        let check = async |edit: fn(&Bench), expected: &str| {
            let bench = Bench::made().await;
            edit(&bench);
            let waits = bench.rig.waits(&bench.task(3)).await;
            assert!(waits.contains(expected), "{expected}: {waits}");
            // A task that is told to act all the same looks for itself.
            bench.task(3).apply(&bench.rig.node()).await.expect("nothing to do");
            assert_eq!(bench.changes(), [CREATE], "{expected}");
        };
        let gone = |table: &mut Layout, nth| replica(table, nth).state = Some("disconnected".into());
        check(|bench| bench.edit(|table| table.shards = None), "a server that holds `todo.tasks`").await;
        check(
            |bench| {
                bench.edit(|table| table.shards = None);
                bench.cluster.set(&FIVE[..3]);
            },
            "f1, l1 to be in the cluster; nobody who holds `todo.tasks` can be asked",
        )
        .await;
        check(
            |bench| bench.edit(|table| replica(table, 1).state = None),
            "nothing is known of the one on b1",
        )
        .await;
        let alone: fn(&Bench) = |bench| {
            bench.cluster.state().view.as_mut().expect("set").own = "stranger".into();
            bench.cluster.state().tables.clear();
        };
        check(alone, "this node's server to list itself").await;
        check(
            |bench| {
                bench.cluster.set(&[FIVE[0], FIVE[1], FIVE[3], FIVE[4]]);
                bench.cluster.state().view.as_mut().expect("set").unclear = vec!["b1".into()];
            },
            "b1 is away, and its replica ready",
        )
        .await;
        let both: fn(&Bench) = |bench| {
            bench.edit(|table| {
                (replica(table, 1).state, replica(table, 2).state, table.writable) =
                    (Some("disconnected".into()), Some("disconnected".into()), false);
            });
            bench.servers(|servers| {
                (servers[2].id, servers[3].id) = ("new b1".into(), "new f1".into());
            });
        };
        check(both, "what b1, f1 held is gone: if no majority is left, repair the table on the console")
            .await;
        // One of two is a machine that is away; the other one cannot be told from it before it is back.
        let bench = Bench::made().await;
        bench.edit(|table| (1..3).for_each(|nth| gone(table, nth)));
        bench.cluster.set(&[FIVE[0], FIVE[1], FIVE[2], FIVE[4]]);
        bench.servers(|servers| servers[2].id = "new b1".into());
        let waits = bench.rig.waits(&bench.task(3)).await;
        assert!(waits.starts_with("f1 to be in the cluster, before replicas are moved: "), "{waits}");
    }

    #[tokio::test]
    async fn nothing_is_moved_while_a_member_is_missing_or_named_twice() {
        let bench = Bench::made().await;
        bench.edit(|table| drop(table.shards.as_mut().expect("known")[0].pop()));
        bench.cluster.set(&FIVE[..4]);
        let waits = bench.rig.waits(&bench.task(3)).await;
        assert!(
            waits.starts_with("l1 to be in the cluster, before replicas are moved: `todo.tasks` has 2"),
            "{waits}"
        );
        let mut six = FIVE.to_vec();
        six.push(("b1", "Brussels"));
        bench.cluster.set(&six);
        bench.servers(|servers| servers[5].id = "another b1".into());
        let waits = bench.rig.waits(&bench.task(3)).await;
        assert!(waits.contains("two are called b1"), "{waits}");
        assert_eq!(bench.changes(), [CREATE]);
    }

    #[tokio::test]
    async fn what_somebody_else_made_is_left_alone() {
        let check = async |edit: fn(&mut Layout), expected: &str| {
            let bench = Bench::made().await;
            bench.edit(edit);
            let report = bench.report(3).await;
            assert_eq!(report.outcome, Outcome::Unchanged, "{expected}");
            assert!(report.warnings.iter().any(|line| line.contains(expected)), "{report:?}");
            assert_eq!(bench.changes(), [CREATE]);
        };
        check(
            |table| table.shards.as_mut().expect("known").push(Vec::new()),
            "has 2 shards and is left alone",
        )
        .await;
        check(|table| table.durability = "soft".into(), "durability soft").await;
        check(|table| table.write_acks = "single".into(), "write_acks single").await;
        check(|table| replica(table, 2).server = "id-l1".into(), "has its replicas elsewhere").await;
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_waited_for_and_one_that_refuses_is_quoted() {
        let bench = Bench::new();
        bench.cluster.state().view = None;
        assert!(bench.rig.waits(&bench.task(3)).await.starts_with(SERVER));
        assert_eq!(bench.report(3).await.missing_members, None, "nobody knows");
        bench.cluster.set(&FIVE);
        bench.cluster.state().refuses =
            Some("Can't put 1 replicas on servers with the tag `Brussels`".into());
        let why = bench.rig.failed(&bench.task(3)).await;
        assert!(why.contains("Can't put 1 replicas") && why.contains("nothing was dropped"), "{why}");
        bench.cluster.state().refuses = None;
        bench.rig.changed(&bench.task(3)).await;
    }

    #[tokio::test]
    async fn replicas_on_their_way_are_waited_for() {
        let bench = Bench::made().await;
        bench.edit(|table| (replica(table, 2).state, table.ready) = (Some("backfilling".into()), false));
        let waits = bench.rig.waits(&bench.task(3)).await;
        assert_eq!(waits, "the replicas of `todo.tasks` to be ready: f1 is backfilling");
        bench.cluster.state().view.as_mut().expect("set").issues = vec!["Table is slow.".into()];
        assert_eq!(bench.report(3).await.warnings, ["RethinkDB says: Table is slow."]);
    }
}
