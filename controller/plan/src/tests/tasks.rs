//! Tasks and openings: from layers to one list, and every way to get them wrong.

use std::time::Duration;

use super::*;
use crate::resolved::{AptRepository, Content, Key, OnDrift, Package, Work};

/// Two nodes of class `c` in one network, with what is said at the top, in the defaults, in the class and at node `b`.
fn plan(top: &str, defaults: &str, class: &str, b: &str) -> String {
    format!(
        "fleet: t
{top}
defaults:
  image: i
  internet: [22]
{defaults}
classes:
  c:
    cpu: 1
{class}
locations:
  - id: EU6
    domain: D
    networks:
      - name: N
        subnet: 10.0.0.0/24
        nodes:
          - {{name: a, class: c}}
          - name: b
            class: c
{b}
"
    )
}

fn loaded(text: &str) -> Loaded {
    load("plan.yaml", text, &BTreeMap::new()).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

fn names(plan: &ResolvedPlan, node: &str) -> Vec<String> {
    let node = plan.node(&node.parse().expect("a name")).expect("there").node;
    node.tasks.iter().map(|task| format!("{} {}", task.name, task.work.kind())).collect()
}

#[test]
fn later_layers_come_after_and_replace_by_name() {
    let text = plan(
        "recheck: 90s",
        "  tasks:\n    - clock: {}\n    - {name: tools, package: {names: [curl]}}\n",
        "    tasks:\n      - update:\n",
        "            tasks:\n              - {name: tools, onDrift: hold, package: {names: [wget]}}\n              - {name: tz, file: {path: /etc/timezone, text: 'UTC'}}\n",
    );
    let Loaded { plan, warnings } = loaded(&text);
    assert_eq!(warnings, []);
    assert_eq!(plan.recheck, Some(Duration::from_secs(90)));
    assert_eq!(names(&plan, "a"), ["clock clock", "tools package", "update update"]);
    assert_eq!(names(&plan, "b"), ["clock clock", "tools package", "update update", "tz file"]);
    let b = plan.nodes().last().expect("b").node;
    assert_eq!(b.tasks[1].on_drift, OnDrift::Hold);
    assert!(matches!(&b.tasks[1].work, Work::Package(packages) if packages.names == ["wget"]));
}

#[test]
fn a_task_without_a_name_that_hides_another_is_warned_of() {
    let text = plan(
        "",
        "  tasks: [{package: {names: [curl]}}, {clock: {}}]",
        "",
        "            tasks: [{package: {names: [wget]}}, {clock: {mostOffsetMs: 9}}]",
    );
    let warnings: Vec<String> = loaded(&text).warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["line 21, column 22: `package` takes the place of the one in an earlier layer"]);
}

#[test]
fn kinds_read_as_they_are_written() {
    let Loaded { plan, warnings } = loaded(&plan(
        "parameters: {deb: {information: x, type: text, default: 'packages/rethinkdb.deb'}, yes: {information: x, type: boolean, default: 'true'}}",
        "  tasks:
    - clock: {servers: ['{{ a.private }}', ntp.example.org], mostOffsetMs: 50}
    - update: {everyHours: 12, reboot: '{{ parameter.yes }}'}
    - access:
        login: ops
        keys:
          - operator
          - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBqwerd0hIiVoE7J6zC0M4WmbPCTcr1rEYrzcf3RCUXI me@host
    - rethinkdb: {seed: a, package: '{{ parameter.deb }}', cacheMb: 64}
    - file: {path: /srv, directory: true, mode: \"0750\", owner: www-data}
    - {name: page, file: {path: /srv/x, source: site/x.html}}
    - {name: gone, file: {path: /srv/y, absent: true}}
    - service: {unit: nginx.service, running: false, restartOn: [/etc/nginx/nginx.conf]}
    - user: {name: web, system: true, home: /srv, shell: /bin/false, groups: [adm]}
    - command: {args: [/bin/touch, '/{{ node.name }}'], creates: /done, timeoutSeconds: 5}",
        "",
        "            tasks: [{database: {name: d, table: t, replicas: 1}}]",
    ).replace("seed: a", "seed: b"));
    assert_eq!(warnings, []);
    assert_eq!(plan.files(), ["packages/rethinkdb.deb", "site/x.html"]);
    assert!(plan.wants_operator_keys());
    let tasks = &plan.nodes().next().expect("a").node.tasks;
    insta::assert_json_snapshot!(tasks);
    assert!(matches!(&tasks[2].work, Work::Access(access) if access.keys[0] == Key::Operator));
    assert!(
        matches!(&tasks[5].work, Work::File(file) if file.content == Content::Source("site/x.html".into()))
    );
}

#[test]
fn a_mirror_differs_from_the_official_repository_only_where_it_says_so() {
    let rethinkdb = |package: &str| {
        let tasks = format!("  tasks: [{{rethinkdb: {{seed: a{package}}}}}]");
        let loaded = loaded(&plan("", &tasks, "", ""));
        match &loaded.plan.nodes().next().expect("a").node.tasks[0].work {
            Work::Rethinkdb(rethinkdb) => rethinkdb.package.clone(),
            other => panic!("{other:?}"),
        }
    };
    let official = AptRepository::official();
    assert_eq!(rethinkdb(""), Package::Repository(official.clone()));
    assert_eq!(rethinkdb(", package: official"), Package::Repository(official.clone()));
    assert_eq!(rethinkdb(", package: ./x.deb"), Package::File("./x.deb".into()));
    let mirror = ", package: {uri: 'http://mirror.example/deb', fingerprint: 'aaaa aaaa aaaa aaaa aaaa  aaaa aaaa aaaa aaaa aaaa'}";
    let expected =
        AptRepository { uri: "http://mirror.example/deb".into(), fingerprint: "A".repeat(40), ..official };
    assert_eq!(rethinkdb(mirror), Package::Repository(expected));
}

#[test]
fn openings_have_sources() {
    let open = |internet: &str, tasks: &str| {
        let text = plan("", tasks, "", "").replace("internet: [22]", &format!("internet: {internet}"));
        let Loaded { plan, warnings } = loaded(&text);
        let open = plan.nodes().next().expect("a").node.internet.clone().expect("public").open;
        let open = open.iter().map(|opening| {
            let from = opening.from.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            format!("{}: {from}", opening.traffic)
        });
        (open.collect::<Vec<_>>(), warnings.len())
    };
    let cluster = "  tasks: [{rethinkdb: {seed: a}}]";
    let check = |internet: &str, tasks: &str, expected: &[&str], warnings: usize| {
        let (found, warned) = open(internet, tasks);
        assert_eq!(
            (found.iter().map(String::as_str).collect::<Vec<_>>().as_slice(), warned),
            (expected, warnings)
        );
    };
    check("[22, 8080]", "", &["TCP port 22: any", "TCP port 8080: any"], 0);
    check("[22, 8080]", cluster, &["TCP port 22: any", "TCP port 8080: operator"], 0);
    check("[{port: 8080, from: any}]", cluster, &["TCP port 8080: any"], 1);
    check("[{port: 8080, from: [192.0.2.1, 0.0.0.0/0]}]", cluster, &["TCP port 8080: any"], 1);
    check("[8000-8100]", cluster, &["TCP ports 8000 to 8100: any"], 1);
    check("['udp:8080']", cluster, &["UDP port 8080: any"], 0);
    check(
        "[{port: icmp, from: [operator, 192.0.2.0/24, operator]}]",
        "",
        &["ICMP: operator 192.0.2.0/24"],
        0,
    );
}

#[test]
fn a_network_domain_holds_only_so_many_rules() {
    let with = |sources: usize| {
        let list: Vec<String> = (0..sources).map(|n| format!("192.0.{}.{}", n / 250, n % 250)).collect();
        plan("", "", "", "").replace("[22]", &format!("[{{port: 22, from: [{}]}}]", list.join(", ")))
    };
    // Two nodes.
    loaded(&with(497));
    let all = load("plan.yaml", &with(498), &BTreeMap::new()).expect_err("too many");
    assert_eq!(all.problems.len(), 1, "{all}");
    assert_eq!(all.problems[0].message, "location `EU6` needs 996 firewall rules");
}

#[test]
fn the_operator_is_put_in_place() {
    let text = plan("", "", "", "").replace("[22]", "[{port: 22, from: [operator, 192.0.2.9]}, 80]");
    let fresh = || loaded(&text).plan;
    let opened =
        |plan: &ResolvedPlan| plan.nodes().next().expect("a").node.internet.clone().expect("public").open;
    let host = |last| Source::Cidr([192, 0, 2, last].into(), 32);

    let mut plan = fresh();
    plan.place_operator(&["192.0.2.7", "192.0.2.9"]).expect("addresses");
    assert_eq!(opened(&plan)[0].from, [host(7), host(9)]);
    assert_eq!(opened(&plan)[1].from, [Source::Any]);
    assert_eq!(plan.wants_operator_address(), None);
    // Once in place, nothing is needed any more.
    plan.place_operator::<&str>(&[]).expect("nothing to place");

    let check = |addresses: &[&str], expected: &str| {
        let mut plan = fresh();
        let error = plan.place_operator(addresses).expect_err("refused");
        assert_eq!(error.to_string(), expected);
        assert_eq!(plan, fresh());
    };
    check(
        &[],
        "the plan opens TCP port 22 of node `a` to the operator alone, and the operator's address is not known",
    );
    check(&["home"], "`home` is no address of the operator: not an IPv4 address or network");
    for everyone in ["0.0.0.0/0", "::/0", "any", "192.0.2.7/0", "0.0.0.0/00"] {
        let expected = format!("`{everyone}` is the whole Internet, not where the operator is");
        check(&[everyone], &expected);
        check(&["192.0.2.7", everyone], &expected);
        let error = fresh().place_operator(&[everyone]).expect_err("refused");
        assert!(error.hint().contains("`from: [any]`"), "{}", error.hint());
    }
}

#[test]
fn everything_wrong_with_tasks_is_said_at_once() {
    insta::assert_snapshot!(problems(&plan(
        "recheck: 1s",
        "  tasks:
    - clcok: {}
    - clock: {servers: ['a b'], mostOffsetMs: 0, server: x}
    - update: {everyHours: 0, reboot: maybe}
    - access: {login: root, keys: [operator, operator, ssh-ed25519 AAAA, ssh-dss AAAA]}
    - rethinkdb: {seed: ghost, package: offical, cacheMb: 1}
    - {name: second, rethinkdb: {seed: a, package: {url: x, fingerprint: abc}}}
    - {name: hosts, clock: {}}
    - {name: 'a b', package: {names: [Nginx, curl, curl]}}
    - package: {names: []}
    - package: {names: [wget]}
    - nothing
    - {onDrift: repair}
    - {file: {path: /x, text: a}, onDrift: fix}
    - {name: f2, file: {path: relative, text: a, absent: true}}
    - {name: f3, file: {path: /x, mode: 0644}}
    - {name: f4, file: {path: /y/../z, absent: true, mode: '0999', owner: Root}}
    - {name: f5, file: {path: /f5, text: '{{ ghost.ipv6 }} {{ node.name }}', directory: false}}
    - {name: f6, file: {path: /f6, source: '{{ node.name }}'}}
    - service: {unit: nginx, running: sometimes, restartOn: [etc]}
    - user: {name: root, shell: sh, groups: [Wheel]}
    - {command: {args: rm -rf /, timeoutSeconds: 0}, service: {}}
    - command: {args: rm -rf /, timeoutSeconds: 0}
    - {name: c2, command: {args: [], creates: /x}}",
        "    tasks:
      - todo: {port: 8080, database: other}
      - database: {name: rethinkdb, table: t!, replicas: 2}
      - {name: more, database: {name: d, table: t, replicas: 5}}",
        "            internet: [{port: 22, from: []}, {from: [any]}, {port: 23, form: any}, {port: 24, from: [operater, 192.0.2.7/24, '::1']}]
            tasks: [{access: {login: x, keys: []}}, {name: again, access: {login: x, keys: x}}]",
    )));
}

#[test]
fn the_cluster_has_one_seed_that_is_a_member() {
    let check = |defaults: &str, b: &str| {
        let text = plan("", &format!("  tasks: [{defaults}]"), "", &format!("            tasks: [{b}]"));
        let all = load("plan.yaml", &text, &BTreeMap::new()).expect_err("problems");
        let list = all.problems.iter().map(|problem| {
            let hint = problem.hint.as_deref().unwrap_or_default();
            format!("{} ({hint})", problem.message)
        });
        list.collect::<Vec<_>>().join("\n")
    };
    let cases = [
        ("two seeds", check("{rethinkdb: {seed: a}}", "{rethinkdb: {seed: b}}")),
        ("a seed that is no member", check("", "{rethinkdb: {seed: a}}")),
        ("an unknown seed", check("{rethinkdb: {seed: c}}", "")),
        (
            "a database elsewhere",
            check("{rethinkdb: {seed: a}}", "{database: {name: d, table: t, replicas: 1}}"),
        ),
        (
            "more replicas than servers",
            check("{rethinkdb: {seed: b}}", "{database: {name: d, table: t, replicas: 3}}"),
        ),
        ("no server", check("", "{todo: {}}")),
        ("the wrong order", check("{todo: {}}, {rethinkdb: {seed: a}}", "")),
        (
            "a database after its application",
            check(
                "{rethinkdb: {seed: b}}, {todo: {}}",
                "{database: {name: todo, table: tasks, replicas: 1}}",
            ),
        ),
    ];
    let text: String = cases.iter().map(|(title, text)| format!("# {title}\n{text}\n")).collect();
    insta::assert_snapshot!(text);
}
