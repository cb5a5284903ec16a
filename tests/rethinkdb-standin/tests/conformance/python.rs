//! The suite of `conformance.py`, by a driver that is not ours.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::support::under_test;

/// The driver, in the version the suite was written with.
const DRIVER: &str = "rethinkdb==2.4.10.post1";

#[tokio::test(flavor = "multi_thread")]
async fn the_python_driver_finds_what_it_expects() {
    let server = under_test().await;
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance.py");
    let ran = Command::new(python()).arg("-u").arg(suite).arg(server.address.to_string()).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    // A suite that ran nothing would succeed as well.
    let passed = said.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(passed >= 45, "only {passed} checks ran:\n{said}");
}

/// A Python that has the driver, kept below the target directory.
fn python() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let python = home.join("bin/python");
    let lock = File::create(home.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let done = home.join("done");
    if fs::read_to_string(&done).is_ok_and(|made| made == DRIVER) {
        return python;
    }
    if home.exists() {
        fs::remove_dir_all(&home).unwrap();
    }
    let next = "install the Debian package python3-venv (`cargo xtask setup` does)";
    run("make a Python environment", Command::new("python3").args(["-m", "venv"]).arg(&home), next);
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", DRIVER]);
    let next =
        "the test needs this package from PyPI once: see that pip can reach PyPI or a mirror (PIP_INDEX_URL)";
    run("install RethinkDB's Python driver", &mut install, next);
    fs::write(done, DRIVER).unwrap();
    python
}

/// Runs a step of the preparation; a step that fails fails the test, and says what to do.
fn run(what: &str, command: &mut Command, next: &str) {
    match command.stdin(Stdio::null()).output() {
        Err(why) => panic!("{what}: {command:?}: {why}\nnext step: {next}"),
        Ok(Output { status, stdout, stderr }) if !status.success() => {
            let said = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
            panic!("{what}: {command:?} ended with {status}\n{said}\nnext step: {next}");
        }
        Ok(_) => {}
    }
}
