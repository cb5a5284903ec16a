//! What `up` would do, for people and for programs.

use console::style;
use fleet_proto::v1::{PlannedStep, PreviewReply, StepVerb};
use serde_json::json;

use super::rollout_view;
use crate::{
    args::Output,
    failure::{Exit, Failure},
    printer, words,
};

/// Prints what would be done and what cannot be; [`Exit::Changes`] if there is anything.
pub fn print(preview: &PreviewReply, output: Output) -> Result<Exit, Failure> {
    let steps = preview.steps.as_slice();
    match output {
        Output::Json => {
            let list: Vec<_> = steps
                .iter()
                .map(|step| {
                    json!({
                        "verb": words::verb(step.verb()), "kind": step.kind, "name": step.name,
                        "location": step.location, "detail": step.detail, "outside": step.outside,
                        "wants_consent": step.wants_consent,
                    })
                })
                .collect();
            let rollout = preview.rollout.as_ref().map(rollout_view::rollout_document);
            printer::json(&json!({ "steps": list, "problems": preview.problems, "rollout": rollout }))?;
        }
        Output::Text => {
            printer::text(&text(steps, &preview.problems))?;
            if let Some(rollout) = &preview.rollout {
                printer::text(&format!("\n{}", rollout_view::waves(rollout)))?;
            }
        }
    }
    Ok(if steps.is_empty() && preview.problems.is_empty() { Exit::Ok } else { Exit::Changes })
}

fn text(steps: &[PlannedStep], problems: &[String]) -> String {
    if steps.is_empty() && problems.is_empty() {
        return "nothing to do: everything is as planned\n".to_owned();
    }
    let rows: Vec<Vec<String>> = steps
        .iter()
        .map(|step| {
            let sign = match step.verb() {
                StepVerb::StepCreate => style("+").green(),
                StepVerb::StepDestroy => style("-").red(),
                StepVerb::StepReplace => style("±").magenta(),
                StepVerb::StepAdopt => style("=").cyan(),
                StepVerb::StepRelease => style("-").cyan(),
                _ => style("~").yellow(),
            };
            let what = format!("{sign} {}", words::doing(step.verb(), &step.kind));
            vec![what, step.name.clone(), step.location.clone(), why(step)]
        })
        .collect();
    let count = |verb| steps.iter().filter(|step| step.verb() == verb).count();
    let words = [
        (StepVerb::StepCreate, "create"),
        (StepVerb::StepChange, "change"),
        (StepVerb::StepReplace, "replace"),
        (StepVerb::StepDestroy, "destroy"),
        (StepVerb::StepAdopt, "adopt"),
        (StepVerb::StepRelease, "release"),
    ];
    // What is usual is always counted, so that its absence is news too.
    let usual =
        |verb: StepVerb| !matches!(verb, StepVerb::StepReplace | StepVerb::StepAdopt | StepVerb::StepRelease);
    let counts: Vec<String> = words
        .into_iter()
        .filter(|(verb, _)| usual(*verb) || count(*verb) > 0)
        .map(|(verb, word)| format!("{} to {word}", count(verb)))
        .collect();
    let mut text = format!("{}\n{}\n", printer::table(&rows), counts.join(", "));
    for problem in problems {
        text.push_str(&format!("{} {problem}\n", style("cannot be done:").red()));
    }
    text
}

/// Why a step is taken, and who must agree.
fn why(step: &PlannedStep) -> String {
    let outside = step.outside.then(|| style("changed outside of the plan").yellow().to_string());
    let detail = Some(step.detail.clone()).filter(|detail| !detail.is_empty());
    let parts: Vec<String> = outside.into_iter().chain(detail).collect();
    let mut why = parts.join(": ");
    if step.wants_consent {
        why = format!("{why}; only with --replace {}", step.name);
    }
    why
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
            detail: match verb {
                StepVerb::StepCreate => String::new(),
                _ => "one becomes two".into(),
            },
            ..PlannedStep::default()
        };
        let steps = [
            step(StepVerb::StepCreate, "server", "EU7rethinkSeed"),
            step(StepVerb::StepChange, "disk", "EU7rethinkSeed/1"),
            step(StepVerb::StepChange, "power off", "EU7rethinkSeed"),
            step(StepVerb::StepDestroy, "nat rule", "10.0.0.7"),
        ];
        insta::assert_snapshot!(text(&steps, &[]));
        let outside = PlannedStep { outside: true, ..step(StepVerb::StepCreate, "power on", "a") };
        let replace = PlannedStep { wants_consent: true, ..step(StepVerb::StepReplace, "server", "a") };
        let adopt = step(StepVerb::StepAdopt, "server", "b");
        let problems = ["no image `BeOS`; name another".to_owned()];
        insta::assert_snapshot!("what_is_unusual", text(&[outside, replace, adopt], &problems));
        assert_eq!(text(&[], &[]), "nothing to do: everything is as planned\n");
    }
}
