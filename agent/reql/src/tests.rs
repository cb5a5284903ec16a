//! Whole connections against a peer in memory.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{net::TcpListener, time::timeout};

use crate::{
    Change, Changes, Client, Connection, Link, Options, ReqlError, Term, db, db_create, db_list,
    testing::{Peer, pair, refusal},
};

/// Far longer than anything here takes.
const SOON: Duration = Duration::from_secs(20);

fn feed() -> Term {
    db("todo").table("tasks").all().changes(Changes { include_initial: true, ..Changes::default() })
}

#[tokio::test]
async fn the_handshake_with_a_password() {
    let options = Options { user: "a,b".into(), password: "pencil".into(), ..Options::default() };
    let (connection, _peer) = pair(&options).await;
    assert_eq!(connection.server_version(), "2.4.4");
    assert!(connection.is_open());
    assert!(!format!("{options:?}").contains("pencil"));
}

#[tokio::test]
async fn handshakes_that_fail() {
    let refused = refusal(|mut peer| async move {
        peer.greet().await;
        peer.say(json!({"success": false, "error": "Wrong password", "error_code": 12})).await;
    });
    match refused.await {
        ReqlError::Refused { message, code } => assert_eq!((&*message, code), ("Wrong password", Some(12))),
        other => panic!("{other:?}"),
    }
    let old = refusal(|mut peer| async move {
        peer.write(b"ERROR: Received an unsupported protocol version.\n\0").await;
    });
    let old = old.await;
    assert!(matches!(old, ReqlError::Refused { code: None, .. }), "{old:?}");
    // Knows how to talk, not the password.
    let impostor = refusal(|mut peer| async move { peer.shake("guess").await }).await;
    assert!(matches!(&impostor, ReqlError::Handshake(why) if why.contains("signature")), "{impostor:?}");
    let endless = refusal(|mut peer| async move { peer.write(&[b'x'; 9000]).await }).await;
    assert!(matches!(&endless, ReqlError::Handshake(why) if why.contains("no end")), "{endless:?}");
    let gone = refusal(|peer| async move { drop(peer) }).await;
    assert!(matches!(gone, ReqlError::Gone { sent: false, .. }), "{gone:?}");
    let stranger = refusal(|mut peer| async move { peer.write(b"SSH-2.0\0").await }).await;
    assert!(matches!(stranger, ReqlError::Handshake(_)), "{stranger:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_not_waited_for_for_ever() {
    let silent = refusal(|peer| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(peer);
    });
    assert!(matches!(silent.await, ReqlError::Timeout { sent: false, .. }));
}

#[tokio::test]
async fn queries_dropped_half_way_do_not_hinder_later_ones() {
    let (connection, mut peer) = pair(&Options::default()).await;
    let mut stops = 0;
    for _ in 0..30 {
        let query = connection.run::<Value>(db_list());
        let arrives = async {
            while peer.query().await.1 == json!([3]) {
                stops += 1;
            }
        };
        tokio::select! {
            () = arrives => (),
            _ = query => panic!("nobody answered"),
        }
        // The future is dropped here: sent, and never answered.
    }
    while stops < 30 {
        assert_eq!(peer.query().await.1, json!([3]));
        stops += 1;
    }
    // Answers that come too late are let go.
    for token in 1..=30 {
        peer.answer(token, json!({"t": 1, "r": ["late"]})).await;
    }
    let echo = tokio::spawn(peer.echo());
    let later = (0..60).map(|_| {
        let connection = connection.clone();
        tokio::spawn(async move { connection.run::<u64>(db_list()).await })
    });
    for query in later.collect::<Vec<_>>() {
        let token = timeout(SOON, query).await.expect("does not hang").expect("runs").expect("is answered");
        assert!(token > 30);
    }
    connection.close().await;
    timeout(SOON, echo).await.expect("the socket is closed").expect("ends well");
}

#[tokio::test]
async fn a_feed_and_queries_share_a_connection_and_batches_are_asked_for_one_by_one() {
    let (connection, mut peer) = pair(&Options::default()).await;
    let (mut changes, token) = {
        let (cursor, token) = tokio::join!(connection.cursor::<Change>(feed()), async {
            let (token, query) = peer.query().await;
            assert_eq!(query[1][0], 152);
            peer.answer(
                token,
                json!({"t": 3, "r": [{"new_val": {"id": 1}}, {"new_val": {"id": 2}}], "n": [1]}),
            )
            .await;
            token
        });
        (cursor.expect("opens"), token)
    };
    // The feed is open and quiet; a query goes past it. The first frame is its own, no CONTINUE: the
    // rows of the first batch were not taken yet.
    let (answer, ()) = tokio::join!(connection.run::<u32>(db_list()), async {
        let (other, query) = peer.query().await;
        assert_eq!(query, json!([1, [59, []]]));
        peer.answer(other, json!({"t": 1, "r": [5]})).await;
    });
    assert_eq!(answer.expect("answers"), 5);
    for id in [1, 2] {
        let change = changes.next().await.expect("there").expect("good");
        assert_eq!(change.new_val, Some(json!({"id": id})));
    }
    // Asking, giving up and asking again is one CONTINUE and loses nothing.
    assert!(timeout(Duration::from_millis(1), changes.next()).await.is_err());
    assert_eq!(peer.query().await, (token, json!([2])));
    peer.answer(token, json!({"t": 3, "r": [{"old_val": {"id": 2}, "new_val": null}]})).await;
    let change = changes.next().await.expect("there").expect("good");
    assert_eq!((change.old_val, change.new_val), (Some(json!({"id": 2})), None));
    drop(changes);
    assert_eq!(peer.query().await, (token, json!([3])));
}

#[tokio::test]
async fn sequences_are_collected_over_batches_and_sorted_ones_taken_apart() {
    let (connection, mut peer) = pair(&Options::default()).await;
    let rows = db("a").table("b").all();
    let (all, ()) = tokio::join!(connection.run::<Vec<u32>>(rows.clone()), async {
        let (token, _) = peer.query().await;
        peer.answer(token, json!({"t": 3, "r": [1, 2]})).await;
        assert_eq!(peer.query().await, (token, json!([2])));
        peer.answer(token, json!({"t": 2, "r": [3]})).await;
    });
    assert_eq!(all.expect("comes"), [1, 2, 3]);
    let (cursor, ()) = tokio::join!(connection.cursor::<u32>(rows), async {
        let (token, _) = peer.query().await;
        peer.answer(token, json!({"t": 1, "r": [[7, 8]]})).await;
    });
    let mut cursor = cursor.expect("opens");
    for expected in [7, 8] {
        assert_eq!(cursor.next().await.expect("there").expect("good"), expected);
    }
    assert!(cursor.next().await.is_none());
}

#[tokio::test]
async fn what_ends_a_connection_fails_everyone_with_its_reason() {
    // A frame cut short.
    let (connection, mut peer) = pair(&Options::default()).await;
    let (answer, ()) = tokio::join!(connection.run::<Value>(db_list()), async {
        peer.query().await;
        peer.write(&[1, 0, 0, 0, 0, 0, 0, 0, 99]).await;
        drop(peer);
    });
    match answer.expect_err("ends") {
        ReqlError::Gone { reason, sent } => assert!(sent && reason.contains("middle"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(!connection.is_open());
    let after = connection.run::<Value>(db_create("x")).await.expect_err("is closed");
    assert!(!after.may_have_happened(), "{after:?}");

    // A frame without measure.
    let options = Options { most_answer_bytes: 100, most_query_bytes: 100, ..Options::default() };
    let (connection, mut peer) = pair(&options).await;
    let (answer, ()) = tokio::join!(connection.run::<Value>(db_list()), async {
        let (token, _) = peer.query().await;
        peer.answer(token, json!({"t": 1, "r": ["x".repeat(100)]})).await;
    });
    match answer.expect_err("ends") {
        ReqlError::Gone { reason, .. } => assert!(reason.contains("allowed"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let long = connection.run::<Value>(db_create(&"x".repeat(100))).await;
    assert!(matches!(long, Err(ReqlError::TooLarge { limit: 100, .. })));

    // Closed by us.
    let (connection, _peer) = pair(&Options::default()).await;
    timeout(SOON, connection.close()).await.expect("closes");
    assert_eq!(&*timeout(SOON, connection.ended()).await.expect("has ended"), "closed by us");
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_fails_one_query_only() {
    let (connection, mut peer) = pair(&Options::default()).await;
    let (bad, ()) = tokio::join!(connection.run::<Value>(db_list()), async {
        let (token, _) = peer.query().await;
        peer.answer(token, json!("what")).await;
    });
    assert!(matches!(bad, Err(ReqlError::Decode(_))), "{bad:?}");
    let (other, ()) = tokio::join!(connection.run::<Vec<String>>(db_list()), async {
        let (token, _) = peer.query().await;
        peer.answer(token, json!({"t": 1, "r": [7]})).await;
    });
    assert!(matches!(other, Err(ReqlError::Decode(_))), "{other:?}");
    let (good, ()) = tokio::join!(connection.run::<u32>(db_list()), async {
        let (token, _) = peer.query().await;
        peer.answer(token, json!({"t": 1, "r": [7]})).await;
    });
    assert_eq!(good.expect("answers"), 7);
}

#[tokio::test(start_paused = true)]
async fn deadlines_say_whether_the_query_left() {
    let options = Options { most_queries: 1, ..Options::default() };
    let (connection, mut peer) = pair(&options).await;
    let first = connection.run_within::<Value>(db_create("x"), Duration::from_secs(2));
    let second = connection.run_within::<Value>(db_create("y"), Duration::from_secs(1));
    let (first, second) = tokio::join!(first, second);
    assert!(matches!(first, Err(ReqlError::Timeout { sent: true, .. })), "{first:?}");
    // It never had a slot.
    assert!(matches!(second, Err(ReqlError::Timeout { sent: false, .. })), "{second:?}");
    assert_eq!(peer.query().await.1, json!([1, [57, ["x"]]]));
    assert_eq!(peer.query().await.1, json!([3]));
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_found_out_and_a_quiet_feed_is_not_mistaken_for_one() {
    let (connection, mut peer) = pair(&Options::default()).await;
    let (cursor, token) = tokio::join!(connection.cursor::<Change>(feed()), async {
        let (token, _) = peer.query().await;
        peer.answer(token, json!({"t": 3, "r": []})).await;
        token
    });
    let mut cursor = cursor.expect("opens");
    let quiet = async {
        assert_eq!(peer.query().await, (token, json!([2])));
        for _ in 0..3 {
            let (pulse, query) = peer.query().await;
            assert_eq!(query, json!([5]));
            peer.answer(pulse, json!({"t": 5, "r": [{"id": "x", "name": "y"}]})).await;
        }
        // From here on it says nothing any more.
    };
    let (end, ()) = tokio::join!(cursor.next(), quiet);
    match end.expect("ends").expect_err("badly") {
        ReqlError::Gone { reason, .. } => assert!(reason.contains("sign of life"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

/// Takes one connection.
async fn accept(listener: &TcpListener) -> Peer<tokio::net::TcpStream> {
    let (stream, _) = listener.accept().await.expect("accepts");
    let mut peer = Peer::new(stream);
    peer.shake("").await;
    peer
}

#[tokio::test]
async fn a_client_comes_back_and_repeats_reads_but_never_writes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let client = Client::start(listener.local_addr().expect("bound"), Options::default());
    let mut peer = accept(&listener).await;
    let (read, write) = (client.run::<u32>(db_list()), client.run::<Value>(db_create("x")));
    let server = async {
        let mut queries = vec![peer.query().await.1, peer.query().await.1];
        queries.sort_by_key(ToString::to_string);
        assert_eq!(queries, [json!([1, [57, ["x"]]]), json!([1, [59, []]])]);
        drop(peer);
        let mut peer = accept(&listener).await;
        let (token, query) = peer.query().await;
        assert_eq!(query, json!([1, [59, []]]), "the read, and only the read, comes again");
        peer.answer(token, json!({"t": 1, "r": [5]})).await;
        peer
    };
    let (read, write, _peer) =
        timeout(SOON, async { tokio::join!(read, write, server) }).await.expect("in time");
    assert_eq!(read.expect("answers"), 5);
    assert!(write.expect_err("is uncertain").may_have_happened());
    assert!(client.now().is_some());
    timeout(SOON, client.close()).await.expect("closes");
    assert!(client.now().is_none());
    assert!(matches!(&*client.link().borrow(), Link::Down(_)));
}

#[tokio::test]
async fn nobody_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let error = Connection::open(address, &Options::default()).await.expect_err("nobody listens");
    assert!(matches!(error, ReqlError::Connect { .. }), "{error:?}");
    let client = Client::start(address, Options::default());
    let error = client.connection(Duration::from_millis(300)).await.expect_err("nobody listens");
    assert!(matches!(error, ReqlError::Connect { .. }), "{error:?}");
}
