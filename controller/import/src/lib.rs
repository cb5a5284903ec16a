//! Plumbery's plans turned into plans of ours. Pure: text in, text and notes out.
//!
//! Plumbery (<https://github.com/bernard357/plumbery>) describes fleets in "fittings": a YAML file whose first
//! document holds what is common, and each further one a location with its blueprints. [`import`] says the same in
//! our format. What a node's `cloud-config` does is recognised where one of our tasks does it; nothing is ever run by
//! a shell. Everything that was said in another way, or has no counterpart, is a [`Note`] with its line; nothing is
//! dropped without one.
//!
//! On its way a plan is read as text with places (`source`, `tree`), its first document (`head`, `parameter`) and its
//! locations (`place`, `node`) are understood, nodes get their settings (`machine`), their texts (`form`, `directory`) and
//! their tasks (`cloud`), and all of it is put together (`assemble`) and written (`emit`).
//!
//! Deliberately absent: plumbery's commands, its secrets (`*.secrets` files), and whatever it downloads.

mod assemble;
mod cloud;
mod directory;
mod emit;
mod form;
mod head;
mod machine;
mod node;
mod note;
mod parameter;
mod place;
mod source;
mod tree;

use std::collections::BTreeMap;

use fleet_model::FleetName;
use fleet_plan::{Problem, Problems};

pub use note::{Fate, Note};

use crate::{
    emit::{Entry, Out},
    head::Head,
    machine::Reader,
    note::Notes,
    parameter::Parameters,
    place::Places,
    source::Source,
};

/// What the operator adds to the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Values that become the defaults of parameters.
    pub set: BTreeMap<String, String>,
    /// Name of the fleet; otherwise that of its first network domain.
    pub fleet: Option<FleetName>,
    /// Write `cloud: local`, whatever the locations say.
    pub local: bool,
}

/// A plan of ours, and what to know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The plan's text.
    pub plan: String,
    /// What was said in another way or has no counterpart, in the order of the plumbery plan.
    pub notes: Vec<Note>,
    /// What is still wrong with the text in `plan`; places are those of that text. `None` unless the plumbery plan
    /// itself is at fault: no nodes, subnets that overlap and the like.
    pub problems: Option<Problems>,
}

impl Import {
    /// Whether everything was carried over, in this way or another.
    pub fn is_whole(&self) -> bool {
        self.problems.is_none() && self.notes.iter().all(|note| note.fate != Fate::Lost)
    }
}

/// Why there is no import.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// The text is not YAML.
    #[error("not YAML")]
    Yaml(Vec<Problem>),
    /// The text is something else.
    #[error("not a plumbery plan: it has no document with `blueprints`")]
    Other,
    /// Values were given for parameters the plan does not have.
    #[error("the plan has no parameter {}", unknown.join(", "))]
    Parameters {
        /// Their names, in backquotes.
        unknown: Vec<String>,
    },
}

/// Turns the plumbery plan `text` into a plan of ours; `file` is its name for the remark at the top.
///
/// # Errors
/// [`ImportError`] if there is nothing to import, or `options` do not fit.
pub fn import(file: &str, text: &str, options: &Options) -> Result<Import, ImportError> {
    let source = Source::read(text).map_err(ImportError::Yaml)?;
    let (head, documents) = match source.documents.split_first() {
        Some((head, documents)) if !documents.is_empty() => (Some(head), documents),
        _ => (None, source.documents.as_slice()),
    };
    if !documents.iter().any(|document| tree::get(document, "blueprints").is_some()) {
        return Err(ImportError::Other);
    }
    let mut notes = Notes::new(&source);
    let section = head.and_then(|head| tree::get(head, "parameters"));
    let parameters = Parameters::read(section, &options.set, &source, &mut notes);
    if !parameters.unknown.is_empty() {
        let unknown = parameters.unknown.iter().map(|name| format!("`{name}`")).collect();
        return Err(ImportError::Parameters { unknown });
    }
    let mut reader = Reader { source: &source, parameters: &parameters, notes: &mut notes };
    let head = head.map_or_else(Head::default, |head| Head::read(head, &mut reader));
    let mut places = Places::default();
    for document in documents {
        places.read(document, &head.defaults, options.local, &mut reader);
    }
    places.name_nodes(&mut reader);
    let sections = assemble::assemble(head.information.as_ref(), &head.defaults, &places, &mut reader);

    let mut comments = source.comments.clone();
    let mut top = Entry::new("fleet", Out::text(fleet(file, &places, options).as_str()));
    top.remark.push(format!("Imported from {file}."));
    top.remark.extend(head.remarks);
    // What stands at the top of the file is about all of it.
    let first = source.documents.first().and_then(|tree| tree::entries(tree).first());
    top.remark.extend(first.into_iter().flat_map(|(key, _)| comments.take_above(source.line_of(key))));
    let mut entries = vec![top, assemble::cloud(places.api.as_ref().filter(|_| !options.local))];
    entries.extend(sections.information);
    if !parameters.entries.is_empty() {
        entries.push(Entry::new("parameters", Out::Map(parameters.entries.clone())));
    }
    entries.extend(sections.defaults);
    entries.extend(sections.classes);
    entries.push(sections.locations);
    let plan = emit::write(&entries, &mut comments);
    for line in comments.left() {
        notes.changed(
            &source.start_of(line),
            "a comment on something that has no place of its own",
            "left out",
        );
    }
    let problems = fleet_plan::load("plan.yaml", &plan, &BTreeMap::new()).err();
    Ok(Import { plan, notes: notes.finish(), problems })
}

/// Name of the fleet: the operator's, its first domain's, or its file's.
fn fleet(file: &str, places: &Places, options: &Options) -> FleetName {
    let stem = file.rsplit(['/', '\\']).next().and_then(|name| name.split('.').next());
    let named = [assemble::first_domain(places), stem].into_iter().flatten().find_map(|name| {
        let name: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        name.trim_matches('-').parse::<FleetName>().ok()
    });
    options.fleet.clone().or(named).unwrap_or_else(|| "fleet".parse().expect("a name"))
}

/// Whether a text has the shape of a plumbery plan rather than of one of ours; it need not be YAML.
pub fn looks_like_plumbery(text: &str) -> bool {
    let has = |key: &str| {
        text.lines().any(|line| {
            line.strip_prefix(key)
                .and_then(|rest| rest.trim_start().strip_prefix(':'))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
        })
    };
    !has("fleet") && !has("locations") && (has("blueprints") || has("locationId"))
}
