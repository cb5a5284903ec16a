//! `fleetctl status [NODE] [--watch]`.

use std::io::IsTerminal;

use console::style;
use fleet_model::{Clock as _, SystemClock, Timestamp};
use fleet_proto::v1::{
    FleetStatus, HealthLevel, NodeState, NodeStatus, StatusRequest, TaskReport, TaskResult,
};
use serde_json::{Value, json};

use crate::{
    args::{Global, Output, Status},
    connect::{Operator, connect, refused},
    failure::{Exit, Failure},
    home::Home,
    printer, words,
};

pub async fn run(global: &Global, args: Status) -> Result<Exit, Failure> {
    let home = Home::of(global)?;
    let fleet = home.chosen(global)?;
    let (mut operator, _) = connect(&home.fleet(&fleet), &fleet).await?;
    let request = StatusRequest { node: args.node.as_ref().map_or_else(String::new, ToString::to_string) };
    if args.watch {
        return watch(&mut operator, request, global.output).await;
    }
    let status = operator.status(request).await.map_err(|status| refused(&status))?.into_inner();
    print(&status, global.output, args.node.is_some())?;
    let all_ready = status.nodes.iter().all(|node| node.state() == NodeState::NodeReady);
    Ok(if all_ready { Exit::Ok } else { Exit::NotReady })
}

async fn watch(operator: &mut Operator, request: StatusRequest, output: Output) -> Result<Exit, Failure> {
    let detail = !request.node.is_empty();
    let mut stream = operator.watch(request).await.map_err(|status| refused(&status))?.into_inner();
    let clear = output == Output::Text && std::io::stdout().is_terminal();
    loop {
        let next = tokio::select! {
            // Cancel-safe: `message` keeps what it has read in the stream.
            next = stream.message() => next.map_err(|status| refused(&status))?,
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Ok),
        };
        let Some(status) = next else {
            return Err(Failure::new(Exit::Unreachable, "the controller ended the stream")
                .hint("it was stopped or restarted; run the command again"));
        };
        if clear {
            // Home, then clear to the end: no flicker, and the scroll-back stays whole.
            printer::text("\x1b[H\x1b[J")?;
        }
        print(&status, output, detail)?;
    }
}

fn print(status: &FleetStatus, output: Output, detail: bool) -> Result<(), Failure> {
    match output {
        Output::Json => printer::json(&document(status)),
        Output::Text if detail => {
            let now = SystemClock.now();
            printer::text(&status.nodes.iter().map(|node| details(node, now)).collect::<String>())
        }
        Output::Text => printer::text(&overview(status, SystemClock.now())),
    }
}

/// The JSON document; its members are promised in the README.
fn document(status: &FleetStatus) -> Value {
    let nodes: Vec<Value> = status.nodes.iter().map(node_document).collect();
    json!({
        "fleet": status.fleet,
        "at": Timestamp::from_millis(status.at_ms).to_string(),
        "activity": non_empty(&status.activity),
        "expires": moment(status.expires_ms),
        "orphans": (status.orphans_at_ms != 0).then(|| json!({
            "count": status.orphans, "at": moment(status.orphans_at_ms),
        })),
        "nodes": nodes,
    })
}

fn node_document(node: &NodeStatus) -> Value {
    let health = node.health.clone().unwrap_or_default();
    let tasks: Vec<Value> = node.tasks.iter().map(task_document).collect();
    let facts = node.facts.as_ref().map(|facts| {
        json!({
            "hostname": facts.hostname, "os": facts.os, "kernel": facts.kernel, "cpus": facts.cpus,
            "cpu_percent": facts.cpu_percent, "load_1m": facts.load_1m, "uptime_s": facts.uptime_s,
            "memory_bytes": facts.memory_bytes, "memory_available_bytes": facts.memory_available_bytes,
            "disks": facts.disks.iter().map(|disk| json!({
                "mount_point": disk.mount_point, "device": disk.device,
                "size_bytes": disk.size_bytes, "free_bytes": disk.free_bytes,
            })).collect::<Vec<_>>(),
            "addresses": facts.addresses, "reboot_pending": facts.reboot_pending,
            "clock_offset_ms": facts.clock_offset_ms,
            "certificate_not_after": moment(facts.certificate_not_after_ms),
            "agent_memory_bytes": facts.agent_memory_bytes,
        })
    });
    json!({
        "name": node.name,
        "location": node.location,
        "state": words::state(node.state()),
        "state_detail": non_empty(&node.state_detail),
        "connected": node.connected,
        "health": { "level": words::health(health.level()), "reasons": health.reasons },
        "agent_version": non_empty(&node.agent_version),
        "generation": { "desired": node.generation_desired, "observed": node.generation_observed },
        "tasks": tasks,
        "permits": node.permits,
        "last_seen": moment(node.last_seen_ms),
        "public_ipv4": non_empty(&node.public_ipv4),
        "private_ipv4": non_empty(&node.private_ipv4),
        "ipv6": non_empty(&node.ipv6),
        "facts": facts,
    })
}

fn task_document(task: &TaskReport) -> Value {
    json!({
        "name": task.name, "result": words::task(task.result()), "reason": non_empty(&task.reason),
        "changes": task.changes, "at": moment(task.at_ms), "took_ms": task.took_ms,
        "drift": task.drift, "drift_since": moment(task.drift_since_ms),
        "cluster": task.cluster.as_ref().map(|seen| json!({ "missing_members": seen.missing_members })),
    })
}

fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn moment(millis: i64) -> Option<String> {
    (millis != 0).then(|| Timestamp::from_millis(millis).to_string())
}

/// One line a node.
fn overview(status: &FleetStatus, now: Timestamp) -> String {
    let heads = ["NAME", "LOCATION", "STATE", "HEALTH", "GENERATION", "PUBLIC IPV4", "IPV6", "LAST SEEN"];
    let mut rows: Vec<Vec<String>> = vec![heads.iter().map(|head| style(head).bold().to_string()).collect()];
    for node in &status.nodes {
        let health = node.health.clone().unwrap_or_default();
        let generation = format!("{}/{}", node.generation_observed, node.generation_desired);
        rows.push(vec![
            node.name.clone(),
            node.location.clone(),
            with_drift(coloured_state(node.state()), &node.tasks),
            coloured_health(health.level()),
            generation,
            dash(&node.public_ipv4),
            dash(&node.ipv6),
            age(node.last_seen_ms, now),
        ]);
    }
    let mut text = printer::table(&rows);
    for node in &status.nodes {
        let health = node.health.clone().unwrap_or_default();
        let tasks = node.tasks.iter().filter(|task| !task.reason.is_empty() || differs(task));
        let why = std::iter::once(node.state_detail.clone()).chain(health.reasons).chain(
            tasks.map(|task| format!("task {}: {}", task.name, join(&result(task, now), &task.reason))),
        );
        for line in why.filter(|line| !line.is_empty()) {
            text.push_str(&format!("{}: {line}\n", node.name));
        }
    }
    if let Some(line) = expiry(status.expires_ms, now) {
        text.push_str(&format!("{line}\n"));
    }
    if status.orphans > 0 {
        let count = style(format!("{} in the cloud and in no plan", status.orphans)).yellow();
        text.push_str(&format!("{count}: `fleetctl cloud orphans` lists them\n"));
    }
    if !status.activity.is_empty() {
        text.push_str(&format!("{}\n", status.activity));
    }
    text
}

/// When the fleet ends by itself; from an hour before as a warning.
fn expiry(expires_ms: i64, now: Timestamp) -> Option<String> {
    const WARNING: u64 = 3600;
    let at = (expires_ms != 0).then(|| Timestamp::from_millis(expires_ms))?;
    let left = at.since(now).as_secs();
    let next = "the controller then takes the fleet down; `fleetctl up PLAN` before that renews it";
    Some(match left {
        0 => style("expired: the controller takes the fleet down any moment; `fleetctl up PLAN` renews it")
            .red()
            .to_string(),
        1..=119 => format!("{}: {next}", style(format!("expires in {left} s")).yellow()),
        120..=WARNING => format!("{}: {next}", style(format!("expires in {} min", left / 60)).yellow()),
        _ => format!("expires at {at}"),
    })
}

/// Whether a task had converged and differs again.
fn differs(task: &TaskReport) -> bool {
    task.result() == TaskResult::Drifted || !task.drift.is_empty()
}

/// Marks a state with how many tasks differ.
fn with_drift(state: String, tasks: &[TaskReport]) -> String {
    match tasks.iter().filter(|task| differs(task)).count() {
        0 => state,
        drifted => format!("{state} {}", style(format!("({drifted} drifted)")).yellow()),
    }
}

/// A task's result in words, and since when it differs, if it does.
fn result(task: &TaskReport, now: Timestamp) -> String {
    let word = words::task(task.result());
    match task.drift_since_ms {
        since if since != 0 && differs(task) => format!("{word}, first seen {}", age(since, now)),
        _ => word.to_owned(),
    }
}

/// Everything about one node.
fn details(node: &NodeStatus, now: Timestamp) -> String {
    let health = node.health.clone().unwrap_or_default();
    let facts = node.facts.clone().unwrap_or_default();
    let mut rows = vec![
        row("name", &node.name),
        row("location", &node.location),
        row("state", &join(&coloured_state(node.state()), &node.state_detail)),
        row("health", &join(&coloured_health(health.level()), &health.reasons.join("; "))),
        row("agent", &dash(&node.agent_version)),
        row(
            "generation",
            &format!("{} observed, {} desired", node.generation_observed, node.generation_desired),
        ),
        row("last seen", &age(node.last_seen_ms, now)),
        row("public IPv4", &dash(&node.public_ipv4)),
        row("private IPv4", &dash(&node.private_ipv4)),
        row("IPv6", &dash(&node.ipv6)),
    ];
    if node.facts.is_some() {
        const MIB: u64 = 1 << 20;
        rows.push(row("system", &format!("{}, Linux {}, up {} s", facts.os, facts.kernel, facts.uptime_s)));
        let free = facts.memory_available_bytes / MIB;
        rows.push(row("memory", &format!("{free} of {} MiB available", facts.memory_bytes / MIB)));
        rows.push(row(
            "load",
            &format!("{:.2} on {} CPUs ({:.0} %)", facts.load_1m, facts.cpus, facts.cpu_percent),
        ));
        for disk in &facts.disks {
            let text =
                format!("{} of {} MiB free, {}", disk.free_bytes / MIB, disk.size_bytes / MIB, disk.device);
            rows.push(row(&disk.mount_point, &text));
        }
        rows.push(row("clock", &format!("{} ms from the controller's", facts.clock_offset_ms)));
        rows.push(row("reboot", if facts.reboot_pending { "pending" } else { "not needed" }));
        rows.push(row(
            "certificate",
            &moment(facts.certificate_not_after_ms).unwrap_or_else(|| "–".to_owned()),
        ));
    }
    rows.extend(node.permits.iter().map(|permit| row("permit", permit)));
    for task in &node.tasks {
        let text = format!("{} ({} ms)", result(task, now), task.took_ms);
        rows.push(row(&format!("task {}", task.name), &join(&text, &task.reason)));
        rows.extend(task.drift.iter().map(|line| row("", &format!("  differs: {line}"))));
        rows.extend(task.changes.iter().map(|change| row("", &format!("  {change}"))));
    }
    rows.push(Vec::new());
    printer::table(&rows)
}

fn row(name: &str, value: &str) -> Vec<String> {
    vec![name.to_owned(), value.to_owned()]
}

fn join(word: &str, why: &str) -> String {
    if why.is_empty() { word.to_owned() } else { format!("{word}: {why}") }
}

fn dash(text: &str) -> String {
    if text.is_empty() { "–".to_owned() } else { text.to_owned() }
}

fn age(millis: i64, now: Timestamp) -> String {
    if millis == 0 {
        return "never".to_owned();
    }
    let seconds = now.since(Timestamp::from_millis(millis)).as_secs();
    match seconds {
        0..=119 => format!("{seconds} s ago"),
        120..=7199 => format!("{} min ago", seconds / 60),
        _ => format!("{} h ago", seconds / 3600),
    }
}

fn coloured_state(state: NodeState) -> String {
    let word = words::state(state);
    match state {
        NodeState::NodeReady => style(word).green(),
        NodeState::NodeFailed | NodeState::NodeSilent => style(word).red(),
        _ => style(word).cyan(),
    }
    .to_string()
}

fn coloured_health(level: HealthLevel) -> String {
    let word = words::health(level);
    match level {
        HealthLevel::HealthOk => style(word).green(),
        HealthLevel::HealthDegraded => style(word).yellow(),
        HealthLevel::HealthFailed => style(word).red(),
        HealthLevel::HealthUnspecified => style(word).dim(),
    }
    .to_string()
}

#[cfg(test)]
mod tests {
    use fleet_proto::v1::{Health, ObservedCluster};

    use super::*;

    fn sample() -> FleetStatus {
        let ready = NodeStatus {
            name: "EU7rethinkSeed".into(),
            location: "EU7".into(),
            state: NodeState::NodeReady.into(),
            health: Some(Health { level: HealthLevel::HealthOk.into(), reasons: vec![] }),
            agent_version: "0.1.0".into(),
            generation_desired: 2,
            generation_observed: 2,
            tasks: vec![TaskReport {
                name: "hosts".into(),
                result: TaskResult::Changed.into(),
                changes: vec!["5 names".into()],
                at_ms: 1_000,
                took_ms: 12,
                ..TaskReport::default()
            }],
            last_seen_ms: 59_000,
            public_ipv4: "198.51.100.10".into(),
            private_ipv4: "10.70.0.7".into(),
            ipv6: "2001:db8::7".into(),
            connected: true,
            ..NodeStatus::default()
        };
        let failed = NodeStatus {
            name: "b".into(),
            location: "EU6".into(),
            state: NodeState::NodeFailed.into(),
            state_detail: "SSH did not answer".into(),
            ..NodeStatus::default()
        };
        FleetStatus {
            fleet: "rethink".into(),
            at_ms: 60_000,
            nodes: vec![ready, failed],
            ..FleetStatus::default()
        }
    }

    #[test]
    fn the_overview_fits_one_line_a_node() {
        console::set_colors_enabled(false);
        insta::assert_snapshot!(overview(&sample(), Timestamp::from_millis(60_000)));
    }

    /// One task that differs and is left as it is, one that waits for a permit.
    fn drifted() -> FleetStatus {
        let mut status = sample();
        let node = &mut status.nodes[0];
        node.tasks.push(TaskReport {
            name: "page".into(),
            result: TaskResult::Drifted.into(),
            reason: "left as it is: `fleetctl repair` puts it right".into(),
            drift: vec!["mode is 0600, not 0644".into(), "owner is root, not author".into()],
            drift_since_ms: 1_000 - 600_000,
            at_ms: 1_000,
            took_ms: 3,
            ..TaskReport::default()
        });
        node.tasks.push(TaskReport {
            name: "update".into(),
            result: TaskResult::Waiting.into(),
            reason: "node `b` has the permit `reboot` until 2026-01-01T00:00:00.000Z at most".into(),
            ..TaskReport::default()
        });
        node.permits = vec!["waits for reboot, 0 before it".into()];
        status.nodes.truncate(1);
        status
    }

    #[test]
    fn drift_is_shown_with_difference_and_age() {
        console::set_colors_enabled(false);
        let (status, now) = (drifted(), Timestamp::from_millis(60_000));
        insta::assert_snapshot!("drift_in_the_overview", overview(&status, now));
        insta::assert_snapshot!("drift_in_the_details", details(&status.nodes[0], now));
        let page = &document(&status)["nodes"][0]["tasks"][1];
        assert_eq!(page["drift"][0], "mode is 0600, not 0644");
        assert_eq!(page["drift_since"], "1969-12-31T23:50:01.000Z");
    }

    #[test]
    fn a_cluster_is_shown_if_the_task_saw_one() {
        let mut status = sample();
        let cluster = |missing: &[&str]| {
            let missing_members = missing.iter().map(ToString::to_string).collect();
            Some(ObservedCluster { missing_members })
        };
        let mut check = |cluster, expected: Value| {
            status.nodes[0].tasks[0].cluster = cluster;
            assert_eq!(document(&status)["nodes"][0]["tasks"][0]["cluster"], expected);
        };
        check(None, Value::Null);
        check(cluster(&[]), json!({ "missing_members": [] }));
        check(cluster(&["b1"]), json!({ "missing_members": ["b1"] }));
    }

    #[test]
    fn the_end_is_warned_of_from_an_hour_before() {
        console::set_colors_enabled(false);
        let check = |left_s: i64, wanted: Option<&str>| {
            let now = Timestamp::from_millis(10_000_000);
            let line = expiry(now.as_millis() + left_s * 1000, now);
            assert_eq!(
                line.as_deref().map(|line| line.split(':').next().unwrap_or(line)),
                wanted,
                "{left_s}"
            );
        };
        check(3601, Some("expires at 1970-01-01T03"));
        check(3600, Some("expires in 60 min"));
        check(90, Some("expires in 90 s"));
        check(0, Some("expired"));
        check(-5, Some("expired"));
        assert_eq!(expiry(0, Timestamp::default()), None);
    }

    #[test]
    fn the_document_has_the_promised_members() {
        // Sorted, since the order of members is not part of the promise.
        insta::with_settings!({ sort_maps => true }, { insta::assert_json_snapshot!(document(&sample())) });
    }
}
