//! What the kernel says of another process.

use std::fs;

use anyhow::Context;

/// Resident memory in bytes.
pub fn resident(pid: u32) -> anyhow::Result<u64> {
    field(pid, "VmRSS:").map(|kib| kib * 1024)
}

/// How often it went to sleep by itself, which is how often it was woken.
pub fn wakeups(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(entry?.path().join("status"))?;
        sum += parse(&status, "voluntary_ctxt_switches:").context("no count of switches")?;
    }
    Ok(sum)
}

/// Processor time it has used, in seconds.
pub fn cpu(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    // The name in parentheses may hold anything; user and system time are the 14th and 15th field (proc(5)).
    let after = stat.rsplit_once(')').context("no name")?.1;
    let ticks: f64 =
        after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok(ticks / hertz as f64)
}

fn field(pid: u32, name: &str) -> anyhow::Result<u64> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    parse(&status, name).with_context(|| format!("process {pid} has no {name}"))
}

fn parse(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
