//! Several stand-ins: joining, replication, losing one, replacing one.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fleet_reql::{
    Change, Changes, Connection, Cursor, Insert, Options, Replicas, ReqlError, ServerErrorKind, Shape, Table,
    WaitFor, Written, db, db_create,
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::support::{Authority, DEADLINE, Standin, system, until, whole};

fn tasks() -> Table {
    db("todo").table("tasks")
}

/// Three members under TLS with a table on all of them, ten rows in it.
async fn three(authority: &Authority) -> [Standin; 3] {
    let tls = Some((authority, authority));
    let first = Standin::new("first", tls, &[]);
    let second = Standin::new("second", tls, &[&first]);
    // Knows the second alone: who else there is, it is told.
    let third = Standin::new("third", tls, &[&second]);
    whole(&[&first, &second, &third]).await;
    let connection = first.connect().await;
    connection.run::<Value>(db_create("todo")).await.unwrap();
    let shape = Shape::one_shard(Replicas::Count(3));
    connection.run::<Value>(db("todo").table_create("tasks", &shape)).await.unwrap();
    for number in 0..10 {
        insert(&connection, number).await;
    }
    [first, second, third]
}

async fn insert(connection: &Connection, number: u64) {
    let written: Written =
        connection.run(tasks().insert(json!({"id": number}), Insert::default())).await.unwrap();
    assert_eq!(written.inserted, 1);
}

async fn count(connection: &Connection) -> u64 {
    connection.run(tasks().all().count()).await.unwrap()
}

/// The member that leads the table, by its place; there may be none for a moment.
async fn leader(members: &[Standin], asked: &Standin) -> usize {
    let connection = asked.connect().await;
    until("somebody leads", || async {
        let status: Value = connection.run(tasks().status()).await.ok()?;
        let name = status["shards"][0]["primary_replicas"][0].as_str()?.to_owned();
        members.iter().position(|member| member.name == name)
    })
    .await
}

async fn ready(connection: &Connection) {
    let all = tasks().wait(WaitFor::AllReplicas, DEADLINE);
    let ready: Value = connection.run_within(all, DEADLINE + Duration::from_secs(1)).await.unwrap();
    assert_eq!(ready, json!({ "ready": 1 }));
    until("nothing is wrong", || async {
        system(connection, "current_issues").await.is_empty().then_some(())
    })
    .await;
}

async fn next(feed: &mut Cursor<Change>) -> Result<Change, ReqlError> {
    timeout(DEADLINE, feed.next()).await.expect("in time").expect("the feed goes on")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_on_one_is_read_and_told_on_all() {
    let members = three(&Authority::new()).await;
    let mut feeds = Vec::new();
    for member in &members {
        let connection = member.connect().await;
        assert_eq!(count(&connection).await, 10, "on {}", member.name);
        let states = Changes { include_states: true, ..Changes::default() };
        let mut feed: Cursor<Change> = connection.cursor(tasks().all().changes(states)).await.unwrap();
        assert_eq!(next(&mut feed).await.unwrap().state.as_deref(), Some("ready"));
        feeds.push(feed);
    }
    for (number, member) in (100_u64..).zip(&members) {
        insert(&member.connect().await, number).await;
        for feed in &mut feeds {
            assert_eq!(next(feed).await.unwrap().new_val, Some(json!({ "id": number })));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_opens_nothing() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let seed = Standin::new("seed", Some((&ours, &ours)), &[]);
    seed.connect().await;
    // One that trusts us but is not ours, one that is a stranger altogether, one without TLS.
    let pretender = Standin::new("pretender", Some((&theirs, &ours)), &[&seed]);
    let stranger = Standin::new("stranger", Some((&theirs, &theirs)), &[&seed]);
    let plain = Standin::new("plain", None, &[&seed]);
    for outsider in [&pretender, &stranger, &plain] {
        until(&format!("{} was turned away", outsider.name), || async {
            outsider.log().contains("Cannot reach 127.0.0.1").then_some(())
        })
        .await;
    }
    let member = Standin::new("member", Some((&ours, &ours)), &[&seed]);
    whole(&[&seed, &member]).await;
    for outsider in [&pretender, &stranger, &plain] {
        // One that is to join serves nobody until it has.
        let door = Connection::open(outsider.address(), &Options::default()).await;
        assert!(matches!(door, Err(ReqlError::Connect { .. })), "{}", outsider.name);
    }
}

/// As the real server does, in the stages in which a fleet's services get an authority of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_gets_another_authority_without_ever_falling_apart() {
    let (old, new) = (Authority::new(), Authority::new());
    let mut members = three(&old).await;
    let (both, alone) = ([&old, &new], [&new]);
    for (issuer, trusted) in [(&old, &both[..]), (&new, &both[..]), (&new, &alone[..])] {
        for nth in [1, 2, 0] {
            members[nth].certified_by(issuer, trusted);
            whole(&members.each_ref()).await;
        }
    }
    let late = Standin::new("late", Some((&old, &new)), &[&members[0]]);
    until("who has the old one's is turned away", || async {
        late.log().contains("Cannot reach 127.0.0.1").then_some(())
    })
    .await;
    whole(&members.each_ref()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_acknowledged_survives_the_death_of_all() {
    let mut members = three(&Authority::new()).await;
    let connection = members[0].connect().await;
    for number in 10..40 {
        insert(&connection, number).await;
    }
    for member in &mut members {
        member.kill();
    }
    for member in &mut members {
        member.start();
    }
    // Nobody dialled the first by its settings: members remember each other.
    whole(&members.iter().collect::<Vec<_>>()).await;
    for member in &members {
        let connection = member.connect().await;
        ready(&connection).await;
        assert_eq!(count(&connection).await, 40, "on {}", member.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_and_another_takes_over() {
    let mut members = three(&Authority::new()).await;
    let first = leader(&members, &members[0]).await;
    let other = (first + 1) % 3;
    let connection = members[other].connect().await;
    let mut feed: Cursor<Change> = connection
        .cursor(tasks().all().changes(Changes { include_states: true, ..Changes::default() }))
        .await
        .unwrap();
    assert_eq!(next(&mut feed).await.unwrap().state.as_deref(), Some("ready"));
    members[first].kill();
    let end = next(&mut feed).await.expect_err("the feed's leader is gone");
    assert!(end.to_string().contains("Changefeed aborted (unavailable)."), "{end}");
    until("another leads", || async {
        let written = connection.run::<Written>(tasks().insert(json!({"id": 77}), Insert::default())).await;
        written.is_ok().then_some(())
    })
    .await;
    assert_eq!(count(&connection).await, 11);
    let issues = system(&connection, "current_issues").await;
    assert_eq!(issues.len(), 1, "{issues:?}");
    assert_eq!((&issues[0]["type"], &issues[0]["critical"]), (&json!("table_availability"), &json!(false)));
    members[first].start();
    whole(&members.iter().collect::<Vec<_>>()).await;
    ready(&connection).await;
    // The one that was away has caught up and leads again, as configured.
    until("the configured leader leads", || async {
        (leader(&members, &members[other]).await == first).then_some(())
    })
    .await;
    assert_eq!(count(&members[first].connect().await).await, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_it_refuses_rather_than_loses() {
    let mut members = three(&Authority::new()).await;
    members[1].kill();
    members[2].kill();
    let connection = members[0].connect().await;
    let write = || connection.run::<Written>(tasks().insert(json!({"id": 500}), Insert::default()));
    until("writes are refused", || async {
        let why = write().await.err()?;
        let known = [ServerErrorKind::OpFailed, ServerErrorKind::OpIndeterminate];
        assert!(known.contains(&why.server_kind().expect("the server's answer")), "{why}");
        (why.server_kind() == Some(ServerErrorKind::OpFailed)).then_some(())
    })
    .await;
    let read = connection.run::<Value>(tasks().all().count()).await.expect_err("no majority");
    let words =
        ["primary replica for shard [\"\", +inf) not available", "isn't connected to a quorum of replicas."];
    assert!(words.iter().any(|words| read.to_string().contains(words)), "{read}");
    let shape = Shape::one_shard(Replicas::Count(1));
    let moved = connection.run::<Value>(tasks().reconfigure(&shape)).await.expect_err("no majority");
    assert!(
        moved.to_string().contains("are currently unreachable. The table was not reconfigured."),
        "{moved}"
    );
    members[1].start();
    until("writes are taken again", || async { write().await.ok().filter(|written| written.errors == 0) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_member_is_replaced_and_nothing_is_lost() {
    let authority = Authority::new();
    let tls = Some((&authority, &authority));
    for destroyed in [0, 2] {
        let [first, second, third] = three(&authority).await;
        let mut members = vec![first, second, third];
        let mut old = members.remove(destroyed);
        let old_id = old.connect().await.server_info().await.unwrap().id;
        old.kill();
        let connection = members[0].connect().await;
        until("the others carry on", || async {
            connection.run::<Written>(tasks().insert(json!({"id": 50}), Insert::default())).await.ok()
        })
        .await;
        // A replaced seed joins nobody: the others know its address. Any other joins as before.
        let join: Vec<&Standin> = if destroyed == 0 { Vec::new() } else { members.iter().collect() };
        let new = old.instead_of(tls, &join);
        members.push(new);
        whole(&members.iter().collect::<Vec<_>>()).await;
        let new = members.last().unwrap().connect().await;
        let new_id = new.server_info().await.unwrap().id;
        assert_ne!(old_id, new_id);
        // The table still names the one that is gone, and says that it is missing.
        let status: Value = new.run(tasks().status()).await.unwrap();
        let states = status["shards"][0]["replicas"].as_array().unwrap();
        assert_eq!(states.iter().filter(|replica| replica["state"] == "disconnected").count(), 1, "{status}");
        assert_eq!(system(&new, "current_issues").await.len(), 1);
        let shape = Shape::one_shard(Replicas::Count(3));
        let done: Value = new.run_within(tasks().reconfigure(&shape), DEADLINE).await.unwrap();
        assert_eq!(done["reconfigured"], 1);
        ready(&new).await;
        for member in &members {
            assert_eq!(count(&member.connect().await).await, 11, "on {}", member.name);
        }
        // The new one holds the rows itself: with it, one more of three is enough.
        let lost = members.iter_mut().position(|member| member.name == "second").unwrap();
        members[lost].kill();
        let survivor = members.last().unwrap().connect().await;
        until("the new member carries the table", || async {
            survivor.run::<u64>(tasks().all().count()).await.ok().filter(|count| *count == 11)
        })
        .await;
    }
}

/// Inserts rows one after the other by way of one member, until told to stop; those that were acknowledged.
async fn write_on(
    address: SocketAddr,
    mut number: u64,
    acknowledged: Arc<AtomicU64>,
    stop: CancellationToken,
) -> Vec<u64> {
    let mut mine = Vec::new();
    let quick =
        Options { connect: Duration::from_secs(1), deadline: Duration::from_secs(15), ..Options::default() };
    while !stop.is_cancelled() {
        // Away, or not yet a member again.
        let Ok(connection) = Connection::open(address, &quick).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !stop.is_cancelled() && connection.is_open() {
            number += 1;
            match connection.run::<Written>(tasks().insert(json!({"id": number}), Insert::default())).await {
                Ok(written) if written.inserted == 1 => {
                    mine.push(number);
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                Ok(written) => panic!("{written:?}"),
                // Refused, or uncertain: not acknowledged. The next number is another row.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
    mine
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_whoever_is_killed() {
    const ROUNDS: usize = 10;
    let authority = Authority::new();
    let mut members = Vec::from(three(&authority).await);
    for name in ["fourth", "fifth"] {
        members.push(Standin::new(name, Some((&authority, &authority)), &[&members[0], &members[1]]));
    }
    whole(&members.iter().collect::<Vec<_>>()).await;
    let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
    let mut writers = JoinSet::new();
    for (member, first) in members.iter().zip((1_u64..).map(|place| place * 1_000_000)) {
        writers.spawn(write_on(member.address(), first, Arc::clone(&acknowledged), stop.clone()));
    }
    let goes_on = || async {
        let before = acknowledged.load(Ordering::Relaxed);
        until("writes are acknowledged", || async {
            (acknowledged.load(Ordering::Relaxed) > before + 5).then_some(())
        })
        .await;
    };
    for round in 0..ROUNDS {
        goes_on().await;
        let victim = match round % 3 {
            // The leader, whoever that is; one of the others; two at once.
            0 => leader(&members, &members[round % 2]).await,
            _ => round % members.len(),
        };
        members[victim].kill();
        if round % 3 == 2 {
            let other = (victim + 1) % members.len();
            members[other].kill();
            members[other].start();
        }
        goes_on().await;
        members[victim].start();
        // Moves the table about while all that goes on; if that cannot be now, it stays where it is.
        let holders = [round, round + 1, round + 3].map(|place| &members[place % members.len()]);
        let tags = holders.map(|holder| (format!("at_{}", holder.name), 1));
        let shape = Replicas::ByTag { primary: tags[0].0.clone(), replicas: tags.into() };
        let asked = members[(victim + 1) % members.len()].connect().await;
        let _ = asked.run_within::<Value>(tasks().reconfigure(&Shape::one_shard(shape)), DEADLINE).await;
    }
    stop.cancel();
    let mut written: Vec<u64> = (0..10).collect();
    while let Some(mine) = writers.join_next().await {
        written.extend(mine.unwrap());
    }
    whole(&members.iter().collect::<Vec<_>>()).await;
    for member in &members {
        let connection = member.connect().await;
        ready(&connection).await;
        let rows: Vec<Value> = connection.run(tasks().all()).await.unwrap();
        let there: BTreeSet<u64> = rows.iter().filter_map(|row| row["id"].as_u64()).collect();
        let lost: Vec<&u64> = written.iter().filter(|number| !there.contains(number)).collect();
        assert!(
            lost.is_empty(),
            "{} of {} rows are lost on {}: {lost:?}",
            lost.len(),
            written.len(),
            member.name
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_one_name_are_an_issue() {
    let authority = Authority::new();
    let tls = Some((&authority, &authority));
    let seed = Standin::new("same", tls, &[]);
    let twin = Standin::new("same", tls, &[&seed]);
    whole(&[&seed, &twin]).await;
    let issues = system(&seed.connect().await, "current_issues").await;
    assert_eq!(issues.len(), 1, "{issues:?}");
    assert_eq!(issues[0]["type"], "server_name_collision");
    assert!(
        issues[0]["description"].as_str().unwrap().starts_with("There are multiple servers named `same`.")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_says_what_it_is() {
    let authority = Authority::new();
    let standin = Standin::new("shown", Some((&authority, &authority)), &[]);
    standin.connect().await;
    let page = standin.page().await;
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.contains("This is not RethinkDB.") && page.contains("<h1>shown</h1>"), "{page}");
}
