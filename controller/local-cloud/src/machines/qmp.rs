//! The few words of QEMU's control protocol that are needed here (QEMU `docs/interop/qmp-spec.txt`).

use std::{io, path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use crate::{backing::BackingError, machines::run::Doing};

/// QEMU answers in microseconds; under emulation its main loop can be kept waiting by the guest.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// One control connection. QEMU serves one at a time, so it is opened for a task and dropped after it.
#[derive(Debug)]
pub struct Qmp {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Qmp {
    /// Connects and leaves the greeting behind.
    pub async fn connect(path: &Path) -> Result<Self, BackingError> {
        let doing = || format!("talk to QEMU at {}", path.display());
        let connect = async {
            let stream = UnixStream::connect(path).await.map_err(|source| Doing::new(doing()).io(source))?;
            let (reader, writer) = stream.into_split();
            let mut qmp = Self { lines: BufReader::new(reader).lines(), writer };
            qmp.execute("qmp_capabilities", Value::Null).await?;
            Ok(qmp)
        };
        timeout(ANSWER_TIMEOUT, connect).await.unwrap_or_else(|_| {
            Err(BackingError::Deadline { doing: doing(), after_s: ANSWER_TIMEOUT.as_secs() })
        })
    }

    /// One command and its answer; events in between are skipped.
    pub async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, BackingError> {
        let doing = || format!("tell QEMU `{command}`");
        let mut request = json!({ "execute": command });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let exchange = async {
            let mut line = request.to_string();
            line.push('\n');
            self.writer.write_all(line.as_bytes()).await?;
            while let Some(line) = self.lines.next_line().await? {
                let answer: Value = serde_json::from_str(&line).map_err(io::Error::other)?;
                if answer.get("return").is_some() || answer.get("error").is_some() {
                    return Ok(answer);
                }
            }
            Err(io::Error::from(io::ErrorKind::UnexpectedEof))
        };
        let mut answer = match timeout(ANSWER_TIMEOUT, exchange).await {
            Ok(answer) => answer.map_err(|source| Doing::new(doing()).io(source))?,
            Err(_) => {
                return Err(BackingError::Deadline { doing: doing(), after_s: ANSWER_TIMEOUT.as_secs() });
            }
        };
        if let Some(error) = answer.get("error") {
            let said = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
            return Err(BackingError::Program {
                doing: doing(),
                program: "qemu".into(),
                stderr: said.into(),
            });
        }
        Ok(answer["return"].take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// Serves one connection: greeting, then one canned answer per line received.
    async fn serve(listener: UnixListener, answers: Vec<&'static str>) -> Vec<String> {
        let (stream, _) = listener.accept().await.expect("a client");
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        writer.write_all(b"{\"QMP\": {}}\n").await.expect("writes");
        let mut received = Vec::new();
        for answer in answers {
            received.push(lines.next_line().await.expect("reads").expect("a line"));
            writer.write_all(answer.as_bytes()).await.expect("writes");
        }
        received
    }

    #[tokio::test]
    async fn events_are_skipped_and_errors_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).expect("binds");
        let server = tokio::spawn(serve(
            listener,
            vec![
                "{\"return\": {}}\n",
                "{\"event\": \"STOP\"}\n{\"return\": {\"status\": \"running\"}}\n",
                "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such device\"}}\n",
            ],
        ));
        let mut qmp = Qmp::connect(&path).await.expect("connects");
        let status = qmp.execute("query-status", Value::Null).await.expect("answers");
        assert_eq!(status["status"], "running");
        let error = qmp.execute("device_del", json!({"id": "x"})).await.expect_err("fails");
        assert_eq!(error.to_string(), "tell QEMU `device_del`: `qemu` failed: no such device");
        let received = server.await.expect("serves");
        assert_eq!(received[2], r#"{"arguments":{"id":"x"},"execute":"device_del"}"#);
    }

    #[tokio::test]
    async fn a_machine_that_is_gone_is_an_error() {
        assert!(Qmp::connect(Path::new("/nonexistent/qmp")).await.is_err());
    }
}
