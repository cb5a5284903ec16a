//! `fleetctl stop-the-line [REASON]` and `fleetctl clear-the-line`: for every fleet of this user.
//!
//! Stopping leaves word in a fleet's folder before it says anything to its controller. So whatever becomes of either of
//! us, the line stops: a controller that runs takes the word at its next look, one that does not when it starts. What is
//! shown is how far that has come.

use std::{path::Path, pin::pin, time::Duration};

use fleet_controller::{home, rollout::note};
use fleet_model::FleetName;
use fleet_proto::v1::{ClearLineRequest, LineReply, RolloutRequest, StopLineRequest};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::up;
use crate::{
    args::{Global, Output},
    connect::{refused, rollouts},
    failure::{Exit, Failure},
    home::Home,
    printer,
};

/// How long controllers are waited for.
#[derive(Clone, Copy)]
struct Patience {
    /// To answer.
    answer: Duration,
    /// To answer or to take the word that was left: idle ones look every five seconds.
    notice: Duration,
}

const PATIENCE: Patience = Patience { answer: Duration::from_secs(10), notice: Duration::from_secs(20) };
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How far it came with one fleet.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// Its controller has it in its store; what it says.
    Heard(String),
    /// Its controller does not run; what it finds when it starts.
    Noted(String),
    /// Its controller does not say that it knows; why.
    Not(String),
}

/// Stops the line of every fleet here.
pub async fn stop(global: &Global, reason: String) -> Result<Exit, Failure> {
    let home = Home::of(global)?;
    let fleets = chosen(global, &home)?;
    // All at once: one that hangs must not keep the others rolling.
    let all = join_all(
        fleets.iter().map(|fleet| stop_one(&home, fleet, &reason, PATIENCE, is_stopped(&home, fleet))),
    )
    .await;
    finish(&fleets, &all, global.output)
}

/// `stopped` says whether its controller has it.
async fn stop_one(
    home: &Home,
    fleet: &FleetName,
    reason: &str,
    patience: Patience,
    stopped: impl Future<Output = Result<bool, Failure>>,
) -> Told {
    let started = Instant::now();
    let left = home.leave_line(fleet, reason);
    let mut saying = pin!(say_stop(home, fleet, reason));
    let mut why = match timeout(patience.answer, &mut saying).await {
        Ok(Ok(said)) => return heard(home, fleet, said),
        Ok(Err(why)) => Some(why.to_string()),
        // Not cut off: it may be busy, and hear it yet.
        Err(_) => None,
    };
    let dir = home.fleet(fleet);
    if left.is_ok() && !home::held(&dir) {
        return Told::Noted("stopped; its controller does not run, and finds that when it starts".to_owned());
    }
    let mut patient = pin!(sleep_until(started + patience.notice));
    let mut found = pin!(async {
        taken(&dir).await;
        // Somebody else may have withdrawn it: that it is gone says nothing.
        stopped.await
    });
    let mut withdrawn = false;
    while !(withdrawn && why.is_some()) {
        // Cancel safe: all of them go on where they were.
        tokio::select! {
            stopped = &mut found, if left.is_ok() && !withdrawn => {
                if matches!(stopped, Ok(true)) {
                    let said = "stopped; its controller found the word that was left for it";
                    return Told::Heard(said.to_owned());
                }
                withdrawn = true;
            }
            said = &mut saying, if why.is_none() => match said {
                Ok(said) => return heard(home, fleet, said),
                Err(failure) => why = Some(failure.to_string()),
            },
            () = &mut patient => break,
        }
    }
    let why = why.unwrap_or_else(|| silent(patience.notice));
    Told::Not(match left {
        Ok(()) if !note::waits(&dir) => {
            format!(
                "{why}; the word that was left for its controller is gone, and it does not say that it stopped"
            )
        }
        Ok(()) => format!("{why}; the word that was left for its controller stops the line once it looks"),
        Err(unwritten) => format!("{why}; and no word could be left for its controller: {unwritten}"),
    })
}

/// It is in the controller's store, so that nobody need find it any more.
fn heard(home: &Home, fleet: &FleetName, said: String) -> Told {
    // One that stays is found by the controller, which removes it: the line is stopped already.
    if let Err(failure) = home.withdraw_line(fleet) {
        eprintln!("{failure}");
    }
    Told::Heard(said)
}

/// Returns once nobody's word lies there any more.
async fn taken(dir: &Path) {
    while note::waits(dir) {
        sleep(LOOK_AGAIN).await;
    }
}

/// Whether its controller says that the line is stopped.
async fn is_stopped(home: &Home, fleet: &FleetName) -> Result<bool, Failure> {
    let mut client = rollouts(&home.fleet(fleet), fleet).await?;
    let all = client.list(RolloutRequest::default()).await.map_err(|status| refused(&status))?;
    Ok(all.into_inner().line.is_some_and(|line| line.stopped))
}

async fn say_stop(home: &Home, fleet: &FleetName, reason: &str) -> Result<String, Failure> {
    let mut client = rollouts(&home.fleet(fleet), fleet).await?;
    let said = client.stop_line(StopLineRequest { reason: reason.to_owned() }).await;
    Ok(format!("stopped: {}", said.map_err(|status| refused(&status))?.into_inner().reason))
}

/// Clears it; a controller that does not run is started, since only it knows its line.
pub async fn clear(global: &Global) -> Result<Exit, Failure> {
    let home = Home::of(global)?;
    let fleets = chosen(global, &home)?;
    let all = join_all(fleets.iter().map(|fleet| clear_one(&home, fleet, PATIENCE))).await;
    finish(&fleets, &all, global.output)
}

async fn clear_one(home: &Home, fleet: &FleetName, patience: Patience) -> Told {
    let clear = async {
        // First: whoever starts now must not stop it again.
        home.withdraw_line(fleet)?;
        if !home::held(&home.fleet(fleet)) {
            up::controller(home, fleet, |line| eprintln!("{line}")).await?;
        }
        let saying = timeout(patience.notice, say_clear(home, fleet));
        saying.await.unwrap_or_else(|_| Err(Failure::new(Exit::Unreachable, silent(patience.notice))))
    };
    match clear.await {
        Ok(said) => Told::Heard(said),
        Err(why) => Told::Not(format!("{why}; if its line is stopped, it stays so")),
    }
}

async fn say_clear(home: &Home, fleet: &FleetName) -> Result<String, Failure> {
    let mut client = rollouts(&home.fleet(fleet), fleet).await?;
    let was = client.clear_line(ClearLineRequest {}).await.map_err(|status| refused(&status))?.into_inner();
    Ok(match was {
        LineReply { stopped: true, by, reason, .. } => format!("cleared; {by} had stopped it: {reason}"),
        _ => "was not stopped".to_owned(),
    })
}

fn silent(patience: Duration) -> String {
    format!("its controller runs and did not answer within {} seconds", patience.as_secs())
}

/// The fleet that is named, or all of them.
fn chosen(global: &Global, home: &Home) -> Result<Vec<FleetName>, Failure> {
    match &global.fleet {
        Some(_) => Ok(vec![home.chosen(global)?]),
        None if home.fleets().is_empty() => Ok(vec![home.chosen(global)?]),
        None => Ok(home.fleets()),
    }
}

fn finish(fleets: &[FleetName], all: &[Told], output: Output) -> Result<Exit, Failure> {
    match output {
        Output::Json => printer::json(&document(fleets, all))?,
        Output::Text => printer::text(&text(fleets, all))?,
    }
    let not = fleets.iter().zip(all).filter(|(_, told)| matches!(told, Told::Not(_)));
    let not: Vec<String> = not.map(|(fleet, _)| format!("`{fleet}`")).collect();
    if not.is_empty() {
        return Ok(Exit::Ok);
    }
    let failure = Failure::new(Exit::Unreachable, format!("not told: the controller of {}", not.join(", ")));
    Err(failure
        .hint("say it again; `fleetctl doctor` says what is wrong with a controller and where its log is"))
}

impl Told {
    fn words(&self) -> (&'static str, &str) {
        match self {
            Self::Heard(text) => ("heard", text),
            Self::Noted(text) => ("noted", text),
            Self::Not(text) => ("not told", text),
        }
    }
}

fn document(fleets: &[FleetName], all: &[Told]) -> Value {
    let list = fleets.iter().zip(all).map(|(fleet, told)| {
        let (word, detail) = told.words();
        json!({ "fleet": fleet, "told": word, "detail": detail })
    });
    json!({ "fleets": list.collect::<Vec<_>>() })
}

fn text(fleets: &[FleetName], all: &[Told]) -> String {
    let line = |(fleet, told): (&FleetName, &Told)| {
        let (word, detail) = told.words();
        format!("{fleet}: {word}: {detail}\n")
    };
    fleets.iter().zip(all).map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, net::TcpListener};

    use super::*;

    const HURRY: Patience =
        Patience { answer: Duration::from_millis(50), notice: Duration::from_millis(300) };

    fn place() -> (tempfile::TempDir, Home, FleetName) {
        let dir = tempfile::tempdir().expect("a folder");
        let fleet: FleetName = "Reference".parse().expect("a name");
        let global = Global { home: Some(dir.path().to_owned()), fleet: None, output: Output::Text };
        let home = Home::of(&global).expect("named");
        crate::home::make_private(&home.fleet(&fleet)).expect("made");
        (dir, home, fleet)
    }

    /// A controller that holds its folder, takes connections, and never says a word.
    fn hang(home: &Home, fleet: &FleetName) -> (home::Home, TcpListener) {
        let held = home::Home::open(&home.fleet(fleet)).expect("free");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let file = home::ControllerFile {
            pid: std::process::id(),
            session: listener.local_addr().expect("bound"),
            enrol_port: 1,
        };
        held.announce(&file).expect("written");
        (held, listener)
    }

    #[tokio::test]
    async fn one_that_does_not_run_finds_the_word_and_that_is_said() {
        let (_dir, home, fleet) = place();
        let told = stop_one(&home, &fleet, "a doubt", HURRY, async { Ok(false) }).await;
        assert!(matches!(told, Told::Noted(_)), "{told:?}");
        assert!(note::waits(&home.fleet(&fleet)));
    }

    #[tokio::test]
    async fn one_that_is_busy_was_not_told_and_the_word_stays() {
        let (_dir, home, fleet) = place();
        let _busy = hang(&home, &fleet);
        let told = stop_one(&home, &fleet, "a doubt", HURRY, async { Ok(false) }).await;
        let Told::Not(why) = &told else { panic!("{told:?}") };
        assert!(why.contains("the word that was left for its controller stops the line"), "{why}");
        assert!(note::waits(&home.fleet(&fleet)));
        let failure = finish(std::slice::from_ref(&fleet), &[told], Output::Json).expect_err("not told");
        assert_eq!(failure.exit, Exit::Unreachable);
        assert_eq!(failure.to_string(), "not told: the controller of `Reference`");

        let told = clear_one(&home, &fleet, HURRY).await;
        let Told::Not(why) = &told else { panic!("{told:?}") };
        assert!(why.ends_with("if its line is stopped, it stays so"), "{why}");
    }

    #[tokio::test]
    async fn one_that_took_the_word_has_heard_it_and_one_that_lost_it_has_not() {
        let (_dir, home, fleet) = place();
        let _busy = hang(&home, &fleet);
        let dir = home.fleet(&fleet);
        let tell = async |stopped| {
            let looks = async {
                while !note::waits(&dir) {
                    tokio::task::yield_now().await;
                }
                note::withdraw(&dir).expect("taken");
            };
            let patience = Patience { notice: Duration::from_secs(1), ..HURRY };
            tokio::join!(stop_one(&home, &fleet, "a doubt", patience, async { Ok(stopped) }), looks).0
        };
        let told = tell(true).await;
        assert!(matches!(told, Told::Heard(_)), "{told:?}");
        let told = tell(false).await;
        let Told::Not(why) = &told else { panic!("{told:?}") };
        assert!(why.contains("is gone, and it does not say that it stopped"), "{why}");
    }

    #[tokio::test]
    async fn where_no_word_can_be_left_nobody_claims_so() {
        let (_dir, home, fleet) = place();
        fs::create_dir(home.fleet(&fleet).join("line.json")).expect("in its place");
        let told = stop_one(&home, &fleet, "a doubt", HURRY, async { Ok(false) }).await;
        let Told::Not(why) = &told else { panic!("{told:?}") };
        assert!(why.contains("no word could be left"), "{why}");
    }

    #[test]
    fn each_fleet_has_its_line() {
        let fleets = ["A", "B", "C"].map(|name| name.parse::<FleetName>().expect("a name"));
        let all = [
            Told::Heard("stopped: a doubt".to_owned()),
            Told::Noted("later".to_owned()),
            Told::Not("it hangs".to_owned()),
        ];
        assert_eq!(
            text(&fleets, &all),
            "A: heard: stopped: a doubt\nB: noted: later\nC: not told: it hangs\n"
        );
        assert_eq!(document(&fleets, &all)["fleets"][2]["told"], "not told");
        let failure = finish(&fleets, &all, Output::Text).expect_err("one was not told");
        assert_eq!(failure.to_string(), "not told: the controller of `C`");
        assert_eq!(finish(&fleets[..2], &all[..2], Output::Text).expect("told"), Exit::Ok);
    }
}
