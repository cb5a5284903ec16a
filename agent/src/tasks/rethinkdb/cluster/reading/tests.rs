//! Against the answers of three RethinkDB 2.4.4 servers, as they gave them; the server asked is `s1`.

use std::{collections::VecDeque, sync::Mutex};

use fleet_proto::v1::{DatabaseTask, RethinkdbMember};
use fleet_reql::{ServerError, ServerErrorKind};

use super::*;
use crate::tasks::database::tests::verdict;

/// A server that was recorded: answers in the order they were given, and only to the queries that were asked.
struct Recorded(Mutex<VecDeque<(String, Value)>>);

#[async_trait]
impl Ask for Recorded {
    async fn ask(&self, query: Term) -> Result<Value, ReqlError> {
        let query = query.as_json().to_string();
        let mut left = self.0.lock().expect("fine");
        let at = left
            .iter()
            .position(|(asked, _)| *asked == query)
            .unwrap_or_else(|| panic!("never asked: {query}"));
        let (_, mut answer) = left.remove(at).expect("found");
        let rows = answer["r"].take();
        match answer["t"].as_u64() {
            Some(1) => Ok(rows[0].clone()),
            Some(2) => Ok(rows),
            _ => Err(ReqlError::Server(std::sync::Arc::new(ServerError {
                kind: ServerErrorKind::OpFailed,
                message: rows[0].as_str().expect("words").to_owned(),
            }))),
        }
    }
}

fn recorded(sample: &str) -> Recorded {
    let lines: Vec<&str> = sample.lines().collect();
    let pair = |lines: &[&str]| {
        let query: Value = serde_json::from_str(&lines[0][2..]).expect("a query");
        (query.to_string(), serde_json::from_str(&lines[1][2..]).expect("an answer"))
    };
    Recorded(Mutex::new(lines.chunks(2).map(pair).collect()))
}

const WHOLE: &str = include_str!("../samples/whole.txt");
const SILENT: &str = include_str!("../samples/silent.txt");
const KILLED: &str = include_str!("../samples/killed.txt");
const REPLACED: &str = include_str!("../samples/replaced.txt");
const MOVING: &str = include_str!("../samples/moving.txt");
const TWICE: &str = include_str!("../samples/twice.txt");
/// Id of the server that was asked.
const OWN: &str = "9a015fcd-61e2-437e-9274-ff3315e1731a";
/// What every sample holds: a table on three servers, one on `s3` alone, and none.
const TABLES: [&str; 3] = ["tasks", "one", "none"];

/// What is seen, and the tables.
async fn seen(sample: &str) -> (View, Vec<Option<Layout>>) {
    let server = recorded(sample);
    let mut tables = Vec::new();
    for name in TABLES {
        tables.push(table(&server, "todo", name).await.expect("a table, or none"));
    }
    let own = OWN.into();
    let view = view(&server, own).await.expect("a view");
    assert_eq!(server.0.lock().expect("fine").len(), 0, "everything recorded was asked");
    (view, tables)
}

fn states(layout: Option<&Layout>) -> Vec<String> {
    let shards = layout.expect("a table").shards.as_ref().expect("known");
    let word = |replica: &Replica| format!("{} {}", replica.name, replica.state.as_deref().unwrap_or("?"));
    let mut words: Vec<String> = shards.iter().flatten().map(word).collect();
    words.sort();
    words
}

#[tokio::test]
async fn a_whole_cluster() {
    let (view, tables) = seen(WHOLE).await;
    let servers: Vec<_> = view.servers.iter().map(|server| (server.name.as_str(), &server.tags)).collect();
    assert_eq!(servers.len(), 3);
    for (nth, (name, tags)) in servers.into_iter().enumerate() {
        assert_eq!((name, tags), (&*format!("s{}", nth + 1), &BTreeSet::from([format!("t{}", nth + 1)])));
    }
    assert_eq!(view.own().expect("listed").addresses, ["127.0.0.1"]);
    assert!(view.issues.is_empty() && view.unclear.is_empty());
    assert_eq!(states(tables[0].as_ref()), ["s1 ready", "s2 ready", "s3 ready"]);
    let table = tables[0].as_ref().expect("a table");
    assert!(table.ready && table.writable);
    assert_eq!((table.durability.as_str(), table.write_acks.as_str()), ("hard", "majority"));
    assert_eq!(tables[2], None);
}

#[tokio::test]
async fn a_server_that_was_killed_is_away_and_so_is_what_only_it_held() {
    let (view, tables) = seen(KILLED).await;
    assert_eq!(view.missing(["s1", "s2", "s3"]), ["s3"]);
    assert_eq!(view.issues.len(), 2);
    assert_eq!(states(tables[0].as_ref()), ["s1 ready", "s2 ready", "s3 disconnected"]);
    let one = tables[1].as_ref().expect("a table");
    assert_eq!((&one.shards, one.ready, one.writable), (&None, false, false));
}

#[tokio::test]
async fn a_new_server_of_the_same_name_has_another_id() {
    let (view, tables) = seen(REPLACED).await;
    assert!(view.missing(["s1", "s2", "s3"]).is_empty());
    assert_eq!(states(tables[0].as_ref()), ["s1 ready", "s2 ready", "s3 disconnected"]);
    let shards = tables[0].as_ref().and_then(|table| table.shards.as_ref()).expect("known");
    let gone = shards[0].iter().find(|replica| replica.name == "s3").expect("a replica");
    assert_eq!(view.of(&gone.server), None, "not the server that is called s3 now");
}

#[tokio::test]
async fn two_servers_of_one_name_are_told() {
    let (view, _) = seen(TWICE).await;
    assert_eq!(view.servers.len(), 4);
    assert_eq!(view.twice(), BTreeSet::from(["s3"]));
}

#[tokio::test]
async fn what_the_database_task_makes_of_them() {
    let member = |nth: usize| RethinkdbMember {
        server_name: format!("s{nth}"),
        tag: format!("t{nth}"),
        address: format!("2001:db8::{nth}"),
    };
    let check = async |what: &str, sample: &str, expected: [&str; 3]| {
        let (view, tables) = seen(sample).await;
        for ((name, table), (expected, replicas)) in
            TABLES.into_iter().zip(&tables).zip(expected.into_iter().zip([3, 1, 3]))
        {
            let spec = DatabaseTask {
                database: "todo".into(),
                table: name.into(),
                replicas,
                members: (1..=3).map(member).collect(),
                primary_tag: "t1".into(),
            };
            let found = verdict(&spec, &view, table.as_ref());
            assert!(found.starts_with(expected), "{what}, {name}: {found}");
        }
    };
    check("whole", WHOLE, ["Leave", "Leave", "Create"]).await;
    // Frozen: still listed as connected for a while, though nobody hears of it.
    let nobody = "Wait(\"a server that holds `todo.one` to come back";
    check(
        "silent",
        SILENT,
        [
            "Wait(\"the replicas of `todo.tasks` to be ready: s1 is waiting_for_primary, s3 is connected",
            nobody,
            "Create",
        ],
    )
    .await;
    let missing = "Wait(\"s3 to be in the cluster";
    check("killed", KILLED, ["Leave", missing, missing]).await;
    check("replaced", REPLACED, ["Move([\"a replica of `todo.tasks` is on a server `s3`", nobody, "Create"])
        .await;
    check("moving", MOVING, ["Wait(\"the replicas of `todo.tasks` to be ready: s3 is", nobody, "Create"])
        .await;
    let shared = "Wait(\"every server to have a name of its own; two are called s3";
    check("twice", TWICE, ["Leave", shared, shared]).await;
}

#[tokio::test]
async fn what_cannot_be_had_is_not_made_up() {
    let check = async |from: &str, to: &str, expected: &str| {
        assert!(WHOLE.contains(from), "{from}");
        let server = recorded(&WHOLE.replace(from, to));
        let found = async {
            let table = table(&server, "todo", "tasks").await?;
            let view = view(&server, OWN.into()).await?;
            Ok::<_, ReqlError>((view, table))
        };
        let words = match found.await {
            Ok((view, table)) => format!("{:?} {:?}", view.unclear, table.map(|table| table.shards)),
            Err(error) => error.to_string(),
        };
        assert!(words.contains(expected), "{words}");
    };
    // A server that is listed and could not be asked.
    check("\"name\":\"s2\",\"network\":{", "\"name\":\"s2\",\"error\":{", "[\"s2\"]").await;
    // Statuses that are not there, in part or at all.
    check("\"shards\":[{\"primary_replicas\"", "\"shards\":null,\"x\":[{\"primary_replicas\"", "Some(None)")
        .await;
    check(",\"state\":\"ready\"", "", "missing field `state`").await;
    check("\"server\":\"", "\"server\":\"other ", "state: None").await;
}
