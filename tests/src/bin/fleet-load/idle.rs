//! The real agent, idle with its session open.

use std::{fs, path::Path, process::Stdio, time::Duration};

use anyhow::Context;
use tokio::{process::Command, time::Instant};

use crate::{
    controller::{FLEET, Running, node},
    figures::{Figure, Figures},
    operator::Operator,
    process,
};

/// How long to let it settle, and how long to watch.
const SETTLE: Duration = Duration::from_secs(5);
const WATCH: Duration = Duration::from_secs(30);
/// How long it may take to come home.
const HOME: Duration = Duration::from_secs(30);

/// Runs the agent in a folder against a controller and watches it do nothing.
pub async fn measure(agent: &Path, figures: &mut Figures) -> anyhow::Result<()> {
    let (state, root) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let controller = Running::start(state.path(), 1, None).await?;
    let serving = &controller.serving;
    fs::create_dir_all(root.path().join("etc/fleet-agent"))?;
    let seed = serde_json::json!({
        "fleet": FLEET, "node": node(0), "token": serving.tokens[0],
        "enrol_addresses": [serving.enrol], "trust_bundle": serving.bundle,
    });
    fs::write(root.path().join("etc/fleet-agent/enrol.json"), seed.to_string())?;
    let mut child = Command::new(agent)
        .arg("--root")
        .arg(root.path())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("start the agent")?;
    let pid = child.id().context("it ended at once")?;
    let mut operator = Operator::connect(state.path(), serving).await?;
    let started = Instant::now();
    while operator.noop(1).await.is_err() {
        anyhow::ensure!(started.elapsed() < HOME, "the agent does not come home");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(SETTLE).await;
    let before = process::wakeups(pid)?;
    tokio::time::sleep(WATCH).await;
    let wakeups = (process::wakeups(pid)? - before) as f64 / WATCH.as_secs_f64();
    let resident = process::resident(pid)? as f64 / 1e6;
    let size = fs::metadata(agent)?.len() as f64 / 1e6;
    figures.add(Figure::plain("agent: binary", size, "MB").at_most(6.0));
    figures.add(Figure::plain("agent: resident, idle with its session open", resident, "MB").at_most(8.0));
    figures.add(Figure::plain("agent: wake-ups, idle with its session open", wakeups, "/s").at_most(1.0));
    child.kill().await?;
    Ok(())
}
