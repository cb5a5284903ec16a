//! `fleetctl doctor`: what is wrong here, and the next step for each.

use console::style;
use serde_json::json;

use super::{cloud, serve};
use fleet_model::chain;

use crate::{
    args::{Global, Output},
    connect::connect,
    failure::{Exit, Failure},
    home::{self, Home},
    printer,
};

/// One thing looked at.
struct Finding {
    what: String,
    /// What is wrong and what to do about it; `None` is fine.
    wrong: Option<(String, String)>,
}

impl Finding {
    fn fine(what: impl Into<String>) -> Self {
        Self { what: what.into(), wrong: None }
    }

    fn wrong(what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), wrong: Some((why.into(), fix.into())) }
    }
}

pub async fn run(global: &Global) -> Result<Exit, Failure> {
    let home = Home::of(global)?;
    let mut findings = vec![agent()];
    findings.extend(host(&home)?);
    findings.push(local_cloud(&home).await);
    for fleet in home.fleets() {
        findings.push(controller(&home, &fleet).await);
    }
    print(&home, &findings, global.output)?;
    let healthy = findings.iter().all(|finding| finding.wrong.is_none());
    Ok(if healthy { Exit::Ok } else { Exit::Failed })
}

fn agent() -> Finding {
    match serve::find_agent(None) {
        Ok(file) => Finding::fine(format!("agent binary: {}", file.display())),
        Err(_) => Finding::wrong("agent binary", "not found", "cargo xtask build, or name it in FLEET_AGENT"),
    }
}

fn host(home: &Home) -> Result<Vec<Finding>, Failure> {
    let missing = cloud::missing(home, &home::cache()?);
    if missing.is_empty() {
        return Ok(vec![Finding::fine("this host has what the local cloud needs")]);
    }
    let findings = missing.into_iter().map(|(what, fix)| Finding::wrong("local cloud", what, fix));
    Ok(findings.collect())
}

async fn local_cloud(home: &Home) -> Finding {
    match cloud::answers(home).await {
        Some(access) => {
            Finding::fine(format!("local cloud: {} answers at {}", access.backing, access.endpoint))
        }
        None if home.cloud().exists() => Finding::wrong(
            "local cloud",
            format!("has state in {} but does not answer", home.cloud().display()),
            "`fleetctl up PLAN` starts it, `fleetctl cloud reset` removes what it left",
        ),
        None => Finding::fine("local cloud: not in use"),
    }
}

async fn controller(home: &Home, fleet: &fleet_model::FleetName) -> Finding {
    let dir = home.fleet(fleet);
    match connect(&dir, fleet).await {
        Ok((_, ping)) => Finding::fine(format!(
            "controller of `{fleet}`: {} answers as process {}, log {}",
            ping.controller_version,
            ping.pid,
            dir.join("serve.log").display()
        )),
        Err(error) => Finding::wrong(
            format!("controller of `{fleet}`"),
            format!("{}; log {}", chain(&error), dir.join("serve.log").display()),
            "`fleetctl up PLAN` starts it and goes on where it was",
        ),
    }
}

fn print(home: &Home, findings: &[Finding], output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        let list: Vec<_> = findings
            .iter()
            .map(|finding| {
                let (wrong, fix) = finding.wrong.clone().unzip();
                json!({ "what": finding.what, "wrong": wrong, "fix": fix })
            })
            .collect();
        return printer::json(&json!({ "home": home.dir(), "findings": list }));
    }
    let mut text = format!("home: {}\n", home.dir().display());
    for finding in findings {
        match &finding.wrong {
            None => text.push_str(&format!("{} {}\n", style("ok   ").green(), finding.what)),
            Some((why, fix)) => {
                text.push_str(&format!("{} {}: {why}\n      {fix}\n", style("wrong").red(), finding.what));
            }
        }
    }
    printer::text(&text)
}
