//! Plans and addresses in, tasks out.

use fleet_plan::resolved::{Cloud, Cpu, Disk, Domain, Location, Network, Node, Service, Template};
use fleet_proto::v1::{FileTask, file_task, rethinkdb_task::Source};

use super::*;

/// Tasks of nodes that all do what the plan says.
fn tasks(
    plan: &ResolvedPlan,
    addresses: &BTreeMap<NodeName, Addresses>,
    inputs: &Inputs,
) -> BTreeMap<NodeName, Vec<TaskSpec>> {
    super::tasks(plan, addresses, &works(plan, inputs).by_node, None)
}

/// A plan of two locations; `Ams1` and `Ams2` share a network, `Ams3` has another one there, `Lon1` is away.
pub(crate) fn plan() -> ResolvedPlan {
    let node = |name: &str, disks: u8| Node {
        name: name.parse().expect("a name"),
        description: String::new(),
        image: "Debian".to_owned(),
        cpu: Cpu { count: 2, cores_per_socket: 1, speed: "STANDARD".to_owned() },
        memory_gb: 4,
        disks: (1..=disks)
            .map(|scsi_id| Disk { scsi_id, size_gb: 10, speed: "STANDARD".to_owned() })
            .collect(),
        monitoring: None,
        internet: None,
        information: Template(String::new()),
        labels: BTreeMap::new(),
        tasks: Vec::new(),
        host: None,
    };
    let network = |name: &str, nodes: Vec<Node>| Network {
        name: name.to_owned(),
        address: [10, 0, 0, 0].into(),
        prefix: 24,
        accept: vec![],
        nodes,
    };
    let location = |id: &str, networks: Vec<Network>| Location {
        id: id.to_owned(),
        domain: Domain { name: "d".to_owned(), service: Service::Essentials },
        networks,
    };
    ResolvedPlan {
        fleet: "Reference".parse().expect("a name"),
        cloud: Cloud::Local,
        information: Template(String::new()),
        recheck: None,
        expires: None,
        rollout: Default::default(),
        locations: vec![
            location(
                "EU7",
                vec![
                    network("front", vec![node("Ams1", 1), node("Ams2", 0)]),
                    network("back", vec![node("Ams3", 0)]),
                ],
            ),
            location("EU8", vec![network("front", vec![node("lon1", 0)])]),
        ],
    }
}

pub(crate) fn addresses(plan: &ResolvedPlan) -> BTreeMap<NodeName, Addresses> {
    let numbered = plan.nodes().zip(1_u8..);
    numbered
        .map(|(placed, number)| {
            let addresses = Addresses {
                public_ipv4: Some([198, 51, 100, number].into()),
                private_ipv4: Some([10, 0, 0, number].into()),
                ipv6: Some([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)].into()),
            };
            (placed.node.name.clone(), addresses)
        })
        .collect()
}

fn lines(tasks: &[TaskSpec]) -> Vec<String> {
    let Some(Kind::Hosts(hosts)) = tasks.iter().find_map(|task| match &task.kind {
        kind @ Some(Kind::Hosts(_)) => kind.clone(),
        _ => None,
    }) else {
        panic!("no hosts task")
    };
    hosts.entries.iter().map(|entry| format!("{} {}", entry.address, entry.names.join(" "))).collect()
}

#[test]
fn names_mean_addresses_that_can_be_reached_from_there() {
    let plan = plan();
    let tasks = tasks(&plan, &addresses(&plan), &Inputs::default());
    let of = |name: &str| lines(&tasks[&name.parse::<NodeName>().expect("a name")]);
    assert_eq!(
        of("Ams1"),
        [
            "fd00::1 Ams1 Ams1.Reference ams1",
            "10.0.0.1 Ams1 Ams1.Reference ams1",
            "fd00::2 Ams2 Ams2.Reference ams2",
            "10.0.0.2 Ams2 Ams2.Reference ams2",
            "fd00::3 Ams3 Ams3.Reference ams3",
            "fd00::4 lon1 lon1.Reference",
        ]
    );
    assert_eq!(of("lon1")[..1], ["fd00::1 Ams1 Ams1.Reference ams1"]);
    assert_eq!(of("lon1").len(), 5, "own IPv4 only: `front` in Amsterdam is another network");
}

#[test]
fn phases_and_disks() {
    let plan = plan();
    let tasks = tasks(&plan, &addresses(&plan), &Inputs::default());
    let ams1 = &tasks[&"Ams1".parse::<NodeName>().expect("a name")];
    let phases: Vec<_> = ams1.iter().map(|task| (task.name.as_str(), task.phase.as_str())).collect();
    assert_eq!(phases, [("hostname", "identity"), ("hosts", "identity"), ("root-volume", "storage")]);
    assert!(matches!(&ams1[2].kind, Some(Kind::Lvm(lvm)) if lvm.expected_disks == 1));
}

#[test]
fn nodes_without_addresses_have_no_tasks_yet_and_are_not_named() {
    let plan = plan();
    let mut known = addresses(&plan);
    let ams1: NodeName = "Ams1".parse().expect("a name");
    known.remove(&ams1);
    let tasks = tasks(&plan, &known, &Inputs::default());
    assert!(!tasks.contains_key(&ams1));
    assert!(tasks.values().all(|tasks| !lines(tasks).iter().any(|line| line.contains("Ams1"))));
}

#[test]
fn generations_grow_with_content_only() {
    let plan = plan();
    let mut known = addresses(&plan);
    let ams1: NodeName = "Ams1".parse().expect("a name");
    let of = |known: &BTreeMap<NodeName, Addresses>| tasks(&plan, known, &Inputs::default())[&ams1].clone();
    let first = next(None, of(&known), 0).expect("something to do");
    assert_eq!((first.generation, first.recheck_s), (1, 0));
    assert_eq!(next(Some(&first), of(&known), 0), None);
    known.remove(&"lon1".parse::<NodeName>().expect("a name"));
    let second = next(Some(&first), of(&known), 0).expect("changed");
    assert_eq!(second.generation, 2);
    let third = next(Some(&second), of(&known), 600).expect("changed");
    assert_eq!((third.generation, third.recheck_s), (3, 600));
}

/// A fleet from a plan's text, its addresses, and whatever its plan needs.
fn fleet(text: &str) -> (ResolvedPlan, BTreeMap<NodeName, Addresses>, Inputs) {
    let plan = fleet_plan::load("plan.yaml", text, &BTreeMap::new()).expect("no problems").plan;
    let addresses = addresses(&plan);
    let artifact =
        |name: &str, digit: &str| v1::Artifact { name: name.to_owned(), sha256: digit.repeat(64), size: 9 };
    let artifacts = plan.files().into_iter().map(|name| (name.to_owned(), artifact(name, "a"))).collect();
    let operator_keys = vec!["ssh-ed25519 AAAA operator".to_owned()];
    let inputs = Inputs { artifacts, operator_keys, todo: Some(artifact("fleet-todo", "b")) };
    (plan, addresses, inputs)
}

fn names_of(tasks: &[TaskSpec]) -> Vec<&str> {
    tasks.iter().map(|task| task.name.as_str()).collect()
}

#[test]
fn the_reference_fleet() {
    let (plan, addresses, inputs) = fleet(include_str!("../../../packaging/plans/rethinkdb.yaml"));
    let tasks = tasks(&plan, &addresses, &inputs);
    assert_eq!(tasks.len(), 5);
    // The seed and one that joins: the others differ in names and addresses only.
    let text: String = ["EU7rethinkSeed", "EU9rethink01"]
        .into_iter()
        .map(|name| {
            let tasks = tasks[&name.parse::<NodeName>().expect("a name")].iter();
            let lines = tasks.map(|task| format!("{task:#?}\n"));
            format!("# {name}\n{}", lines.collect::<String>())
        })
        .collect();
    insta::assert_snapshot!(text);
}

#[test]
fn the_site_of_general_tasks() {
    let (plan, addresses, inputs) = fleet(include_str!("../../../packaging/plans/nginx.yaml"));
    let tasks = &tasks(&plan, &addresses, &inputs)[&"EU8web".parse::<NodeName>().expect("a name")];
    let line = |task: &TaskSpec| match &task.kind {
        Some(Kind::File(FileTask { content: Some(file_task::Content::Text(text)), path, .. })) => {
            format!("{} in {}: {path}\n{}", task.name, task.phase, String::from_utf8_lossy(text))
        }
        kind => format!("{} in {}: {kind:?}\n", task.name, task.phase),
    };
    insta::assert_snapshot!(tasks.iter().skip(3).map(line).collect::<String>());
}

#[test]
fn members_are_those_with_addresses_and_joiners_wait_for_the_seed() {
    let (plan, mut addresses, inputs) = fleet(include_str!("../../../packaging/plans/rethinkdb.yaml"));
    addresses.remove(&"EU8rethink01".parse::<NodeName>().expect("a name"));
    let tasks = tasks(&plan, &addresses, &inputs);
    for (name, tasks) in &tasks {
        let task = tasks.iter().find(|task| task.name == "rethinkdb").expect("a server");
        let Some(Kind::Rethinkdb(rethinkdb)) = &task.kind else { panic!("{:?}", task.kind) };
        let members: Vec<_> = rethinkdb.members.iter().map(|member| member.server_name.as_str()).collect();
        assert_eq!(members, ["EU7rethinkSeed", "EU7rethink01", "EU6rethink01", "EU9rethink01"]);
        let needs: Vec<_> = task.needs.iter().map(|need| (need.node.as_str(), need.task.as_str())).collect();
        let seed = name.as_str() == "EU7rethinkSeed";
        assert_eq!(rethinkdb.seed, seed);
        assert_eq!(needs, if seed { vec![] } else { vec![("EU7rethinkSeed", "rethinkdb")] });
    }
}

#[test]
fn names_that_the_database_refuses_are_spelled_otherwise() {
    let text = include_str!("../../../packaging/plans/rethinkdb.yaml")
        .replace("EU7rethinkSeed", "eu7-seed")
        .replace("id: EU8", "id: EU-8")
        .replace("EU8::", "EU-8::");
    let (plan, addresses, inputs) = fleet(&text);
    let tasks = tasks(&plan, &addresses, &inputs);
    let server = |name: &str| {
        let tasks = &tasks[&name.parse::<NodeName>().expect("a name")];
        tasks.iter().find_map(|task| match &task.kind {
            Some(Kind::Rethinkdb(rethinkdb)) => {
                Some((rethinkdb.server_name.clone(), rethinkdb.server_tags.clone()))
            }
            _ => None,
        })
    };
    assert_eq!(server("eu7-seed"), Some(("eu7_seed".into(), vec!["EU7".into()])));
    assert_eq!(server("EU8rethink01"), Some(("EU8rethink01".into(), vec!["EU_8".into()])));
}

/// One node with these tasks.
fn one(tasks: &str) -> String {
    format!(
        "fleet: t\ndefaults: {{image: i, internet: [22]}}\nlocations:\n  - id: EU6\n    domain: D\n    networks:\n      \
         - {{name: N, subnet: 10.0.0.0/24, nodes: [{{name: a, tasks: [{tasks}]}}]}}\n"
    )
}

#[test]
fn what_is_not_known_holds_back_what_comes_after() {
    const BUILT_IN: [&str; 3] = ["hostname", "hosts", "root-volume"];
    let check = |text: &str, lose: &dyn Fn(&mut Addresses, &mut Inputs), expected: &[&str]| {
        let (plan, mut addresses, mut inputs) = fleet(&one(text));
        addresses.values_mut().for_each(|addresses| lose(addresses, &mut inputs));
        let found = tasks(&plan, &addresses, &inputs);
        let found = found.values().next().expect("a node");
        assert_eq!(names_of(found)[..3], BUILT_IN);
        assert_eq!(names_of(found)[3..], *expected, "{text}");
    };
    let nothing = |_: &mut Addresses, _: &mut Inputs| {};
    let page = "{clock: {}}, {file: {path: /x, text: '{{ node.public }}'}}, {update: {}}";
    check(page, &nothing, &["clock", "file", "update"]);
    check(page, &|addresses, _| addresses.public_ipv4 = None, &["clock"]);
    let site = "{file: {path: /x, source: y/x.html}}, {update: {}}";
    check(site, &nothing, &["file", "update"]);
    check(site, &|_, inputs| inputs.artifacts.clear(), &[]);
    let access = "{access: {login: x, keys: [operator]}}, {update: {}}";
    check(access, &nothing, &["access", "update"]);
    check(access, &|_, inputs| inputs.operator_keys.clear(), &[]);
    let todo = "{clock: {}}, {rethinkdb: {seed: a}}, {todo: {}}, {update: {}}";
    check(todo, &nothing, &["clock", "certificate", "rethinkdb", "todo", "update"]);
    check(todo, &|_, inputs| inputs.todo = None, &["clock", "certificate", "rethinkdb"]);
    check(todo, &|addresses, _| addresses.ipv6 = None, &["clock"]);
}

#[test]
fn a_certificate_names_all_by_which_its_node_is_reached() {
    let (plan, addresses, inputs) =
        fleet(&one("{rethinkdb: {seed: a}}").replace("name: a,", "name: Ab,").replace("seed: a", "seed: Ab"));
    let tasks = tasks(&plan, &addresses, &inputs);
    let kind = tasks.values().next().expect("a node")[3].kind.clone();
    let Some(Kind::Certificate(certificate)) = kind else { panic!("{kind:?}") };
    assert_eq!(certificate.names, ["Ab", "Ab.t", "ab", "fd00::1", "10.0.0.1", "198.51.100.1"]);
}

#[test]
fn a_package_of_the_operator_is_an_artifact() {
    let (plan, addresses, inputs) =
        fleet(&one("{rethinkdb: {seed: a, package: packages/r.deb, cacheMb: 64}}"));
    let tasks = tasks(&plan, &addresses, &inputs);
    let kind = tasks.values().next().expect("a node")[4].kind.clone();
    let Some(Kind::Rethinkdb(rethinkdb)) = kind else { panic!("{kind:?}") };
    assert_eq!(rethinkdb.cache_mb, 64);
    assert!(
        matches!(&rethinkdb.source, Some(Source::Package(package)) if package.name == "r.deb" && package.sha256 == "a".repeat(64))
    );
}

#[test]
fn convergence_is_about_this_generation_and_every_task() {
    use v1::TaskResult::{Changed, Failed, Running, Unchanged, Waiting};
    let desired = v1::Desired {
        generation: 2,
        tasks: ["a", "b"].map(|name| TaskSpec { name: name.to_owned(), ..TaskSpec::default() }).into(),
        recheck_s: 0,
    };
    let check = |generation, results: &[(&str, v1::TaskResult)], wanted: &str| {
        let tasks = results.iter().map(|(name, result)| v1::TaskReport {
            name: (*name).to_owned(),
            result: (*result).into(),
            reason: "why".to_owned(),
            ..v1::TaskReport::default()
        });
        let observed = v1::Observed { generation, tasks: tasks.collect(), health: None };
        let text = match convergence(Some(&desired), Some(&observed)) {
            Convergence::Converged => "converged".to_owned(),
            Convergence::Failed(why) | Convergence::Underway(why) => why,
        };
        assert_eq!(text, wanted, "{results:?}");
    };
    check(2, &[("a", Unchanged), ("b", Changed)], "converged");
    check(1, &[("a", Unchanged), ("b", Changed)], "generation 2 not reported on yet");
    check(2, &[("a", Unchanged)], "task `b` is at work");
    check(2, &[("a", Waiting), ("b", Running)], "task `a` waits: why");
    check(2, &[("a", Waiting), ("b", Failed)], "task `b` failed: why");
    assert_eq!(convergence(None, None), Convergence::Underway("nothing is desired yet".to_owned()));
}

#[test]
fn drift_counts_as_its_plan_says() {
    let check = |on_drift: v1::OnDrift, drift: &[&str], wanted: Convergence| {
        let spec = TaskSpec { name: "a".to_owned(), on_drift: on_drift.into(), ..TaskSpec::default() };
        let desired = v1::Desired { generation: 1, tasks: vec![spec], recheck_s: 0 };
        let report = v1::TaskReport {
            name: "a".to_owned(),
            result: v1::TaskResult::Drifted.into(),
            drift: drift.iter().map(|line| (*line).to_owned()).collect(),
            ..v1::TaskReport::default()
        };
        let observed = v1::Observed { generation: 1, tasks: vec![report], health: None };
        assert_eq!(convergence(Some(&desired), Some(&observed)), wanted);
    };
    use v1::OnDrift::{Hold, Repair, Report};
    let held = |what| {
        Convergence::Failed(format!("task `a` differs and is held: {what}; `fleetctl repair` puts it right"))
    };
    check(Repair, &["x"], Convergence::Underway("task `a` is about to be repaired".to_owned()));
    check(Report, &["x"], Convergence::Converged);
    check(Hold, &["mode 0600"], held("mode 0600"));
    check(Hold, &["x", "y", "z"], held("x, and 2 more"));
}

#[test]
fn a_machine_that_was_there_already_keeps_its_name_and_disks() {
    let mut plan = plan();
    plan.cloud = Cloud::Hosts;
    let tasks = tasks(&plan, &addresses(&plan), &Inputs::default());
    let names: Vec<_> = tasks.values().map(|tasks| names_of(tasks)).collect();
    assert!(names.iter().all(|names| *names == ["hosts"]), "{names:?}");
    assert_eq!(names.len(), 4);
}

/// The rule: which changes of a plan reach a running node at once, and which in its turn.
#[test]
fn names_and_addresses_go_at_once_and_all_else_rolls() {
    const PLAN: &str = "fleet: t\ndefaults: {image: i, internet: [22], tasks: [{clock: {}}, {access: {login: x, keys: [operator]}}]}\nlocations:\n  \
                        - id: EU6\n    domain: D\n    networks:\n      - name: N\n        subnet: 10.0.0.0/24\n        nodes:\n          \
                        - {name: a}\n          - {name: b, tasks: [{file: {path: /x, text: '{{ a.ipv6 }}'}}]}\n";
    let (plan, addresses, inputs) = fleet(PLAN);
    let before = works(&plan, &inputs).by_node;
    let b: NodeName = "b".parse().expect("a name");
    let check = |text: &str, change: &dyn Fn(&mut Inputs), wanted: Course| {
        let (plan, _, mut inputs) = fleet(text);
        change(&mut inputs);
        let after = &works(&plan, &inputs).by_node[&b];
        assert_eq!(course(Some(&before[&b]), after, true, true), wanted, "{text}");
        let told = before[&b].differences(after);
        assert_eq!(told.is_empty(), wanted == Course::HasIt, "{told:?}");
    };
    let same = |_: &mut Inputs| {};
    check(PLAN, &same, Course::HasIt);
    // Who else there is, and what machines they are.
    check(&PLAN.replace("- {name: a}", "- {name: a}\n          - {name: c}"), &same, Course::HasIt);
    check(&PLAN.replace("{name: a}", "{name: a, cpu: 4, internet: [22, 80]}"), &same, Course::HasIt);
    check(&PLAN.replace("fleet: t", "fleet: t\nrollout: {bake: 1m}"), &same, Course::HasIt);
    // What it is to do, how often, and with what.
    check(&PLAN.replace("clock: {}", "clock: {mostOffsetMs: 9}"), &same, Course::Rolls);
    check(&PLAN.replace("{{ a.ipv6 }}", "{{ a.private }}"), &same, Course::Rolls);
    check(&PLAN.replace("{clock: {}}, ", ""), &same, Course::Rolls);
    check(&PLAN.replace("fleet: t", "fleet: t\nrecheck: 1h"), &same, Course::Rolls);
    check(&PLAN.replace("name: b,", "name: b, disks: [{sizeGb: 10}],"), &same, Course::Rolls);
    check(PLAN, &|inputs| inputs.operator_keys = vec!["another".to_owned()], Course::Rolls);
    check(PLAN, &|inputs| inputs.todo = None, Course::HasIt);

    // An address that a text names is a fact too: the work is the same, the desired state is not.
    let mut moved = addresses.clone();
    moved.get_mut(&"a".parse::<NodeName>().expect("a name")).expect("known").ipv6 =
        Some([0xfd00, 0, 0, 0, 0, 0, 0, 99].into());
    let tasks = |addresses| super::tasks(&plan, addresses, &before, Some(&b))[&b].clone();
    assert_ne!(tasks(&addresses), tasks(&moved));
    // A node keeps its work under another plan, and knows of whoever came.
    let (larger, known, _) = fleet(
        &PLAN.replace("- {name: a}", "- {name: a}\n          - {name: c}").replace("clock: {}", "update: {}"),
    );
    let kept = super::tasks(&larger, &known, &before, Some(&b))[&b].clone();
    assert!(names_of(&kept).contains(&"clock") && !names_of(&kept).contains(&"update"));
    assert!(lines(&kept).iter().any(|line| line.ends_with("c c.t")), "{:?}", lines(&kept));
}

#[test]
fn what_does_not_run_cannot_break_and_what_founds_cannot_wait() {
    let (plan, _, inputs) = fleet(include_str!("../../../packaging/plans/rethinkdb.yaml"));
    let member = works(&plan, &inputs).by_node.into_values().next().expect("a member");
    let other = Work::default();
    assert_eq!(course(None, &member, true, true), Course::AtOnce, "it has none");
    assert_eq!(course(Some(&other), &member, false, true), Course::AtOnce, "it does not run");
    assert_eq!(course(Some(&other), &member, true, false), Course::AtOnce, "no member is ready alone");
    assert_eq!(course(Some(&other), &member, true, true), Course::Rolls, "it joins what is there");
    assert_eq!(course(Some(&member), &other, true, true), Course::Rolls);
}

/// Members are those that have a server now: one whose turn to get one is yet to come is waited for by nobody.
#[test]
fn a_cluster_is_of_those_that_serve_now() {
    let (plan, addresses, inputs) = fleet(include_str!("../../../packaging/plans/rethinkdb.yaml"));
    let mut works = works(&plan, &inputs).by_node;
    let late: NodeName = "EU8rethink01".parse().expect("a name");
    let served = works.insert(late.clone(), Work::default().into()).expect("a member");
    assert!(concerns_others(works.get(&late).map(|work| &**work), &served));
    assert!(!concerns_others(Some(&served), &served));
    let seed: NodeName = "EU7rethinkSeed".parse().expect("a name");
    let members = |tasks: &[TaskSpec]| {
        let counts = tasks.iter().filter_map(|task| match &task.kind {
            Some(Kind::Rethinkdb(task)) => Some(task.members.len()),
            Some(Kind::Database(task)) => Some(task.members.len()),
            _ => None,
        });
        counts.collect::<Vec<_>>()
    };
    assert_eq!(members(&super::tasks(&plan, &addresses, &works, Some(&seed))[&seed]), [4, 4]);
    works.insert(late, served);
    assert_eq!(members(&super::tasks(&plan, &addresses, &works, Some(&seed))[&seed]), [5, 5]);
}
