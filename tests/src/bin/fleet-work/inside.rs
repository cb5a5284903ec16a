//! On the node: what is desired is brought about, then looked at.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail, ensure};
use fleet_agent::tasks::from_spec;
use fleet_model::SystemClock;
use fleet_proto::v1::Desired;
use fleet_task::{Engine, Journal, Node, Phases, Report, Run, SystemRunner, TaskId};
use prost::Message;
use tokio_util::sync::CancellationToken;

use crate::{
    BENCH, Look, Looks, Said,
    controller::Gives,
    run,
    wish::{self, GROUP, SERVERS, VOLUME},
};

/// Looks at each desired state.
const LOOKS: usize = 9;
/// How long the node may take to converge.
const CONVERGE: Duration = Duration::from_secs(120);
const STATE: &str = "/var/lib/fleet-agent";

/// Whatever comes of it is written down for whoever started the node.
pub fn report() -> anyhow::Result<bool> {
    let said = match work() {
        Ok(looks) => Said::Looked(looks),
        Err(error) => Said::Failed(format!("{error:#}")),
    };
    fs::write(Path::new(BENCH).join("said"), serde_json::to_vec(&said)?)?;
    Ok(matches!(said, Said::Looked(_)))
}

fn work() -> anyhow::Result<Vec<Looks>> {
    for nth in 0..SERVERS.len() {
        let address = format!("{}/64", wish::address(nth));
        run(Command::new("ip").args(["-6", "address", "add", &address, "dev", "lo", "nodad"]))?;
    }
    storage()?;
    fs::create_dir_all(STATE)?;
    // Upgrading needs the network; that it is not due is what a look finds on most days.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    fs::write(format!("{STATE}/update.json"), format!("{{\"at_ms\":{now},\"upgraded\":[]}}"))?;
    let mut peers = Peers(Vec::new());
    let reference = wish::reference()?;
    let all = look("all tasks of the reference plan", &reference, &mut peers)?;
    let four = look("hosts, clock, access, five packages", &wish::four(), &mut peers)?;
    Ok(vec![all, four])
}

/// A volume group on two disks, with the root volume over all of it; and answers for the programs that would need it to
/// be active.
fn storage() -> anyhow::Result<()> {
    let disks = fs::read_to_string(Path::new(BENCH).join("disks"))?;
    let disks: Vec<&str> = disks.lines().collect();
    let [system, added] = disks.as_slice() else { bail!("there are {} disks", disks.len()) };
    run(Command::new("pvcreate").args(["--yes", system, added]))?;
    run(Command::new("vgcreate").args([GROUP, system, added]))?;
    run(Command::new("lvcreate")
        .args(["--driverloaded", "n", "--activate", "n", "--zero", "n", "--wipesignatures", "n"])
        .args(["--extents", "100%FREE", "--name", VOLUME, GROUP]))?;
    let output = Command::new("lvs")
        .args(["--noheadings", "--units", "b", "--nosuffix", "-o", "lv_size", GROUP])
        .output()?;
    let size: u64 = String::from_utf8(output.stdout)?.trim().parse().context("the size of the volume")?;
    let file = format!("{BENCH}/root.ext4");
    fs::File::create(&file)?.set_len(size)?;
    run(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", &file]))?;
    let disk = |name: &str, path: &str, children: serde_json::Value| {
        serde_json::json!({"name": name, "path": path, "type": "disk", "size": crate::DISK, "ro": false,
            "pttype": null, "mountpoints": [null], "children": children})
    };
    let volume = serde_json::json!([{"name": format!("{GROUP}-{VOLUME}"), "path": format!("/dev/mapper/{GROUP}-{VOLUME}"),
        "type": "lvm", "size": size, "ro": false, "pttype": null, "mountpoints": ["/"]}]);
    let tree = serde_json::json!({"blockdevices": [disk("sda", system, volume.clone()), disk("sdb", added, volume)]});
    fs::write(format!("{BENCH}/lsblk.json"), tree.to_string())?;
    put("lsblk", &format!("/usr/bin/lsblk \"$@\" > /dev/null\nexec cat {BENCH}/lsblk.json\n"))?;
    put("dumpe2fs", &format!("exec /usr/sbin/dumpe2fs -h {file}\n"))
}

/// A program that comes before the system's own.
fn put(name: &str, text: &str) -> anyhow::Result<()> {
    let path = format!("/usr/local/sbin/{name}");
    fs::write(&path, format!("#!/bin/sh\n{text}"))?;
    Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?)
}

/// The other servers of the cluster.
struct Peers(Vec<Child>);

impl Peers {
    /// Started once there is somebody to join.
    fn join(&mut self) -> anyhow::Result<()> {
        let seed = SocketAddr::new(wish::address(0).parse()?, 29015);
        for (nth, (name, tag)) in SERVERS.iter().enumerate().skip(1) {
            let mut server = Command::new("/usr/bin/rethinkdb");
            server.args([
                "--directory",
                &format!("{BENCH}/{name}"),
                "--server-name",
                name,
                "--server-tag",
                tag,
            ]);
            server.args(["--port-offset", &(nth * 100).to_string(), "--join", &seed.to_string()]);
            server.args(["--bind-cluster", &wish::address(nth), "--canonical-address", &wish::address(nth)]);
            for (option, file) in [("key", "key"), ("cert", "cert"), ("ca", "ca")] {
                server.arg(format!("--cluster-tls-{option}")).arg(format!("/etc/rethinkdb/tls/{file}.pem"));
            }
            self.0.push(server.stdin(Stdio::null()).spawn().context("start a server")?);
        }
        Ok(())
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        for server in &mut self.0 {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Brings it about, then looks.
fn look(what: &str, desired: &Desired, peers: &mut Peers) -> anyhow::Result<Looks> {
    fs::write(format!("{STATE}/desired"), desired.encode_to_vec())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(converge(desired, peers))?;
    // What it asks for the first time it may still remember.
    agent(desired.tasks.len())?;
    let node = node_cpu()?;
    let looks = (0..LOOKS).map(|_| agent(desired.tasks.len())).collect::<anyhow::Result<_>>()?;
    let whole_node = node_cpu()? - node;
    Ok(Looks { what: what.to_owned(), tasks: desired.tasks.len(), looks, whole_node })
}

async fn converge(desired: &Desired, peers: &mut Peers) -> anyhow::Result<()> {
    let journal = Arc::new(Journal::open(format!("{STATE}/journal.json"))?);
    let node = Node::new("/", Arc::new(SystemRunner), journal).with_controller(Arc::new(Gives::new()?));
    let engine = Engine::new(node, Arc::new(SystemClock));
    let mut phases = Phases::new();
    for spec in &desired.tasks {
        phases.add(&spec.phase, from_spec(TaskId::new(&spec.name), spec.kind.as_ref()));
    }
    let until = Instant::now() + CONVERGE;
    loop {
        let run = Run { generation: desired.generation, ..Run::default() };
        let reports = engine.run(&phases, run, &CancellationToken::new(), |_| ()).await;
        if reports.iter().all(Report::is_converged) {
            return Ok(());
        }
        let left: Vec<&Report> = reports.iter().filter(|report| !report.is_converged()).collect();
        ensure!(Instant::now() < until, "it does not converge: {left:?}");
        if peers.0.is_empty()
            && reports.iter().any(|report| report.task.as_str() == "rethinkdb" && report.is_converged())
        {
            peers.join()?;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// One look by the finished agent, which has to find everything as it should be.
fn agent(tasks: usize) -> anyhow::Result<Look> {
    let (before, started) = (children_cpu()?, Instant::now());
    let output = Command::new(format!("{BENCH}/fleet-agent")).arg("--once").output()?;
    let wall = started.elapsed().as_secs_f64();
    let cpu = children_cpu()? - before;
    let said = String::from_utf8_lossy(&output.stdout);
    let unchanged = said.lines().filter(|line| line.ends_with(": unchanged")).count();
    ensure!(
        output.status.success() && unchanged == tasks,
        "of {tasks} tasks {unchanged} are unchanged:\n{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(Look { wall, cpu })
}

/// Processor time of programs that have ended, and of all that they waited for, in seconds.
fn children_cpu() -> anyhow::Result<f64> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// Processor time of all that runs here, in seconds; exact to a tick for each.
fn node_cpu() -> anyhow::Result<f64> {
    let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock tick")? as f64;
    let mut ticks = 0.0;
    for entry in fs::read_dir("/proc")?.flatten() {
        // It may have ended meanwhile; then its time is its parent's.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // Own and waited for, user and system: 14th to 17th field (proc(5)).
        let after = stat.rsplit_once(')').context("no name")?.1;
        ticks += after
            .split_whitespace()
            .skip(11)
            .take(4)
            .filter_map(|field| field.parse::<f64>().ok())
            .sum::<f64>();
    }
    Ok(ticks / hertz)
}
