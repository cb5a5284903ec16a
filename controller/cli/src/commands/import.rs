//! `fleetctl import`: a plumbery plan becomes one of ours.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use fleet_import::{Fate, Import, ImportError, Note, Options};
use serde_json::{Value, json};

use crate::{
    args::{self, Global, Output},
    failure::{Exit, Failure},
    printer, problems,
};

pub fn run(global: &Global, args: args::Import) -> Result<Exit, Failure> {
    let file = args.file.display().to_string();
    let text = fs::read_to_string(&args.file)
        .map_err(|why| Failure::new(Exit::Input, format!("read plumbery plan `{file}`: {why}")))?;
    let options =
        Options { set: args.set.into_iter().collect(), fleet: global.fleet.clone(), local: args.local };
    let mut import =
        fleet_import::import(&file, &text, &options).map_err(|why| refused(&file, &text, &why))?;
    let written = args.write.as_ref().map(|path| path.display().to_string());
    if let Some(problems) = &mut import.problems {
        problems.file = written.clone().unwrap_or_else(|| "the plan".to_owned());
    }
    if let Some(path) = &args.write {
        write(path, &import.plan)?;
    }
    match global.output {
        Output::Json => printer::json(&document(&file, written.as_deref(), &import))?,
        Output::Text => {
            if args.write.is_none() {
                printer::text(&import.plan)?;
            }
            eprint!("{}", report(&file, written.as_deref(), &import));
        }
    }
    Ok(if import.is_whole() { Exit::Ok } else { Exit::NotReady })
}

/// What to say to somebody who takes a plumbery plan for one of ours.
pub fn offer(file: &Path) -> Failure {
    let file = file.display();
    Failure::new(Exit::Input, format!("`{file}` is a plumbery plan"))
        .hint(format!("`fleetctl import {file} -o plan.yaml` makes a plan of it"))
}

fn refused(file: &str, text: &str, why: &ImportError) -> Failure {
    let failure = Failure::new(Exit::Input, format!("import `{file}`: {why}"));
    match why {
        ImportError::Yaml(problems) => match problems.first() {
            Some(problem) => failure.hint(format!("{problem}: `{}`", problem.excerpt.trim())),
            None => failure,
        },
        ImportError::Other if text.lines().any(|line| line.starts_with("fleet:")) => {
            failure.hint(format!("it is one of ours already: `fleetctl plan check {file}`"))
        }
        ImportError::Other | ImportError::Parameters { .. } => failure,
    }
}

/// Writes a file that is not there yet.
fn write(path: &Path, plan: &str) -> Result<(), Failure> {
    let name = path.display();
    let mut file = File::create_new(path).map_err(|why| {
        let failure = Failure::new(Exit::Input, format!("write plan `{name}`: {why}"));
        match why.kind() {
            io::ErrorKind::AlreadyExists => failure.hint("name another file with -o, or remove this one"),
            _ => failure,
        }
    })?;
    file.write_all(plan.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|why| Failure::new(Exit::Failed, format!("write plan `{name}`: {why}")))
}

/// Notes for people, legible without colour.
fn report(file: &str, written: Option<&str>, import: &Import) -> String {
    let mut out = String::new();
    for note in &import.notes {
        let word = match note.fate {
            Fate::Lost => console::style("lost:").red().bold().for_stderr(),
            Fate::Changed => console::style("changed:").cyan().for_stderr(),
        };
        out += &format!("{word} {file}, line {}: {}\n", lines(note), note.what);
        if note.fate == Fate::Lost {
            out += &format!("{:5} | {}\n", note.line, note.excerpt);
        }
        out += &format!("  {} {}\n", if note.fate == Fate::Lost { "hint:" } else { "now:" }, note.instead);
    }
    if let Some(problems) = &import.problems {
        out += &format!("{problems}\n");
    }
    let count = |fate| import.notes.iter().filter(|note| note.fate == fate).count();
    let plan = written.map_or_else(|| "the plan".to_owned(), |path| format!("`{path}`"));
    let (lost, changed) = (count(Fate::Lost), count(Fate::Changed));
    out += &format!("{plan}: {changed} said in another way, {lost} without counterpart");
    out += match import.problems {
        Some(_) => ", and it needs correction\n",
        None => "\n",
    };
    out
}

fn lines(note: &Note) -> String {
    let also: Vec<String> = note.also.iter().map(usize::to_string).collect();
    if also.is_empty() {
        return note.line.to_string();
    }
    format!("{} (also {})", note.line, also.join(", "))
}

fn document(file: &str, written: Option<&str>, import: &Import) -> Value {
    let note = |note: &Note| {
        json!({
            "fate": note.fate.word(), "line": note.line, "column": note.column, "also": note.also,
            "what": note.what, "instead": note.instead, "excerpt": note.excerpt,
        })
    };
    let problems = import.problems.as_ref().map_or_else(Vec::new, |found| problems::list(&found.problems));
    json!({
        "file": file, "written": written, "whole": import.is_whole(), "plan": import.plan,
        "notes": import.notes.iter().map(note).collect::<Vec<_>>(), "problems": problems,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn import() -> Import {
        let text = "locationId: EU6\nblueprints:\n  - web:\n      domain: {name: Fox, ipv4: 2}\n      ethernet: {name: Net, \
                    subnet: 10.1.0.0}\n      nodes: [one: {appliance: Debian 12, running: always}]\n";
        fleet_import::import("fittings.yaml", text, &Options::default()).expect("a plumbery plan")
    }

    #[test]
    fn people_see_what_was_lost_and_what_to_do() {
        assert_eq!(
            console::strip_ansi_codes(&report("fittings.yaml", Some("plan.yaml"), &import())),
            "changed: fittings.yaml, line 4: number of public addresses\n  \
             now: every node with `internet` has an address, and no more are reserved\n\
             lost: fittings.yaml, line 6: `running: always`\n    \
             6 | nodes: [one: {appliance: Debian 12, running: always}]\n  \
             hint: `down` asks before it stops anything; there is no lock\n\
             `plan.yaml`: 1 said in another way, 1 without counterpart\n"
        );
    }

    #[test]
    fn programs_see_the_same() {
        let document = document("fittings.yaml", None, &import());
        assert_eq!(document["whole"], false);
        assert_eq!(document["notes"][1]["fate"], "lost");
        assert_eq!(document["notes"][1]["line"], 6);
        assert_eq!(document["problems"], json!([]));
        assert!(
            document["plan"]
                .as_str()
                .is_some_and(|plan| plan.starts_with("# Imported from fittings.yaml.\n"))
        );
    }

    #[test]
    fn a_file_is_not_written_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("plan.yaml");
        write(&path, "one").expect("written");
        assert_eq!(write(&path, "two").expect_err("it exists").exit, Exit::Input);
        assert_eq!(fs::read_to_string(&path).expect("there"), "one");
    }
}
