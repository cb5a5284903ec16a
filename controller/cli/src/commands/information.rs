//! `fleetctl information`: the plan's texts for people, addresses filled in.

use fleet_proto::v1::{InformationReply, StatusRequest};
use serde_json::json;

use crate::{
    args::{Global, Output},
    connect::{Operator, connect, refused},
    failure::{Exit, Failure},
    home::Home,
    printer,
};

pub async fn run(global: &Global) -> Result<Exit, Failure> {
    let home = Home::of(global)?;
    let fleet = home.chosen(global)?;
    let (mut operator, _) = connect(&home.fleet(&fleet), &fleet).await?;
    print(&mut operator, global.output).await?;
    Ok(Exit::Ok)
}

/// Asks for the texts and prints them; also the end of `up`.
pub async fn print(operator: &mut Operator, output: Output) -> Result<(), Failure> {
    let reply = operator.information(StatusRequest::default()).await.map_err(|status| refused(&status))?;
    let reply = reply.into_inner();
    match output {
        Output::Json => {
            let nodes: serde_json::Map<_, _> =
                reply.nodes.into_iter().map(|node| (node.node, node.text.into())).collect();
            printer::json(&json!({ "plan": reply.plan, "nodes": nodes }))
        }
        Output::Text => printer::text(&text(&reply)),
    }
}

fn text(reply: &InformationReply) -> String {
    let mut text = String::new();
    if !reply.plan.trim().is_empty() {
        text.push_str(reply.plan.trim_end());
        text.push('\n');
    }
    for node in &reply.nodes {
        if node.text.trim().is_empty() {
            continue;
        }
        text.push_str(&format!("\n{}\n", node.node));
        for line in node.text.trim_end().lines() {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text
}
