//! The one door: preview, apply, release one, release all.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use fleet_model::{FleetName, NodeName};
use fleet_plan::ResolvedPlan;
use fleet_provider::{
    event::{Addresses, Event, Step, StepState, Verb},
    provider::{Outcome, Preview},
};
use fleet_store::Store;
use futures::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    access::Access,
    decide::{Decision, Wanted, decide, moving, releasing, step, taking},
    door::{Closed, DoorError, Entrance, open},
    held::{Held, HeldError, Ledger, Place},
    look::{Seen, Standing},
    mark::Mark,
    release::{Released, release},
};

/// Machines looked at, or worked on, at once.
const AT_ONCE: usize = 32;

/// A run could not begin, or not be concluded: running again continues.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// What is taken cannot be read or written.
    #[error(transparent)]
    Held(#[from] HeldError),
}

impl HostsError {
    /// What to try next.
    pub const fn hint(&self) -> &'static str {
        "see that the store's disk has room and can be written, then run again"
    }
}

/// One fleet's machines.
#[derive(Debug)]
pub struct Hosts {
    ledger: Ledger,
    fleet: FleetName,
    fleet_id: String,
    access: Access,
}

/// A machine that was looked at and may be taken, its door still open.
struct Fit {
    wanted: Wanted,
    entrance: Entrance,
    seen: Seen,
    standing: Standing,
}

/// What looking at all machines at once gave.
#[derive(Default)]
struct Looked {
    fit: Vec<Fit>,
    problems: Vec<(NodeName, String)>,
}

impl Hosts {
    /// The machines of `fleet`, whose marks carry `fleet_id`.
    pub fn new(store: Arc<dyn Store>, fleet: FleetName, fleet_id: String, access: Access) -> Self {
        Self { ledger: Ledger(store), fleet, fleet_id, access }
    }

    /// What [`Hosts::apply`] would do, after [`Hosts::release_node`] of each node in `replace`. Looks at machines that
    /// are to be taken, and touches nothing.
    ///
    /// # Errors
    /// [`HostsError`]: the store cannot be read.
    pub async fn preview(
        &self,
        plan: &ResolvedPlan,
        replace: &BTreeSet<NodeName>,
    ) -> Result<Preview, HostsError> {
        let decision = decide(plan, &self.ledger.all().await?, replace);
        let again = decision.again.iter().map(|(wanted, _)| wanted);
        let candidates = decision.take.iter().chain(again);
        let Looked { fit, problems } =
            self.look(candidates.cloned().collect(), plan, &decision, &CancellationToken::new()).await;
        let mut steps: Vec<Step> = decision.leave.iter().map(|(node, held)| releasing(node, held)).collect();
        for (wanted, held) in &decision.again {
            let detail = match held.place.is_at(&wanted.place) {
                true => format!("{}: released and taken anew, under another identity", wanted.place.host),
                false => format!("{} is released, {} taken", held.place.host, wanted.place.host),
            };
            steps.push(step(Verb::Replace, &wanted.node, &wanted.location, detail));
        }
        for Fit { wanted, entrance, seen, .. } in fit {
            entrance.close().await;
            if decision.take.contains(&wanted) {
                steps.push(taking(&wanted, format!("{}: {}", wanted.place.host, seen.os)));
            }
        }
        let replacements = decision.moved.iter().map(moving).collect();
        let is_held = |node: &NodeName| decision.again.iter().any(|(wanted, _)| wanted.node == *node);
        let unmakeable = problems.iter().filter(|(node, _)| is_held(node)).cloned().collect();
        let problems = problems.into_iter().map(|(_, problem)| problem).collect();
        Ok(Preview { steps, problems, replacements, unmakeable })
    }

    /// Takes the plan's machines and releases those that left it. What fails for one machine stops no other.
    ///
    /// # Errors
    /// [`HostsError`]: the store failed.
    ///
    /// # Cancel safety
    /// May be dropped at any time; the next run continues.
    pub async fn apply(
        &self,
        plan: &ResolvedPlan,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
    ) -> Result<Outcome, HostsError> {
        let decision = decide(plan, &self.ledger.all().await?, &BTreeSet::new());
        let mut outcome = Outcome::default();
        outcome.problems.extend(decision.moved.iter().map(|moved| {
            let step = moving(moved);
            format!("node `{}`: {}; `fleetctl up --replace {}` does that", step.name, step.detail, step.name)
        }));
        for (wanted, held) in &decision.keep {
            let addresses = addresses(&wanted.place, known_ipv4(&wanted.place, held).await);
            let now = Held {
                place: wanted.place.clone(),
                location: wanted.location.clone(),
                addresses: addresses.clone(),
                ..held.clone()
            };
            if now != *held {
                self.ledger.put(&wanted.node, &now).await?;
            }
            outcome.addresses.insert(wanted.node.clone(), addresses);
        }
        let leave = decision.leave.clone();
        self.release_all(leave, Verb::Release, true, events, stop, &mut outcome).await?;
        let looked = self.look(decision.take.clone(), plan, &decision, stop).await;
        outcome.problems.extend(looked.problems.into_iter().map(|(_, problem)| problem));
        for Fit { wanted, entrance, seen, standing } in looked.fit {
            if stop.is_cancelled() {
                outcome.stopped = true;
                break;
            }
            let step = taking(&wanted, format!("{}: {}", wanted.place.host, seen.os));
            tell(events, &step, StepState::Started).await;
            let ipv4 = match entrance.address().ip() {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            };
            let addresses = addresses(&wanted.place, ipv4);
            // Noted first: a machine that bears the mark is always one that is known.
            let held = Held {
                place: wanted.place.clone(),
                location: wanted.location.clone(),
                machine: seen.machine,
                addresses: addresses.clone(),
            };
            self.ledger.put(&wanted.node, &held).await?;
            if standing == Standing::Free {
                outcome.changing_calls += 1;
                if let Err(error) = entrance.put_mark(&self.mark(&wanted.node)).await {
                    let why = told(&wanted.node, &wanted.place, &error);
                    tell(events, &step, StepState::Failed(error.why)).await;
                    outcome.problems.push(why);
                    continue;
                }
            }
            entrance.close().await;
            tell(events, &step, StepState::Done).await;
            // The receiver outlives the run.
            let _ = events.send(Event::Provisioned(wanted.node.clone(), addresses.clone())).await;
            outcome.addresses.insert(wanted.node, addresses);
        }
        Ok(outcome)
    }

    /// Releases the machine of one node; fine if none is taken.
    ///
    /// # Errors
    /// [`HostsError`]: the store failed.
    pub async fn release_node(
        &self,
        node: &NodeName,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
    ) -> Result<Outcome, HostsError> {
        let mut outcome = Outcome::default();
        let held = self.ledger.all().await?.remove(node).map(|held| (node.clone(), held));
        // Whoever asks for another machine may do so because this one is gone.
        self.release_all(held.into_iter().collect(), Verb::Replace, true, events, stop, &mut outcome).await?;
        Ok(outcome)
    }

    /// Releases every machine, and says what is left there.
    ///
    /// # Errors
    /// [`HostsError`]: the store failed.
    pub async fn destroy(
        &self,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
    ) -> Result<Outcome, HostsError> {
        let mut outcome = Outcome::default();
        let all = self.ledger.all().await?.into_iter().collect();
        self.release_all(all, Verb::Release, false, events, stop, &mut outcome).await?;
        outcome.proof.insert(0, format!("hosts: {}", self.ledger.all().await?.len()));
        Ok(outcome)
    }

    /// Addresses of the plan's nodes whose machines are taken.
    ///
    /// # Errors
    /// [`HostsError`]: the store failed.
    pub async fn addresses(&self, plan: &ResolvedPlan) -> Result<BTreeMap<NodeName, Addresses>, HostsError> {
        let held = self.ledger.all().await?.into_iter().filter(|(node, _)| plan.node(node).is_some());
        Ok(held.map(|(node, held)| (node, held.addresses)).collect())
    }

    fn mark(&self, node: &NodeName) -> Mark {
        Mark::new(&self.fleet, &self.fleet_id, node)
    }

    /// Looks at machines, all at once, and says what is in the way of each that cannot be taken.
    async fn look(
        &self,
        candidates: Vec<Wanted>,
        plan: &ResolvedPlan,
        decision: &Decision,
        stop: &CancellationToken,
    ) -> Looked {
        // Machines of nodes that get another are free by then.
        let freed = |node: &NodeName| decision.again.iter().any(|(wanted, _)| wanted.node == *node);
        let nodes = plan.nodes().map(|placed| placed.node.name.clone());
        let nodes: BTreeSet<NodeName> = nodes.filter(|node| !freed(node)).collect();
        let one = |wanted: Wanted| {
            let nodes = &nodes;
            async move {
                let mark = self.mark(&wanted.node);
                let looking = async {
                    let entrance = open(&wanted.place, &self.access).await?;
                    let (seen, standing) = entrance.judge(&mark, nodes).await?;
                    Ok::<_, DoorError>((entrance, seen, standing))
                };
                // Cancel safe: looking touches nothing.
                let found = tokio::select! {
                    () = stop.cancelled() => return None,
                    found = looking => found,
                };
                Some(match found {
                    Ok((entrance, seen, standing)) => Ok(Fit { wanted, entrance, seen, standing }),
                    Err(error) => Err((wanted.node.clone(), told(&wanted.node, &wanted.place, &error))),
                })
            }
        };
        // In the order of the plan, whoever answers first.
        let all: Vec<_> = stream::iter(candidates.into_iter().map(one)).buffered(AT_ONCE).collect().await;
        let mut looked = Looked::default();
        let mut machines: BTreeMap<String, NodeName> = BTreeMap::new();
        for (wanted, held) in &decision.keep {
            machines.insert(held.machine.clone(), wanted.node.clone());
        }
        for found in all.into_iter().flatten() {
            match found {
                Err(problem) => looked.problems.push(problem),
                Ok(fit) => {
                    let twin = machines.get(&fit.seen.machine).filter(|_| !fit.seen.machine.is_empty());
                    if let Some(twin) = twin {
                        let why = DoorError::shut(format!(
                            "it has the machine id of node `{twin}`: it is the same machine under another address, or \
                             a copy of it; a copy gets its own by `rm /etc/machine-id && systemd-machine-id-setup`, \
                             and a restart"
                        ));
                        let problem = told(&fit.wanted.node, &fit.wanted.place, &why);
                        looked.problems.push((fit.wanted.node, problem));
                        continue;
                    }
                    machines.insert(fit.seen.machine.clone(), fit.wanted.node.clone());
                    looked.fit.push(fit);
                }
            }
        }
        looked
    }

    /// Releases machines, several at once. One that does not answer is let go if `gone_is_fine`: nobody with its identity
    /// is let in any more. One that shows another key, or broke off while it was released, is not.
    async fn release_all(
        &self,
        machines: Vec<(NodeName, Held)>,
        verb: Verb,
        gone_is_fine: bool,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
        outcome: &mut Outcome,
    ) -> Result<(), HostsError> {
        let one = |(node, held): (NodeName, Held)| async move {
            if stop.is_cancelled() {
                return None;
            }
            let step = Step { verb, ..releasing(&node, &held) };
            tell(events, &step, StepState::Started).await;
            let done = self.release_one(&node, &held).await;
            let done = match done {
                Err(error) if gone_is_fine && error.kind == Closed::Away => {
                    let note = format!("let go unseen, the agent may still be there: {}", error.why);
                    tell(events, &step, StepState::Waiting(note)).await;
                    Ok(Released::Unseen(error.why))
                }
                done => done,
            };
            let state = match &done {
                Ok(_) => StepState::Done,
                Err(error) => StepState::Failed(error.why.clone()),
            };
            tell(events, &step, state).await;
            Some((node, held, done))
        };
        let mut releasing = stream::iter(machines.into_iter().map(one)).buffered(AT_ONCE);
        while let Some(released) = releasing.next().await {
            let Some((node, held, done)) = released else {
                outcome.stopped = true;
                continue;
            };
            match done {
                Ok(released) => {
                    outcome.changing_calls += 1;
                    self.ledger.remove(&node).await?;
                    outcome.proof.push(proof(&node, &held, &released));
                }
                Err(error) => {
                    let mut why = told(&node, &held.place, &error);
                    match error.kind {
                        Closed::Away => why.push_str(
                            "; if it is gone for good, take the node out of the plan, `fleetctl up`, and go on from there",
                        ),
                        Closed::Stranger => why.push_str(
                            "; if it was made anew, have its node in the plan with the new `hostKey`, `fleetctl up`, and \
                             then release it",
                        ),
                        Closed::Broken => why.push_str("; run it again"),
                        Closed::Shut => {}
                    }
                    outcome.problems.push(why);
                }
            }
        }
        Ok(())
    }

    async fn release_one(&self, node: &NodeName, held: &Held) -> Result<Released, DoorError> {
        let entrance = open(&held.place, &self.access).await?;
        let released = release(&entrance, &self.mark(node)).await;
        entrance.close().await;
        released
    }
}

async fn tell(events: &mpsc::Sender<Event>, step: &Step, state: StepState) {
    // Nobody listening is fine.
    let _ = events.send(Event::Step(step.clone(), state)).await;
}

/// A problem with one machine, in one line.
fn told(node: &NodeName, place: &Place, error: &DoorError) -> String {
    format!("node `{node}` ({}): {}", place.host, error.why)
}

fn proof(node: &NodeName, held: &Held, released: &Released) -> String {
    let place = &held.place.host;
    match released {
        Released::Before => format!("{node} ({place}): was not this fleet's any more, left alone"),
        Released::Unseen(why) => format!(
            "{node} ({place}): let go unseen ({why}); if it still runs, so do the agent and whatever it started, with an \
             identity that is let in nowhere: there, `systemctl disable --now fleet-agent fleet-todo rethinkdb@fleet`, \
             and remove /etc/fleet-agent, /var/lib/fleet-agent and /usr/local/lib/fleet"
        ),
        Released::Now(left) => {
            let mut line = format!(
                "{node} ({place}): no agent, unit, key or state of it; left: what the plan's tasks installed and wrote"
            );
            for what in left {
                line.push_str(", ");
                line.push_str(what);
            }
            line
        }
    }
}

/// A node's addresses: those of the plan, and the one by which it was reached if the plan has a name.
fn addresses(place: &Place, reached: Option<std::net::Ipv4Addr>) -> Addresses {
    let public_ipv4 = match place.host.ip() {
        Some(IpAddr::V4(address)) => Some(address),
        Some(IpAddr::V6(_)) => None,
        None => reached,
    };
    Addresses { public_ipv4, private_ipv4: place.host.private, ipv6: place.host.ipv6 }
}

/// The address behind a name, or the last one known.
async fn known_ipv4(place: &Place, held: &Held) -> Option<std::net::Ipv4Addr> {
    if place.host.ip().is_some() {
        return None;
    }
    let looking = tokio::net::lookup_host((place.host.address.as_str(), place.host.port));
    let found = tokio::time::timeout(std::time::Duration::from_secs(5), looking).await;
    let found =
        found.ok().and_then(Result::ok).into_iter().flatten().find_map(|address| match address.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
    found.or(held.addresses.public_ipv4)
}
