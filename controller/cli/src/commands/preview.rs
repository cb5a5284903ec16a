//! What `up` would do, for people and for programs.

use console::style;
use fleet_proto::v1::{PlannedStep, StepVerb};
use serde_json::json;

use crate::{
    args::Output,
    failure::{Exit, Failure},
    printer, words,
};

/// Prints the steps; [`Exit::Changes`] if there are any.
pub fn print(steps: &[PlannedStep], output: Output) -> Result<Exit, Failure> {
    match output {
        Output::Json => {
            let list: Vec<_> = steps
                .iter()
                .map(|step| {
                    json!({
                        "verb": words::verb(step.verb()), "kind": step.kind, "name": step.name,
                        "location": step.location, "detail": step.detail,
                    })
                })
                .collect();
            printer::json(&json!({ "steps": list }))?;
        }
        Output::Text => printer::text(&text(steps))?,
    }
    Ok(if steps.is_empty() { Exit::Ok } else { Exit::Changes })
}

fn text(steps: &[PlannedStep]) -> String {
    if steps.is_empty() {
        return "nothing to do: everything is as planned\n".to_owned();
    }
    let rows: Vec<Vec<String>> = steps
        .iter()
        .map(|step| {
            let sign = match step.verb() {
                StepVerb::StepCreate => style("+").green(),
                StepVerb::StepDestroy => style("-").red(),
                _ => style("~").yellow(),
            };
            let what = format!("{sign} {} {}", words::verb(step.verb()), step.kind);
            vec![what, step.name.clone(), step.location.clone(), step.detail.clone()]
        })
        .collect();
    let count = |verb| steps.iter().filter(|step| step.verb() == verb).count();
    format!(
        "{}\n{} to create, {} to change, {} to destroy\n",
        printer::table(&rows),
        count(StepVerb::StepCreate),
        count(StepVerb::StepChange),
        count(StepVerb::StepDestroy)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_and_signed() {
        console::set_colors_enabled(false);
        let step = |verb: StepVerb, kind: &str, name: &str| PlannedStep {
            verb: verb.into(),
            kind: kind.into(),
            name: name.into(),
            location: "EU7".into(),
            detail: "not there yet".into(),
        };
        let steps = [
            step(StepVerb::StepCreate, "server", "EU7rethinkSeed"),
            step(StepVerb::StepChange, "disk", "EU7rethinkSeed/1"),
            step(StepVerb::StepDestroy, "nat rule", "10.0.0.7"),
        ];
        insta::assert_snapshot!(text(&steps));
        assert_eq!(text(&[]), "nothing to do: everything is as planned\n");
    }
}
