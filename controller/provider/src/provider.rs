//! The one door: preview, apply, destroy, and destroy one node's server.

mod decide;
mod makeable;
mod replace;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fleet_mcp::McpError;
use fleet_model::{Clock, FleetName, NodeName, Timestamp};
use fleet_plan::ResolvedPlan;
use fleet_store::Store;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    cloud::Cloud,
    diff::{Diff, leavers},
    event::{Addresses, Event, Step},
    execute::{Finished, Pace, Run, execute},
    graph::{Key, resources},
    images::Images,
    journal::{Index, Journal, JournalError},
    mark::{Mark, Owner, is_our_rule},
    moment,
    observe::{observe, observe_fleets, observe_known},
    orphans::{Claims, Orphan, orphans},
    restart::{Granted, Leave},
    settled::Settled,
    vault::{Vault, VaultError},
    view::View,
};

pub use decide::Preview;
use decide::decide;

/// How a run ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Changing calls sent to the API.
    pub changing_calls: u64,
    /// Addresses of every node whose server is settled.
    pub addresses: BTreeMap<NodeName, Addresses>,
    /// One line each, cause and next step; empty means everything is as planned.
    pub problems: Vec<String>,
    /// After [`Provider::destroy`]: what the API listed afterwards, one line a kind (`servers: 0`).
    pub proof: Vec<String>,
    /// The run was told to stop before its end.
    pub stopped: bool,
}

/// A run could not begin, or not be concluded. What had begun is in the journal; running again continues.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The cloud could not be looked at; nothing was changed.
    #[error("look at what the cloud holds")]
    Observe(#[source] McpError),
    /// The journal could not be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The vault could not be read or written.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl ProviderError {
    /// What to try next, in one sentence.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Observe(error) => error.hint(),
            Self::Journal(_) | Self::Vault(_) => {
                "see that the store's disk has room and can be written, then run again"
            }
        }
    }
}

/// Brings one fleet's cloud resources to what a plan says.
///
/// # Cancel safety
/// Every method may be dropped at any time: the next run looks, and continues where the cloud is.
pub struct Provider {
    cloud: Arc<dyn Cloud>,
    journal: Journal,
    vault: Arc<dyn Vault>,
    mark: Mark,
    pace: Pace,
    images: Arc<Images>,
    leave: Arc<dyn Leave>,
}

impl Provider {
    /// The provider of `fleet`, whose resources are marked with `fleet_id`.
    pub fn new(
        cloud: Arc<dyn Cloud>,
        store: Arc<dyn Store>,
        vault: Arc<dyn Vault>,
        fleet: FleetName,
        fleet_id: String,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (journal, mark) = (Journal::new(store, clock), Mark::new(fleet, fleet_id));
        let (pace, images, leave) = (Pace::default(), Arc::default(), Arc::new(Granted));
        Self { cloud, journal, vault, mark, pace, images, leave }
    }

    /// The same with another patience.
    #[must_use]
    pub fn with_pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// The same with images of this cloud that others have listed, or will.
    #[must_use]
    pub fn with_images(mut self, images: Arc<Images>) -> Self {
        self.images = images;
        self
    }

    /// The same that asks before a member of a database is restarted.
    #[must_use]
    pub fn with_leave(mut self, leave: Arc<dyn Leave>) -> Self {
        self.leave = leave;
        self
    }

    /// What [`Provider::apply`] would do, after [`Provider::destroy_node`] of each node in `replace`. Changes nothing,
    /// neither in the cloud nor in the store.
    ///
    /// # Errors
    /// The cloud or the journal cannot be read.
    pub async fn preview(
        &self,
        plan: &ResolvedPlan,
        replace: &BTreeSet<NodeName>,
    ) -> Result<Preview, ProviderError> {
        let (view, index) = self.look().await?;
        let settled = self.journal.settled().await?;
        let decision = decide(plan, &view, &self.mark, (&index, &settled), replace);
        let misfits = makeable::misfits(&self.cloud, &self.images, &decision.then.works).await;
        let misfits = misfits.map_err(ProviderError::Observe)?;
        let unmakeable = makeable::of(plan, replace, &decision.then, &misfits);
        let mut preview = decision.preview(&self.mark);
        preview.problems.extend(misfits.into_values());
        Ok(Preview { unmakeable, ..preview })
    }

    /// Makes the cloud what `plan` says. Steps that fail are in the outcome's problems; they stop what needs them
    /// and nothing else. Once `stop` is cancelled, steps in hand are finished and no more begun.
    ///
    /// # Errors
    /// The cloud cannot be looked at, or the journal fails, before anything was changed.
    pub async fn apply(
        &self,
        plan: &ResolvedPlan,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
    ) -> Result<Outcome, ProviderError> {
        let (view, mut index) = self.look().await?;
        self.journal.reconcile(&view, &self.mark, &mut index).await?;
        let planned = plan.nodes().map(|placed| placed.node.name.clone());
        self.vault.keep(&planned.chain(our_servers(&view, &self.mark)).collect()).await?;
        let before = self.journal.settled().await?;
        let Diff { works, mut problems, replacements, open } =
            decide(plan, &view, &self.mark, (&index, &before), &BTreeSet::new()).then;
        problems.extend(replacements.iter().map(unconsented));
        let resources = resources(plan);
        // What is about to change is as nobody has left it, until the run has ended.
        let mut settled = before.clone();
        let changing: BTreeSet<&Key> = works.iter().map(|work| &work.key).collect();
        let changed = resources.iter().filter(|resource| changing.contains(&resource.key));
        changed.for_each(|resource| settled.forget(resource));
        if settled != before {
            self.journal.settle(&settled).await?;
        }
        let run = self.run(events, stop, view);
        let finished = execute(&run, works, stop).await;
        if finished.failed.is_empty() && finished.undone == 0 {
            let mut now = Settled::default();
            for resource in &resources {
                // What is not as wanted yet stays known as it was: the next run has to see that it differs.
                match open.contains(&resource.key) {
                    true => now.keep(resource, &settled),
                    false => now.put(resource),
                }
            }
            if now != settled {
                self.journal.settle(&now).await?;
            }
        }
        let mut outcome = conclude(&run, problems, finished, stop);
        outcome.addresses = addresses(plan, &run.view(), &self.mark);
        Ok(outcome)
    }

    /// Removes everything that bears the fleet's mark, then asks the API again and fills in the proof. Needs no
    /// plan and no journal.
    ///
    /// # Errors
    /// The cloud cannot be looked at, or the journal fails.
    pub async fn destroy(
        &self,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
    ) -> Result<Outcome, ProviderError> {
        let (view, mut index) = self.look().await?;
        self.journal.reconcile(&view, &self.mark, &mut index).await?;
        let mut works = leavers(None, &view, &self.mark, &index);
        let keys: std::collections::BTreeSet<_> = works.iter().map(|work| work.key.clone()).collect();
        works.iter_mut().for_each(|work| work.needs.retain(|need| keys.contains(need)));
        let run = self.run(events, stop, view);
        let finished = execute(&run, works, stop).await;
        let mut outcome = conclude(&run, Vec::new(), finished, stop);
        // The journal is forgotten only once nothing that it knows of is there.
        let index = self.journal.index().await?;
        let left = observe_known(&self.cloud, &self.mark, &index).await.map_err(ProviderError::Observe)?;
        let (proof, problems) = proof(&left, &self.mark, &index);
        let clean = problems.is_empty();
        outcome.proof = proof;
        // A run that was stopped has left things, and that is no news.
        if !outcome.stopped {
            outcome.problems.extend(problems);
        }
        if clean {
            self.vault.keep(&BTreeSet::new()).await?;
            self.journal.clear().await?;
        }
        Ok(outcome)
    }

    /// Addresses of the plan's nodes, as the cloud shows them now; nodes without a server are left out.
    ///
    /// # Errors
    /// The cloud cannot be looked at.
    pub async fn addresses(
        &self,
        plan: &ResolvedPlan,
    ) -> Result<BTreeMap<NodeName, Addresses>, ProviderError> {
        let (view, _) = self.look().await?;
        Ok(addresses(plan, &view, &self.mark))
    }

    /// The cloud's clock, to the second; `None` if it does not say.
    ///
    /// # Errors
    /// The cloud cannot be asked.
    pub async fn time(&self) -> Result<Option<Timestamp>, ProviderError> {
        let date = self.cloud.date().await.map_err(ProviderError::Observe)?;
        Ok(date.as_deref().and_then(moment::date))
    }

    /// What in the cloud nobody answers for, as far as this fleet with this plan knows.
    ///
    /// # Errors
    /// The cloud or the journal cannot be read.
    pub async fn orphans(&self, plan: Option<&ResolvedPlan>) -> Result<Vec<Orphan>, ProviderError> {
        let mut view = observe_fleets(&self.cloud).await.map_err(ProviderError::Observe)?;
        let images = self.cloud.customer_images().await.map_err(ProviderError::Observe)?;
        let index = self.journal.index().await?;
        view.know(&index);
        let resources = plan.map(resources).unwrap_or_default();
        let claims = Claims { mark: &self.mark, resources: &resources, index: &index };
        Ok(orphans(&view, &images, Some(&claims)))
    }

    async fn look(&self) -> Result<(View, Index), ProviderError> {
        let mut view = observe(&self.cloud, &self.mark).await.map_err(ProviderError::Observe)?;
        let index = self.journal.index().await?;
        // Lists may lag behind: what was just made would be made again.
        let unlisted =
            index.ids("server").filter(|id| !view.domains.values().any(|held| held.servers.contains_key(id)));
        for id in unlisted.collect::<Vec<_>>() {
            if let Some(server) = self.cloud.server(&id).await.map_err(ProviderError::Observe)? {
                view.put_server(server);
            }
        }
        view.know(&index);
        Ok((view, index))
    }

    fn run(&self, events: &mpsc::Sender<Event>, stop: &CancellationToken, view: View) -> Arc<Run> {
        Arc::new(Run::new(
            Arc::clone(&self.cloud),
            self.journal.clone(),
            Arc::clone(&self.vault),
            self.mark.clone(),
            (self.pace, Arc::clone(&self.images), Arc::clone(&self.leave)),
            (events.clone(), stop.clone()),
            view,
        ))
    }
}

/// What in the cloud bears any fleet's mark, or is in the way of it, for whoever knows no fleet.
///
/// # Errors
/// The cloud cannot be read.
pub async fn strays(cloud: &Arc<dyn Cloud>) -> Result<Vec<Orphan>, McpError> {
    let view = observe_fleets(cloud).await?;
    let images = cloud.customer_images().await?;
    Ok(orphans(&view, &images, None))
}

/// A replacement nobody agreed to is a problem: cause and next step.
fn unconsented(step: &Step) -> String {
    format!(
        "server `{}` in {} has to be made anew: {}; `fleetctl up --replace {}` does that, and what is on its disks is lost",
        step.name, step.location, step.detail, step.name
    )
}

fn conclude(run: &Run, mut problems: Vec<String>, finished: Finished, stop: &CancellationToken) -> Outcome {
    problems.extend(
        finished
            .failed
            .into_iter()
            .map(|(step, why)| format!("{} `{}` in {}: {why}", step.kind, step.name, step.location)),
    );
    // Stopped only if something was left because of it; what needs a failed step is left because of that.
    let stopped = stop.is_cancelled() && finished.undone > 0;
    Outcome { changing_calls: run.changing_calls(), problems, stopped, ..Outcome::default() }
}

fn addresses(plan: &ResolvedPlan, view: &View, mark: &Mark) -> BTreeMap<NodeName, Addresses> {
    let settled = plan.nodes().filter_map(|placed| {
        let held = view.our_domain(mark, &placed.location.id, &placed.location.domain.name)?;
        let server = held.server(mark, placed.node.name.as_str())?;
        let sound = mark.is_ours(server.description.as_deref()) && server.state.is_normal();
        sound.then(|| (placed.node.name.clone(), held.addresses(server)))
    });
    settled.collect()
}

/// Names of our servers.
fn our_servers(view: &View, mark: &Mark) -> impl Iterator<Item = NodeName> {
    let servers = view.domains.values().flat_map(|held| held.servers.values());
    let ours = servers.filter(|server| mark.is_ours(server.description.as_deref()));
    ours.filter_map(|server| server.name.parse().ok())
}

/// Kinds of what can be left, with what the journal calls those it knows.
const KINDS: [(&str, &str); 7] = [
    ("servers", "server"),
    ("nat rules", "nat"),
    ("firewall rules", ""),
    ("address lists", "list"),
    ("public ip blocks", "block"),
    ("vlans", "vlan"),
    ("network domains", "domain"),
];

/// What is left of the fleet: by its mark, and by what the journal knows where the mark was taken away. What bears another
/// fleet's mark was given to that one.
fn proof(view: &View, mark: &Mark, index: &Index) -> (Vec<String>, Vec<String>) {
    let (mut left, mut unmarked) = (vec![Vec::new(); KINDS.len()], vec![Vec::new(); KINDS.len()]);
    for held in view.domains.values() {
        let domain = &held.domain;
        let around = mark.owner(domain.description.as_deref());
        let mut add = |kind: usize, id: &str, name: &str, owner: Owner| match owner {
            Owner::Ours => left[kind].push(format!("{name} in {}", domain.datacenter_id)),
            Owner::Nobody if index.holds(KINDS[kind].1, id) => {
                unmarked[kind].push(format!("{name} in {} ({id})", domain.datacenter_id));
            }
            Owner::Nobody | Owner::Fleet(_) => {}
        };
        let own = |description: &Option<String>| mark.owner(description.as_deref());
        held.servers.values().for_each(|s| add(0, s.id.as_str(), &s.name, own(&s.description)));
        held.nats
            .values()
            .for_each(|nat| add(1, nat.id.as_str(), &nat.external_ip.to_string(), around.clone()));
        let rules = held.rules.values().filter(|rule| is_our_rule(&rule.name));
        rules.for_each(|rule| add(2, rule.id.as_str(), &rule.name, around.clone()));
        held.lists.values().for_each(|l| add(3, l.id.as_str(), &l.name, own(&l.description)));
        held.blocks
            .values()
            .for_each(|block| add(4, block.id.as_str(), &block.base_ip.to_string(), around.clone()));
        held.vlans.values().for_each(|v| add(5, v.id.as_str(), &v.name, own(&v.description)));
        add(6, domain.id.as_str(), &domain.name, around.clone());
    }
    let lines = KINDS.iter().zip(left.iter().zip(&unmarked));
    let lines = lines.map(|((kind, _), (left, unmarked))| format!("{kind}: {}", left.len() + unmarked.len()));
    let named = |all: &[Vec<String>], rest: &str| -> Vec<String> {
        let there = KINDS.iter().zip(all).filter(|(_, names)| !names.is_empty());
        there.map(|((kind, _), names)| format!("{kind} left: {}; {rest}", names.join(", "))).collect()
    };
    let mut problems = named(&left, "see what uses them at the cloud, and run again");
    problems.extend(named(
        &unmarked,
        &format!(
            "made by this fleet, whose mark somebody took away there or from the network domain: give it the description \
             `{}` again, or delete it at the cloud, and run again",
            mark.describe("")
        ),
    ));
    (lines.collect(), problems)
}
