//! What happens in one life, drawn from its seed.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use fleet_plan::{
    ResolvedPlan,
    resolved::{Opening, Service, Source, Traffic},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

/// Calls that take part in a life, by their names in the cloud.
const CHANGES: [&str; 17] = [
    "DEPLOY_NETWORK_DOMAIN",
    "DELETE_NETWORK_DOMAIN",
    "DEPLOY_VLAN",
    "DELETE_VLAN",
    "DEPLOY_SERVER",
    "START_SERVER",
    "POWER_OFF_SERVER",
    "DELETE_SERVER",
    "ADD_DISK",
    "ENABLE_SERVER_MONITORING",
    "ADD_PUBLIC_IP_BLOCK",
    "REMOVE_PUBLIC_IP_BLOCK",
    "CREATE_NAT_RULE",
    "DELETE_NAT_RULE",
    "CREATE_FIREWALL_RULE",
    "EDIT_FIREWALL_RULE",
    "DELETE_FIREWALL_RULE",
];
/// The same for calls that only look.
const READS: [&str; 8] = [
    "LIST_NETWORK_DOMAIN",
    "LIST_VLAN",
    "LIST_SERVER",
    "GET_SERVER",
    "GET_NETWORK_DOMAIN",
    "LIST_NAT_RULE",
    "LIST_PUBLIC_IP_BLOCK",
    "LIST_FIREWALL_RULE",
];
/// Codes a change may be refused with: trouble that passes, and refusals that are final.
const CODES: [&str; 5] =
    ["UNEXPECTED_ERROR", "RETRYABLE_SYSTEM_ERROR", "SYSTEM_ERROR", "RESOURCE_LOCKED", "OUT_OF_RESOURCES"];

/// Something that happens once this many changing calls were sent in a phase.
#[derive(Debug)]
pub struct Moment {
    pub after: u64,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    /// The cloud is told to go wrong in this way.
    Fault(Value),
    /// The cloud ends, orderly or not, and comes back.
    RestartCloud { kill: bool },
    /// The controller dies; a new one takes over.
    RestartController,
}

/// Up, changed, down: what happens in each.
pub type Phases = [Vec<Moment>; 3];

/// One life.
#[derive(Debug)]
pub struct Schedule {
    pub delay: Duration,
    pub plan: ResolvedPlan,
    pub changed: ResolvedPlan,
    pub phases: Phases,
}

impl Schedule {
    pub fn draw(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let whole = reference();
        let mut plan = whole.clone();
        while plan.locations.len() > 1 && rng.random_bool(0.6) {
            let gone = rng.random_range(0..plan.locations.len());
            plan.locations.remove(gone);
        }
        tidy(&mut plan);
        let mut changed = plan.clone();
        for _ in 0..rng.random_range(1..=3) {
            change(&mut changed, &whole, &mut rng);
        }
        tidy(&mut changed);
        let delay = Duration::from_millis(*[0, 0, 3, 12].choose(&mut rng).expect("there are some"));
        Self { delay, plan, changed, phases: phases(&mut rng) }
    }
}

/// What goes wrong in each phase.
pub fn phases(rng: &mut StdRng) -> Phases {
    std::array::from_fn(|_| {
        let mut moments: Vec<Moment> = (0..rng.random_range(0..=9)).map(|_| moment(rng)).collect();
        moments.sort_by_key(|moment| moment.after);
        moments
    })
}

fn moment(rng: &mut StdRng) -> Moment {
    let what = match rng.random_range(0..20) {
        0 => What::RestartCloud { kill: true },
        1 => What::RestartCloud { kill: false },
        2 | 3 => What::RestartController,
        _ => What::Fault(fault(rng)),
    };
    // Half of them from the start: phases of few calls would miss them otherwise.
    let after = if rng.random_bool(0.5) { 0 } else { rng.random_range(0..60) };
    Moment { after, what }
}

fn fault(rng: &mut StdRng) -> Value {
    let (changing, reading) = (*CHANGES.choose(rng).expect("some"), *READS.choose(rng).expect("some"));
    let change = if rng.random_bool(0.3) { "change" } else { changing };
    let any = match rng.random_range(0..4) {
        0 => "*",
        1 => reading,
        _ => change,
    };
    // One in ten does not pass: the run must say so and end.
    let count = if rng.random_bool(0.1) { 1000 } else { rng.random_range(1..=4) };
    match rng.random_range(0..8) {
        0 => json!({ "kind": "busy", "operation": change, "count": count }),
        1 => {
            let status = *[500, 502, 503].choose(rng).expect("some");
            json!({ "kind": "server_error", "status": status, "operation": any, "count": count })
        }
        2 => json!({ "kind": "reset", "operation": any, "count": count }),
        3 | 4 => json!({ "kind": "lost_answer", "operation": any, "count": count }),
        5 => {
            // Slow for ever is only slow.
            let millis = rng.random_range(1..=40);
            json!({ "kind": "slow", "millis": millis, "operation": any, "count": rng.random_range(1..=9) })
        }
        6 => json!({ "kind": "fail_deploy", "operation": "DEPLOY_SERVER", "count": count }),
        _ => {
            let code = *CODES.choose(rng).expect("some");
            json!({ "kind": "refuse", "code": code, "operation": change, "count": count })
        }
    }
}

/// The text of the plan that is published.
pub fn reference_text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/plans/rethinkdb.yaml");
    fs::read_to_string(path).expect("the published plan")
}

fn reference() -> ResolvedPlan {
    fleet_plan::load("rethinkdb.yaml", &reference_text(), &BTreeMap::new())
        .expect("the published plan is sound")
        .plan
}

/// Takes out what refers to something that is not there.
fn tidy(plan: &mut ResolvedPlan) {
    let there = plan.clone();
    for network in plan.locations.iter_mut().flat_map(|location| &mut location.networks) {
        network.accept.retain(|other| there.network(other).is_some());
        for opening in
            network.nodes.iter_mut().filter_map(|node| node.internet.as_mut()).flat_map(|i| &mut i.open)
        {
            // This operator is anywhere.
            if opening.from.contains(&Source::Operator) {
                opening.from = vec![Source::Any];
            }
        }
    }
}

/// One change an operator may make. Some need nothing of what is there, which is fine as well.
fn change(plan: &mut ResolvedPlan, whole: &ResolvedPlan, rng: &mut StdRng) {
    let place = rng.random_range(0..plan.locations.len());
    match rng.random_range(0..8) {
        0 if plan.locations.len() > 1 => drop(plan.locations.remove(place)),
        1 => {
            let absent = |id: &str| !plan.locations.iter().any(|location| location.id == id);
            if let Some(new) = whole.locations.iter().find(|location| absent(&location.id)) {
                plan.locations.push(new.clone());
            }
        }
        2 => {
            let networks = &mut plan.locations[place].networks;
            let network = rng.random_range(0..networks.len());
            let networks = &mut networks[network].nodes;
            if let Some(mut node) = networks.first().cloned() {
                let fresh = format!("{}x{}", node.name, networks.len());
                node.name = fresh.parse().expect("a name");
                networks.push(node);
            }
        }
        3 => drop(plan.locations[place].networks[0].nodes.pop()),
        kind => {
            let nodes = plan.locations[place].networks.iter_mut().flat_map(|network| &mut network.nodes);
            for node in nodes {
                match kind {
                    4 => node.disks.iter_mut().for_each(|disk| disk.size_gb += 5),
                    5 => node.internet = None,
                    6 => {
                        node.monitoring = *[None, Some(Service::Advanced)].choose(rng).expect("some");
                    }
                    _ => {
                        let opening =
                            |port| Opening { traffic: Traffic::Tcp(port, port), from: vec![Source::Any] };
                        if let Some(internet) = &mut node.internet {
                            internet.open = vec![opening(22), opening(rng.random_range(1000..2000))];
                        }
                    }
                }
            }
        }
    }
}
