//! Reading a plan file and showing what is wrong with it.

use std::collections::BTreeMap;

use fleet_plan::{Problem, Problems, ResolvedPlan};
use fleet_proto::v1::PlanDocument;
use serde_json::{Value, json};

use crate::{
    args::{Output, PlanFile},
    commands::import,
    failure::{Exit, Failure},
    files::{self, Named},
    printer,
};

/// A plan without problems, and the text it came from.
pub struct Read {
    /// What it means.
    pub plan: ResolvedPlan,
    /// What is probably not meant.
    pub warnings: Vec<Problem>,
    /// Files of this host that it names; all of them can be read.
    pub files: Vec<Named>,
    /// What travels to the controller, but for what is not in the plan itself.
    pub document: PlanDocument,
}

/// Reads and checks a plan, and looks for the files it names; shows every problem and every warning.
///
/// # Errors
/// With all problems shown already, on standard error as text or on standard output as JSON.
pub fn read(args: &PlanFile, output: Output) -> Result<Read, Failure> {
    let file = args.file.display().to_string();
    let text = std::fs::read_to_string(&args.file).map_err(|why| {
        Failure::new(Exit::Input, format!("read plan `{file}`: {why}"))
            .hint("example plans are in packaging/plans, or in /usr/share/fleet/plans when installed")
    })?;
    if fleet_import::looks_like_plumbery(&text) {
        return Err(import::offer(&args.file));
    }
    let parameters: BTreeMap<String, String> = args.set.iter().cloned().collect();
    match fleet_plan::load(&file, &text, &parameters) {
        Ok(loaded) => {
            if output == Output::Text {
                for warning in &loaded.warnings {
                    let hint = warning.hint.as_ref().map(|hint| format!("\n  hint: {hint}"));
                    eprintln!("warning: {file}, {warning}{}", hint.unwrap_or_default());
                }
            }
            let files =
                files::find(&loaded.plan, &args.file).or_else(|problems| absent(&file, &problems, output))?;
            let parameters = parameters.into_iter().collect();
            Ok(Read {
                plan: loaded.plan,
                warnings: loaded.warnings,
                files,
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

/// Shows which files the plan names and this host does not have. They have no place: a parameter may have named them.
fn absent<T>(file: &str, problems: &[String], output: Output) -> Result<T, Failure> {
    const HINT: &str = "paths are relative to the folder of the plan";
    if output == Output::Json {
        let list: Vec<Value> = problems
            .iter()
            .map(|message| json!({ "line": null, "column": null, "message": message, "hint": HINT, "excerpt": null }))
            .collect();
        printer::json(&json!({ "file": file, "problems": list, "warnings": [] }))?;
    } else {
        for problem in problems {
            eprintln!("error: {file}: {problem}");
        }
        eprintln!("  hint: {HINT}");
    }
    Err(Failure::shown(Exit::Input))
}

fn document(problems: &Problems) -> Value {
    json!({
        "file": problems.file, "problems": list(&problems.problems), "warnings": list(&problems.warnings),
    })
}

/// Problems, or warnings, for programs.
pub fn list(problems: &[Problem]) -> Vec<Value> {
    let one = |problem: &Problem| {
        json!({
            "line": problem.line, "column": problem.column, "message": problem.message,
            "hint": problem.hint, "excerpt": problem.excerpt,
        })
    };
    problems.iter().map(one).collect()
}
