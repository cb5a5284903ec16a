//! What operators have done: starting, halting, going back, stopping the line.

use std::{collections::BTreeMap, path::Path};

use fleet_model::NodeName;
use fleet_rollout::{
    Effect, Event, Finish, Outcome, Phase, Policy, Rollout, Spec, Standing, State, Target, advance,
    state::Node,
};

use super::{
    archive::{Head, Kept, LineRecord, Told},
    catalogue::Offerable,
    core::{Core, superseded},
    leave,
    members::{Members, beside},
    note::{self, Note},
    plans,
    trouble::Trouble,
    zones,
};
use crate::reconcile::board::Change;

/// Fewest digits by which a release may be named.
const DIGITS: usize = 6;
/// How often a number for a new rollout is drawn while others are quicker.
const TRIES: u32 = 3;

/// A rollout that is drawn and not stored.
#[derive(Debug)]
pub struct Drawn {
    pub(super) rollout: Rollout,
    /// What people call what it brings.
    pub(super) version: String,
    pub(super) previous_version: String,
    pub(super) warnings: Vec<String>,
}

impl Core {
    /// Draws a rollout over everybody.
    ///
    /// # Errors
    /// [`Trouble`]: everything that is wrong with it.
    pub(super) async fn draw(&mut self, named: &str, policy: &str) -> Result<Drawn, Trouble> {
        self.lead().await?;
        let now = self.now();
        let release = self.find(named)?;
        if let Some(why) = &release.refused {
            return Err(Trouble::request(
                format!("no node would take release {}: {why}", release.version),
                "publish a release that they take: `fleetctl release`",
            ));
        }
        let policy = read_policy(policy)?;
        known_zones(&policy, now)?;
        let Members { members, spare } = self.floor.members().await?;
        leave::all_have_it(&*self.floor, &release, &members)?;
        let (previous, previous_version) =
            self.before(&release.release, members.iter().map(|member| &member.node));
        let spec = Spec {
            id: String::new(),
            target: Target::Release(release.release.clone()),
            previous: previous.map(Target::Release),
            policy,
            spare,
        };
        let mut rollout = Rollout::draft(spec, members, now).map_err(Trouble::Problems)?;
        rollout.order = self.last_order();
        let mut warnings = release.warnings.clone();
        for (node, reason) in self.archive.bad(&release.release).await? {
            warnings.push(format!("release {} was bad on {node} before: {reason}", release.version));
        }
        if rollout.spec.previous.is_none() {
            warnings.push("what the nodes run now is not known, so this cannot be undone".to_owned());
        }
        Ok(Drawn { rollout, version: release.version, previous_version, warnings })
    }

    /// Draws a rollout of what a plan changes; none if it changes nothing of what members do.
    ///
    /// # Errors
    /// [`Trouble`]: everything that is wrong with it.
    pub async fn draw_plan(&mut self, change: &Change) -> Result<Option<Drawn>, Trouble> {
        self.lead().await?;
        let now = self.now();
        let Members { members, spare } = self.floor.members().await?;
        let members = plans::taking_part(members, change, None);
        if members.is_empty() {
            return Ok(None);
        }
        let policy = plans::policy(change, &members);
        known_zones(&policy, now)?;
        let (target, previous) = plans::targets(change);
        let spec = Spec { id: String::new(), target, previous: Some(previous), policy, spare };
        let mut rollout = Rollout::draft(spec, members, now).map_err(Trouble::Problems)?;
        rollout.order = self.last_order();
        let file = &change.given.record.file;
        let version = file.rsplit('/').next().unwrap_or(file).to_owned();
        Ok(Some(Drawn { rollout, version, previous_version: String::new(), warnings: Vec::new() }))
    }

    /// What rollouts still need a release for, if they do.
    ///
    /// # Errors
    /// [`Trouble`] if the store failed.
    pub async fn need_of(&mut self, release: &str) -> Result<Option<String>, Trouble> {
        let stored = self.stored().await?;
        let newest = stored.newest_of(false).filter(|(_, kept)| !superseded(&kept.rollout));
        let Some((id, Kept { rollout, .. })) = newest else { return Ok(None) };
        let Spec { target, previous, .. } = &rollout.spec;
        let is = |target: &Target| target.digest() == release;
        let over = rollout.standing() == Standing::Finished;
        Ok(if is(rollout.target()) {
            Some(format!("rollout {id} brings it to the nodes, those that come back included"))
        } else if !over && is(target) {
            Some(format!("rollout {id} of it is not over"))
        } else if !over && previous.as_ref().is_some_and(is) {
            Some(format!("rollout {id} goes back to it when it is undone"))
        } else {
            None
        })
    }

    /// Numbers of orders rise over all rollouts.
    fn last_order(&self) -> u64 {
        let all = self.state().into_iter().flat_map(|state| state.rollouts.values());
        all.map(|kept| kept.rollout.order).max().unwrap_or(0)
    }

    /// A release by its version or the first digits of what it is known by.
    fn find(&self, named: &str) -> Result<Offerable, Trouble> {
        let all = self.catalogue.list();
        let known = || {
            let versions: Vec<&str> = all.iter().map(|release| release.version.as_str()).collect();
            match versions.as_slice() {
                [] => "there is none: `fleetctl release create` and `publish` bring one".to_owned(),
                versions => format!("there are {}; `fleetctl release list` tells more", versions.join(", ")),
            }
        };
        let mut found = all.iter().filter(|release| {
            release.version == named || (named.len() >= DIGITS && release.release.starts_with(named))
        });
        match (found.next(), found.next()) {
            (Some(release), None) => Ok(release.clone()),
            (None, _) => {
                Err(Trouble::request(format!("no release `{}` is kept here", short(named)), known()))
            }
            (Some(_), Some(_)) => Err(Trouble::request(
                format!("`{}` names several releases", short(named)),
                "give more digits",
            )),
        }
    }

    /// What most of these nodes run that is not `release`, and its version; failing that, what they were brought last.
    fn before<'a>(
        &self,
        release: &str,
        nodes: impl Iterator<Item = &'a NodeName>,
    ) -> (Option<String>, String) {
        let mut running: BTreeMap<String, (usize, String)> = BTreeMap::new();
        for standing in nodes.filter_map(|node| self.floor.standing(node)) {
            if standing.running_sha256 != release && !standing.running_sha256.is_empty() {
                let entry = running.entry(standing.running_sha256.clone()).or_default();
                entry.0 += 1;
                entry.1.clone_from(&standing.running_version);
            }
        }
        let most = running.into_iter().max_by_key(|(_, (count, _))| *count);
        if let Some((digest, (_, version))) = most {
            return (Some(digest), version);
        }
        let last = self.newest_release().filter(|kept| {
            kept.rollout.phase == Phase::Finished { finish: Finish::Done }
                && kept.rollout.spec.target.digest() != release
        });
        match last {
            Some(kept) => (Some(kept.rollout.spec.target.digest().to_owned()), kept.head.version.clone()),
            None => (None, String::new()),
        }
    }

    /// Starts a rollout; it takes the place of the one before.
    ///
    /// # Errors
    /// [`Trouble`]; unless the store failed half-way, nothing was started.
    pub(super) async fn start(
        &mut self,
        by: &str,
        named: &str,
        policy: &str,
    ) -> Result<Vec<String>, Trouble> {
        let drawn = self.draw(named, policy).await?;
        self.may_start()?;
        self.launch(by, drawn).await.map(|(_, warnings)| warnings)
    }

    /// Rolls out what the plan in force changes of what running nodes do, unless a rollout brings just that already;
    /// says which rollout that is, if there is any to wait for.
    ///
    /// # Errors
    /// [`Trouble`]; unless the store failed half-way, nothing was started.
    pub async fn start_plan(&mut self, by: &str) -> Result<Option<u64>, Trouble> {
        self.lead().await?;
        let Some(change) = self.floor.change() else { return Ok(None) };
        let present = self.state().and_then(|state| state.newest_of(true));
        let present = present.filter(|(_, kept)| {
            !superseded(&kept.rollout) && kept.rollout.spec.target.digest() == change.digest
        });
        if let Some((id, kept)) = present {
            let over = kept.rollout.standing() == Standing::Finished;
            if !over {
                return Ok(Some(id));
            }
            if plans::left_behind(&kept.rollout, &change.nodes).is_empty() {
                // Whoever is missing comes by that one when it returns.
                return Ok(None);
            }
        }
        let Some(drawn) = self.draw_plan(&change).await? else { return Ok(None) };
        self.no_release_under_way()?;
        Ok(Some(self.launch(by, drawn).await?.0))
    }

    /// Another plan came into force, perhaps: then nobody gets what the one before wanted any more.
    ///
    /// # Errors
    /// [`Trouble`] if the store failed, or somebody else drives.
    pub async fn plan_came_into_force(&mut self) -> Result<(), Trouble> {
        self.lead().await?;
        self.leave_what_is_planned_no_more().await
    }

    /// Refuses while a release is on its way: what nodes are is not changed in two ways at once.
    ///
    /// # Errors
    /// [`Trouble::Request`] that says so.
    pub fn no_release_under_way(&self) -> Result<(), Trouble> {
        self.newest_release().map_or(Ok(()), under_way)
    }

    fn newest_release(&self) -> Option<&Kept> {
        self.state().and_then(|state| state.newest_of(false)).map(|(_, kept)| kept)
    }

    async fn launch(&mut self, by: &str, drawn: Drawn) -> Result<(u64, Vec<String>), Trouble> {
        let now = self.now();
        let mut rollout = drawn.rollout;
        let plan = rollout.spec.target.is_plan();
        // What the one before still takes back bears numbers below ours.
        let before = self.state().and_then(|state| state.newest_of(plan)).map(|(_, kept)| &kept.rollout);
        let mut left = None;
        if let Some(before) = before.filter(|before| !superseded(before)) {
            let mut older = before.clone();
            advance(&mut older, Event::Supersede, now).map_err(Trouble::Refused)?;
            rollout.order = rollout.order.max(older.order);
            left = Some(older);
        }
        // Nor does a node forget that it has seen numbers above all of these.
        let all = self.state().into_iter().flat_map(|state| state.rollouts.values());
        for older in all.map(|kept| &kept.rollout).chain(&left) {
            for (name, node) in &mut rollout.nodes {
                let same = |known: &&Node| known.member.identity == node.member.identity;
                let seen = older.nodes.get(name).filter(same).map_or(0, |known| known.order.max(known.seen));
                if seen > rollout.order {
                    node.seen = node.seen.max(seen);
                }
            }
        }
        let connected = self.floor.connected();
        let seconds_ahead = zones::offsets(&rollout.spec.policy, now);
        let mut effects = Vec::new();
        // A plan is in force already when its rollout begins, and waits there for the line.
        let line = self.line().map(|line| Event::StopLine { by: line.by, reason: line.reason });
        let out = beside(&self.floor.members().await?.members, &rollout, &connected);
        let there = [
            Event::Sessions { connected: connected.clone() },
            Event::Offsets { seconds_ahead },
            Event::Beside { out },
        ];
        for event in line.into_iter().chain(there) {
            effects.extend(advance(&mut rollout, event, now).map_err(Trouble::Refused)?);
        }
        // Before anybody is offered anything: what fails already, and orders from before the store was restored.
        for node in &connected {
            let news = self.said(&rollout, node).filter(
                |event| matches!(event, Event::Report { target, .. } if *target != rollout.spec.target),
            );
            if let Some(event) = news.filter(|_| rollout.nodes.contains_key(node)) {
                effects.extend(advance(&mut rollout, event, now).map_err(Trouble::Refused)?);
            }
        }
        effects.extend(advance(&mut rollout, Event::Start, now).map_err(Trouble::Refused)?);
        let mut head = Head {
            version: drawn.version,
            previous_version: drawn.previous_version,
            by: by.to_owned(),
            started: now,
            snapshot: Default::default(),
            log: Vec::new(),
            notices: Vec::new(),
        };
        head.tell(now, &effects);
        let begun = self.begin();
        let id = self.create(head, rollout).await?;
        tracing::info!(operator = by, rollout = id, "rollout started");
        // Cut here, whoever takes over supersedes the others first; so do we.
        let older: Vec<u64> = self.older();
        for id in older {
            self.supersede(id).await?;
        }
        self.perform_all(id, effects).await?;
        self.hear_all().await?;
        self.end(begun);
        Ok((id, drawn.warnings))
    }

    fn may_start(&self) -> Result<(), Trouble> {
        if let Some(line) = self.line() {
            return Err(Trouble::request(
                format!("the line is stopped by {}: {}", line.by, line.reason),
                "`fleetctl clear-the-line` ends that",
            ));
        }
        self.driven().into_iter().filter_map(|id| self.kept(id)).try_for_each(under_way)
    }

    async fn create(&mut self, head: Head, mut rollout: Rollout) -> Result<u64, Trouble> {
        let mut last = self.newest_id().unwrap_or(0);
        for _ in 0..TRIES {
            last += 1;
            rollout.spec.id = last.to_string();
            match self.archive.create(head.clone(), rollout.clone()).await {
                Ok(kept) => {
                    self.insert(last, kept);
                    return Ok(last);
                }
                // Somebody else, whom we have not heard of: they drive.
                Err(error) if error.is_conflict() => {}
                Err(error) => {
                    self.forget();
                    return Err(error.into());
                }
            }
        }
        self.forget();
        Err(Trouble::request("another rollout was started meanwhile", "see `fleetctl rollout status`"))
    }

    /// Halts, resumes or undoes a rollout: the one that is named, or the one that is not over; says which.
    ///
    /// # Errors
    /// [`Trouble`]; nothing changed then, unless the store failed.
    pub(super) async fn act(&mut self, id: &str, event: Event) -> Result<u64, Trouble> {
        self.lead().await?;
        let state = self.state().ok_or_else(none)?;
        let kept = state.chosen(id)?.ok_or_else(none)?;
        let successor = state.newest_of(kept.rollout.spec.target.is_plan());
        if let Some((newest, _)) = successor.filter(|_| superseded(&kept.rollout))
            && kept.rollout.spec.id != newest.to_string()
        {
            return Err(Trouble::request(
                format!("rollout {newest} has taken the place of {}", kept.rollout.spec.id),
                "`fleetctl rollout list` shows them",
            ));
        }
        let Ok(id) = kept.rollout.spec.id.parse() else { return Err(none()) };
        if matches!(event, Event::Resume { .. } | Event::Undo) {
            // Each counts only what it changes itself.
            let others = self.driven().into_iter().filter(|other| *other != id);
            others.filter_map(|other| self.kept(other)).try_for_each(under_way)?;
        }
        if matches!(event, Event::Resume { retry: true }) {
            // What fails where it went wrong was heard when that happened, and may be mended by now.
            let wrong = |node: &&Node| matches!(node.state, State::Failed | State::RolledBack);
            let wrong = kept.rollout.nodes.values().filter(wrong);
            for node in wrong.map(|node| node.member.node.clone()).collect::<Vec<_>>() {
                self.hear(id, &node).await?;
            }
        }
        self.take_into(id, event).await?;
        Ok(id)
    }

    /// Has one node go back; says to which version, and whether it is there to hear it.
    ///
    /// # Errors
    /// [`Trouble`]; nothing changed then, unless the store failed.
    pub(super) async fn send_back(&mut self, by: &str, node: &NodeName) -> Result<(String, bool), Trouble> {
        self.lead().await?;
        let Some(kept) = self.newest_release() else { return Err(none()) };
        let id = kept.rollout.spec.id.parse().unwrap_or_default();
        let standing = self.floor.standing(node);
        if standing.as_ref().is_some_and(|standing| standing.other_sha256.is_empty()) {
            return Err(Trouble::request(
                format!("node `{node}` has no other release to go back to"),
                "start a rollout of the release you want",
            ));
        }
        let planned = kept.head.previous_version.clone();
        let version = standing.map_or(planned, |standing| standing.other_version.clone());
        self.take_into(id, Event::SendBack { node: node.clone(), by: by.to_owned() }).await?;
        tracing::info!(operator = by, %node, version, "node sent back");
        Ok((version, self.floor.connected().contains(node)))
    }

    /// Stops the line. Said before anything else is done, so that whoever takes over knows.
    ///
    /// # Errors
    /// [`Trouble`] if the store failed.
    pub(super) async fn stop_line(&mut self, by: &str, reason: &str) -> Result<LineRecord, Trouble> {
        self.lead().await?;
        let line = LineRecord::new(by, reason, self.now());
        let begun = self.begin();
        self.write_line(Some(line.clone())).await?;
        tracing::warn!(operator = by, reason = line.reason, "the line is stopped");
        self.take(Event::StopLine { by: line.by.clone(), reason: line.reason.clone() }).await?;
        self.end(begun);
        Ok(line)
    }

    /// Stops the line if word was left for that: by somebody whom this controller was too busy to hear.
    ///
    /// # Errors
    /// [`Trouble`] if the store failed, or somebody else drives; the word stays then.
    pub(super) async fn heed(&mut self, dir: &Path) -> Result<(), Trouble> {
        let Some(Note { by, reason }) = note::read(dir) else { return Ok(()) };
        self.stop_line(&by, &reason).await?;
        note::taken(dir);
        Ok(())
    }

    /// Clears the line; says how it was stopped, if it was.
    ///
    /// # Errors
    /// [`Trouble`] if the store failed.
    pub(super) async fn clear_line(&mut self, by: &str) -> Result<Option<LineRecord>, Trouble> {
        self.lead().await?;
        let was = self.line();
        let begun = self.begin();
        self.write_line(None).await?;
        if was.is_some() {
            tracing::info!(operator = by, "the line is cleared");
        }
        self.take(Event::ClearLine).await?;
        self.end(begun);
        Ok(was)
    }

    async fn write_line(&mut self, line: Option<LineRecord>) -> Result<(), Trouble> {
        if let Err(error) = self.archive.set_line(line.as_ref()).await {
            self.forget();
            return Err(error.into());
        }
        self.changes += 1;
        if let Some(state) = self.state_mut() {
            state.line = line;
        }
        Ok(())
    }

    pub(super) fn line(&self) -> Option<LineRecord> {
        self.state()?.line.clone()
    }

    fn newest_id(&self) -> Option<u64> {
        self.state()?.newest().map(|(id, _)| id)
    }

    fn older(&self) -> Vec<u64> {
        let driven = self.driven();
        let all = self.state().into_iter().flat_map(|state| &state.rollouts);
        all.filter(|(id, kept)| !driven.contains(id) && !superseded(&kept.rollout))
            .map(|(id, _)| *id)
            .collect()
    }

    fn insert(&mut self, id: u64, kept: Kept) {
        self.changes += 1;
        if let Some(state) = self.state_mut() {
            state.rollouts.insert(id, kept);
        }
    }
}

impl Head {
    fn tell(&mut self, at: fleet_model::Timestamp, effects: &[Effect]) {
        self.notices.extend(effects.iter().filter_map(|effect| match effect {
            Effect::Announce(notice) => Some(Told::new(at, &notice.to_string())),
            _ => None,
        }));
    }
}

/// A policy as the operator gave it: JSON with what differs from the usual.
fn read_policy(text: &str) -> Result<Policy, Trouble> {
    if text.trim().is_empty() {
        return Ok(Policy::default());
    }
    serde_json::from_str(text).and_then(|given| Policy::default().over(given)).map_err(|why| {
        Trouble::request(
            format!("the policy is not understood: {}", plain(&why)),
            "the README lists its members; `fleetctl rollout start RELEASE --preview` shows what it means",
        )
    })
}

/// Without line and column: the text is made from what the operator wrote, and has neither.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

/// Refuses while `kept` is under way. A stopped line makes it wait and no more: once that is clear, it moves again.
fn under_way(kept: &Kept) -> Result<(), Trouble> {
    let Rollout { phase, halt, spec, .. } = &kept.rollout;
    let begun = matches!(phase, Phase::Running | Phase::Baking { .. } | Phase::Undoing);
    if !begun || halt.is_some() {
        return Ok(());
    }
    Err(Trouble::request(
        format!("rollout {} of {} is under way", spec.id, what(&kept.rollout, &kept.head.version)),
        format!("wait for its end, or `fleetctl rollout halt --rollout {}` first", spec.id),
    ))
}

/// What a rollout brings, in words.
fn what(rollout: &Rollout, version: &str) -> String {
    let kind = if rollout.spec.target.is_plan() { "plan" } else { "release" };
    format!("{kind} {version}")
}

/// Refuses windows of which nobody knows when they open.
///
/// # Errors
/// [`Trouble::Request`] that names the first.
pub fn known_zones(policy: &Policy, now: fleet_model::Timestamp) -> Result<(), Trouble> {
    match zones::unknown(policy, now).first() {
        Some(zone) => Err(Trouble::request(
            format!("no time zone `{zone}` is known here"),
            "name one as Europe/Brussels is",
        )),
        None => Ok(()),
    }
}

fn none() -> Trouble {
    Trouble::request("there is no rollout", "`fleetctl rollout start RELEASE` starts one")
}

/// What comes from outside may be long.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// One word for how a node ended.
pub(super) fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Updated => "updated",
        Outcome::Failed => "failed",
        Outcome::RolledBack => "rolled back",
        Outcome::Silent => "silent",
        Outcome::Untouched => "untouched",
    }
}
