//! The console port: one page that says what this is and whom it sees.

use std::{fmt::Write as _, io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use crate::{
    server::{Server, VERSION},
    system::{self, SystemTable},
};

/// How long a browser may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest head of a request.
const HEAD_MAX: usize = 16 << 10;

/// Accepts browsers until the server stops.
pub async fn accept(server: Arc<Server>, listener: TcpListener, tls: Option<Arc<ServerConfig>>) {
    loop {
        let accepted = tokio::select! {
            () = server.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let (asked, tls) = (Arc::clone(&server), tls.clone());
        server.tasks.spawn(async move {
            // A browser that is slow, gone or confused is of no interest to anybody.
            let _ = timeout(PATIENCE, serve(&asked, stream, tls)).await;
        });
    }
}

async fn serve(server: &Server, stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<()> {
    match tls {
        Some(config) => answer(server, TlsAcceptor::from(config).accept(stream).await?).await,
        None => answer(server, stream).await,
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(server: &Server, stream: S) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut request, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        let read = stream.read_line(&mut line).await?;
        length += read;
        if read == 0 || length > HEAD_MAX {
            return Ok(());
        }
        if request.is_empty() {
            request.clone_from(&line);
        }
        if line.trim_end().is_empty() {
            break;
        }
    }
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, body) = match (method, path) {
        ("GET" | "HEAD", "/" | "/index.html") => ("200 OK", page(server)),
        ("GET" | "HEAD", _) => {
            ("404 Not Found", "<!doctype html><title>Not found</title>Not found\n".to_owned())
        }
        _ => ("405 Method Not Allowed", String::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn page(server: &Server) -> String {
    let me = server.presence();
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{0}: RethinkDB stand-in</title>\n<style>body{{font:1rem/1.5 \
         system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}table{{border-collapse:collapse;\
         width:100%}}th,td{{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #ccc}}strong{{color:\
         #a30}}</style>\n<h1>{0}</h1>\n<p><strong>This is not RethinkDB.</strong> It is a stand-in ({VERSION}) made \
         for tests: it speaks RethinkDB's driver protocol for what this fleet uses of it, on machines that cannot \
         reach RethinkDB's packages.</p>\n",
        escaped(&me.name)
    );
    list(
        &mut page,
        "Servers",
        &["Name", "Id", "Tags", "Version"],
        server.presences().iter().map(|(presence, _)| {
            vec![
                presence.name.clone(),
                presence.id.clone(),
                presence.tags.join(", "),
                presence.process.version.clone(),
            ]
        }),
    );
    let tables = system::rows(server, SystemTable::TableStatus, false);
    list(
        &mut page,
        "Tables",
        &["Table", "Led by", "Replicas"],
        tables.iter().map(|row| {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or("nobody").to_owned();
            let replicas = row["shards"][0]["replicas"].as_array().into_iter().flatten();
            let replicas: Vec<String> = replicas
                .map(|replica| format!("{} ({})", text(&replica["server"]), text(&replica["state"])))
                .collect();
            vec![
                format!("{}.{}", text(&row["db"]), text(&row["name"])),
                text(&row["raft_leader"]),
                replicas.join(", "),
            ]
        }),
    );
    let issues = system::rows(server, SystemTable::CurrentIssues, false);
    list(
        &mut page,
        "Issues",
        &["What is wrong"],
        issues.iter().map(|row| vec![row["description"].as_str().unwrap_or_default().to_owned()]),
    );
    page
}

fn list(page: &mut String, title: &str, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let cells = |kind: &str, cells: &[String]| -> String {
        cells.iter().map(|cell| format!("<{kind}>{}</{kind}>", escaped(cell))).collect()
    };
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let rows: Vec<Vec<String>> = rows.collect();
    // Writing to text cannot fail.
    let _ = writeln!(page, "<h2>{title}</h2>");
    if rows.is_empty() {
        let _ = writeln!(page, "<p>None.</p>");
        return;
    }
    let _ = writeln!(page, "<table>\n<tr>{}</tr>", cells("th", &heads));
    for row in rows {
        let _ = writeln!(page, "<tr>{}</tr>", cells("td", &row));
    }
    let _ = writeln!(page, "</table>");
}
