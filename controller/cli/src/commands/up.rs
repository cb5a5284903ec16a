//! `fleetctl up PLAN`.

use std::{
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use fleet_model::{FleetName, chain};
use fleet_plan::resolved::Cloud;
use fleet_proto::v1::{ApplyRequest, Finished, PlannedStep, PreviewRequest, StatusRequest, StepVerb, Until};
use serde_json::json;

use super::{
    cloud, follow,
    follow::{End, follow},
    information, preview, release,
    replace::forget_host,
};
use crate::{
    args::{Global, Output, Up},
    background,
    connect::{ConnectError, Operator, connect, refused},
    failure::{Exit, Failure},
    files,
    home::Home,
    hosts, identity, printer, problems,
    progress::Screen,
    words,
};

/// A controller that starts on an existing state answers within a second; the rest is a slow disk.
const CONTROLLER_START: Duration = Duration::from_secs(60);

pub async fn run(global: &Global, args: Up) -> Result<Exit, Failure> {
    let mut read = problems::read(&args.plan, global.output)?;
    if global.fleet.as_ref().is_some_and(|fleet| *fleet != read.plan.fleet) {
        let failure =
            format!("--fleet names another fleet than the plan, which is for `{}`", read.plan.fleet);
        return Err(Failure::new(Exit::Input, failure));
    }
    let home = Home::of(global)?;
    let mut screen = Screen::new();
    if let Err(why) = home.clear_set_aside() {
        // In nobody's way; tried again next time.
        screen.note(&format!("what an earlier `down` left in {} stays: {why}", home.dir().display()));
    }
    let machines = match &read.plan.cloud {
        Cloud::Local => cloud::ensure(&home, |line| screen.note(line)).await?.backing == "machines",
        Cloud::Mcp { .. } | Cloud::Hosts => true,
    };
    read.document.operator_addresses = identity::addresses(&args.operator, &read.plan, &home)?;
    home.note_cloud(&read.plan.fleet, &read.plan.cloud)?;
    if read.plan.cloud == Cloud::Hosts {
        home.note_reach(&read.plan.fleet, &hosts::reach(&read.plan))?;
    }
    read.document.operator_keys =
        identity::keys(&args.operator, &read.plan, &home, |line| screen.note(line))?;
    hosts::note_access(&home, &read.plan.fleet, &args.operator.operator_key)?;
    read.document.artifacts = files::hash(&read.files)?;
    let mut operator = controller(&home, &read.plan.fleet, |line| screen.note(line)).await?;
    // Before anything is planned with them: a plan without its files is none.
    files::bring(&mut operator, &read.files, &read.document.artifacts, |line| screen.note(line)).await?;
    let mut replace: Vec<String> = args.replace.iter().map(ToString::to_string).collect();
    let asked = PreviewRequest { plan: Some(read.document.clone()), replace: replace.clone() };
    let planned = operator.preview(asked).await.map_err(|status| refused(&status))?.into_inner();
    if args.preview {
        return preview::print(&planned, global.output);
    }
    let doomed: Vec<_> = planned
        .steps
        .iter()
        .filter(|step| step.verb() == StepVerb::StepDestroy && step.kind == "server")
        .map(|step| step.name.as_str())
        .collect();
    if !doomed.is_empty() && !args.yes {
        confirm(&format!(
            "The plan no longer has {}: their servers and disks will be destroyed.",
            doomed.join(", ")
        ))?;
    }
    let unconsented: Vec<&PlannedStep> = planned.steps.iter().filter(|step| step.wants_consent).collect();
    if !unconsented.is_empty() {
        let list: String =
            unconsented.iter().map(|step| format!("\n  {}: {}", step.name, step.detail)).collect();
        let flags: String = unconsented.iter().map(|step| format!(" --replace {}", step.name)).collect();
        confirm_or(
            &match read.plan.cloud {
                Cloud::Hosts => format!("These nodes are to be other machines:{list}"),
                _ => format!("These servers have to be destroyed with their disks and made anew:{list}"),
            },
            &format!("say{flags} if that is what you want"),
        )?;
        replace.extend(unconsented.iter().map(|step| step.name.clone()));
    }
    release::hand_over(&home, &read.plan.fleet, |line| screen.note(line)).await?;
    let until = if args.provision_only || !machines { Until::Provisioned } else { Until::Ready };
    if !machines && !args.provision_only {
        screen
            .note("the local cloud's backing is `none`: servers are state only, nodes stop at `provisioned`");
    }
    let request = ApplyRequest { plan: Some(read.document), until: until.into(), replace: replace.clone() };
    let mut opener = operator.clone();
    match follow(&mut operator, opener.apply(request), &mut screen).await? {
        End::Interrupted => {
            eprintln!("stopped; `fleetctl up` goes on from here, `fleetctl down` removes what is there");
            Ok(Exit::Interrupted)
        }
        End::Finished(finished) => {
            forget_hosts(&mut operator, &home, &read.plan.fleet, &replace).await;
            finish(&mut operator, &finished, global.output).await
        }
    }
}

/// Nodes that were made anew have other host keys under addresses that were used before.
async fn forget_hosts(operator: &mut Operator, home: &Home, fleet: &FleetName, replaced: &[String]) {
    if replaced.is_empty() {
        return;
    }
    // Only a convenience: without it, ssh says itself what is to be done.
    let Ok(status) = operator.status(StatusRequest::default()).await else { return };
    for node in status.into_inner().nodes.iter().filter(|node| replaced.contains(&node.name)) {
        forget_host(&identity::ssh_dir(home, fleet), &node.public_ipv4);
    }
}

/// Says how a run ended.
pub async fn finish(operator: &mut Operator, finished: &Finished, output: Output) -> Result<Exit, Failure> {
    follow::explain(finished);
    let seconds = finished.took_ms as f64 / 1000.0;
    eprintln!("{} changing calls to the cloud, {seconds:.1} s", finished.changing_calls);
    match output {
        Output::Json => {
            let nodes: Vec<_> = finished
                .nodes
                .iter()
                .map(|node| json!({ "name": node.node, "state": words::state(node.state()), "reason": node.reason }))
                .collect();
            printer::json(&json!({
                "ok": finished.ok, "changing_calls": finished.changing_calls, "took_ms": finished.took_ms,
                "nodes": nodes, "problems": finished.problems, "halted": finished.halted,
            }))?;
        }
        Output::Text => information::print(operator, output).await?,
    }
    Ok(match (finished.ok, finished.problems.is_empty()) {
        (true, _) => Exit::Ok,
        (false, _) if finished.halted => Exit::Halted,
        (false, true) => Exit::NotReady,
        (false, false) => Exit::Failed,
    })
}

/// The controller of this fleet; started in the background if none answers.
pub async fn controller(home: &Home, fleet: &FleetName, note: impl Fn(&str)) -> Result<Operator, Failure> {
    let dir = home.fleet(fleet);
    match connect(&dir, fleet).await {
        Ok((operator, _)) => return Ok(operator),
        Err(error @ ConnectError::File(..)) => return Err(error.into()),
        Err(ConnectError::None(_) | ConnectError::Silent(..)) => {}
    }
    note(&format!("starting the controller of fleet `{fleet}` in the background"));
    let arguments = ["serve", "--fleet", fleet.as_str(), "--home"].map(str::to_owned);
    let arguments = [&arguments[..], &[home.dir().display().to_string()]].concat();
    let log = dir.join("serve.log");
    let started = background::start("the controller", &arguments, &log)?;
    let operator = started
        .until(CONTROLLER_START, async || connect(&dir, fleet).await.ok(), |_| {})
        .await
        .map_err(|failure| failure.hint(format!("its log is {}", log.display())))?;
    Ok(operator.0)
}

/// Asks before something is destroyed. Only a terminal can answer.
pub fn confirm(what: &str) -> Result<(), Failure> {
    confirm_or(what, "say --yes if that is what you want")
}

/// The same with another way to agree beforehand.
pub fn confirm_or(what: &str, hint: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Input, format!("{what} Nobody is there to be asked")).hint(hint));
    }
    eprint!("{what}\nGo on? Type yes: ");
    // A prompt that cannot be shown leads to a question nobody answers with yes.
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|why| Failure::new(Exit::Failed, format!("read the answer: {}", chain(&why))))?;
    if answer.trim() == "yes" { Ok(()) } else { Err(Failure::new(Exit::Interrupted, "nothing was done")) }
}
