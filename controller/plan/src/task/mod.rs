//! Tasks as they are written: a list of mappings, each with one key that says the kind.

mod check;
mod general;
mod services;
mod words;

pub(crate) use check::{fleet, node};
pub(crate) use words::{duration, is_key};

use crate::{
    problem::{Reporter, Span},
    read::{At, Fields, choice, list, text, wanted},
    resolved::{OnDrift, Task, Template, Work},
    suggest::suggest,
    syntax::{Tree, Value},
};

/// Kinds of tasks, as plans write them.
pub const KINDS: [&str; 11] = [
    "clock",
    "update",
    "access",
    "rethinkdb",
    "database",
    "todo",
    "file",
    "package",
    "service",
    "user",
    "command",
];

/// What every node does by itself; no task of a plan may take these names.
pub const BUILT_IN: [&str; 6] = ["hostname", "hosts", "identity", "root-volume", "storage", "certificate"];

/// Longest name of a task.
pub const LONGEST_NAME: usize = 63;

/// A task with the places that checks point to.
#[derive(Clone, Debug)]
pub(crate) struct RawTask {
    pub(crate) name: At<String>,
    pub(crate) kind: &'static str,
    pub(crate) on_drift: OnDrift,
    /// `None` if it was too wrong to be anything; reported.
    pub(crate) work: Option<Work>,
    /// Where single settings stand.
    pub(crate) spots: Vec<(&'static str, Span)>,
    /// Texts that may refer to nodes.
    pub(crate) texts: Vec<At<Template>>,
    /// It took the place of another one of the same kind, and neither was given a name.
    pub(crate) shadows: bool,
    named: bool,
}

impl RawTask {
    /// Where the setting stands, or failing that the task.
    pub(crate) fn spot(&self, setting: &str) -> &Span {
        self.spots.iter().find(|(key, _)| *key == setting).map_or(&self.name.span, |(_, span)| span)
    }

    /// What it means, unless it was wrong.
    pub(crate) fn task(&self) -> Option<Task> {
        Some(Task { name: self.name.value.clone(), on_drift: self.on_drift, work: self.work.clone()? })
    }
}

/// What readers of kinds find out besides the work itself.
#[derive(Default)]
pub(crate) struct Notes {
    spots: Vec<(&'static str, Span)>,
    texts: Vec<At<Template>>,
}

impl Notes {
    /// Remembers where a setting stands.
    pub(crate) fn spot(&mut self, setting: &'static str, tree: &Tree) {
        self.spots.push((setting, tree.span.clone()));
    }

    /// Remembers a text that may refer to nodes.
    pub(crate) fn text(&mut self, text: At<String>) -> Template {
        let text = text.map(Template);
        self.texts.push(text.clone());
        text.value
    }
}

/// Reads `tasks`; each name once.
pub(crate) fn read(tree: &Tree, reporter: &mut Reporter<'_>) -> Vec<RawTask> {
    let mut tasks: Vec<RawTask> = Vec::new();
    for item in list(tree, "`tasks`", reporter).unwrap_or_default() {
        let Some(task) = one(item, reporter) else { continue };
        if tasks.iter().any(|earlier| earlier.name.value == task.name.value) {
            let hint = if task.named { "names are unique on a node" } else { "give it a `name` of its own" };
            let message = format!("two tasks are named `{}`", task.name.value);
            reporter.problem(&task.name.span, message, hint.to_owned());
            continue;
        }
        tasks.push(task);
    }
    tasks
}

/// Lays `above` after `below`; what has the same name takes its place.
pub(crate) fn lay(above: Vec<RawTask>, below: &[RawTask]) -> Vec<RawTask> {
    let mut tasks = below.to_vec();
    for mut task in above {
        match tasks.iter_mut().find(|earlier| earlier.name.value == task.name.value) {
            Some(earlier) => {
                task.shadows = !task.named && !earlier.named && is_general(task.kind);
                *earlier = task;
            }
            None => tasks.push(task),
        }
    }
    tasks
}

/// Kinds of which a node may well have several.
fn is_general(kind: &str) -> bool {
    matches!(kind, "file" | "package" | "service" | "user" | "command")
}

fn one(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<RawTask> {
    let Value::Map(entries) = &tree.value else {
        wanted(tree, "a task", "a mapping such as `clock: {}`", reporter);
        return None;
    };
    let mut fields = Fields::of(tree, "a task", reporter)?;
    let name = fields.get("name", reporter).and_then(|tree| task_name(tree, reporter));
    let on_drift = fields.get("onDrift", reporter).map_or(OnDrift::Repair, |tree| on_drift(tree, reporter));
    // Whatever else stands there is taken as its kind, so that a mistyped one is explained as such.
    let words = entries.iter().filter_map(|(key, value)| match &key.value {
        Value::Text(word) if word != "name" && word != "onDrift" => Some((key, word.as_str(), value)),
        _ => None,
    });
    let words: Vec<_> = words.collect();
    let [(key, word, value)] = words.as_slice() else {
        let hint = format!("one of {}", crate::suggest::quoted(&KINDS));
        match words.get(1) {
            None => reporter.problem(&tree.span, "a task does not say what it does", hint),
            Some((key, word, _)) => reporter.problem(
                &key.span,
                format!("a task is one thing, and `{word}` is another"),
                "begin a new item with `- `; settings go below the kind".to_owned(),
            ),
        }
        return None;
    };
    let Some(kind) = KINDS.into_iter().find(|kind| kind == word) else {
        reporter.problem(&key.span, format!("unknown task `{word}`"), suggest(word, KINDS));
        return None;
    };
    let named = name.is_some();
    let name = name.unwrap_or_else(|| At::new(kind.to_owned(), &key.span));
    let mut notes = Notes::default();
    let work = work(kind, value, &mut notes, reporter);
    let Notes { spots, texts } = notes;
    Some(RawTask { name, kind, on_drift, work, spots, texts, shadows: false, named })
}

fn work(kind: &str, tree: &Tree, notes: &mut Notes, reporter: &mut Reporter<'_>) -> Option<Work> {
    // `- clock:` with nothing behind it: all its settings have defaults, or their absence is reported.
    let nothing = Tree { span: tree.span.clone(), value: Value::Map(Vec::new()) };
    let tree = if tree.value == Value::Null { &nothing } else { tree };
    let mut fields = Fields::of(tree, &format!("`{kind}`"), reporter)?;
    let work = match kind {
        // The only one that has no meaning without one of its settings.
        "rethinkdb" => {
            let found = services::rethinkdb(&mut fields, notes, reporter);
            fields.finish(reporter);
            return found.map(Work::Rethinkdb);
        }
        "clock" => Work::Clock(services::clock(&mut fields, notes, reporter)),
        "update" => Work::Update(services::update(&mut fields, reporter)),
        "access" => Work::Access(services::access(&mut fields, reporter)),
        "database" => Work::Database(services::database(&mut fields, notes, reporter)),
        "todo" => Work::Todo(services::todo(&mut fields, notes, reporter)),
        "file" => Work::File(general::file(&mut fields, notes, reporter)),
        "package" => Work::Package(general::package(&mut fields, reporter)),
        "service" => Work::Service(general::service(&mut fields, reporter)),
        "user" => Work::User(general::user(&mut fields, reporter)),
        _ => Work::Command(general::command(&mut fields, notes, reporter)),
    };
    fields.finish(reporter);
    Some(work)
}

fn task_name(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<At<String>> {
    let name = text(tree, "`name` of a task", reporter)?;
    let fine = name.value.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.value.len() <= LONGEST_NAME
        && name.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if !fine {
        let hint = format!("letters, digits, `-`, `_` and `.`, at most {LONGEST_NAME}: `site-page`");
        reporter.problem(&name.span, format!("`{}` cannot name a task", name.value), hint);
    } else if BUILT_IN.contains(&name.value.as_str()) {
        let hint = "every node has one of that name already".to_owned();
        reporter.problem(&name.span, format!("`{}` cannot name a task", name.value), hint);
    }
    Some(name)
}

fn on_drift(tree: &Tree, reporter: &mut Reporter<'_>) -> OnDrift {
    match choice(tree, "`onDrift`", &["repair", "report", "hold"], reporter).map(|word| word.value) {
        Some("report") => OnDrift::Report,
        Some("hold") => OnDrift::Hold,
        _ => OnDrift::Repair,
    }
}
