//! What looking at a node costs when there is nothing to do: processor time of the finished agent and of every program
//! it starts, beside the budgets, on a Debian of its own that runs natively.
//!
//! usage: fleet-work FOLDER, where FOLDER keeps the Debian; FLEET_DIST names that of the finished programs. As root.
//!
//! The node is a container that boots systemd, with the programs a node of the reference fleet has: sshd, chrony,
//! RethinkDB (the stand-in, and four more servers of its cluster), the todo application. It is made to converge with
//! the agent's own tasks; then `fleet-agent --once` looks at it again and again, and has to find everything unchanged.
//!
//! Two things are not as on a node, since a container has no device mapper: the volume group is a real one on files,
//! but its volume is not active, so that `lsblk` (which is run all the same) is answered for, and `dumpe2fs` reads a
//! file system in a file.

mod controller;
mod inside;
mod wish;

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

/// What has to be beside the finished agent.
const PROGRAMS: [&str; 3] = ["fleet-agent", "fleet-todo", "rethinkdb-standin.deb"];
/// Bytes of each of the node's two disks.
const DISK: u64 = 256 << 20;
/// How long the node may take for everything.
const DEADLINE: Duration = Duration::from_secs(240);
/// Where our own things are on the node.
const BENCH: &str = "/bench";

/// One look at all tasks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Look {
    /// Seconds from its start to its end.
    wall: f64,
    /// Processor time of the agent and all programs it started, in seconds.
    cpu: f64,
}

/// Looks at a desired state.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Looks {
    what: String,
    tasks: usize,
    looks: Vec<Look>,
    /// Processor time of every process of the node during all looks, in seconds; servers that answer included.
    whole_node: f64,
}

/// What the node has to say.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    Looked(Vec<Looks>),
    Failed(String),
}

fn main() -> ExitCode {
    let Some(arg) = env::args_os().nth(1) else {
        eprintln!("usage: fleet-work FOLDER");
        return ExitCode::from(2);
    };
    let done = if arg == "inside" { inside::report() } else { measure(Path::new(&arg)) };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every budget was kept.
fn measure(folder: &Path) -> anyhow::Result<bool> {
    ensure!(nix::unistd::geteuid().is_root(), "a container needs root");
    let dist = PathBuf::from(env::var_os("FLEET_DIST").context("FLEET_DIST names no folder")?);
    fs::create_dir_all(folder)?;
    let debian = fleet_tests::debian(folder)?;
    let node = tempfile::Builder::new().prefix("fleet-work-").tempdir_in(folder)?;
    run(Command::new("tar").arg("-C").arg(node.path()).arg("-xf").arg(debian))?;
    furnish(node.path(), &dist)?;
    let disks = [Loop::new(&node.path().join("bench/disk0"))?, Loop::new(&node.path().join("bench/disk1"))?];
    fs::write(node.path().join("bench/disks"), disks.each_ref().map(|disk| disk.0.as_str()).join("\n"))?;
    boot(node.path(), &disks)?;
    let said =
        fs::read(node.path().join("bench/said")).context("the node ended without a word; see its log")?;
    match serde_json::from_slice(&said)? {
        Said::Looked(all) => print(&all),
        Said::Failed(why) => bail!("on the node: {why}"),
    }
}

/// Puts on the node what the bench needs there.
fn furnish(node: &Path, dist: &Path) -> anyhow::Result<()> {
    let put = |path: &str, text: &str| {
        let path = node.join(path);
        fs::create_dir_all(path.parent().context("absolute")?)?;
        anyhow::Ok(fs::write(path, text)?)
    };
    put("bench/.keep", "")?;
    fs::copy(env::current_exe()?, node.join("bench/fleet-work"))?;
    for program in PROGRAMS {
        let from = dist.join(program);
        fs::copy(&from, node.join("bench").join(program))
            .with_context(|| format!("{} (`cargo xtask build` makes it)", from.display()))?;
    }
    // The container's clock is the host's, and nobody's to set.
    put("etc/default/chrony", "DAEMON_OPTS=\"-x\"\n")?;
    put("etc/hostname", "node1\n")?;
    // There is no udev to ask or to wait for.
    put(
        "etc/lvm/lvmlocal.conf",
        "devices { obtain_device_list_from_udev = 0 }\nactivation { udev_sync = 0 udev_rules = 0 }\n",
    )?;
    put(
        "etc/systemd/system/fleet-work.service",
        "[Unit]\nAfter=multi-user.target\n[Service]\nType=oneshot\nExecStart=/bench/fleet-work inside\n\
         StandardOutput=file:/bench/log\nStandardError=file:/bench/log\nExecStopPost=/usr/bin/systemctl poweroff --no-block\n",
    )?;
    let wants = node.join("etc/systemd/system/default.target.wants");
    fs::create_dir_all(&wants)?;
    std::os::unix::fs::symlink("/etc/systemd/system/fleet-work.service", wants.join("fleet-work.service"))?;
    Ok(())
}

/// A file as a block device, as long as it lives.
struct Loop(String);

impl Loop {
    fn new(file: &Path) -> anyhow::Result<Self> {
        fs::File::create(file)?.set_len(DISK)?;
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output()?;
        ensure!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(Self(String::from_utf8(output.stdout)?.trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

fn boot(node: &Path, disks: &[Loop]) -> anyhow::Result<()> {
    let log = fs::File::create(node.join("bench/console"))?;
    let mut nspawn = Command::new("timeout");
    nspawn.args(["--kill-after=20", &DEADLINE.as_secs().to_string(), "systemd-nspawn", "--boot", "--quiet"]);
    nspawn.args(["--register=no", "--keep-unit", "--private-network", "--console=pipe"]);
    nspawn.args(["--capability=CAP_SYS_TIME", "--hostname=node1", "--directory"]).arg(node);
    for disk in disks {
        nspawn.arg(format!("--bind={}", disk.0));
    }
    let ended = nspawn.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).status()?;
    let read = |name: &str| fs::read_to_string(node.join("bench").join(name)).unwrap_or_default();
    ensure!(
        node.join("bench/said").exists(),
        "the node ended ({ended}) before it was measured\n{}{}",
        read("console"),
        read("log")
    );
    Ok(())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// The table; whether every budget was kept.
fn print(all: &[Looks]) -> anyhow::Result<bool> {
    let mut rows = Vec::new();
    for of in all {
        let (cpu, wall) = of.budgets();
        let mut row = |what: &str, value: &dyn Fn(&Look) -> f64, budget| {
            let mut values: Vec<f64> = of.looks.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            if let (Some(least), Some(most)) = (values.first(), values.last()) {
                let spread = format!("{:.1} to {:.1}", least * 1e3, most * 1e3);
                rows.push((format!("{}: {what}", of.what), values[values.len() / 2], spread, budget));
            }
        };
        row("agent and its programs, cpu", &|look| look.cpu, cpu);
        if let Some(wall) = wall {
            row("wall", &|look| look.wall, wall);
        }
        let each = of.whole_node / of.looks.len() as f64;
        let what = format!("{}: every process of the node, cpu", of.what);
        rows.push((what, each, "mean".to_owned(), cpu));
    }
    let mut table =
        format!("{:<72}{:>11}{:>18}{:>11}\n", "looks that find nothing to do", "median", "", "budget");
    for (what, value, spread, budget) in &rows {
        let verdict = if value <= budget { "met" } else { "MISSED" };
        let (value, budget) = (format!("{:.1} ms", value * 1e3), format!("{:.0} ms", budget * 1e3));
        table += &format!("{what:<72}{value:>11}{spread:>18}{budget:>11}  {verdict}\n");
    }
    io::stdout().write_all(table.as_bytes())?;
    Ok(rows.iter().all(|(_, value, _, budget)| value <= budget))
}

impl Looks {
    /// Seconds of processor time, and from start to end.
    fn budgets(&self) -> (f64, Option<f64>) {
        if self.tasks == wish::FOUR { (0.05, Some(0.05)) } else { (1.0, None) }
    }
}
