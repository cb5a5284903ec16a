//! `fleetctl plan check`.

use serde_json::json;

use crate::{
    args::{Global, Output, Plan},
    failure::{Exit, Failure},
    printer, problems,
};

pub fn run(global: &Global, args: Plan) -> Result<Exit, Failure> {
    let Plan::Check(file) = args;
    let read = problems::read(&file, global.output)?;
    let (nodes, locations) = (read.plan.nodes().count(), read.plan.locations.len());
    match global.output {
        Output::Json => printer::json(&json!({
            "file": read.document.file, "problems": [], "warnings": problems::list(&read.warnings),
            "fleet": read.plan.fleet.as_str(), "nodes": nodes,
        }))?,
        Output::Text => {
            let warnings = match read.warnings.len() {
                0 => String::new(),
                1 => ", 1 warning".to_owned(),
                many => format!(", {many} warnings"),
            };
            printer::text(&format!(
                "{}: fleet `{}`, {nodes} nodes in {locations} locations, no problems{warnings}\n",
                read.document.file, read.plan.fleet
            ))?;
        }
    }
    Ok(Exit::Ok)
}
