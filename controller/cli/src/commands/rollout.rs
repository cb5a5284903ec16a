//! `fleetctl rollout …` and `fleetctl rollback NODE`.

use std::{io::IsTerminal as _, path::Path};

use fleet_model::{Clock as _, NodeName, SystemClock};
use fleet_proto::v1::{
    ExplainRequest, RollbackRequest, RolloutAct, RolloutActKind, RolloutReply, RolloutRequest, StartRollout,
    rollouts_client::RolloutsClient,
};
use serde_json::{Map, Value};
use tonic::transport::Channel;

use super::rollout_view as view;
use crate::{
    args::{
        Global, Output,
        rollout::{Rollout, Start, Which},
    },
    connect::{refused, rollouts},
    failure::{Exit, Failure},
    home::Home,
    printer,
};

pub async fn run(global: &Global, args: Rollout) -> Result<Exit, Failure> {
    let output = global.output;
    match args {
        Rollout::Start(args) => start(global, args).await,
        Rollout::Status(args) => {
            let request = RolloutRequest { id: args.id.unwrap_or_default() };
            let reply =
                client(global).await?.get(request).await.map_err(|status| refused(&status))?.into_inner();
            print(&reply, output)?;
            Ok(view::exit(&reply))
        }
        Rollout::Watch(args) => watch(global, RolloutRequest { id: args.id.unwrap_or_default() }).await,
        Rollout::Halt { reason, which } => {
            let reason = reason.unwrap_or_default();
            let request =
                RolloutAct { act: RolloutActKind::RolloutHalt.into(), reason, ..RolloutAct::default() };
            act(global, request, which).await
        }
        Rollout::Resume { retry, which } => {
            let request =
                RolloutAct { act: RolloutActKind::RolloutResume.into(), retry, ..RolloutAct::default() };
            act(global, request, which).await
        }
        Rollout::Undo { which } => {
            let request = RolloutAct { act: RolloutActKind::RolloutUndo.into(), ..RolloutAct::default() };
            act(global, request, which).await
        }
        Rollout::List => {
            let request = RolloutRequest { id: String::new() };
            let list =
                client(global).await?.list(request).await.map_err(|status| refused(&status))?.into_inner();
            match output {
                Output::Json => printer::json(&view::list_document(&list))?,
                Output::Text => printer::text(&view::list(&list, SystemClock.now()))?,
            }
            Ok(Exit::Ok)
        }
        Rollout::Explain { node } => {
            let request = ExplainRequest { node: node.to_string() };
            let reply =
                client(global).await?.explain(request).await.map_err(|status| refused(&status))?.into_inner();
            match output {
                Output::Json => printer::json(&view::explain_document(&reply))?,
                Output::Text => printer::text(&view::explain(&reply))?,
            }
            Ok(Exit::Ok)
        }
    }
}

async fn client(global: &Global) -> Result<RolloutsClient<Channel>, Failure> {
    let home = Home::of(global)?;
    let fleet = home.chosen(global)?;
    Ok(rollouts(&home.fleet(&fleet), &fleet).await?)
}

fn print(reply: &RolloutReply, output: Output) -> Result<(), Failure> {
    match output {
        Output::Json => printer::json(&view::document(reply)),
        Output::Text => printer::text(&view::status(reply, SystemClock.now())),
    }
}

async fn start(global: &Global, args: Start) -> Result<Exit, Failure> {
    let policy = policy(args.policy.as_deref(), &args.set)?;
    let request = StartRollout { release: args.release, policy, preview: args.preview };
    let reply = client(global).await?.start(request).await.map_err(|status| refused(&status))?.into_inner();
    for warning in &reply.warnings {
        eprintln!("{} {warning}", console::style("warning:").yellow().for_stderr());
    }
    if args.preview {
        match global.output {
            Output::Json => printer::json(&view::document(&reply))?,
            Output::Text => printer::text(&view::preview(&reply))?,
        }
        return Ok(Exit::Changes);
    }
    print(&reply, global.output)?;
    eprintln!("started; `fleetctl rollout watch` shows how it goes");
    Ok(Exit::Ok)
}

/// The policy as JSON with only what was said; empty if nothing was.
fn policy(file: Option<&Path>, set: &[(String, String)]) -> Result<String, Failure> {
    let mut policy = match file {
        None => Value::Object(Map::new()),
        Some(file) => {
            let wrong = |why: String| {
                Failure::new(Exit::Input, format!("policy {}: {why}", file.display()))
                    .hint("a policy is a YAML file; the README shows one")
            };
            let text = std::fs::read_to_string(file).map_err(|why| wrong(why.to_string()))?;
            match serde_saphyr::from_str::<Value>(&text).map_err(|why| wrong(why.to_string()))? {
                Value::Null => Value::Object(Map::new()),
                policy @ Value::Object(_) => policy,
                _ => return Err(wrong("it is no mapping of names to values".to_owned())),
            }
        }
    };
    for (path, value) in set {
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.clone()));
        let mut place = &mut policy;
        for name in path.split('.') {
            let Value::Object(members) = place else {
                return Err(Failure::new(
                    Exit::Input,
                    format!("--set {path}: what is before `{name}` has no members"),
                )
                .hint("name members as the policy file does: canaries.drawn, budgets.inFlight, bake"));
            };
            place = members.entry(name).or_insert_with(|| Value::Object(Map::new()));
        }
        *place = value;
    }
    let empty = policy.as_object().is_some_and(Map::is_empty);
    Ok(if empty { String::new() } else { policy.to_string() })
}

async fn act(global: &Global, request: RolloutAct, which: Which) -> Result<Exit, Failure> {
    let request = RolloutAct { id: which.rollout.unwrap_or_default(), ..request };
    let reply = client(global).await?.act(request).await.map_err(|status| refused(&status))?.into_inner();
    print(&reply, global.output)?;
    Ok(Exit::Ok)
}

async fn watch(global: &Global, request: RolloutRequest) -> Result<Exit, Failure> {
    let mut client = client(global).await?;
    let mut stream = client.watch(request).await.map_err(|status| refused(&status))?.into_inner();
    let clear = global.output == Output::Text && std::io::stdout().is_terminal();
    let mut last = None;
    loop {
        let next = tokio::select! {
            // Cancel-safe: `message` keeps what it has read in the stream.
            next = stream.message() => next.map_err(|status| refused(&status))?,
            _ = tokio::signal::ctrl_c() => {
                eprintln!("the rollout goes on by itself; `fleetctl rollout halt` stops it");
                return Ok(Exit::Interrupted);
            }
        };
        let Some(reply) = next else {
            return Err(Failure::new(Exit::Unreachable, "the controller ended the stream")
                .hint("it was stopped or restarted; run the command again"));
        };
        if clear {
            // Home, then clear to the end: no flicker, and the scroll-back stays whole.
            printer::text("\x1b[H\x1b[J")?;
            print(&reply, global.output)?;
        } else if last.as_ref() != Some(&reply) {
            // Into a file or a pipe only what is new.
            print(&reply, global.output)?;
        }
        let exit = view::exit(&reply);
        if exit != Exit::Running {
            return Ok(exit);
        }
        last = Some(reply);
    }
}

/// Has one node go back.
pub async fn rollback(global: &Global, node: &NodeName) -> Result<Exit, Failure> {
    let request = RollbackRequest { node: node.to_string() };
    let reply =
        client(global).await?.rollback(request).await.map_err(|status| refused(&status))?.into_inner();
    if global.output == Output::Json {
        printer::json(&serde_json::json!({
            "node": node, "version": reply.version, "connected": reply.connected,
        }))?;
    }
    let version = if reply.version.is_empty() { "what it ran before" } else { &reply.version };
    if reply.connected {
        eprintln!(
            "{node} goes back to {version}; `fleetctl rollout explain {node}` shows whether it is there"
        );
    } else {
        eprintln!("{node} is away and goes back to {version} when it returns");
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_what_the_file_says_and_then_what_is_set() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("policy.yaml");
        std::fs::write(&file, "bake: 5m\nwaves: [1, 50%]\nbudgets: {inFlight: 2}\n").expect("written");
        let set = |path: &str, value: &str| (path.to_owned(), value.to_owned());
        let text = policy(
            Some(&file),
            &[
                set("bake", "30s"),
                set("budgets.failed", "1"),
                set("canaries.drawn", "2"),
                set("order", "{\"byLocation\":[\"EU6\"]}"),
            ],
        );
        let value: Value = serde_json::from_str(&text.expect("sound")).expect("JSON");
        assert_eq!(
            value,
            serde_json::json!({
                "bake": "30s", "waves": [1, "50%"], "budgets": {"inFlight": 2, "failed": 1},
                "canaries": {"drawn": 2}, "order": {"byLocation": ["EU6"]},
            })
        );
        assert_eq!(policy(None, &[]).expect("sound"), "");
        assert!(policy(None, &[set("bake", "1m"), set("bake.x", "1")]).is_err());
        assert!(policy(Some(&dir.path().join("none")), &[]).is_err());
        std::fs::write(&file, "- 1\n").expect("written");
        assert!(policy(Some(&file), &[]).expect_err("a list").to_string().contains("no mapping"));
    }
}
