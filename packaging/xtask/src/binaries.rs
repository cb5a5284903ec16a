//! Builds every test binary once, and tells where each lies.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    paths,
    run::{Done, announced, cargo},
};

/// A program that tests.
#[derive(Debug, PartialEq)]
pub struct Binary {
    /// Its package.
    pub package: String,
    /// What cargo calls the kind of its target: `lib`, `bin`, `test`, ….
    pub kind: String,
    /// The library, program or file in `tests/` that it tests.
    pub target: String,
    /// Where it lies.
    pub program: PathBuf,
    /// Its package's folder, in which it runs.
    pub folder: PathBuf,
}

impl Binary {
    /// What it is called, as no other is.
    pub fn name(&self) -> String {
        match self.kind.as_str() {
            "test" => format!("{} {}", self.package, self.target),
            kind => format!("{} {kind} {}", self.package, self.target),
        }
    }

    /// The command that runs it, in the surroundings that `cargo test` makes.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.folder);
        // Ours would mislead it.
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_PKG_")) {
            command.env_remove(name);
        }
        command.env("CARGO_MANIFEST_DIR", &self.folder).env("CARGO_PKG_NAME", &self.package);
        command
    }
}

/// Every test binary of the workspace, built.
pub fn build() -> Done<Vec<Binary>> {
    announced("build tests", || {
        let output = cargo()
            .current_dir(paths::checkout())
            .args(["test", "--workspace", "--locked", "--no-run"])
            .arg("--message-format=json-render-diagnostics")
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|why| format!("start cargo: {why}"))?;
        if !output.status.success() {
            return Err(format!("cargo ended with {}", output.status));
        }
        let lines = String::from_utf8_lossy(&output.stdout);
        let found = lines.lines().filter_map(|line| binary(line).transpose()).collect::<Done<Vec<_>>>()?;
        // What the form of cargo's messages hides must not pass as tested.
        if found.is_empty() { Err("cargo names no test binary".to_owned()) } else { Ok(found) }
    })
}

/// The test binary that a message of cargo's tells of, if it does.
fn binary(message: &str) -> Done<Option<Binary>> {
    let tests = after(message, r#""profile":{"#)
        .and_then(|profile| profile.split('}').next())
        .is_some_and(|profile| profile.contains(r#""test":true"#));
    if !message.starts_with(r#"{"reason":"compiler-artifact""#) || !tests {
        return Ok(None);
    }
    let read = || {
        let manifest = PathBuf::from(text(after(message, r#""manifest_path":"#)?)?);
        let target = after(message, r#""target":{"#)?;
        Some(Binary {
            package: package(&manifest)?,
            kind: text(after(target, r#""kind":["#)?)?,
            target: text(after(target, r#""name":"#)?)?,
            program: text(after(message, r#""executable":"#)?)?.into(),
            folder: manifest.parent()?.to_owned(),
        })
    };
    read().map(Some).ok_or_else(|| format!("cannot read what cargo says of a test binary: {message}"))
}

/// The name in a manifest of ours; they all give it first.
fn package(manifest: &Path) -> Option<String> {
    let manifest = std::fs::read_to_string(manifest).ok()?;
    let name = manifest.lines().find_map(|line| line.strip_prefix("name = "))?;
    Some(name.trim_matches('"').to_owned())
}

fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.split_once(mark).map(|(_, after)| after)
}

/// The JSON text that `json` begins with.
fn text(json: &str) -> Option<String> {
    let mut characters = json.strip_prefix('"')?.chars();
    let mut text = String::new();
    loop {
        match characters.next()? {
            '"' => return Some(text),
            '\\' => match characters.next()? {
                escaped @ ('"' | '\\' | '/') => text.push(escaped),
                // Nobody has a path with those.
                _ => return None,
            },
            character => text.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &str, tests: bool, executable: &str) -> String {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        format!(
            r#"{{"reason":"compiler-artifact","package_id":"x","manifest_path":"{manifest}","target":{{"kind":["{kind}"],"crate_types":["bin"],"name":"wire","src_path":"/s","edition":"2024","doc":false,"doctest":false,"test":true}},"profile":{{"opt_level":"0","debuginfo":1,"overflow_checks":true,"test":{tests}}},"features":[],"filenames":["/a"],"executable":{executable},"fresh":true}}"#
        )
    }

    #[test]
    fn test_binaries_are_told_from_everything_else() {
        let found = binary(&message("test", true, r#""/deps/a \"b\"""#)).expect("reads").expect("a binary");
        assert_eq!(found.name(), "xtask wire");
        let library = binary(&message("lib", true, r#""/deps/c""#)).expect("reads").expect("a binary");
        assert_eq!(library.name(), "xtask lib wire");
        assert_eq!(found.program, Path::new("/deps/a \"b\""));
        assert_eq!(found.folder, Path::new(env!("CARGO_MANIFEST_DIR")));
        assert_eq!(binary(&message("bin", false, r#""/debug/wire""#)), Ok(None), "a program, not a test");
        assert_eq!(binary(r#"{"reason":"build-finished","success":true}"#), Ok(None));
    }

    #[test]
    fn a_message_that_cannot_be_read_is_not_passed_over() {
        for executable in ["null", r#""/deps/\u0061""#] {
            assert!(binary(&message("test", true, executable)).is_err(), "{executable}");
        }
    }
}
