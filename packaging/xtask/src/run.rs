//! Running programs, loudly.

use std::{
    io::IsTerminal,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use crate::paths;

/// What a step's result is: nothing, or one line saying why not.
pub type Done<T = ()> = Result<T, String>;

/// Runs a program to its end in the checkout; its output is shown.
pub fn run(what: &str, command: &mut Command) -> Done {
    announced(what, || {
        let program = command.get_program().to_string_lossy().into_owned();
        let status = command
            .current_dir(paths::checkout())
            .stdin(Stdio::null())
            .status()
            .map_err(|why| format!("start `{program}`: {why}"))?;
        if status.success() { Ok(()) } else { Err(format!("`{program}` ended with {status}")) }
    })
}

/// Says what begins, and how long it took.
pub fn announced<T>(what: &str, work: impl FnOnce() -> Done<T>) -> Done<T> {
    let started = Instant::now();
    let bold = std::io::stderr().is_terminal();
    let (on, off) = if bold { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    eprintln!("{on}xtask: {what}{off}");
    let done = work();
    eprintln!("xtask: {what}: {:.1} s", started.elapsed().as_secs_f32());
    done.map_err(|why| format!("{what}: {why}"))
}

/// Runs a program and returns its standard output.
pub fn output(command: &mut Command) -> Done<(bool, String)> {
    let output = command
        .current_dir(paths::checkout())
        .output()
        .map_err(|why| format!("start `{}`: {why}", command.get_program().to_string_lossy()))?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// The cargo that runs this, building into the shared target directory.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.env("CARGO_TARGET_DIR", paths::target());
    command
}

/// A program of ours.
pub fn ours(program: &Path) -> Command {
    Command::new(program)
}
