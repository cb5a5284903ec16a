//! One size of fleet, from enrolment to everyone back after a kill.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    agents::{Applicant, Crowd, enrol},
    controller::Running,
    figures::{Figure, Figures},
    operator::Operator,
    process,
};

/// How long all sessions may take to open.
const ALL_UP: Duration = Duration::from_secs(120);
/// How long to let memory settle before reading it.
const SETTLE: Duration = Duration::from_secs(3);
/// How often a figure that varies is taken; the median counts.
const ROUNDS: usize = 7;
/// Reconnect storms before memory is read again.
const STORMS: usize = 4;

/// Measures `agents` agents on a fresh controller; `rate` is the machine's bare handshake rate.
pub async fn run(agents: usize, rate: f64, figures: &mut Figures) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let count = agents as f64;
    let floor = count / rate;
    let label = |what: &str| format!("{agents} agents: {what}");

    let running = Running::start(dir.path(), agents, None).await?;
    let applicants = Applicant::all(&running.serving.tokens)?;
    let started = Instant::now();
    let crowd = enrol(applicants, &running.serving).await?;
    let per_second = count / started.elapsed().as_secs_f64();
    figures.add(Figure::plain(label("enrolments"), per_second, "/s").at_least(1000.0));

    // Started anew, so that what enrolment left behind in memory is not counted as room for sessions.
    let serving = running.kill().await?;
    let running = Running::start(dir.path(), 0, Some(&serving)).await?;
    sleep(SETTLE).await;
    let empty = process::resident(running.pid())?;
    let per_session = |resident: u64| (resident.saturating_sub(empty)) as f64 / 1024.0 / count;
    let started = Instant::now();
    let (ours, theirs) = (process::cpu(std::process::id())?, process::cpu(running.pid())?);
    let mut crowd = Crowd::start(&crowd, serving.session);
    crowd.all_up(0, ALL_UP).await?;
    let floor_text = format!("bare handshakes alone: {floor:.2} s");
    let took = started.elapsed().as_secs_f64();
    figures.add(Figure::plain(label("all sessions up"), took, "s").beside(floor_text.clone()));
    // Wall-clock figures share the processors with this program: how much each used says whose they are.
    let theirs = (process::cpu(running.pid())? - theirs) * 1e3 / count;
    let ours = (process::cpu(std::process::id())? - ours) * 1e3 / count;
    let beside = format!("load generator: {ours:.2} ms");
    figures.add(Figure::plain(label("controller CPU to open a session"), theirs, "ms").beside(beside));
    sleep(SETTLE).await;
    let memory = per_session(process::resident(running.pid())?);
    figures.add(Figure::plain(label("controller memory per idle session"), memory, "KiB").at_most(35.0));

    let mut operator = Operator::connect(dir.path(), &serving).await?;
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        took.push(operator.noop(agents).await?.as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    let budget = count * 25.0 / 1000.0;
    figures.add(Figure::plain(label("no-op to all, last answer"), took[ROUNDS / 2], "ms").at_most(budget));
    drop(operator);

    for _ in 0..STORMS {
        let mark = crowd.opened();
        crowd.storm();
        crowd.all_up(mark, ALL_UP).await?;
    }
    sleep(SETTLE).await;
    let memory = per_session(process::resident(running.pid())?);
    let what = label("the same after four reconnect storms");
    figures.add(Figure::plain(what, memory, "KiB").at_most(35.0));

    let mark = crowd.opened();
    let killed = Instant::now();
    let serving = running.kill().await?;
    let running = Running::start(dir.path(), 0, Some(&serving)).await?;
    let ready = killed.elapsed().as_secs_f64();
    crowd.all_up(mark, ALL_UP).await?;
    let back = killed.elapsed().as_secs_f64();
    figures.add(
        Figure::plain(label("controller killed, all back"), back, "s")
            .at_most(1.3 * floor)
            .beside(format!("{floor_text}; of it {ready:.2} s until the controller served again")),
    );
    drop(running);
    Ok(())
}
