//! Rollouts for people and for programs.

use std::{collections::BTreeMap, time::Duration};

use console::{StyledObject, style};
use fleet_model::Timestamp;
use fleet_proto::v1::{
    ExplainReply, LineReply, Rollout, RolloutKind, RolloutList, RolloutNode, RolloutReply, RolloutStanding,
};
use serde_json::{Value, json};

use super::orphans::age;
use crate::{failure::Exit, printer};

/// Notices shown below the nodes; all are in the JSON.
const NOTICES: usize = 5;

/// Finished, halted and under way are three things to a script.
pub fn exit(reply: &RolloutReply) -> Exit {
    let Some(rollout) = &reply.rollout else { return Exit::Ok };
    match rollout.standing() {
        RolloutStanding::RolloutHalted => Exit::Halted,
        RolloutStanding::RolloutFinished => {
            let wanted = if rollout.finish == "undone" { "rolled back" } else { "updated" };
            let left = rollout.nodes.iter().any(|node| {
                node.outcome != wanted && !(rollout.finish == "undone" && node.outcome == "untouched")
            });
            if left { Exit::NotReady } else { Exit::Ok }
        }
        _ => Exit::Running,
    }
}

fn word(rollout: &Rollout) -> &'static str {
    match rollout.standing() {
        RolloutStanding::Unspecified => "unknown",
        RolloutStanding::RolloutDraft => "draft",
        RolloutStanding::RolloutRunning => "running",
        RolloutStanding::RolloutBaking => "baking",
        RolloutStanding::RolloutHalted => "halted",
        RolloutStanding::RolloutUndoing => "undoing",
        RolloutStanding::RolloutFinished => "finished",
    }
}

fn coloured(rollout: &Rollout) -> StyledObject<&'static str> {
    let word = style(word(rollout));
    match rollout.standing() {
        RolloutStanding::RolloutFinished => word.green(),
        RolloutStanding::RolloutHalted => word.red(),
        RolloutStanding::RolloutUndoing => word.yellow(),
        _ => word.cyan(),
    }
}

fn coloured_state(node: &RolloutNode) -> String {
    let word = style(node.state.as_str());
    match node.state.as_str() {
        "committed" => word.green(),
        "failed" => word.red(),
        "rolled back" | "silent" => word.yellow(),
        "pending" => word.dim(),
        _ => word.cyan(),
    }
    .to_string()
}

/// All about one rollout.
pub fn status(reply: &RolloutReply, now: Timestamp) -> String {
    let mut text = String::new();
    match &reply.rollout {
        None => text.push_str("no rollout yet: `fleetctl rollout start RELEASE` starts one\n"),
        Some(rollout) => {
            text.push_str(&headline(rollout, now));
            text.push_str(&nodes(rollout));
            text.push_str(&counts(rollout));
            text.push_str(&notices(rollout, now));
            text.push_str(&next_step(rollout));
        }
    }
    text.push_str(&line(reply.line.as_ref(), now));
    text
}

/// What it brings, and after what.
fn what(rollout: &Rollout) -> String {
    match (rollout.kind(), rollout.previous_version.as_str()) {
        (RolloutKind::RolloutOfPlan, _) => format!("plan {}", rollout.version),
        (RolloutKind::RolloutOfRelease, "") => format!("release {}", rollout.version),
        (RolloutKind::RolloutOfRelease, before) => format!("release {} after {before}", rollout.version),
    }
}

fn headline(rollout: &Rollout, now: Timestamp) -> String {
    let finish = match rollout.finish.as_str() {
        "" | "done" => String::new(),
        finish => format!(" ({finish})"),
    };
    let mut text = format!("rollout {}: {}, {}{finish}", rollout.id, what(rollout), coloured(rollout));
    if rollout.finish.is_empty() {
        text.push_str(&format!(", wave {} of {}", rollout.wave, rollout.waves.len()));
    }
    if rollout.standing() == RolloutStanding::RolloutBaking {
        text.push_str(&format!(", watched for {} more", duration(rollout.bake_left_ms)));
    }
    text.push_str(&format!("; started {} ago by {}\n", age(rollout.started_ms, now), rollout.started_by));
    if !rollout.halted.is_empty() {
        let nodes = match rollout.halted_nodes.as_slice() {
            [] => String::new(),
            nodes => format!(": {}", nodes.join(", ")),
        };
        text.push_str(&format!("{} {}{nodes}\n", style("halted:").red().bold(), rollout.halted));
    }
    text
}

fn nodes(rollout: &Rollout) -> String {
    let heads = ["NAME", "LOCATION", "WAVE", "STATE", "RUNS", "DETAIL"];
    let mut rows: Vec<Vec<String>> = vec![heads.iter().map(|head| style(head).bold().to_string()).collect()];
    for node in &rollout.nodes {
        rows.push(vec![
            node.node.clone(),
            dash(&node.location),
            node.wave.to_string(),
            coloured_state(node),
            dash(&node.running_version),
            detail(node),
        ]);
    }
    printer::table(&rows)
}

fn detail(node: &RolloutNode) -> String {
    let mut parts = Vec::new();
    if !node.reason.is_empty() {
        parts.push(node.reason.clone());
    }
    if !node.hold.is_empty() {
        parts.push(format!("held: {}", node.hold));
    }
    if !node.connected {
        parts.push("no session".to_owned());
    }
    for gate in &node.gates {
        let said = match (gate.answered, gate.passed) {
            (false, _) => "asked".to_owned(),
            (true, true) => "passed".to_owned(),
            (true, false) => format!("not passed: {}", gate.detail),
        };
        parts.push(format!("gate {} {said}", gate.gate));
    }
    parts.join("; ")
}

fn counts(rollout: &Rollout) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for node in &rollout.nodes {
        *counts.entry(node.state.as_str()).or_default() += 1;
    }
    let committed = counts.remove("committed").unwrap_or(0);
    let others: String = counts.iter().map(|(state, count)| format!(", {count} {state}")).collect();
    format!("{committed} of {} committed{others}\n", rollout.nodes.len())
}

fn notices(rollout: &Rollout, now: Timestamp) -> String {
    let from = rollout.notices.len().saturating_sub(NOTICES);
    let lines = rollout.notices[from..].iter();
    lines.map(|notice| format!("{} ago: {}\n", age(notice.at_ms, now), notice.text)).collect()
}

fn next_step(rollout: &Rollout) -> String {
    let plan = rollout.kind() == RolloutKind::RolloutOfPlan;
    if plan && rollout.finish == "undone" {
        return "the next `fleetctl up` rolls out what its plan says\n".to_owned();
    }
    if rollout.standing() != RolloutStanding::RolloutHalted {
        return String::new();
    }
    if plan {
        return "`fleetctl up` with a corrected plan takes its place; `fleetctl rollout resume` goes on, `resume --retry` \
                with those that failed too, `undo` gives those that were touched what they had\n"
            .to_owned();
    }
    "`fleetctl rollout resume` goes on, `resume --retry` with those that failed too, `undo` sends back who was touched\n"
        .to_owned()
}

fn line(line: Option<&LineReply>, now: Timestamp) -> String {
    match line {
        Some(line) if line.stopped => format!(
            "{} by {}, {} ago: {}; `fleetctl clear-the-line` ends that\n",
            style("the line is stopped").red().bold(),
            line.by,
            age(line.since_ms, now),
            line.reason
        ),
        _ => String::new(),
    }
}

/// The waves as they would be.
pub fn preview(reply: &RolloutReply) -> String {
    let Some(rollout) = &reply.rollout else { return String::new() };
    format!("{}policy: {}\n", waves(rollout), rollout.policy_lines.join(" "))
}

/// Who would have it when.
pub fn waves(rollout: &Rollout) -> String {
    let mut text = format!("{} to {} nodes\n", what(rollout), rollout.nodes.len());
    let heads = ["WAVE", "AT ONCE", "HALTED BY", "WATCHED", "NODES"];
    let mut rows: Vec<Vec<String>> = vec![heads.iter().map(|head| style(head).bold().to_string()).collect()];
    for wave in &rollout.waves {
        let name = if wave.wave == 1 { "1, canaries".to_owned() } else { wave.wave.to_string() };
        rows.push(vec![
            name,
            wave.in_flight.to_string(),
            format!("{} failed or {} silent", wave.failed, wave.silent),
            duration(wave.bake_ms),
            wave.nodes.join(" "),
        ]);
    }
    text.push_str(&printer::table(&rows));
    text
}

/// One line a rollout.
pub fn list(list: &RolloutList, now: Timestamp) -> String {
    if list.rollouts.is_empty() {
        return format!(
            "none: `fleetctl rollout start RELEASE` starts one\n{}",
            line(list.line.as_ref(), now)
        );
    }
    let heads = ["ROLLOUT", "BRINGS", "STATE", "STARTED", "BY"];
    let mut rows: Vec<Vec<String>> = vec![heads.iter().map(|head| style(head).bold().to_string()).collect()];
    for rollout in &list.rollouts {
        let state = match rollout.finish.as_str() {
            "" | "done" => coloured(rollout).to_string(),
            finish => format!("{} ({finish})", coloured(rollout)),
        };
        rows.push(vec![
            rollout.id.clone(),
            what(rollout),
            state,
            format!("{} ago", age(rollout.started_ms, now)),
            rollout.started_by.clone(),
        ]);
    }
    printer::table(&rows) + &line(list.line.as_ref(), now)
}

/// Why not yet.
pub fn explain(reply: &ExplainReply) -> String {
    let node = reply.node.clone().unwrap_or_default();
    let mut text = format!(
        "{} is {}, in wave {} of rollout {}\n",
        node.node,
        coloured_state(&node),
        node.wave,
        reply.rollout
    );
    for line in reply.obstacles.iter().chain(&reply.notes) {
        text.push_str(&format!("  {line}\n"));
    }
    text
}

/// The JSON document of a rollout; its members are promised in the README.
pub fn document(reply: &RolloutReply) -> Value {
    json!({
        "rollout": reply.rollout.as_ref().map(rollout_document),
        "line": line_document(reply.line.as_ref()),
        "warnings": reply.warnings,
    })
}

/// The JSON document of a rollout as it would be.
pub fn rollout_document(rollout: &Rollout) -> Value {
    let mut document = brief_document(rollout);
    let waves = rollout.waves.iter().map(|wave| {
        json!({
            "wave": wave.wave, "nodes": wave.nodes, "in_flight": wave.in_flight, "unavailable": wave.unavailable,
            "failed": wave.failed, "silent": wave.silent, "bake_ms": wave.bake_ms,
        })
    });
    document["waves"] = waves.collect();
    document["nodes"] = rollout.nodes.iter().map(node_document).collect();
    document["notices"] = rollout
        .notices
        .iter()
        .map(|notice| json!({ "at": moment(notice.at_ms), "text": notice.text }))
        .collect();
    document["policy"] = serde_json::from_str(&rollout.policy).unwrap_or(Value::Null);
    document
}

fn brief_document(rollout: &Rollout) -> Value {
    let kind = match rollout.kind() {
        RolloutKind::RolloutOfPlan => "plan",
        RolloutKind::RolloutOfRelease => "release",
    };
    json!({
        "id": rollout.id, "kind": kind, "release": rollout.release, "version": rollout.version,
        "previous": or_null(&rollout.previous), "previous_version": or_null(&rollout.previous_version),
        "state": word(rollout), "finish": or_null(&rollout.finish),
        "halted": or_null(&rollout.halted), "halted_nodes": rollout.halted_nodes,
        "wave": rollout.wave, "bake_left_ms": rollout.bake_left_ms,
        "started": moment(rollout.started_ms), "by": rollout.started_by, "changed": moment(rollout.changed_ms),
    })
}

fn node_document(node: &RolloutNode) -> Value {
    let gates = node.gates.iter().map(|gate| {
        json!({
            "name": gate.gate, "passed": gate.answered.then_some(gate.passed), "detail": or_null(&gate.detail),
            "at": moment(gate.at_ms),
        })
    });
    json!({
        "name": node.node, "location": or_null(&node.location), "wave": node.wave, "state": node.state,
        "reason": or_null(&node.reason), "connected": node.connected, "hold": or_null(&node.hold),
        "gates": gates.collect::<Vec<_>>(), "outcome": or_null(&node.outcome), "runs": or_null(&node.running_version),
    })
}

fn line_document(line: Option<&LineReply>) -> Value {
    match line {
        Some(line) if line.stopped => {
            json!({ "by": line.by, "reason": line.reason, "since": moment(line.since_ms) })
        }
        _ => Value::Null,
    }
}

/// The JSON document of all rollouts.
pub fn list_document(list: &RolloutList) -> Value {
    json!({
        "rollouts": list.rollouts.iter().map(brief_document).collect::<Vec<_>>(),
        "line": line_document(list.line.as_ref()),
    })
}

/// The JSON document of one node.
pub fn explain_document(reply: &ExplainReply) -> Value {
    json!({
        "rollout": reply.rollout, "node": reply.node.as_ref().map(node_document),
        "obstacles": reply.obstacles, "notes": reply.notes,
    })
}

fn or_null(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn moment(millis: i64) -> Option<String> {
    (millis != 0).then(|| Timestamp::from_millis(millis).to_string())
}

fn dash(text: &str) -> String {
    if text.is_empty() { "–".to_owned() } else { text.to_owned() }
}

fn duration(ms: u64) -> String {
    match Duration::from_millis(ms).as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use fleet_proto::v1::{RolloutGate, RolloutNotice, RolloutWave};

    use super::*;

    fn sample() -> RolloutReply {
        let node = |name: &str, wave, state: &str| RolloutNode {
            node: name.into(),
            location: "EU6".into(),
            wave,
            state: state.into(),
            connected: true,
            running_version: "0.1.0".into(),
            ..RolloutNode::default()
        };
        let mut failed = node("EU6rethink01", 1, "rolled back");
        failed.reason = "it crashed: exit status 101, three times".into();
        let mut proving = node("EU7rethink02", 2, "proving");
        proving.gates = vec![
            RolloutGate {
                gate: "todo".into(),
                answered: true,
                detail: "503".into(),
                ..RolloutGate::default()
            },
            RolloutGate { gate: "table".into(), ..RolloutGate::default() },
        ];
        let mut away = node("EU9rethink04", 2, "silent");
        away.connected = false;
        away.running_version = String::new();
        let wave = |wave, nodes: &[&str]| RolloutWave {
            wave,
            nodes: nodes.iter().map(|&name| name.to_owned()).collect(),
            in_flight: 1,
            unavailable: 1,
            failed: 1,
            silent: 1,
            bake_ms: 600_000,
        };
        let rollout = Rollout {
            id: "3".into(),
            release: "ab".repeat(32),
            version: "0.2.0".into(),
            previous: "cd".repeat(32),
            previous_version: "0.1.0".into(),
            standing: RolloutStanding::RolloutHalted.into(),
            halted: "1 of the canaries failed, and 1 are too many".into(),
            halted_nodes: vec!["EU6rethink01".into()],
            wave: 1,
            waves: vec![wave(1, &["EU6rethink01"]), wave(2, &["EU7rethink02", "EU9rethink04"])],
            nodes: vec![failed, proving, away],
            started_ms: 1_000,
            started_by: "ops".into(),
            changed_ms: 50_000,
            notices: vec![RolloutNotice { at_ms: 1_000, text: "wave 1 of 2 begins: the canaries".into() }],
            policy: "{\"bake\":\"5m\"}".into(),
            policy_lines: vec!["bake=5m".into(), "budgets.failed=5%".into()],
            ..Rollout::default()
        };
        RolloutReply { rollout: Some(rollout), line: Some(LineReply::default()), warnings: Vec::new() }
    }

    fn stopped() -> LineReply {
        LineReply { stopped: true, by: "ops".into(), reason: "a doubt".into(), since_ms: 31_000 }
    }

    #[test]
    fn what_people_read() {
        console::set_colors_enabled(false);
        let now = Timestamp::from_millis(61_000);
        let mut reply = sample();
        insta::assert_snapshot!("a_halted_rollout", status(&reply, now));
        insta::assert_snapshot!("a_preview_of_waves", preview(&reply));
        reply.line = Some(stopped());
        if let Some(rollout) = &mut reply.rollout {
            rollout.standing = RolloutStanding::RolloutBaking.into();
            rollout.halted.clear();
            rollout.halted_nodes.clear();
            rollout.bake_left_ms = 90_000;
        }
        insta::assert_snapshot!("a_baking_rollout_and_a_stopped_line", status(&reply, now));
        let mut plan = sample().rollout.expect("one");
        plan.kind = RolloutKind::RolloutOfPlan.into();
        plan.version = "web.yaml".into();
        plan.previous_version = String::new();
        plan.nodes[0].state = "failed".into();
        plan.nodes[0].reason = "its work failed: task `site` failed: no such file".into();
        plan.nodes[0].running_version = "generation 4".into();
        let plan = RolloutReply { rollout: Some(plan), ..RolloutReply::default() };
        insta::assert_snapshot!("a_halted_rollout_of_a_plan", status(&plan, now));
        let mut older = sample().rollout.expect("one");
        older.standing = RolloutStanding::RolloutFinished.into();
        older.finish = "superseded".into();
        older.id = "2".into();
        let all = RolloutList { rollouts: vec![plan.rollout.expect("one"), older], line: Some(stopped()) };
        insta::assert_snapshot!("all_rollouts", list(&all, now));
        let why = ExplainReply {
            rollout: "3".into(),
            node: sample().rollout.expect("one").nodes.pop(),
            obstacles: vec!["it has no session; it catches up when it returns".into()],
            notes: vec!["nothing was heard".into()],
        };
        insta::assert_snapshot!("why_not_yet", explain(&why));
        assert_eq!(
            status(&RolloutReply::default(), now),
            "no rollout yet: `fleetctl rollout start RELEASE` starts one\n"
        );
    }

    #[test]
    fn the_document_has_the_promised_members() {
        insta::with_settings!({ sort_maps => true }, { insta::assert_json_snapshot!("rollout_document", document(&sample())) });
    }

    #[test]
    fn finished_halted_and_under_way_are_three_things() {
        let check = |standing: RolloutStanding, finish: &str, outcomes: &[&str], wanted: Exit| {
            let nodes = outcomes
                .iter()
                .map(|&outcome| RolloutNode { outcome: outcome.into(), ..RolloutNode::default() });
            let rollout = Rollout {
                standing: standing.into(),
                finish: finish.into(),
                nodes: nodes.collect(),
                ..Rollout::default()
            };
            let reply = RolloutReply { rollout: Some(rollout), ..RolloutReply::default() };
            assert_eq!(exit(&reply), wanted, "{standing:?} {finish} {outcomes:?}");
        };
        use RolloutStanding::{
            RolloutBaking as Baking, RolloutFinished as Finished, RolloutHalted as Halted,
            RolloutRunning as Running, RolloutUndoing as Undoing,
        };
        check(Running, "", &[""], Exit::Running);
        check(Baking, "", &[""], Exit::Running);
        check(Undoing, "", &[""], Exit::Running);
        check(Halted, "", &[""], Exit::Halted);
        check(Finished, "done", &["updated", "updated"], Exit::Ok);
        check(Finished, "done", &["updated", "silent"], Exit::NotReady);
        check(Finished, "undone", &["rolled back", "untouched"], Exit::Ok);
        check(Finished, "undone", &["rolled back", "failed"], Exit::NotReady);
        check(Finished, "superseded", &["silent"], Exit::NotReady);
        assert_eq!(exit(&RolloutReply::default()), Exit::Ok);
    }
}
