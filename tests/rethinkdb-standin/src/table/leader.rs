//! What the leader of a table does in its term.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use super::{
    Members, TableConfig,
    lead::{Changes, Command, LOOK_EVERY, TableHandle, read_rows, unavailable, unreachable},
    replica::{Position, Record, RowChange, Snapshot, Term, Verdict},
};
use crate::{
    cluster::{
        ServerId,
        message::{Lead, Request, Response},
    },
    reql::{ReqlError, Result},
    server::Server,
};

/// How long a replica may take to answer before it counts as behind.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long a replica that failed is left alone.
const RETRY: Duration = Duration::from_secs(2);
/// Batches of changes a feed may be behind before it is ended.
const FEED_BEHIND: usize = 4096;

fn lost_secondaries() -> ReqlError {
    ReqlError::indeterminate(
        "Cannot perform write: The primary replica lost contact with the secondary replicas. The write may or may \
         not have been performed.",
    )
}

/// This server, leading a table in one term.
pub(super) struct Leader {
    server: Arc<Server>,
    table: Arc<TableHandle>,
    /// The term.
    pub(super) term: Term,
    /// Replicas besides this one that have every record.
    in_step: Members,
    /// Replicas that failed, and when to try again.
    behind: BTreeMap<ServerId, Instant>,
    feeds: broadcast::Sender<Changes>,
}

/// The term is over.
struct Deposed;

impl Leader {
    /// Asks for promises, takes over what a majority has, and brings the others in step.
    pub(super) async fn campaign(server: &Arc<Server>, table: &Arc<TableHandle>) -> Option<Self> {
        let connected = server.connected();
        let (term, config) = table
            .with(|replica| (replica.promised().after(server.term_id()), replica.state().config.clone()));
        if table.with(|replica| replica.promise(term)) != Verdict::Accepted {
            return None;
        }
        let mut asked = JoinSet::new();
        for member in config.members().intersection(&connected).filter(|member| **member != server.id) {
            let (server, member, table) = (Arc::clone(server), member.clone(), table.id.clone());
            asked.spawn(async move {
                let answer = server.ask(&member, Request::Prepare { table, term }, PATIENCE).await;
                (member, answer)
            });
        }
        let mut promised = BTreeMap::new();
        while let Some(answered) = asked.join_next().await {
            match answered {
                Ok((member, Ok(Response::Prepared(Verdict::Accepted, Some(position))))) => {
                    promised.insert(member, position);
                }
                Ok((_, Ok(Response::Prepared(Verdict::Refused { promised }, _)))) => {
                    // The next campaign starts above it.
                    table.with(|replica| replica.promise(promised));
                    return None;
                }
                _ => {}
            }
        }
        let mut present: Members = promised.keys().cloned().collect();
        present.insert(server.id.clone());
        if !config.is_quorum(&present) {
            return None;
        }
        let best = promised.iter().max_by_key(|(_, position)| **position);
        if let Some((best, position)) = best
            && *position > table.with(|replica| replica.state().position)
        {
            return Self::take_over(server, table, best, term, &config).await;
        }
        Self::begin(server, table, term, present).await
    }

    /// Copies the rows of a replica that has more than this one.
    async fn take_over(
        server: &Arc<Server>,
        table: &Arc<TableHandle>,
        from: &ServerId,
        term: Term,
        config: &TableConfig,
    ) -> Option<Self> {
        let fetch = Request::Fetch { table: table.id.clone() };
        let Ok(Response::Copy(copy)) = server.ask(from, fetch, PATIENCE).await else { return None };
        let same = copy.config == *config;
        if table.with(|replica| replica.install(term, *copy)) != Verdict::Accepted || !same {
            // Another configuration has other majorities: ask again from the start.
            return None;
        }
        let present = config.members().intersection(&server.connected()).cloned().collect();
        Self::begin(server, table, term, present).await
    }

    async fn begin(
        server: &Arc<Server>,
        table: &Arc<TableHandle>,
        term: Term,
        present: Members,
    ) -> Option<Self> {
        let mut leader = Self {
            server: Arc::clone(server),
            table: Arc::clone(table),
            term,
            in_step: Members::new(),
            behind: BTreeMap::new(),
            feeds: broadcast::Sender::new(FEED_BEHIND),
        };
        let others: Vec<ServerId> = present.into_iter().filter(|member| *member != server.id).collect();
        leader.bring_in_step(&others).await.ok()?;
        // A record of this term at a majority: what came before it is now settled.
        leader.commit(Vec::new(), None).await.ok()?;
        // The one before may have changed the configuration and died before it could say so.
        leader.publish();
        leader.announce();
        Some(leader)
    }

    pub(super) async fn serve(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        changed: &mut watch::Receiver<u64>,
        bumped: &mut watch::Receiver<()>,
    ) {
        loop {
            if self.look().await.is_err() {
                return;
            }
            // Every arm is cancel-safe: what was not received stays in its channel.
            tokio::select! {
                () = self.table.stop.cancelled() => return,
                command = commands.recv() => {
                    let Some(command) = command else { return };
                    if self.execute(command).await.is_err() {
                        return;
                    }
                }
                _ = changed.changed() => {}
                _ = bumped.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Whether this still leads; brings in replicas that came back; finishes a change of configuration.
    async fn look(&mut self) -> std::result::Result<(), Deposed> {
        let (promised, config) =
            self.table.with(|replica| (replica.promised(), replica.state().config.clone()));
        let connected = self.server.connected();
        if promised > self.term
            || !config.is_quorum(&connected)
            || !config.members().contains(&self.server.id)
        {
            return Err(Deposed);
        }
        self.in_step.retain(|member| connected.contains(member));
        let now = Instant::now();
        let missing: Vec<ServerId> = config
            .members()
            .intersection(&connected)
            .filter(|member| **member != self.server.id && !self.in_step.contains(*member))
            .filter(|member| self.behind.get(*member).is_none_or(|at| *at <= now))
            .cloned()
            .collect();
        if !missing.is_empty() {
            self.bring_in_step(&missing).await?;
        }
        if config.leaving.is_some() {
            self.leave(config).await?;
        }
        self.announce();
        Ok(())
    }

    async fn execute(&mut self, command: Command) -> std::result::Result<(), Deposed> {
        match command {
            Command::Read { reply, .. } if self.settled().is_err() => {
                let _ = reply.send(Err(unavailable("read")));
            }
            Command::Read { key, reply } => {
                let _ = reply.send(Ok(self.rows(key.as_deref())));
            }
            Command::Subscribe { reply } => {
                let _ = reply.send(Ok((self.rows(None), self.feeds.subscribe())));
            }
            // Better refused than perhaps lost.
            Command::Write { reply, .. } if self.settled().is_err() => {
                let _ = reply.send(Err(unavailable("write")));
            }
            Command::Write { write, reply } => {
                let primary_key = self.table.with(|replica| replica.state().config.primary_key.clone());
                let table = Arc::clone(&self.table);
                let read = move |key: &str| table.with(|replica| replica.state().rows.get(key).cloned());
                let (tally, changes) = write.decide(&primary_key, read).await;
                if changes.is_empty() {
                    let _ = reply.send(Ok(tally.into_value()));
                    return Ok(());
                }
                let before = self.position();
                let done = self.commit(changes, None).await;
                // What this server's own disk refused, no other has seen.
                let refused =
                    || if self.position() == before { unavailable("write") } else { lost_secondaries() };
                let _ = reply.send(done.map(|()| tally.into_value()).map_err(|_| refused()));
                return self.settled();
            }
            Command::Reconfigure { config, reply } => {
                let done = self.reconfigure(config).await;
                let failed = done.is_err();
                let _ = reply.send(done);
                if failed {
                    return self.settled();
                }
            }
        }
        Ok(())
    }

    /// Whether the last record reached a majority; if not, what it left here must not be read.
    fn settled(&self) -> std::result::Result<(), Deposed> {
        let (promised, config) =
            self.table.with(|replica| (replica.promised(), replica.state().config.clone()));
        let mut present = self.in_step.clone();
        present.insert(self.server.id.clone());
        if promised > self.term || !config.is_quorum(&present) { Err(Deposed) } else { Ok(()) }
    }

    fn position(&self) -> Position {
        self.table.with(|replica| replica.state().position)
    }

    fn rows(&self, key: Option<&str>) -> Vec<Value> {
        self.table.with(|replica| read_rows(replica.state(), key))
    }

    /// Gives one record to every replica in step; a majority must have it on disk.
    async fn commit(
        &mut self,
        changes: Vec<RowChange>,
        config: Option<TableConfig>,
    ) -> std::result::Result<(), Deposed> {
        let term = self.term;
        let record = self.table.with(|replica| {
            let after = replica.state().position;
            let position = Position { term, number: after.number + 1 };
            let record = Record { after, position, changes, config };
            (replica.append(term, record.clone()) == Verdict::Accepted).then_some(record)
        });
        let record = record.ok_or(Deposed)?;
        let mut asked = JoinSet::new();
        for member in self.in_step.clone() {
            let (server, table, record) = (Arc::clone(&self.server), self.table.id.clone(), record.clone());
            asked.spawn(async move {
                let answer = server.ask(&member, Request::Append { table, term, record }, PATIENCE).await;
                (member, answer)
            });
        }
        let mut have = Members::from([self.server.id.clone()]);
        while let Some(answered) = asked.join_next().await {
            if let Ok((member, Ok(Response::Verdict(Verdict::Accepted)))) = answered {
                have.insert(member);
            }
        }
        for member in std::mem::take(&mut self.in_step) {
            if have.contains(&member) {
                self.in_step.insert(member);
            } else {
                self.behind.insert(member, Instant::now() + RETRY);
            }
        }
        // With a new configuration already in place, its majorities count.
        let config = self.table.with(|replica| replica.state().config.clone());
        if !config.is_quorum(&have) {
            return Err(Deposed);
        }
        if !record.changes.is_empty() {
            // No feed may be open.
            let _ = self.feeds.send(Arc::new(record.changes));
        }
        Ok(())
    }

    /// Gives a whole copy to replicas that lack something. Fails only if one has promised itself to a newer term.
    async fn bring_in_step(&mut self, members: &[ServerId]) -> std::result::Result<(), Deposed> {
        let term = self.term;
        let snapshot = self.table.with(|replica| replica.state().clone());
        let mut asked = JoinSet::new();
        for member in members {
            let (server, member, snapshot) = (Arc::clone(&self.server), member.clone(), snapshot.clone());
            asked.spawn(async move {
                let verdict = install(&server, &member, term, snapshot).await;
                (member, verdict)
            });
        }
        while let Some(answered) = asked.join_next().await {
            match answered {
                Ok((member, Some(Verdict::Accepted))) => {
                    self.behind.remove(&member);
                    self.in_step.insert(member);
                }
                Ok((_, Some(Verdict::Refused { promised }))) => {
                    self.table.with(|replica| replica.promise(promised));
                    return Err(Deposed);
                }
                Ok((member, _)) => {
                    self.behind.insert(member, Instant::now() + RETRY);
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Moves to another configuration by way of one in which both majorities decide.
    async fn reconfigure(&mut self, mut config: TableConfig) -> Result<()> {
        let old = self.table.with(|replica| replica.state().config.clone());
        if old.leaving.is_some() || self.settled().is_err() {
            return Err(unreachable());
        }
        let added: Vec<ServerId> = config.replicas.difference(&old.replicas).cloned().collect();
        let connected = self.server.connected();
        if added.iter().any(|member| !connected.contains(member)) {
            return Err(unreachable());
        }
        // New members get the rows before they count.
        self.bring_in_step(&added).await.map_err(|Deposed| unreachable())?;
        if added.iter().any(|member| !self.in_step.contains(member)) {
            return Err(unreachable());
        }
        if config.replicas != old.replicas {
            config.leaving = Some(old.replicas);
        }
        let indeterminate = |Deposed| ReqlError::indeterminate("lost contact");
        self.commit(Vec::new(), Some(config.clone())).await.map_err(indeterminate)?;
        if config.leaving.is_some() {
            self.leave(config).await.map_err(indeterminate)?;
        } else {
            self.publish();
        }
        self.announce();
        Ok(())
    }

    /// Second half of a change of configuration; a leader that finds it half-done finishes it.
    async fn leave(&mut self, mut config: TableConfig) -> std::result::Result<(), Deposed> {
        let left: Members = config.leaving.take().unwrap_or_default();
        self.commit(Vec::new(), Some(config.clone())).await?;
        self.publish();
        for member in left.difference(&config.replicas).filter(|member| **member != self.server.id) {
            self.in_step.remove(member);
            let forget = Request::Forget { table: self.table.id.clone() };
            // A member that misses this finds out when it starts again.
            let _ = self.server.ask(member, forget, PATIENCE).await;
        }
        Ok(())
    }

    /// Tells the cluster the configuration that is now in force.
    fn publish(&self) {
        let (position, config) =
            self.table.with(|replica| (replica.state().position, replica.state().config.clone()));
        self.server.publish_table(position, config);
    }

    fn announce(&self) {
        let mut ready = self.in_step.clone();
        ready.insert(self.server.id.clone());
        self.server.set_lead(&self.table.id, Some(Lead { term: self.term, ready }));
    }
}

async fn install(server: &Arc<Server>, member: &ServerId, term: Term, snapshot: Snapshot) -> Option<Verdict> {
    let prepare = Request::Prepare { table: snapshot.config.id.clone(), term };
    match server.ask(member, prepare, PATIENCE).await {
        Ok(Response::Prepared(Verdict::Accepted, Some(position))) if position == snapshot.position => {
            return Some(Verdict::Accepted);
        }
        Ok(Response::Prepared(Verdict::Accepted, _)) => {}
        Ok(Response::Prepared(verdict, _)) => return Some(verdict),
        _ => return None,
    }
    match server.ask(member, Request::Install { term, snapshot: Box::new(snapshot) }, PATIENCE).await {
        Ok(Response::Verdict(verdict)) => Some(verdict),
        _ => None,
    }
}
