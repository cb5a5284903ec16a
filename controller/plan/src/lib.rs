//! Plan files: parse, validate, resolve. Pure.
//!
//! What comes out of [`load`] is a [`ResolvedPlan`]: every default applied, every parameter substituted, every
//! reference checked; or every problem at once, each with its place and what to try. Nothing here reads a file, a
//! clock or the network.
//!
//! On its way a plan is a tree that remembers places (`syntax`), has its parameters put in (`parameter`), becomes
//! sections (`document`, `settings`, `task`, read through `read`), and is resolved and checked (`resolve`, `check`). How
//! its changes are rolled out is a policy of `fleet-rollout`, read by `rollout`.

mod check;
mod document;
mod hosts;
mod internet;
mod parameter;
mod plain;
mod problem;
mod read;
mod resolve;
pub mod resolved;
mod rollout;
mod settings;
mod suggest;
mod syntax;
mod task;
mod template;

use std::collections::BTreeMap;

pub use problem::{Problem, Problems};
pub use resolved::ResolvedPlan;
pub use syntax::{Tree, Value};
pub use task::{BUILT_IN as BUILT_IN_TASKS, KINDS as TASK_KINDS, LONGEST_NAME as LONGEST_TASK_NAME};
pub use template::NodeValues;

use crate::{document::Document, parameter::Parameters, problem::Reporter};

/// A plan without problems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What it means.
    pub plan: ResolvedPlan,
    /// What is probably not meant.
    pub warnings: Vec<Problem>,
}

/// Reads the plan `text`; `file` is its name for messages, `set` the operator's values of parameters.
///
/// # Errors
/// [`Problems`]: all of them, not just the first, unless the text is not YAML at all.
pub fn load(file: &str, text: &str, set: &BTreeMap<String, String>) -> Result<Loaded, Problems> {
    let mut reporter = Reporter::new(text);
    let plan = read(set, &mut reporter);
    let (problems, warnings) = reporter.finish();
    match plan {
        Some(plan) if problems.is_empty() => Ok(Loaded { plan, warnings }),
        _ => Err(Problems { file: file.to_owned(), source: text.to_owned(), problems, warnings }),
    }
}

fn read(set: &BTreeMap<String, String>, reporter: &mut Reporter<'_>) -> Option<ResolvedPlan> {
    let mut tree = syntax::parse(reporter)?;
    let mut section = None;
    if let Value::Map(entries) = &mut tree.value {
        section = entries
            .iter()
            .find(|(key, _)| key.value == Value::Text("parameters".into()))
            .map(|(_, v)| v.clone());
    }
    let mut parameters = Parameters::read(section.as_ref(), set, reporter);
    if let Value::Map(entries) = &mut tree.value {
        for (key, value) in entries {
            if key.value != Value::Text("parameters".into()) {
                parameters.put_in(value, reporter);
            }
        }
    }
    parameters.finish(reporter);
    let document = Document::read(&tree, reporter)?;
    resolve::resolve(&document, reporter)
}

/// One YAML document as a tree that remembers places, for readers of other formats.
///
/// # Errors
/// Why the text is not YAML, and where.
pub fn tree(text: &str) -> Result<Tree, Vec<Problem>> {
    let mut reporter = Reporter::new(text);
    let tree = syntax::parse(&mut reporter);
    tree.ok_or_else(|| reporter.finish().0)
}

/// Whether `line` is a public key as authorized_keys has them, of a type that OpenSSH lets in.
pub fn is_public_key(line: &str) -> bool {
    task::is_key(line.trim()).is_ok()
}

#[cfg(test)]
mod tests;
