//! apt-get without questions: waits for nobody's answer, and for nobody's lock.
//!
//! A lock held by somebody is a reason to come back later ([`busy`], [`TaskError::NotYet`]), never to remove or kill
//! anything. What an interrupted run left half done is finished first. A package that cannot be fetched gets one more
//! chance with fresh lists.

mod trouble;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use fleet_task::{Command, Node, Output, TaskError};

use super::{dpkg, locks, names};
use trouble::Trouble;

/// Longest one run may take: an upgrade on an emulated processor.
const LONG: Duration = Duration::from_secs(25 * 60);
/// In this order apt takes them.
const LOCKS: [&str; 4] = [
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/cache/apt/archives/lock",
];
/// No questions of debconf, ucf, needrestart or apt-listchanges; see the manual page of each.
const ENV: [(&str, &str); 7] = [
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("DEBIAN_PRIORITY", "critical"),
    ("NEEDRESTART_SUSPEND", "1"),
    ("APT_LISTCHANGES_FRONTEND", "none"),
    ("UCF_FORCE_CONFFOLD", "1"),
    ("HOME", "/root"),
    ("TERM", "dumb"),
];
/// A changed configuration file stays as it is; one that is as it came is replaced (dpkg(1)).
const KEEP: [&str; 2] = ["--force-confdef", "--force-confold"];
/// Packages that came as files get a name apt recognises in here.
const FILES: &str = "/var/lib/fleet-agent/packages";

/// Who keeps apt or dpkg busy, as what is waited for; `None` if nobody.
pub fn busy(node: &Node) -> Option<String> {
    LOCKS.iter().find_map(|lock| {
        locks::holder(node, lock).map(|holder| format!("{holder} to end, which holds {lock}"))
    })
}

/// Fetches the package lists; one that could not be fetched is an error, not an old list used in silence.
///
/// # Errors
/// [`TaskError::NotYet`] while somebody else is at work, [`TaskError::Refused`] with apt's own reason.
pub async fn update_lists(node: &Node) -> Result<(), TaskError> {
    run(node, &update()).await
}

/// The same; what keeps the lists from being fetched, if it is the mirrors or the way to them, is for the caller to judge.
///
/// # Errors
/// As [`update_lists`], but for that.
pub async fn try_lists(node: &Node) -> Result<Option<TaskError>, TaskError> {
    let command = update();
    Ok(match attempt(node, &command).await? {
        Some(trouble @ (Trouble::Fetch(_) | Trouble::Other(_))) => Some(trouble.explain(&command)),
        Some(trouble) => return Err(trouble.explain(&command)),
        None => None,
    })
}

/// Installs packages, or upgrades them if they are not the newest.
///
/// # Errors
/// As [`update_lists`]; also for a name that is none.
pub async fn install(node: &Node, packages: &[&str]) -> Result<(), TaskError> {
    packages.iter().try_for_each(|name| names::package(name))?;
    change(node, &apt(["install", "--"].into_iter().chain(packages.iter().copied()))).await
}

/// Installs packages that came as files, with what they depend on; also if that is a step back.
///
/// # Errors
/// As [`update_lists`].
pub async fn install_files(node: &Node, files: &[PathBuf]) -> Result<(), TaskError> {
    let named: Vec<String> = files.iter().map(|file| as_deb(node, file)).collect::<Result<_, _>>()?;
    let args = ["--allow-downgrades", "install", "--"];
    change(node, &apt(args.into_iter().chain(named.iter().map(String::as_str)))).await
}

/// Removes packages; their configuration stays.
///
/// # Errors
/// As [`update_lists`]; what the system cannot do without is not removed.
pub async fn remove(node: &Node, packages: &[&str]) -> Result<(), TaskError> {
    packages.iter().try_for_each(|name| names::package(name))?;
    change(node, &apt(["remove", "--"].into_iter().chain(packages.iter().copied()))).await
}

/// Upgrades what can be upgraded without removing anything; new dependencies (a kernel's) are installed. With lists just
/// fetched, a package that cannot be is its mirror's trouble: for the caller to judge.
///
/// # Errors
/// As [`update_lists`], but for that.
pub async fn try_upgrade(node: &Node) -> Result<Option<TaskError>, TaskError> {
    mend(node).await?;
    let command = apt(["--with-new-pkgs", "upgrade"]);
    match attempt(node, &command).await? {
        None => Ok(None),
        Some(trouble @ Trouble::Fetch(_)) => Ok(Some(trouble.explain(&command))),
        Some(trouble) => Err(trouble.explain(&command)),
    }
}

/// Finishes what an interrupted run left half done; starts nothing if there is no such thing.
///
/// # Errors
/// As [`update_lists`].
pub async fn mend(node: &Node) -> Result<(), TaskError> {
    if dpkg::unfinished(node)?.is_empty() {
        return Ok(());
    }
    run(node, &dressed(Command::new("dpkg", KEEP.into_iter().chain(["--configure", "-a"])))).await?;
    if !dpkg::unfinished(node)?.is_empty() {
        // Half-unpacked packages cannot be configured; apt fetches them again.
        run(node, &apt(["--fix-broken", "install"])).await?;
    }
    Ok(())
}

fn update() -> Command {
    apt(["-o", "APT::Update::Error-Mode=any", "update"])
}

fn apt<A: Into<String>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut all: Vec<String> =
        ["-q", "-y", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=0"].map(Into::into).into();
    for option in KEEP {
        all.extend(["-o".to_owned(), format!("Dpkg::Options::={option}")]);
    }
    all.extend(args.into_iter().map(Into::into));
    dressed(Command::new("apt-get", all))
}

fn dressed(command: Command) -> Command {
    ENV.iter().fold(command.within(LONG), |command, (name, value)| command.env(*name, *value))
}

/// A change that may need newer lists than there are.
async fn change(node: &Node, command: &Command) -> Result<(), TaskError> {
    mend(node).await?;
    match attempt(node, command).await? {
        None => Ok(()),
        Some(trouble) if trouble.may_be_old_lists() => {
            update_lists(node).await?;
            run(node, command).await
        }
        Some(trouble) => Err(trouble.explain(command)),
    }
}

async fn run(node: &Node, command: &Command) -> Result<(), TaskError> {
    match attempt(node, command).await? {
        None => Ok(()),
        Some(trouble) => Err(trouble.explain(command)),
    }
}

/// What was in the way, if anything.
async fn attempt(node: &Node, command: &Command) -> Result<Option<Trouble>, TaskError> {
    if let Some(what) = busy(node) {
        return Err(TaskError::NotYet(what));
    }
    tracing::info!(%command, "packages");
    let output: Output = node.output(command).await?;
    if output.code == Some(0) {
        return Ok(None);
    }
    if let Some(what) = busy(node) {
        // Somebody was quicker.
        return Err(TaskError::NotYet(what));
    }
    Ok(Some(trouble::of(&output, || free(node))))
}

/// Bytes free where packages are fetched to.
fn free(node: &Node) -> Option<u64> {
    let found = nix::sys::statvfs::statvfs(&node.path("/var/cache/apt/archives")).ok()?;
    Some(found.blocks_available().saturating_mul(found.fragment_size()))
}

/// apt takes a file for a package by its ending only.
fn as_deb(node: &Node, file: &Path) -> Result<String, TaskError> {
    let name = file.file_name().and_then(|name| name.to_str()).filter(|_| file.is_absolute());
    let (Some(name), Some(text)) = (name, file.to_str()) else {
        return Err(names::refuse(format!("{} is not an absolute path of plain text", file.display())));
    };
    if name.ends_with(".deb") {
        return Ok(text.to_owned());
    }
    let folder = node.path(FILES);
    let link = folder.join(format!("{name}.deb"));
    let failed = |source| TaskError::Refused {
        why: format!("a link to the package could not be made in {FILES}: {source}"),
        next: format!("look at {FILES} on the node"),
    };
    fs::create_dir_all(&folder).map_err(failed)?;
    // Left over from an earlier run.
    let _ = fs::remove_file(&link);
    symlink(file, &link).map_err(failed)?;
    Ok(link.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fleet_task::fake::FakeRunner;

    use super::*;
    use crate::tasks::{support::locks::tests::line, tests::Rig};

    fn failed(stderr: &str) -> Output {
        Output { code: Some(100), stdout: Vec::new(), stderr: stderr.into() }
    }

    fn rig(answers: impl IntoIterator<Item = Output>) -> (Arc<FakeRunner>, Rig) {
        let runner = Arc::new(FakeRunner::answering(answers));
        (runner.clone(), Rig::with(runner, &[]))
    }

    #[tokio::test]
    async fn a_package_unknown_to_old_lists_gets_a_second_chance() {
        let unknown = failed("E: Unable to locate package chrony\n");
        let (runner, rig) = rig([unknown.clone(), Output::ok(""), Output::ok("")]);
        install(&rig.node(), &["chrony"]).await.expect("the second time");
        let asked = runner.asked();
        assert!(asked[0].ends_with("install -- chrony") && asked[0].contains("Dpkg::Use-Pty=0"), "{asked:?}");
        assert!(asked[1].ends_with(" update") && asked[2] == asked[0], "{asked:?}");
        let (runner, rig) = self::rig([unknown.clone(), Output::ok(""), unknown]);
        let why = install(&rig.node(), &["chrony"]).await.expect_err("it is really unknown").explain();
        assert!(why.contains("Unable to locate package chrony") && why.contains("next: "), "{why}");
        assert_eq!(runner.asked().len(), 3, "and no third chance");
    }

    #[tokio::test]
    async fn whoever_holds_the_lock_is_waited_for_and_nothing_is_run() {
        let lock = "/var/lib/dpkg/lock-frontend";
        let runner = Arc::new(FakeRunner::default());
        let rig =
            Rig::with(runner.clone(), &[(lock, ""), ("/proc/7/cmdline", "/usr/bin/apt-get\0upgrade\0")]);
        fs::write(rig.path("/proc/locks"), line(&rig.path(lock), 7)).expect("locks");
        let error = install(&rig.node(), &["chrony"]).await.expect_err("locked");
        let expected = "apt-get (pid 7) to end, which holds /var/lib/dpkg/lock-frontend";
        assert!(matches!(&error, TaskError::NotYet(what) if what == expected), "{error:?}");
        assert_eq!(runner.asked(), [""; 0]);
        assert!(rig.path(lock).exists());
    }

    #[tokio::test]
    async fn what_was_left_half_done_is_finished_first() {
        let status = "Package: x\nStatus: install ok unpacked\nVersion: 1\nArchitecture: all\n";
        let runner = Arc::new(FakeRunner::answering([Output::ok(""), Output::ok(""), Output::ok("")]));
        let rig = Rig::with(runner.clone(), &[("/var/lib/dpkg/status", status)]);
        remove(&rig.node(), &["nginx"]).await.expect("fine");
        let asked = runner.asked();
        assert_eq!(asked[0], "dpkg --force-confdef --force-confold --configure -a");
        assert!(
            asked[1].ends_with("--fix-broken install") && asked[2].ends_with("remove -- nginx"),
            "{asked:?}"
        );
    }

    #[tokio::test]
    async fn a_file_gets_a_name_that_apt_takes_for_a_package() {
        let (runner, rig) = rig([Output::ok("")]);
        let file = rig.path("/artifact");
        fs::write(&file, "deb").expect("artifact");
        install_files(&rig.node(), &[file]).await.expect("fine");
        let link = rig.path("/var/lib/fleet-agent/packages/artifact.deb");
        assert_eq!(fs::read_to_string(&link).expect("leads there"), "deb");
        assert!(
            runner.asked()[0].ends_with(&format!("install -- {}", link.display())),
            "{:?}",
            runner.asked()
        );
        let error = install_files(&rig.node(), &["artifact".into()]).await.expect_err("relative");
        assert!(error.to_string().contains("not an absolute path"), "{error}");
    }

    #[tokio::test]
    async fn names_that_are_none_never_reach_apt() {
        let (runner, rig) = rig([]);
        for name in ["-oDebug::pkgProblemResolver=1", "a b", "nginx-", "./x.deb"] {
            let error = install(&rig.node(), &["chrony", name]).await.expect_err(name);
            assert!(error.to_string().contains("is not the name of a package"), "{error}");
            remove(&rig.node(), &[name]).await.expect_err(name);
        }
        assert_eq!(runner.asked(), [""; 0]);
    }
}
