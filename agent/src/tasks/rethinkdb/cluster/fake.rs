//! A cluster that only exists in a test.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet_task::{Command, Output};

use super::*;
use crate::tasks::support::fake::Debian;

/// What the cluster is like; a test changes it as it likes.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Addresses at which servers accept.
    pub(crate) answering: BTreeSet<IpAddr>,
    /// What the own server says; nothing means it takes no queries.
    pub(crate) view: Option<View>,
    /// Tables by database and name.
    pub(crate) tables: BTreeMap<(String, String), Layout>,
    /// What was changed, one line each.
    pub(crate) changes: Vec<String>,
    /// Changes fail with these words.
    pub(crate) refuses: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeCluster(Arc<Mutex<State>>);

impl FakeCluster {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Servers with these names and tags; the first is the own one.
    pub(crate) fn with(servers: &[(&str, &str)]) -> Self {
        let cluster = Self::default();
        cluster.set(servers);
        cluster
    }

    pub(crate) fn set(&self, servers: &[(&str, &str)]) {
        let server = |(name, tag): &(&str, &str)| Server {
            id: format!("id-{name}"),
            name: (*name).into(),
            tags: BTreeSet::from([(*tag).to_owned()]),
            addresses: Vec::new(),
        };
        let servers: Vec<Server> = servers.iter().map(server).collect();
        let own = servers.first().map(|server| server.id.clone()).unwrap_or_default();
        self.state().view = Some(View { own, servers, ..View::default() });
    }

    fn seen(&self) -> Result<View, ReqlError> {
        self.state().view.clone().ok_or_else(refused)
    }

    fn find(&self, database: &str, table: &str) -> Result<Option<Layout>, ReqlError> {
        self.seen()?;
        Ok(self.state().tables.get(&(database.into(), table.into())).cloned())
    }

    fn change(&self, line: String) -> Result<MutexGuard<'_, State>, ReqlError> {
        let mut state = self.state();
        if let Some(words) = &state.refuses {
            return Err(ReqlError::Decode(words.as_str().into()));
        }
        state.changes.push(line);
        Ok(state)
    }

    fn lay(&self, what: &str, spread: &Spread) -> Result<(), ReqlError> {
        let Spread { database, table, replicas, primary } = spread;
        let mut state = self.change(format!("{what} {database}.{table} {replicas:?} {primary}"))?;
        let servers = state.view.as_ref().map(|view| view.servers.clone()).unwrap_or_default();
        let mut shard = Vec::new();
        for (tag, count) in replicas {
            let of_tag = servers.iter().filter(|server| server.tags.contains(tag));
            shard.extend(of_tag.take(*count as usize).map(|server| Replica {
                server: server.id.clone(),
                name: server.name.clone(),
                state: Some("ready".into()),
            }));
        }
        assert!(servers.iter().any(|server| server.tags.contains(primary)), "somewhere for the primary");
        let layout = Layout {
            shards: Some(vec![shard]),
            ready: true,
            writable: true,
            durability: "hard".into(),
            write_acks: "majority".into(),
        };
        state.tables.insert((database.clone(), table.clone()), layout);
        Ok(())
    }
}

fn refused() -> ReqlError {
    let source = Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
    ReqlError::Connect { address: DRIVER, source }
}

#[async_trait]
impl Cluster for FakeCluster {
    async fn answers(&self, address: IpAddr) -> bool {
        self.state().answering.contains(&address)
    }

    async fn view(&self) -> Result<View, ReqlError> {
        self.seen()
    }

    async fn label(&self, id: &str, name: &str, tags: &BTreeSet<String>) -> Result<(), ReqlError> {
        let mut state = self.change(format!("label {id} {name}"))?;
        let servers = state.view.as_mut().map(|view| view.servers.as_mut_slice()).unwrap_or_default();
        for server in servers.iter_mut().filter(|server| server.id == id) {
            (server.name, server.tags) = (name.into(), tags.clone());
        }
        Ok(())
    }

    async fn table(&self, database: &str, table: &str) -> Result<Option<Layout>, ReqlError> {
        self.find(database, table)
    }

    async fn create(&self, spread: &Spread) -> Result<(), ReqlError> {
        self.lay("create", spread)
    }

    async fn reconfigure(&self, spread: &Spread) -> Result<(), ReqlError> {
        self.lay("reconfigure", spread)
    }
}

/// The same, each query being a call of a node: it fails, or the agent dies before or after it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) debian: Arc<Debian>,
    pub(crate) cluster: FakeCluster,
}

impl Asked {
    async fn query<T>(
        &self,
        what: &str,
        act: impl FnOnce() -> Result<T, ReqlError> + Send,
    ) -> Result<T, ReqlError> {
        let mut result = None;
        let command = Command::new("query", [what]);
        let act = || {
            result = Some(act());
            Output::ok("")
        };
        let output = self.debian.asks(&command, act).await;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        result.unwrap_or_else(|| Err(ReqlError::Decode(said.into())))
    }
}

#[async_trait]
impl Cluster for Asked {
    async fn answers(&self, address: IpAddr) -> bool {
        self.cluster.answers(address).await
    }

    async fn view(&self) -> Result<View, ReqlError> {
        self.query("view", || self.cluster.seen()).await
    }

    async fn label(&self, id: &str, name: &str, tags: &BTreeSet<String>) -> Result<(), ReqlError> {
        self.cluster.label(id, name, tags).await
    }

    async fn table(&self, database: &str, table: &str) -> Result<Option<Layout>, ReqlError> {
        self.query("table", || self.cluster.find(database, table)).await
    }

    async fn create(&self, spread: &Spread) -> Result<(), ReqlError> {
        // As the real one: a database without its table is what a death in between leaves.
        self.query("create database", || Ok(())).await?;
        self.query("create table", || self.cluster.lay("create", spread)).await
    }

    async fn reconfigure(&self, spread: &Spread) -> Result<(), ReqlError> {
        self.query("reconfigure", || self.cluster.lay("reconfigure", spread)).await
    }
}
