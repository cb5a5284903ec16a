//! Reading a plan file and showing what is wrong with it.

use std::collections::BTreeMap;

use fleet_plan::{Problems, ResolvedPlan};
use fleet_proto::v1::PlanDocument;
use serde_json::{Value, json};

use crate::{
    args::{Output, PlanFile},
    failure::{Exit, Failure},
    printer,
};

/// A plan without problems, and the text it came from.
pub struct Read {
    /// What it means.
    pub plan: ResolvedPlan,
    /// What travels to the controller.
    pub document: PlanDocument,
}

/// Reads and checks a plan; shows every problem and every warning.
///
/// # Errors
/// With all problems shown already, on standard error as text or on standard output as JSON.
pub fn read(args: &PlanFile, output: Output) -> Result<Read, Failure> {
    let file = args.file.display().to_string();
    let text = std::fs::read_to_string(&args.file).map_err(|why| {
        Failure::new(Exit::Input, format!("read plan `{file}`: {why}"))
            .hint("example plans are in packaging/plans, or in /usr/share/fleet/plans when installed")
    })?;
    let parameters: BTreeMap<String, String> = args.set.iter().cloned().collect();
    match fleet_plan::load(&file, &text, &parameters) {
        Ok(loaded) => {
            if output == Output::Text {
                for warning in &loaded.warnings {
                    eprintln!("warning: {file}, {warning}");
                }
            }
            let parameters = parameters.into_iter().collect();
            Ok(Read {
                plan: loaded.plan,
                document: PlanDocument { file, text, parameters, ..PlanDocument::default() },
            })
        }
        Err(problems) => {
            show(&problems, output)?;
            Err(Failure::shown(Exit::Input))
        }
    }
}

fn show(problems: &Problems, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return printer::json(&document(problems));
    }
    eprintln!("{problems}");
    let count = problems.problems.len();
    eprintln!("\n{count} problem{} in {}", if count == 1 { "" } else { "s" }, problems.file);
    Ok(())
}

fn document(problems: &Problems) -> Value {
    let list: Vec<Value> = problems
        .problems
        .iter()
        .map(|problem| {
            json!({
                "line": problem.line, "column": problem.column, "message": problem.message,
                "hint": problem.hint, "excerpt": problem.excerpt,
            })
        })
        .collect();
    json!({ "file": problems.file, "problems": list })
}
