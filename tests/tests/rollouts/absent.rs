//! A controller that answers nobody, is busy, or is gone for all of a trial is no reason to go back.

use std::{net::SocketAddr, sync::Arc};

use fleet_controller::{
    Controller, Listeners, Settings,
    settings::{CloudAccess, CloudAccessError, CloudAccessSource},
};
use fleet_model::SystemClock;
use fleet_supervisor::slots::FOLDER;
use fleet_tests::{Network, eventually};
use tokio::{net::TcpListener, runtime::Runtime, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::fleet::{FLEET, Fleet, PATIENCE, good};

const CANARY: &str = "n1";
const OTHER: &str = "n2";
/// A node takes half of it for itself, as `READY_S`: one that judged by the clock alone would have gone back twice.
const TRIAL: &str = "deadlines.trial=20s";
const READY_S: f64 = 10.0;

#[test]
fn a_controller_that_is_away_is_no_reason_to_go_back() {
    let mut fleet = Fleet::up(&[CANARY, OTHER]);
    bears_with(&mut fleet, "answers nobody", Away::silent);
    bears_with(&mut fleet, "is busy", Away::busy);
    bears_with(&mut fleet, "is gone", Away::gone);
}

/// Rolls a release out whose first trial passes while the controller is away: it is committed all the same.
fn bears_with(fleet: &mut Fleet, how: &str, away: impl FnOnce(&Fleet) -> Away) {
    let release = fleet.release(&good(&format!("the controller {how}")));
    for name in [CANARY, OTHER] {
        fleet.proved(name);
    }
    let node = fleet.node(CANARY);
    // Nothing is tried as long as the supervisor stands still.
    let supervisor = node.expect("systemctl show -P MainPID fleet-agent").trim().to_owned();
    node.expect(&format!("kill -STOP {supervisor}"));
    fleet.start(&release, CANARY, &[TRIAL]);
    let request = node.path(FOLDER).join("request");
    let ended = format!(
        "a=$(cat /proc/{supervisor}/task/{supervisor}/children) && grep -q ') Z ' /proc/${{a% }}/stat"
    );
    eventually("a trial is asked for, and the agent makes room", PATIENCE, || {
        (request.exists() && node.run(&ended).status.success()).then_some(())
    });
    assert_eq!(fleet.state(CANARY).trial, None);
    let away = away(fleet);
    node.expect(&format!("kill -CONT {supervisor}"));
    let during = eventually("the trial goes on and on", PATIENCE, || {
        let runs = fleet.runs(CANARY);
        (runs.digest() == release.digest && runs.age_s() > 2.2 * READY_S).then_some(runs)
    });
    let trial =
        fleet.state(CANARY).trial.expect("nobody could speak with the controller, and it was committed");
    assert_eq!(trial.tries, 1);
    away.ends(fleet);
    fleet.watch(0);
    let after = fleet.runs(CANARY);
    assert_eq!((&after.agent, &after.supervisor), (&during.agent, &during.supervisor), "it was started anew");
    for name in [CANARY, OTHER] {
        fleet.ready_on(name, &release.digest);
        let failed = fleet.state(name).failed;
        assert!(failed.is_empty(), "{name}: {failed:?}");
    }
    eprintln!(
        "a controller that {how}: {} committed after {:.0} s on trial",
        release.version,
        during.age_s()
    );
}

/// In which way the controller is away.
enum Away {
    /// Its process stands still: connections are made, and nobody says a word.
    Silent(i32),
    /// It has its hands full.
    Busy(Busy),
    /// It was killed.
    Gone,
}

impl Away {
    fn silent(fleet: &Fleet) -> Self {
        let pid = fleet.controller();
        signal(pid, libc::SIGSTOP);
        Self::Silent(pid)
    }

    fn busy(fleet: &Fleet) -> Self {
        fleet.kill_controller();
        Self::Busy(Busy::new(fleet))
    }

    fn gone(fleet: &Fleet) -> Self {
        fleet.kill_controller();
        Self::Gone
    }

    fn ends(self, fleet: &Fleet) {
        match self {
            Self::Silent(pid) => return signal(pid, libc::SIGCONT),
            Self::Busy(busy) => {
                let said = fleet.node(CANARY).expect("journalctl -q -o cat -u fleet-agent");
                assert!(said.contains("the controller has its hands full"), "nobody was busy:\n{said}");
                busy.ends();
            }
            Self::Gone => {}
        }
        fleet.start_controller();
    }
}

/// A controller on the same store and the same ports with a place for one node only, which the other one has taken.
struct Busy {
    runtime: Runtime,
    stop: CancellationToken,
    serves: JoinSet<()>,
}

impl Busy {
    fn new(fleet: &Fleet) -> Self {
        // Its threads are on the network of this one.
        let runtime = Runtime::new().expect("a runtime");
        let stop = CancellationToken::new();
        let mut settings = Settings::new(FLEET.parse().expect("a name"), fleet.home(), Arc::new(NoCloud));
        settings.max_sessions = 1;
        settings.advertise = vec![Network::HOST.into()];
        let ports: serde_json::Value =
            serde_json::from_slice(&std::fs::read(fleet.home().join("ports.json")).expect("readable"))
                .expect("ports");
        let stopped = stop.clone();
        let serves = runtime.block_on(async {
            let bind = async |which: &str| {
                let port = ports[which].as_u64().and_then(|port| port.try_into().ok()).expect("a port");
                vec![TcpListener::bind(SocketAddr::from((Network::HOST, port))).await.expect("it is free")]
            };
            let listeners = Listeners { session: bind("session").await, enrol: bind("enrol").await };
            let controller = Controller::open(settings, Arc::new(SystemClock)).await.expect("opens");
            let desk = controller.desk().clone();
            let mut serves = JoinSet::new();
            serves.spawn(async {
                controller.serve(listeners, stopped, |_| ()).await.expect("serves");
            });
            let mut sessions = desk.registry.watch();
            let (other, canary) = (OTHER.parse().expect("a name"), CANARY.parse().expect("a name"));
            let full = async {
                while desk.registry.live(&other).is_none() {
                    sessions.changed().await.expect("serves");
                }
            };
            tokio::time::timeout(PATIENCE, full).await.expect("the other node comes home");
            assert!(desk.registry.live(&canary).is_none(), "there was room for both");
            serves
        });
        Self { runtime, stop, serves }
    }

    fn ends(mut self) {
        self.stop.cancel();
        self.runtime.block_on(self.serves.join_next()).expect("it serves").expect("no panic");
    }
}

/// Nobody asks for one.
#[derive(Debug)]
struct NoCloud;

impl CloudAccessSource for NoCloud {
    fn access(&self, _: &fleet_plan::resolved::Cloud) -> Result<CloudAccess, CloudAccessError> {
        Err(CloudAccessError { what: "no cloud here".to_owned(), next_step: "none".to_owned() })
    }
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: kill takes two integers and touches no memory of ours; the process was started for this test's home.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "signal {signal} to {pid}");
}
