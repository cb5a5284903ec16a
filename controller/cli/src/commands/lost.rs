//! `down` for a fleet whose state is lost: its mark in the cloud is all there is to go by.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use fleet_model::{FleetName, SystemClock, chain};
use fleet_plan::resolved::Cloud;
use fleet_proto::v1::{Finished, Progress, StepProgress, StepState, progress::What};
use fleet_provider::{
    Provider,
    event::{Event, StepState as Reached},
    mark::Marked,
    orphans::Orphan,
    provider::strays,
    vault::LostVault,
};
use fleet_store::MemoryStore;
use tokio::sync::mpsc;

use super::{
    orphans::clouds,
    serve,
    up::{confirm, confirm_or},
};
use crate::{
    args::Endpoint,
    failure::{Exit, Failure},
    home::Home,
    progress::Screen,
};

/// Progress that may wait to be shown.
const EVENTS: usize = 256;

/// What is asked for.
pub struct Search<'a> {
    /// The fleet's name; `None` takes the only one there is.
    pub fleet: Option<&'a FleetName>,
    /// The id in its mark, for when several fleets had that name.
    pub id: Option<&'a str>,
    /// Which cloud, if none is noted here.
    pub endpoint: &'a Endpoint,
}

/// A fleet as its marks tell of it.
pub struct Lost {
    /// Its name and id.
    pub mark: Marked,
    cloud: Cloud,
    items: Vec<Orphan>,
}

/// Fleets that answer to `search` in the clouds of this home.
pub async fn find(home: &Home, search: &Search<'_>) -> Result<Vec<Lost>, Failure> {
    let mut lost: Vec<Lost> = Vec::new();
    for cloud in clouds(home, search.endpoint)? {
        let client = serve::client(home, &cloud)?;
        let mut by_mark: BTreeMap<Marked, Vec<Orphan>> = BTreeMap::new();
        let found = strays(&client).await.map_err(|error| {
            Failure::new(Exit::Unreachable, format!("look at the cloud: {}", chain(&error)))
                .hint(error.hint())
        })?;
        for orphan in found {
            if let Some(mark) = orphan.mark.clone() {
                by_mark.entry(mark).or_default().push(orphan);
            }
        }
        lost.extend(by_mark.into_iter().map(|(mark, items)| Lost { mark, cloud: cloud.clone(), items }));
    }
    lost.retain(|lost| {
        search.fleet.is_none_or(|fleet| fleet.as_str() == lost.mark.fleet)
            && search.id.is_none_or(|id| id == lost.mark.id)
    });
    Ok(lost)
}

/// The one that is meant, or which there are.
pub fn choose(mut lost: Vec<Lost>) -> Result<Option<Lost>, Failure> {
    if lost.len() > 1 {
        let list: String = lost.iter().map(|lost| format!("\n  {}", lost.describe())).collect();
        return Err(Failure::new(Exit::Input, format!("several fleets' marks are in the cloud:{list}"))
            .hint("say which with --fleet NAME --id ID; fleets of others are among them, perhaps"));
    }
    Ok(lost.pop())
}

impl Lost {
    /// What bears the mark, in one line.
    fn describe(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for item in &self.items {
            *counts.entry(item.kind).or_default() += 1;
        }
        let what: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
        let oldest = self.items.iter().filter_map(|item| item.created).min();
        let since = oldest.map(|at| format!(", the oldest of {at}")).unwrap_or_default();
        format!("fleet `{}`, id {}: {}{since}", self.mark.fleet, self.mark.id, what.join(", "))
    }

    /// Whether somebody else may have a fleet of this name there: a name alone is then no reason to remove anything.
    pub fn may_be_others(&self) -> bool {
        self.cloud != Cloud::Local
    }

    /// Asks whether it may go.
    pub fn confirm(&self, home: &Home) -> Result<(), Failure> {
        let what = format!(
            "Nothing in {} knows this fleet any more; the cloud has its marks:\n  {}\nAll of that is stopped and \
                 deleted.",
            home.dir().display(),
            self.describe()
        );
        match self.may_be_others() {
            false => confirm(&what),
            true => confirm_or(
                &what,
                &format!(
                    "somebody else may have a fleet of that name: `--id {}` if it is yours",
                    self.mark.id
                ),
            ),
        }
    }

    /// Removes all of it, and proves that.
    pub async fn down(&self, home: &Home, screen: &mut Screen) -> Result<Finished, Failure> {
        let started = Instant::now();
        let stop = serve::stop_signal()?;
        let fleet: FleetName = self.mark.fleet.parse().map_err(|why| {
            Failure::new(Exit::Input, format!("the mark names no fleet of ours: {why}"))
                .hint("remove what bears it at the cloud")
        })?;
        let (clock, store) = (Arc::new(SystemClock), Arc::new(MemoryStore::new(Arc::new(SystemClock))));
        let client = serve::client(home, &self.cloud)?;
        let provider = Provider::new(client, store, Arc::new(LostVault), fleet, self.mark.id.clone(), clock);
        let (sender, mut events) = mpsc::channel(EVENTS);
        let destroying = async {
            // Takes the sender along, so that the events end with it.
            let sender = sender;
            provider.destroy(&sender, &stop).await
        };
        let showing = async {
            while let Some(event) = events.recv().await {
                if let Some(progress) = progress(event) {
                    screen.show(&progress);
                }
            }
        };
        let (outcome, ()) = tokio::join!(destroying, showing);
        screen.end();
        let outcome =
            outcome.map_err(|error| Failure::new(Exit::Failed, chain(&error)).hint(error.hint()))?;
        if outcome.stopped {
            return Err(Failure::new(Exit::Interrupted, "stopped half-way")
                .hint("the same command goes on from here"));
        }
        Ok(Finished {
            ok: outcome.problems.is_empty(),
            changing_calls: outcome.changing_calls,
            problems: outcome.problems,
            proof: outcome.proof,
            took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            ..Finished::default()
        })
    }
}

fn progress(event: Event) -> Option<Progress> {
    let Event::Step(step, reached) = event else { return None };
    let (state, detail) = match reached {
        Reached::Started => (StepState::Started, step.detail),
        Reached::Waiting(why) => (StepState::Waiting, why),
        Reached::Done => (StepState::Done, step.detail),
        Reached::Failed(why) => (StepState::Failed, why),
    };
    let step = StepProgress {
        kind: step.kind.to_owned(),
        name: step.name,
        location: step.location,
        verb: fleet_controller::reconcile::progress::verb(step.verb).into(),
        state: state.into(),
        detail,
    };
    Some(Progress { at_ms: 0, what: Some(What::Step(step)) })
}
