//! RethinkDB's side of a connection, as somebody may speak it who is no RethinkDB, or a broken one.
//!
//! An input is what the server says, in parts that end in a zero byte. If the first is `WELCOME`, the stand-in speaks the
//! handshake as it should be, and each other part answers one query, framed for it; or is sent as it is, if it begins
//! with `RAW`. Otherwise all parts are the handshake, with `NONCE` for the one the driver chose.

use std::{
    cell::{Cell, OnceCell},
    panic,
    sync::Once,
    time::Duration,
};

use fleet_reql::{Change, Changes, Connection, Insert, Options, ReqlError, Written, db, db_list};
use fleet_rethinkdb_standin::{Password, greet};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    runtime::Runtime,
    time::timeout,
};

use super::targets::{kind, outline};

pub const WORDS: &[&str] = &[
    "WELCOME\0",
    "RAW",
    "NONCE",
    "\0",
    "{\"success\":true,\"authentication\":\"",
    "{\"success\":false,\"error\":\"no\",\"error_code\":12}",
    "ERROR: ",
    "r=NONCE1,s=c2FsdA==,i=1",
    ",i=1000001",
    ",i=0",
    "v=",
    "e=other-error",
    "{\"t\":",
    "\"t\":1",
    "\"t\":2",
    "\"t\":3",
    "\"t\":4",
    "\"t\":18",
    "\"e\":4100000",
    ",\"r\":[",
    "\"n\":[1]",
    "{\"old_val\":null,\"new_val\":{\"id\":1}}",
    "{\"state\":\"ready\"}",
    "\"inserted\":",
    "18446744073709551616",
    "-1",
    "1e400",
    "null",
    "[",
    "]",
    "{",
    "}",
    "\\ud800",
    "\u{1}\0\0\0\0\0\0\0\u{2}\0\0\0{}",
    "\u{1}\0\0\0\0\0\0\0\u{7f}\u{7f}\u{7f}\u{7f}",
];

/// Longer than everything the driver waits for together; the clock of these conversations jumps.
const FOR_EVER: Duration = Duration::from_secs(3600);
/// Stands for what the driver chose.
const NONCE: &[u8] = b"NONCE";
/// Most changes taken from a feed.
const MOST_CHANGES: usize = 100;

pub fn seeds() -> Vec<Vec<u8>> {
    let said = |success: bool, text: &str| json!({ "success": success, "authentication": text });
    let versions = json!({
        "success": true, "min_protocol_version": 0, "max_protocol_version": 0, "server_version": "2.4.4",
    });
    let challenge = said(true, "r=NONCEserver,s=c2FsdA==,i=1");
    let signature = said(true, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    let names = json!({ "t": 1, "r": [["rethinkdb", "todo"]], "n": [] });
    let rows = json!({ "t": 2, "r": ["a", "b"] });
    let written = json!({ "t": 1, "r": [{ "inserted": 1, "changes": [{ "new_val": { "id": 1 } }] }] });
    let first = json!({ "t": 3, "r": [{ "new_val": { "id": 1 }, "type": "initial" }], "n": [1] });
    let last = json!({ "t": 3, "r": [{ "old_val": { "id": 1 }, "new_val": null }, { "state": "ready" }] });
    let fails = json!({ "t": 18, "e": 4_100_000, "r": ["no primary replica"], "b": [] });
    let welcome = |parts: &[&Value]| {
        let parts = parts.iter().map(|part| format!("\0{part}"));
        format!("WELCOME{}", parts.collect::<String>()).into_bytes()
    };
    vec![
        format!("{versions}\0{challenge}\0{signature}\0").into_bytes(),
        format!("{versions}\0{}\0", said(false, "")).into_bytes(),
        b"ERROR: Received an unsupported protocol version.\n\0".to_vec(),
        welcome(&[&names, &written, &first, &last]),
        welcome(&[&rows, &fails, &first, &rows]),
        b"WELCOME\0RAW\x01\0\0\0\0\0\0\0\x02\0\0\0{}".to_vec(),
    ]
}

pub fn read(input: &[u8]) -> u64 {
    thread_local! {
        static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() };
        static PANICS: Cell<u32> = const { Cell::new(0) };
    }
    static HOOK: Once = Once::new();
    // A runtime keeps the panics of its tasks to itself; they happen on this thread.
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |why| {
            PANICS.set(PANICS.get() + 1);
            usual(why);
        }));
    });
    RUNTIME.with(|runtime| {
        // Whoever waits for nothing but the clock finds that it is that late.
        let begin = || tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.get_or_init(|| begin().expect("a runtime"));
        PANICS.set(0);
        let answer = runtime.block_on(async { timeout(FOR_EVER, converse(input)).await });
        assert_eq!(PANICS.get(), 0, "a task of the driver panicked");
        answer.expect("the driver gives up on its own")
    })
}

/// Both sides; what the driver made of it.
async fn converse(input: &[u8]) -> u64 {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let options = Options { most_answer_bytes: 16 << 10, ..Options::default() };
    let (answer, ()) =
        tokio::join!(drive(ours, &options, input.starts_with(b"WELCOME\0")), serve(theirs, input));
    answer
}

async fn drive(stream: DuplexStream, options: &Options, welcome: bool) -> u64 {
    let connection = match Connection::over(stream, options).await {
        Ok(connection) => connection,
        Err(why) => return kind((0, told(&why))),
    };
    assert!(welcome, "let in somebody who does not know the password");
    let names = connection.run::<Vec<String>>(db_list()).await;
    let table = db("todo").table("tasks");
    let written = connection.run::<Written>(table.insert(json!({ "id": 1 }), Insert::default())).await;
    let mut changes = Vec::new();
    let ended = match connection.cursor::<Change>(table.all().changes(Changes::default())).await {
        Err(why) => told(&why),
        Ok(mut feed) => loop {
            // A feed may be silent as long as it likes.
            match timeout(options.pulse * 3, feed.next()).await {
                Err(_) => break "silent".to_owned(),
                Ok(None) => break "over".to_owned(),
                Ok(Some(Err(why))) => break told(&why),
                Ok(Some(Ok(change))) => changes.push(change),
            }
            if changes.len() >= MOST_CHANGES {
                break "long".to_owned();
            }
        },
    };
    connection.close().await;
    assert!(!connection.is_open());
    let first = |result: Result<usize, ReqlError>| result.map_err(|why| told(&why));
    kind((
        1,
        first(names.map(|names| names.len())),
        first(written.map(|it| it.changes.len())),
        changes.len(),
        ended,
    ))
}

/// What kind of error it is: neither the server's words nor numbers are what it is about.
fn told(why: &ReqlError) -> String {
    let text = why.to_string();
    assert!(!text.is_empty());
    match why {
        ReqlError::Refused { code, .. } => format!("refused {}", code.is_some()),
        ReqlError::Server(error) => error.kind.to_string(),
        _ => outline(&text).chars().filter(|character| !character.is_ascii_digit()).take(80).collect(),
    }
}

async fn serve(mut stream: DuplexStream, input: &[u8]) {
    // The driver may hang up whenever it likes: an error here is its answer.
    let _ = match input.strip_prefix(b"WELCOME\0") {
        Some(answers) => answer(&mut stream, answers).await,
        None => shake(&mut stream, input).await,
    };
    // It says no more, and listens until the driver hangs up.
    let _ = stream.shutdown().await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

/// A handshake of whatever kind.
async fn shake(stream: &mut DuplexStream, said: &[u8]) -> std::io::Result<()> {
    let mut heard = Vec::new();
    while heard.last() != Some(&0) || heard.len() < 5 {
        heard.push(stream.read_u8().await?);
    }
    let heard = String::from_utf8_lossy(&heard).into_owned();
    let nonce = heard.split_once(",r=").and_then(|(_, after)| after.split('"').next()).expect("a nonce");
    let mut rest = said;
    while let Some(at) = rest.windows(NONCE.len()).position(|window| window == NONCE) {
        stream.write_all(&[&rest[..at], nonce.as_bytes()].concat()).await?;
        rest = &rest[at + NONCE.len()..];
    }
    stream.write_all(rest).await
}

/// The handshake as it should be, and then a part for every query.
async fn answer(stream: &mut DuplexStream, answers: &[u8]) -> std::io::Result<()> {
    greet(stream, |_| Some(Password::new(""))).await?;
    for part in answers.split(|byte| *byte == 0) {
        let (token, length) = (stream.read_u64_le().await?, stream.read_u32_le().await?);
        let mut query = vec![0; usize::try_from(length).expect("short")];
        stream.read_exact(&mut query).await?;
        match part.strip_prefix(b"RAW") {
            Some(raw) => stream.write_all(raw).await?,
            None => {
                stream.write_u64_le(token).await?;
                stream.write_u32_le(u32::try_from(part.len()).expect("inputs are short")).await?;
                stream.write_all(part).await?;
            }
        }
    }
    Ok(())
}
