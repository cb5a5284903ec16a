//! The list as this node knows it, and everyone who is told when it changes.
//!
//! Written by the feed alone; read by pages, the interface and every open event stream. A subscriber
//! gets the whole list first and then each change; one too slow to follow gets the whole list again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use serde_json::json;
use tokio::sync::{broadcast, watch};

use crate::todo::{Todo, TodoId};

/// Events a slow subscriber may lag behind before it is given the whole list instead.
const BACKLOG: usize = 256;

/// How the database fares, as far as this node can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// Its feed is open and what it says is shown.
    Ok,
    /// It is not: nothing can be written, and what is shown may be old.
    Away(Why),
}

/// Why the database is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was not reached yet, since this program started.
    Starting,
    /// Nobody answers, or too late.
    Unreachable,
    /// It does not let this program in.
    Refused,
    /// Its table is not there, or not ready: being set up, or without a majority of its replicas.
    NotReady,
}

impl Why {
    /// One word for logs and the interface.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::NotReady => "not-ready",
        }
    }

    /// What people read.
    pub fn message(self) -> &'static str {
        match self {
            Self::Starting => "The database is being contacted.",
            Self::Unreachable => "The database does not answer.",
            Self::Refused => "The database does not let this node in.",
            Self::NotReady => "The database is not ready yet.",
        }
    }
}

/// The list at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// Every todo, in order.
    pub todos: Vec<Todo>,
    /// How the database fares.
    pub database: Database,
    /// Whether the list was ever read; an empty one that was not is no empty list.
    pub known: bool,
}

impl View {
    /// Whether what is shown may be old.
    pub fn stale(&self) -> bool {
        self.database != Database::Ok
    }
}

/// Something every browser is told.
#[derive(Clone, Debug)]
pub struct Event {
    /// Names this state of the list, across restarts too.
    pub id: String,
    /// `snapshot`, `change` or `database`.
    pub name: &'static str,
    /// JSON.
    pub data: Arc<str>,
}

/// The list and its listeners.
pub struct Hub {
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
    version: watch::Sender<u64>,
    /// Tells the event ids of this process from those of the one before.
    epoch: u64,
}

struct State {
    todos: BTreeMap<TodoId, Todo>,
    database: Database,
    known: bool,
    version: u64,
    /// Made when wanted.
    view: Option<Arc<View>>,
    snapshot: Option<Event>,
}

/// One who listens.
pub struct Subscription {
    hub: Arc<Hub>,
    first: Option<Event>,
    events: broadcast::Receiver<Event>,
}

impl Hub {
    /// Empty; `epoch` differs from that of an earlier process.
    pub fn new(epoch: u64) -> Arc<Self> {
        let state = State {
            todos: BTreeMap::new(),
            database: Database::Away(Why::Starting),
            known: false,
            version: 0,
            view: None,
            snapshot: None,
        };
        let (events, _) = broadcast::channel(BACKLOG);
        Arc::new(Self { state: Mutex::new(state), events, version: watch::Sender::new(0), epoch })
    }

    /// The list now.
    pub fn view(&self) -> Arc<View> {
        let mut state = self.state();
        state.view().clone()
    }

    /// How the database fares now.
    pub fn database(&self) -> Database {
        self.state().database
    }

    /// The list as the database just told it, whole. The database is there.
    pub fn replace(&self, todos: impl IntoIterator<Item = Todo>) {
        let mut state = self.state();
        state.todos = todos.into_iter().map(|todo| (todo.id, todo)).collect();
        (state.database, state.known) = (Database::Ok, true);
        state.changed();
        let event = state.snapshot(self.epoch).clone();
        self.tell(state, event);
    }

    /// A todo is new, or another than before.
    pub fn put(&self, todo: Todo) {
        let mut state = self.state();
        let data = json!({ "put": todo });
        if state.todos.get(&todo.id) != Some(&todo) {
            state.todos.insert(todo.id, todo);
            self.change(state, "change", &data);
        }
    }

    /// A todo is gone.
    pub fn remove(&self, id: TodoId) {
        let mut state = self.state();
        if state.todos.remove(&id).is_some() {
            self.change(state, "change", &json!({ "removed": id }));
        }
    }

    /// The database is away; the list stays as it was last seen.
    pub fn away(&self, why: Why) {
        let mut state = self.state();
        if state.database != Database::Away(why) {
            state.database = Database::Away(why);
            self.change(state, "database", &describe(Database::Away(why)));
        }
    }

    /// Waits until the list is so, or for `most`; says whether it is.
    pub async fn until(&self, most: Duration, so: impl Fn(&BTreeMap<TodoId, Todo>) -> bool) -> bool {
        let mut version = self.version.subscribe();
        let wait = async {
            loop {
                let there = so(&self.state().todos);
                // The sender lasts as long as this hub.
                if there || version.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(most, wait).await.is_ok()
    }

    /// Listens: the whole list first, then every change after it.
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        let mut state = self.state();
        // Both under the lock, so that no change falls between them.
        let events = self.events.subscribe();
        let first = Some(state.snapshot(self.epoch).clone());
        drop(state);
        Subscription { hub: self.clone(), first, events }
    }

    fn change(&self, mut state: MutexGuard<'_, State>, name: &'static str, data: &impl Serialize) {
        state.changed();
        let data = serde_json::to_string(data).unwrap_or_default().into();
        let event = Event { id: state.id(self.epoch), name, data };
        self.tell(state, event);
    }

    fn tell(&self, state: MutexGuard<'_, State>, event: Event) {
        // Still under the lock, so that events come in order. Nobody may listen.
        let _ = self.events.send(event);
        self.version.send_replace(state.version);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn changed(&mut self) {
        self.version += 1;
        (self.view, self.snapshot) = (None, None);
    }

    fn id(&self, epoch: u64) -> String {
        format!("{epoch:x}-{}", self.version)
    }

    fn view(&mut self) -> &Arc<View> {
        let Self { todos, database, known, .. } = self;
        self.view.get_or_insert_with(|| {
            let mut todos: Vec<Todo> = todos.values().cloned().collect();
            todos.sort_by_key(Todo::rank);
            Arc::new(View { todos, database: *database, known: *known })
        })
    }

    fn snapshot(&mut self, epoch: u64) -> &Event {
        if self.snapshot.is_none() {
            let view = self.view().clone();
            let mut data = describe(view.database);
            data["todos"] = json!(view.todos);
            data["known"] = view.known.into();
            let data = data.to_string().into();
            self.snapshot = Some(Event { id: self.id(epoch), name: "snapshot", data });
        }
        self.snapshot.as_ref().expect("it was made just now")
    }
}

impl Subscription {
    /// The next event. Cancel-safe: nothing is taken before it is returned.
    pub async fn next(&mut self) -> Option<Event> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        match self.events.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => {
                *self = self.hub.subscribe();
                self.first.take()
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

fn describe(database: Database) -> serde_json::Value {
    match database {
        Database::Ok => json!({ "database": "ok", "stale": false }),
        Database::Away(why) => {
            json!({ "database": "away", "stale": true, "reason": why.name(), "message": why.message() })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::todo::Text;

    fn todo(id: u8, created: u64) -> Todo {
        let id = format!("00000000-0000-4000-8000-0000000000{id:02x}").parse().expect("a UUID");
        Todo { id, text: Text::new("x").expect("a text"), completed: false, created }
    }

    fn data(event: &Event) -> Value {
        serde_json::from_str(&event.data).expect("JSON")
    }

    #[tokio::test]
    async fn a_subscriber_gets_the_list_and_then_each_change_once() {
        let hub = Hub::new(0xab);
        let mut early = hub.subscribe();
        let first = early.next().await.expect("there");
        assert_eq!((first.name, data(&first)["known"].clone()), ("snapshot", false.into()));
        assert_eq!(data(&first)["database"], "away");
        hub.replace([todo(2, 5), todo(1, 9), todo(1, 9), todo(3, 5)]);
        let snapshot = early.next().await.expect("there");
        let ids: Vec<_> = data(&snapshot)["todos"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|t| t["created"].clone())
            .collect();
        assert_eq!((snapshot.id.as_str(), ids), ("ab-1", vec![5.into(), 5.into(), 9.into()]));
        let mut late = hub.subscribe();
        assert_eq!(late.next().await.expect("there").id, "ab-1");
        hub.put(todo(1, 9));
        hub.put(Todo { completed: true, ..todo(1, 9) });
        hub.remove(todo(9, 0).id);
        hub.remove(todo(1, 9).id);
        hub.away(Why::Unreachable);
        hub.away(Why::Unreachable);
        for listener in [&mut early, &mut late] {
            let put = listener.next().await.expect("there");
            assert_eq!((put.id.as_str(), data(&put)["put"]["completed"].clone()), ("ab-2", true.into()));
            let removed = listener.next().await.expect("there");
            assert_eq!(data(&removed)["removed"], todo(1, 9).id.to_string());
            let away = listener.next().await.expect("there");
            assert_eq!((away.name, data(&away)["reason"].clone()), ("database", "unreachable".into()));
        }
        let view = hub.view();
        assert!(view.stale() && view.known && view.todos.len() == 2);
    }

    #[tokio::test]
    async fn a_slow_subscriber_gets_the_whole_list_again() {
        let hub = Hub::new(0);
        hub.replace([]);
        let mut slow = hub.subscribe();
        slow.next().await.expect("there");
        for n in 0..=BACKLOG as u64 {
            hub.put(todo(1, n));
        }
        let again = slow.next().await.expect("there");
        assert_eq!(
            (again.name, data(&again)["todos"][0]["created"].clone()),
            ("snapshot", (BACKLOG as u64).into())
        );
        hub.remove(todo(1, 0).id);
        assert_eq!(slow.next().await.expect("there").name, "change");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_state_of_the_list() {
        let hub = Hub::new(0);
        let second = Duration::from_secs(1);
        assert!(!hub.until(second, |todos| !todos.is_empty()).await);
        let (seen, ()) = tokio::join!(hub.until(second, |todos| todos.len() == 2), async {
            hub.put(todo(1, 1));
            tokio::task::yield_now().await;
            hub.put(todo(2, 1));
        });
        assert!(seen);
    }

    proptest! {
        /// Whoever applies the events holds what the hub holds.
        #[test]
        fn following_the_events_is_knowing_the_list(
            steps in prop::collection::vec((0u8..6, 0u8..8, 0u64..4, any::<bool>()), 0..60)
        ) {
            let hub = Hub::new(0);
            let mut events = hub.subscribe();
            for (step, id, created, completed) in steps {
                match step {
                    0 => hub.replace([todo(id, created)]),
                    1 => hub.away(Why::NotReady),
                    2 => hub.remove(todo(id, 0).id),
                    _ => hub.put(Todo { completed, ..todo(id, created) }),
                }
            }
            let mut mine: BTreeMap<TodoId, Todo> = BTreeMap::new();
            let mut follow = |event: Event| {
                let data = data(&event);
                let read = |value: &Value| serde_json::from_value::<Todo>(value.clone()).expect("a todo");
                if let Some(todos) = data["todos"].as_array() {
                    mine = todos.iter().map(read).map(|todo| (todo.id, todo)).collect();
                } else if data["put"].is_object() {
                    let todo = read(&data["put"]);
                    mine.insert(todo.id, todo);
                } else if let Some(id) = data["removed"].as_str() {
                    mine.remove(&id.parse().expect("an id"));
                }
            };
            follow(events.first.take().expect("there"));
            while let Ok(event) = events.events.try_recv() {
                follow(event);
            }
            let mut mine: Vec<Todo> = mine.into_values().collect();
            mine.sort_by_key(Todo::rank);
            prop_assert_eq!(&mine, &hub.view().todos);
        }
    }
}
