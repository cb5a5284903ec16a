//! Permits through real sessions: who gets one, who waits, who is told when.

use std::{sync::Arc, time::Duration};

use fleet_controller::permit::Ask;
use fleet_model::NodeName;
use fleet_proto::v1::{
    self, Desired, Need, PermitAnswer, RethinkdbTask, TaskReport, TaskResult, TaskSpec, UpdateTask,
    from_agent, task_spec::Kind, to_agent,
};

use tokio::time::timeout;

use crate::harness::{Agent, DEADLINE, Fixture, Session, hello, node, start, start_in};

fn task(name: &str, kind: Kind, needs: Vec<Need>) -> TaskSpec {
    TaskSpec { name: name.to_owned(), kind: Some(kind), needs, ..TaskSpec::default() }
}

/// What a member of a cluster should be; all but the seed need the seed.
fn member(seed: bool) -> Arc<Desired> {
    let rethinkdb = RethinkdbTask { instance: "fleet".to_owned(), seed, ..RethinkdbTask::default() };
    let needs = if seed { vec![] } else { vec![Need { node: "seed".to_owned(), task: "db".to_owned() }] };
    let update = Kind::Update(UpdateTask { every_hours: 24, reboot: true });
    let tasks = vec![task("update", update, vec![]), task("db", Kind::Rethinkdb(rethinkdb), needs)];
    Arc::new(Desired { generation: 1, tasks, ..Desired::default() })
}

/// Waits until `done` of what nobody rings a bell for.
async fn eventually(what: &str, done: impl Fn() -> bool) {
    let looking = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, looking).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

struct Member {
    agent: Agent,
    session: Session,
}

impl Member {
    fn name(&self) -> NodeName {
        node(&self.agent.machine)
    }

    async fn ask(&mut self, permit: &str, task: &str) -> PermitAnswer {
        let ask = v1::PermitAsk { permit: permit.to_owned(), task: task.to_owned() };
        self.session.say(from_agent::Message::Ask(ask)).await;
        self.answer().await
    }

    async fn answer(&mut self) -> PermitAnswer {
        loop {
            match self.session.next().await.expect("open") {
                Some(to_agent::Message::Permit(answer)) => return answer,
                Some(_) => {}
                None => panic!("the session ended"),
            }
        }
    }

    async fn release(&self, permit: &str) {
        let release = v1::PermitRelease { permit: permit.to_owned() };
        self.session.say(from_agent::Message::Release(release)).await;
    }

    async fn report(&self, task: &str, result: TaskResult) {
        let reason = if result == TaskResult::Waiting { "its peers to answer" } else { "" }.to_owned();
        let report =
            TaskReport { name: task.to_owned(), result: result.into(), reason, ..TaskReport::default() };
        let observed = v1::Observed { generation: 1, tasks: vec![report], ..v1::Observed::default() };
        self.session.say(from_agent::Message::Observed(observed)).await;
    }

    async fn reconnect(&mut self, fixture: &Fixture) {
        let greeting = v1::Hello { generation: 1, ..hello(fixture, &self.agent.machine) };
        self.session = self.agent.session_with(fixture, greeting).await.expect("opens");
    }
}

async fn cluster(names: &[&str]) -> (Fixture, Vec<Member>) {
    let (fixture, tokens) = start(names).await;
    let mut members = Vec::new();
    for (name, token) in names.iter().zip(&tokens) {
        fixture.desk.registry.set_desired(&node(name), member(*name == "seed"));
        let agent = Agent::home(&fixture, token, name).await;
        let session = agent.session(&fixture).await.expect("opens");
        members.push(Member { agent, session });
    }
    (fixture, members)
}

#[tokio::test]
async fn members_join_one_after_the_other_once_the_seed_is_there() {
    let (fixture, mut members) = cluster(&["seed", "a", "b"]).await;
    let [seed, a, b] = &mut members[..] else { panic!("three") };
    let answer = a.ask("join/fleet", "db").await;
    assert!(!answer.granted && answer.reason.contains("task `db` of node `seed`"), "{answer:?}");
    let founding = seed.ask("found/fleet", "db").await;
    assert!(founding.granted, "{founding:?}");
    assert_eq!(founding.expires_in_ms, 600_000);
    assert!(!b.ask("join/fleet", "db").await.granted);

    // The seed has converged: the first in the queue is told by itself, the second when that one is done.
    seed.report("db", TaskResult::Changed).await;
    assert!(a.answer().await.granted);
    let answer = b.ask("join/fleet", "db").await;
    assert!(answer.reason.starts_with("node `a` has the permit `join/fleet` until"), "{answer:?}");
    a.release("join/fleet").await;
    assert!(b.answer().await.granted);

    let again = a.ask("found/fleet", "db").await;
    assert!(!again.granted, "only the seed's task may");
    fixture.stop().await;
}

#[tokio::test]
async fn nonsense_is_answered_at_once() {
    let (fixture, mut members) = cluster(&["seed"]).await;
    let seed = &mut members[0];
    for (permit, task) in [
        ("everything", "db"),
        ("join/other", "db"),
        ("reboot", "db"),
        ("join/fleet", "none"),
        ("join/../x", "db"),
    ] {
        let answer = seed.ask(permit, task).await;
        assert!(!answer.granted && !answer.reason.is_empty(), "{permit} for {task}: {answer:?}");
        assert_eq!(answer.permit, permit);
    }
    fixture.stop().await;
}

#[tokio::test]
async fn one_restarts_at_a_time_and_none_while_another_is_silent() {
    let (fixture, mut members) = cluster(&["a", "b"]).await;
    let [a, b] = &mut members[..] else { panic!("two") };
    assert!(a.ask("reboot", "update").await.granted);
    assert!(!b.ask("reboot", "update").await.granted);
    // It restarts: its session ends, and it comes back and keeps the permit until it gives it back.
    a.session.up = tokio::sync::mpsc::channel(1).0;
    fixture.until("it to go", || fixture.desk.registry.sessions() == 1).await;
    a.reconnect(&fixture).await;
    assert!(a.ask("reboot", "update").await.granted, "its own again");
    // It goes for good, without giving it back.
    a.session.up = tokio::sync::mpsc::channel(1).0;
    fixture.until("it to go", || fixture.desk.registry.sessions() == 1).await;
    fixture.clock.advance(Duration::from_secs(15 * 60));
    b.session.say(from_agent::Message::Heartbeat(v1::Heartbeat::default())).await;
    let answer = b.ask("reboot", "update").await;
    assert!(!answer.granted && answer.reason.contains("node `a` is silent"), "{answer:?}");
    // Back again: the waiting one is told by itself.
    a.reconnect(&fixture).await;
    assert!(b.answer().await.granted);
    fixture.stop().await;
}

#[tokio::test]
async fn leases_survive_a_restart_of_the_controller() {
    let (fixture, mut members) = cluster(&["seed", "a", "b"]).await;
    members[0].report("db", TaskResult::Unchanged).await;
    let [seed, a, b] = &mut members[..] else { panic!("three") };
    assert!(seed.ask("found/fleet", "db").await.granted);
    let seen = || fixture.desk.registry.view(&node("seed"));
    fixture.until("the seed's report", || seen().observed.is_some()).await;
    assert!(a.ask("join/fleet", "db").await.granted);
    let dir = fixture.stop().await;

    let (fixture, _) = start_in(dir, &[], |_| {}).await;
    for name in ["seed", "a", "b"] {
        fixture.desk.registry.set_desired(&node(name), member(name == "seed"));
    }
    for member in [&mut *seed, &mut *a, &mut *b] {
        member.reconnect(&fixture).await;
    }
    let answer = b.ask("join/fleet", "db").await;
    assert!(answer.reason.starts_with("node `a` has the permit `join/fleet` until"), "{answer:?}");
    fixture.clock.advance(Duration::from_secs(4 * 60));
    let answer = a.ask("join/fleet", "db").await;
    assert!(answer.granted, "a holder asks again and keeps it");
    assert!(answer.expires_in_ms <= 360_000, "as it was: {answer:?}");
    let answer = seed.ask("found/fleet", "db").await;
    assert!(!answer.granted && answer.reason.contains("a may hold its data"), "{answer:?}");
    // It runs out by itself; the waiting one is told within a second or so.
    fixture.clock.advance(Duration::from_secs(10 * 60));
    for member in [&*seed, &*b] {
        member.session.say(from_agent::Message::Heartbeat(v1::Heartbeat::default())).await;
    }
    assert!(b.answer().await.granted);
    fixture.stop().await;
}

/// A cluster of three whose servers have all converged.
async fn whole() -> (Fixture, Vec<Member>) {
    let (fixture, mut members) = cluster(&["seed", "a", "b"]).await;
    for (index, permit) in ["found/fleet", "join/fleet", "join/fleet"].into_iter().enumerate() {
        let member = &mut members[index];
        assert!(member.ask(permit, "db").await.granted);
        member.report("db", TaskResult::Changed).await;
        member.release(permit).await;
        let reported = || fixture.desk.registry.view(&member.name()).observed;
        fixture.until("its report", || reported().is_some()).await;
    }
    (fixture, members)
}

#[tokio::test]
async fn a_member_goes_away_only_while_all_others_stand_firm() {
    let (fixture, mut members) = whole().await;
    let [seed, a, b] = &mut members[..] else { panic!("three") };
    b.report("db", TaskResult::Waiting).await;
    let reason = "task `db` of node `b`: its peers to answer";
    fixture.until("its trouble", || waits_for_peers(&fixture)).await;
    let answer = a.ask("reboot", "update").await;
    assert!(!answer.granted && answer.reason == reason, "{answer:?}");
    let answer = seed.ask("join/fleet", "db").await;
    assert!(!answer.granted && answer.reason == reason, "{answer:?}");
    // Those who wait for other permits are looked at one after the other: a report that comes between counts for the
    // second only.
    eventually("both wait", || !fixture.desk.permits.shown(&node("seed")).is_empty()).await;
    // It has converged: who asked first is told by itself, the other once that one is done and stands again.
    b.report("db", TaskResult::Changed).await;
    assert!(a.answer().await.granted);
    let answer = seed.ask("join/fleet", "db").await;
    assert!(answer.reason.starts_with("node `a` has the permit `reboot`"), "{answer:?}");
    a.report("db", TaskResult::Waiting).await;
    a.release("reboot").await;
    let answer = seed.ask("join/fleet", "db").await;
    assert_eq!(answer.reason, "task `db` of node `a`: its peers to answer");
    a.report("db", TaskResult::Unchanged).await;
    assert!(seed.answer().await.granted);
    let answer = b.ask("reboot", "update").await;
    assert!(answer.reason.starts_with("node `seed` has the permit `join/fleet`"), "{answer:?}");
    fixture.stop().await;
}

fn waits_for_peers(fixture: &Fixture) -> bool {
    let seen = fixture.desk.registry.view(&node("b")).observed;
    seen.is_some_and(|seen| seen.tasks.iter().any(|task| task.result() == TaskResult::Waiting))
}

#[tokio::test]
async fn those_who_wait_for_their_turn_do_not_wait_for_each_other() {
    let (fixture, mut members) = whole().await;
    // All are to restart: a certificate ran out, a kernel came. None of their servers counts as converged.
    for member in &members {
        member.report("db", TaskResult::Waiting).await;
    }
    let mut given = Vec::new();
    for (index, (permit, task)) in
        [("join/fleet", "db"), ("join/fleet", "db"), ("reboot", "update")].into_iter().enumerate()
    {
        if members[index].ask(permit, task).await.granted {
            given.push(index);
        }
    }
    // The first asked before the others had; whoever is given it, all get their turn.
    for turn in 0..3 {
        if given.len() == turn {
            let answers = futures::future::select_all(members.iter_mut().map(|m| Box::pin(m.answer())));
            let (answer, index, rest) = answers.await;
            drop(rest);
            assert!(answer.granted, "{answer:?}");
            given.push(index);
        }
        let index = given[turn];
        members[index].report("db", TaskResult::Changed).await;
        members[index].release(if index == 2 { "reboot" } else { "join/fleet" }).await;
    }
    given.sort_unstable();
    assert_eq!(given, [0, 1, 2]);
    fixture.stop().await;
}

#[tokio::test]
async fn a_question_whose_session_is_over_is_dropped() {
    let (fixture, mut members) = cluster(&["a", "b"]).await;
    members[0].session.up = tokio::sync::mpsc::channel(1).0;
    fixture.until("it to go", || fixture.desk.registry.sessions() == 1).await;
    let ask = Ask { permit: "join/fleet".parse().expect("a permit"), task: "db".to_owned() };
    fixture.desk.permits.ask(&node("a"), ask.clone()).expect("room");
    // Read after it, so that its answer says that the other one was read.
    assert!(!members[1].ask("join/fleet", "db").await.granted, "there is no seed");
    // Shown once all that was asked together is answered, of which the registry says nothing.
    let waits = ["waits for join/fleet, 0 before it"];
    eventually("it is shown", || fixture.desk.permits.shown(&node("b")) == waits).await;
    assert_eq!(fixture.desk.permits.shown(&node("a")), Vec::<String>::new());
    fixture.stop().await;
}

#[tokio::test]
async fn a_node_waits_for_so_many_permits_at_once() {
    let (fixture, mut members) = cluster(&["a"]).await;
    let instance = |number: usize| format!("c{number}");
    let tasks = (0..20).map(|number| {
        let rethinkdb = RethinkdbTask { instance: instance(number), ..RethinkdbTask::default() };
        let needs = vec![Need { node: "seed".to_owned(), task: "db".to_owned() }];
        task(&instance(number), Kind::Rethinkdb(rethinkdb), needs)
    });
    let desired = Desired { generation: 2, tasks: tasks.collect(), ..Desired::default() };
    fixture.desk.registry.set_desired(&node("a"), Arc::new(desired));
    for number in 0..20 {
        let answer = members[0].ask(&format!("join/{}", instance(number)), &instance(number)).await;
        let refused = answer.reason.contains("waits for 16 permits already");
        assert!(!answer.granted && refused == (number >= 16), "{number}: {answer:?}");
    }
    assert_eq!(fixture.desk.permits.shown(&node("a")).len(), 16);
    members[0].release("join/c3").await;
    eventually("it is given up", || fixture.desk.permits.shown(&node("a")).len() == 15).await;
    let answer = members[0].ask("join/c19", "c19").await;
    assert!(answer.reason.contains("node `seed`"), "{answer:?}");
    fixture.stop().await;
}
