//! Status: built afresh from what is in memory.

use fleet_model::{FleetName, NodeName};
use fleet_plan::resolved::Placed;
use fleet_proto::v1;

use crate::{
    reconcile::board::{Board, health, node_state},
    session::stream::Desk,
};

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

fn node_status(
    placed: &Placed<'_>,
    board: &Board,
    desk: &Desk,
    now: fleet_model::Timestamp,
) -> v1::NodeStatus {
    let name = &placed.node.name;
    let view = desk.registry.view(name, now);
    let addresses = board.addresses(name);
    let (state, detail) = node_state(&view, board.stage(name).as_ref(), addresses.is_some());
    let health = health(&view, state);
    let addresses = addresses.unwrap_or_default();
    let text = |address: Option<String>| address.unwrap_or_default();
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
        login: placed.node.login().unwrap_or_default().to_owned(),
    }
}
