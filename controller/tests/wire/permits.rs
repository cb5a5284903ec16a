//! Permits through real sessions: who gets one, who waits, who is told when.

use std::{sync::Arc, time::Duration};

use fleet_proto::v1::{
    self, Desired, Need, PermitAnswer, RethinkdbTask, TaskReport, TaskResult, TaskSpec, UpdateTask,
    from_agent, task_spec::Kind, to_agent,
};

use crate::harness::{Agent, Fixture, Session, hello, node, start, start_in};

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

struct Member {
    agent: Agent,
    session: Session,
}

impl Member {
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
        let report = TaskReport { name: task.to_owned(), result: result.into(), ..TaskReport::default() };
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
    let seen = || fixture.desk.registry.view(&node("seed"), fleet_model::Clock::now(&*fixture.clock));
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
    assert!(a.ask("join/fleet", "db").await.granted, "a holder asks again and keeps it");
    assert!(seed.ask("found/fleet", "db").await.granted, "the same enrolment");
    // It runs out by itself; the waiting one is told within a second or so.
    fixture.clock.advance(Duration::from_secs(10 * 60));
    for member in [&*seed, &*b] {
        member.session.say(from_agent::Message::Heartbeat(v1::Heartbeat::default())).await;
    }
    assert!(b.answer().await.granted);
    fixture.stop().await;
}
