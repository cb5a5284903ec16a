//! A peer for tests: it speaks the server's half of the handshake and then what the test tells it to.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ring::{digest, hmac, pbkdf2};
use serde_json::{Value, json};
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream,
};

use crate::{Connection, Options, ReqlError, frame};

/// Rounds of a server whose admin has no password; more would only slow the tests.
const ROUNDS: u32 = 1;

pub(crate) struct Peer<S>(BufReader<S>);

/// A connection and its other end.
pub(crate) async fn pair(options: &Options) -> (Connection, Peer<DuplexStream>) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut peer = Peer::new(theirs);
    let (connection, ()) = tokio::join!(Connection::over(ours, options), peer.shake(&options.password));
    (connection.expect("the handshake succeeds"), peer)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    /// The whole handshake, as a server whose password is this one.
    pub(crate) async fn shake(&mut self, password: &str) {
        let client_first = self.greet().await;
        let server_first = self.challenge(&client_first).await;
        let answer = self.message().await["authentication"].as_str().expect("text").to_owned();
        let bare = client_first.strip_prefix("n,,").expect("no channel binding").to_owned();
        let (without_proof, _) = answer.rsplit_once(",p=").expect("a proof");
        let signed = format!("{bare},{server_first},{without_proof}");
        let mut salted = [0; digest::SHA256_OUTPUT_LEN];
        let rounds = ROUNDS.try_into().expect("not zero");
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, b"salt", password.as_bytes(), &mut salted);
        let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
        let signature = sign(sign(&salted, b"Server Key").as_ref(), signed.as_bytes());
        let authentication = format!("v={}", BASE64.encode(signature));
        self.say(json!({"success": true, "authentication": authentication})).await;
    }

    /// Reads version and first message, and says hello.
    pub(crate) async fn greet(&mut self) -> String {
        assert_eq!(self.0.read_u32_le().await.expect("a version"), 0x34c2_bdc3);
        let hello = json!({
            "success": true, "min_protocol_version": 0, "max_protocol_version": 0, "server_version": "2.4.4",
        });
        self.say(hello).await;
        let first = self.message().await;
        assert_eq!(first["authentication_method"], "SCRAM-SHA-256");
        first["authentication"].as_str().expect("text").to_owned()
    }

    async fn challenge(&mut self, client_first: &str) -> String {
        let (_, nonce) = client_first.rsplit_once("r=").expect("a nonce");
        let server_first = format!("r={nonce}server,s={},i={ROUNDS}", BASE64.encode("salt"));
        self.say(json!({"success": true, "authentication": server_first})).await;
        server_first
    }

    async fn message(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.0.read_until(0, &mut bytes).await.expect("a message");
        assert_eq!(bytes.pop(), Some(0), "the client hung up");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    /// One message of the handshake.
    pub(crate) async fn say(&mut self, message: Value) {
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.write(&bytes).await;
    }

    /// Bytes as they are.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.expect("the client listens");
    }

    /// The next query.
    pub(crate) async fn query(&mut self) -> (u64, Value) {
        let (token, json) = frame::read(&mut self.0, 1 << 20).await.expect("a query");
        (token, serde_json::from_slice(&json).expect("JSON"))
    }

    /// An answer.
    pub(crate) async fn answer(&mut self, token: u64, json: Value) {
        self.write(&frame::encode(token, json.to_string().as_bytes())).await;
    }

    /// Answers every query with its token as an atom, until the client hangs up.
    pub(crate) async fn echo(mut self) {
        while let Ok((token, _)) = frame::read(&mut self.0, 1 << 20).await {
            self.answer(token, json!({"t": 1, "r": [token]})).await;
        }
    }
}

/// Why the handshake with such a peer fails.
pub(crate) async fn refusal<F: Future<Output = ()>>(with: impl FnOnce(Peer<DuplexStream>) -> F) -> ReqlError {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let options = Options::default();
    let (connection, ()) = tokio::join!(Connection::over(ours, &options), with(Peer::new(theirs)));
    connection.expect_err("this handshake fails")
}
