//! Gates: one typed look each at what this node serves, asked for by a rollout. Nothing here changes the node, but for
//! a todo of its own that comes and goes.

mod http;

use std::{io, net::Ipv4Addr, sync::Arc, time::Duration};

use fleet_proto::v1::{self, gate_ask::Check};
use fleet_task::{Command, Node};
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::json;
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};

use crate::tasks::{
    certificate::{CA, certificates},
    rethinkdb::cluster::{Cluster, Loopback},
    support::unit,
};
use http::{Answer, Url, ask};

/// How long a look may take.
const LOOK: Duration = Duration::from_secs(20);
/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(60);
/// Looks at once; later ones wait for their turn.
const AT_ONCE: usize = 4;
/// Longest detail, in characters.
const DETAIL: usize = 300;

/// Answers questions of gates.
#[derive(Clone, Debug)]
pub(crate) struct Gates {
    node: Node,
    turns: Arc<Semaphore>,
}

/// What was seen: well, or not.
type Seen = Result<String, String>;

impl Gates {
    pub(crate) fn new(node: Node) -> Self {
        Self { node, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Looks once. Takes no longer than its deadline, once its turn has come.
    ///
    /// # Cancel safety
    /// Dropping the future ends the look; a todo of its own may stay.
    pub(crate) async fn answer(&self, asked: v1::GateAsk) -> v1::GateAnswer {
        let v1::GateAsk { gate, rollout, check } = asked;
        let limit = if matches!(check, Some(Check::Command(_))) { COMMAND } else { LOOK };
        let _turn = self.turns.acquire().await;
        let seen = match timeout(limit, self.look(check, limit)).await {
            Ok(seen) => seen,
            Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
        };
        let passed = seen.is_ok();
        let text = seen.unwrap_or_else(|why| why);
        let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        v1::GateAnswer { gate, rollout, passed, detail: line.take(DETAIL).collect() }
    }

    async fn look(&self, check: Option<Check>, limit: Duration) -> Seen {
        match check {
            Some(Check::UnitActive(name)) => self.unit(&name).await,
            Some(Check::PortAnswers(port)) => port_answers(port).await,
            Some(Check::Http(check)) => self.http(&check).await,
            Some(Check::TableReady(check)) => table(&Loopback, &check).await,
            Some(Check::TodoRoundTrip(port)) => self.round_trip(port).await,
            Some(Check::Command(check)) => self.command(&check.args, limit).await,
            None => Err("this agent does not know that check; update the agent".into()),
        }
    }

    async fn unit(&self, name: &str) -> Seen {
        let unit = unit::show(&self.node, name).await.map_err(|error| fleet_model::chain(&error))?;
        let state = format!("{name} is {}", unit.state());
        if unit.is_running() { Ok(state) } else { Err(state) }
    }

    async fn http(&self, check: &v1::HttpCheck) -> Seen {
        let url =
            Url::parse(&check.url).ok_or_else(|| format!("`{}` is not a URL of http or https", check.url))?;
        let Answer { status, .. } =
            ask("GET", &url, None, &self.trust()).await.map_err(|error| said(&error))?;
        let text = format!("{} answers {status}", check.url);
        if u32::from(status) == check.status {
            Ok(text)
        } else {
            Err(format!("{text}, not {}", check.status))
        }
    }

    /// Writes a todo, reads it, takes it away again.
    async fn round_trip(&self, port: u32) -> Seen {
        #[derive(Deserialize)]
        struct Todo {
            id: String,
            text: String,
        }
        let port = own_port(port)?;
        let trust = self.trust();
        let step = async |method: &str, path: &str, json: Option<&str>, good: &[u16]| {
            let answer = ask(method, &Url::own(port, path), json, &trust).await;
            let answer = answer.map_err(|error| format!("{method} {path}: {}", said(&error)))?;
            match good.contains(&answer.status) {
                true => Ok(answer.body),
                false => Err(format!("{method} {path}: status {}", answer.status)),
            }
        };
        let text = format!("gate {:016x}", rand::random::<u64>());
        let draft = json!({ "text": text }).to_string();
        let made = step("POST", "/api/todos", Some(&draft), &[200, 201]).await?;
        let made: Todo = serde_json::from_str(&made).map_err(|error| format!("what was written: {error}"))?;
        if !made.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err("the id of what was written is none".into());
        }
        let path = format!("/api/todos/{}", made.id);
        let read = step("GET", &path, None, &[200]).await;
        // Taken away whatever was read.
        let gone = step("DELETE", &path, None, &[200, 204]).await;
        let read: Todo = serde_json::from_str(&read?).map_err(|error| format!("what was read: {error}"))?;
        gone?;
        match read.text == text {
            true => Ok(format!("a todo made its round trip on port {port}")),
            false => Err("another todo was read than was written".into()),
        }
    }

    async fn command(&self, args: &[String], limit: Duration) -> Seen {
        let Some((program, args)) = args.split_first() else { return Err("the command is empty".into()) };
        let wanted = Command::new(program, args.iter().cloned()).within(limit);
        let output = self.node.output(&wanted).await.map_err(|error| fleet_model::chain(&error))?;
        let last = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().lines().last().map(str::to_owned);
        let words = last(&output.stdout).or_else(|| last(&output.stderr)).unwrap_or_default();
        let text = format!("`{wanted}` ended with {}: {words}", output.status());
        if output.code == Some(0) { Ok(text) } else { Err(text) }
    }

    /// Whom services of this node's fleet are trusted by.
    fn trust(&self) -> Vec<CertificateDer<'static>> {
        certificates(&self.node.read(CA).ok().flatten().unwrap_or_default())
    }
}

async fn port_answers(port: u32) -> Seen {
    let port = own_port(port)?;
    match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        Ok(_) => Ok(format!("port {port} answers")),
        Err(error) => Err(format!("port {port}: {error}")),
    }
}

async fn table(cluster: &impl Cluster, check: &v1::TableCheck) -> Seen {
    let v1::TableCheck { database, table } = check;
    match cluster.table(database, table).await {
        Ok(Some(layout)) if layout.ready => Ok(format!("{database}.{table} is ready")),
        Ok(Some(_)) => Err(format!("{database}.{table} is not ready: a replica is missing or catching up")),
        Ok(None) => Err(format!("there is no table {database}.{table}")),
        Err(error) => Err(fleet_model::chain(&error)),
    }
}

fn own_port(port: u32) -> Result<u16, String> {
    u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| format!("{port} is not a port"))
}

fn said(error: &io::Error) -> String {
    fleet_model::chain(error)
}

#[cfg(test)]
mod tests;
