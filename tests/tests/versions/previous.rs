//! The release before this one: found by its tag, built once, kept outside the checkout by its commit.

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

/// Names a commit where no tag is to be had, as in a shallow clone.
const FALLBACK: &str = "packaging/previous-release";
/// What is kept of a build.
const PROGRAMS: [&str; 3] = ["fleetctl", "fleet-agent", "fleet-supervisor"];

/// Folder with the programs of the release before this one.
pub fn previous() -> PathBuf {
    let (name, commit) = find();
    let cache = cache().join("previous").join(&commit);
    fs::create_dir_all(&cache).expect("make the cache");
    // Whoever comes second waits for the first one's build.
    let lock = File::create(cache.join("lock")).expect("a lock");
    lock.lock().expect("locked");
    if !cache.join("whole").exists() {
        eprintln!(
            "the release before this one is {name}, {commit}: building it once, into {}",
            cache.display()
        );
        build(&commit, &cache);
    }
    cache
}

/// The newest tag before this commit, else the commit that a file names.
fn find() -> (String, String) {
    // Merged into the parent: an ancestor, and never this very commit.
    let tags =
        git(&["tag", "--list", "v*", "--merged", "HEAD^", "--sort=-version:refname"]).unwrap_or_default();
    if let Some(tag) = tags.lines().next() {
        let commit = git(&["rev-parse", &format!("{tag}^{{commit}}")]).expect("a tag names a commit");
        return (tag.to_owned(), commit);
    }
    let commit = fs::read_to_string(checkout().join(FALLBACK)).expect("the file is part of the tree");
    let commit = commit.lines().find(|line| !line.starts_with('#')).expect("a commit").trim().to_owned();
    eprintln!(
        "NO TAG `v*` BEFORE THIS COMMIT (a shallow clone?): taking the commit that {FALLBACK} names, {commit}"
    );
    let here = |commit: &str| git(&["cat-file", "-e", &format!("{commit}^{{commit}}")]).is_some();
    if !here(&commit) {
        eprintln!("it is not in this clone; fetching it");
        let fetched = git(&["fetch", "--quiet", "--depth=1", "origin", &commit]).is_some()
            || git(&["fetch", "--quiet", "--unshallow", "origin"]).is_some();
        assert!(
            fetched && here(&commit),
            "commit {commit}, the release before this one, cannot be had: run `git fetch --unshallow --tags`"
        );
    }
    (FALLBACK.to_owned(), commit)
}

/// Builds the commit's programs; its sources and all that is not kept go afterwards.
fn build(commit: &str, cache: &Path) {
    let started = Instant::now();
    let (source, target) = (cache.join("source"), cache.join("target"));
    fs::remove_dir_all(&source).ok();
    fs::create_dir_all(&source).expect("a folder for the sources");
    // Not a work tree of the checkout: that would leave a trace in it.
    let mut archive = Command::new("git")
        .args(["archive", "--format=tar", commit])
        .current_dir(checkout())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git starts");
    let sources = archive.stdout.take().expect("piped");
    let unpacked =
        Command::new("tar").arg("-x").arg("-C").arg(&source).stdin(sources).status().expect("tar starts");
    assert!(
        archive.wait().expect("git ends").success() && unpacked.success(),
        "take the sources of {commit} out"
    );
    let packages = ["fleet-cli", "fleet-agent", "fleet-supervisor"];
    let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--locked", "--bins", "--config", "profile.dev.debug=false"])
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .current_dir(&source)
        .env("CARGO_TARGET_DIR", &target)
        .env_remove("FLEET_VERSION")
        .stdin(Stdio::null())
        .status()
        .expect("cargo starts");
    assert!(built.success(), "build the release before this one, {commit}");
    for program in PROGRAMS {
        fs::rename(target.join("debug").join(program), cache.join(program)).expect("kept");
    }
    fs::remove_dir_all(&target).expect("removed");
    fs::remove_dir_all(&source).expect("removed");
    fs::write(cache.join("whole"), "").expect("marked");
    eprintln!("built in {:.0} s", started.elapsed().as_secs_f32());
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).current_dir(checkout()).output().expect("git starts");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the checkout").to_owned()
}

fn cache() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").expect("HOME is set")).join(".cache");
    env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("fleet")
}
