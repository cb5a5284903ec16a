//! Status: built afresh from what is in memory.

use std::time::Duration;

use fleet_model::{FleetName, NodeName};
use fleet_plan::resolved::{Host, HostKey, Placed};
use fleet_proto::v1;

use crate::{
    reconcile::board::{Board, health, node_state},
    session::{registry::View, stream::Desk},
};

/// How old a server may grow before it is worth a word that its node has not enrolled: boot and first boot, with
/// their deadlines.
const ENROLS_WITHIN: Duration = Duration::from_secs(20 * 60);

/// The fleet now, or one node of it.
pub fn fleet_status(
    fleet: &FleetName,
    board: &Board,
    desk: &Desk,
    only: Option<&NodeName>,
) -> v1::FleetStatus {
    let now = desk.clock.now();
    let plan = board.plan();
    let placed = plan.iter().flat_map(|plan| plan.nodes());
    let (orphans, orphans_at) = board.orphans().unwrap_or_default();
    let nodes = placed
        .filter(|placed| only.is_none_or(|only| *only == placed.node.name))
        .map(|placed| node_status(&placed, board, desk, now));
    v1::FleetStatus {
        fleet: fleet.to_string(),
        at_ms: now.as_millis(),
        nodes: nodes.collect(),
        activity: activity(board),
        orphans: u32::try_from(orphans).unwrap_or(u32::MAX),
        orphans_at_ms: orphans_at.as_millis(),
        expires_ms: board.expiry().filter(|expiry| !expiry.done).map_or(0, |expiry| expiry.at.as_millis()),
    }
}

/// What is under way, or what last happened that people should know of.
fn activity(board: &Board) -> String {
    match (board.activity(), board.expiry()) {
        (under_way, Some(expiry)) if under_way.is_empty() && expiry.done => format!(
            "expired at {} and was taken down; `fleetctl up PLAN` makes it anew, `fleetctl down` clears it away",
            expiry.at
        ),
        (activity, _) => activity,
    }
}

/// What to say of a server that is `age` old and whose node has never been heard of.
fn never_enrolled(node: &NodeName, view: &View, age: Duration) -> Option<String> {
    if view.enrolled || view.connected || view.last_seen.as_millis() > 0 || age < ENROLS_WITHIN {
        return None;
    }
    let age = match age.as_secs() / 60 {
        minutes @ 0..=119 => format!("{minutes} min"),
        minutes => format!("{} h", minutes / 60),
    };
    Some(format!(
        "never enrolled, and its server is {age} old: `fleetctl up PLAN` tries again, `fleetctl replace {node}` makes \
         it anew, `fleetctl down` gives it back"
    ))
}

fn node_status(
    placed: &Placed<'_>,
    board: &Board,
    desk: &Desk,
    now: fleet_model::Timestamp,
) -> v1::NodeStatus {
    let name = &placed.node.name;
    let view = desk.registry.view(name);
    let addresses = board.addresses(name);
    let (state, detail) = node_state(&view, board.stage(name).as_ref(), addresses.is_some());
    let overdue = board.arrived(name).and_then(|at| never_enrolled(name, &view, now.since(at)));
    let detail = [detail, overdue.unwrap_or_default()].into_iter().filter(|part| !part.is_empty());
    let detail = detail.collect::<Vec<_>>().join("; ");
    let health = health(&view, state);
    let addresses = addresses.unwrap_or_default();
    let text = |address: Option<String>| address.unwrap_or_default();
    let host = placed.node.host.as_ref();
    let login = placed.node.login().or(host.map(|host| host.login.as_str()));
    v1::NodeStatus {
        name: name.to_string(),
        location: placed.location.id.clone(),
        state: state.into(),
        state_detail: detail,
        health: Some(health),
        agent_version: view.agent_version,
        generation_desired: view.desired.map_or(0, |desired| desired.generation),
        generation_observed: view.observed.as_ref().map_or(0, |observed| observed.generation),
        tasks: view.observed.map(|observed| observed.tasks.clone()).unwrap_or_default(),
        last_seen_ms: view.last_seen.as_millis(),
        public_ipv4: text(addresses.public_ipv4.map(|address| address.to_string())),
        private_ipv4: text(addresses.private_ipv4.map(|address| address.to_string())),
        ipv6: text(addresses.ipv6.map(|address| address.to_string())),
        facts: view.facts.map(|facts| v1::Facts::clone(&facts)),
        connected: view.connected,
        permits: desk.permits.shown(name),
        login: login.unwrap_or_default().to_owned(),
        ssh: host.map(door),
    }
}

/// Where SSH of a machine that was there already answers, and how it is known.
fn door(host: &Host) -> v1::SshDoor {
    let host_key = match &host.key {
        Some(HostKey::Key(text) | HostKey::Fingerprint(text)) => text.clone(),
        None => String::new(),
    };
    v1::SshDoor { address: host.address.clone(), port: host.port.into(), host_key }
}

#[cfg(test)]
mod tests {
    use fleet_model::Timestamp;

    use super::*;

    #[test]
    fn a_server_that_never_enrolled_is_spoken_of_after_a_while() {
        let node: NodeName = "one".parse().expect("a name");
        let check = |view: &View, minutes: u64, wanted: Option<&str>| {
            let told = never_enrolled(&node, view, Duration::from_secs(minutes * 60));
            assert_eq!(
                told.as_deref().map(|told| told.split(':').next().unwrap_or(told)),
                wanted,
                "{view:?} {minutes}"
            );
        };
        let never = View::default();
        check(&never, 19, None);
        check(&never, 20, Some("never enrolled, and its server is 20 min old"));
        check(&never, 180, Some("never enrolled, and its server is 3 h old"));
        check(&View { enrolled: true, ..View::default() }, 180, None);
        check(&View { last_seen: Timestamp::from_millis(1), ..View::default() }, 180, None);
    }
}
