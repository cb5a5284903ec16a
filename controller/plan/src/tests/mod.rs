//! Whole plans in, plans or problems out.

mod tasks;

use proptest::prelude::*;

use super::*;
use crate::resolved::{Cloud, Opening, Service, Source, Traffic};

const REFERENCE: &str = include_str!("../../../../packaging/plans/rethinkdb.yaml");
const NGINX: &str = include_str!("../../../../packaging/plans/nginx.yaml");
const MINIMAL: &str = include_str!("../../../../packaging/plans/minimal.yaml");
const HOSTS: &str = include_str!("../../../../packaging/plans/hosts.yaml");

fn set(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn problems(text: &str) -> String {
    load("plan.yaml", text, &BTreeMap::new()).expect_err("has problems").to_string()
}

/// A plan that is fine but for what replaces `OLD`.
fn with(old: &str, new: &str) -> String {
    assert!(MINIMAL.contains(old), "{old}");
    problems(&MINIMAL.replacen(old, new, 1))
}

#[test]
fn the_reference_fleet_is_as_the_use_case_says() {
    let loaded = load("rethinkdb.yaml", REFERENCE, &BTreeMap::new()).expect("no problems");
    assert_eq!(loaded.warnings, []);
    let plan = loaded.plan;
    assert_eq!(plan.cloud, Cloud::Local);
    let networks: Vec<(&str, &str, String, usize)> = plan
        .locations
        .iter()
        .flat_map(|location| {
            location.networks.iter().map(|network| {
                let subnet = format!("{}/{}", network.address, network.prefix);
                (location.id.as_str(), network.name.as_str(), subnet, network.accept.len())
            })
        })
        .collect();
    assert_eq!(
        networks,
        [
            ("EU7", "RethinkSeedNetwork", "10.70.0.0/24".to_owned(), 4),
            ("EU7", "RethinkNetwork", "10.60.0.0/24".to_owned(), 4),
            ("EU6", "RethinkNetwork", "10.60.0.0/24".to_owned(), 4),
            ("EU8", "RethinkNetwork", "10.60.0.0/24".to_owned(), 4),
            ("EU9", "RethinkNetwork", "10.60.0.0/24".to_owned(), 4),
        ]
    );
    let names: Vec<&str> = plan.nodes().map(|placed| placed.node.name.as_str()).collect();
    assert_eq!(names, ["EU7rethinkSeed", "EU7rethink01", "EU6rethink01", "EU8rethink01", "EU9rethink01"]);
    for placed in plan.nodes() {
        let node = placed.node;
        assert_eq!(placed.location.domain.name, "RethinkFox");
        assert_eq!((node.cpu.count, node.memory_gb, node.image.as_str()), (1, 1, "Debian 12"));
        assert_eq!((node.disks.len(), node.disks[0].scsi_id, node.disks[0].size_gb), (1, 1, 10));
        assert_eq!(node.monitoring, Some(Service::Essentials));
        let open = &node.internet.as_ref().expect("public").open;
        let from = |traffic, source| Opening { traffic, from: vec![source] };
        let tcp = |port| Traffic::Tcp(port, port);
        assert_eq!(
            *open,
            [
                from(Traffic::Icmp, Source::Any),
                from(tcp(22), Source::Any),
                from(tcp(5000), Source::Any),
                from(tcp(8080), Source::Operator),
            ]
        );
    }
}

#[test]
fn the_site_needs_only_general_tasks() {
    let loaded = load("nginx.yaml", NGINX, &BTreeMap::new()).expect("no problems");
    assert_eq!(loaded.warnings, []);
    let plan = loaded.plan;
    assert_eq!(plan.nodes().count(), 3);
    assert_eq!(plan.files(), ["nginx/index.html"]);
    assert_eq!(plan.wants_operator_address(), None);
}

#[test]
fn the_minimal_fleet_has_no_problems() {
    let loaded = load("minimal.yaml", MINIMAL, &BTreeMap::new()).expect("no problems");
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.plan.nodes().count(), 1);
}

#[test]
fn parameters_are_typed_and_set() {
    let platform = set(&[("diskPerNode", "100"), ("cpuPerNode", "2"), ("networkName", "Net")]);
    let plan = load("p", REFERENCE, &platform).expect("no problems").plan;
    assert!(plan.nodes().all(|placed| placed.node.disks[0].size_gb == 100 && placed.node.cpu.count == 2));
    assert_eq!(plan.locations[1].networks[0].name, "Net");

    let wrong = set(&[("diskPerNode", "5"), ("cpuPerNode", "many"), ("diskPerNod", "9")]);
    insta::assert_snapshot!(load("rethinkdb.yaml", REFERENCE, &wrong).expect_err("wrong").to_string());
}

#[test]
fn node_over_class_over_defaults() {
    let text = "
fleet: layers
defaults: {image: a, memoryGb: 2, internet: [22], monitoring: advanced}
classes:
  big: {memoryGb: 8, cpu: {count: 4, coresPerSocket: 2, speed: highperformance}}
locations:
  - id: EU6
    domain: D
    networks:
      - name: N
        subnet: 10.0.0.0/24
        nodes:
          - {name: 'n[1..2]', class: big, image: b, internet: none}
          - {name: m, disks: [{sizeGb: 10}, {sizeGb: 20, speed: economy}], monitoring: none}
";
    let plan = load("p", text, &BTreeMap::new()).expect("no problems").plan;
    let nodes: Vec<_> = plan.nodes().map(|placed| placed.node).collect();
    assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["n1", "n2", "m"]);
    assert_eq!((nodes[0].memory_gb, nodes[0].cpu.cores_per_socket, nodes[0].image.as_str()), (8, 2, "b"));
    assert_eq!((&nodes[0].internet, nodes[0].monitoring), (&None, Some(Service::Advanced)));
    assert_eq!((nodes[2].memory_gb, nodes[2].image.as_str(), nodes[2].monitoring), (2, "a", None));
    assert_eq!(nodes[2].disks[1].speed, "ECONOMY");
}

#[test]
fn added_disks_skip_the_controllers_scsi_id() {
    let disks = vec!["{sizeGb: 10}"; 13].join(", ");
    let text =
        MINIMAL.replace("image: Debian 12", &format!("image: Debian 12\n            disks: [{disks}]"));
    let plan = load("p", &text, &BTreeMap::new()).expect("no problems").plan;
    let ids: Vec<u8> =
        plan.nodes().flat_map(|placed| placed.node.disks.iter().map(|disk| disk.scsi_id)).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14]);
}

#[test]
fn the_platforms_regions_are_endpoints() {
    let check = |cloud: &str, endpoint: &str| {
        let text = MINIMAL.replace("cloud: local", &format!("cloud: {cloud}"));
        let plan = load("p", &text, &BTreeMap::new()).expect("no problems").plan;
        assert_eq!(plan.cloud, Cloud::Mcp { endpoint: endpoint.to_owned() });
    };
    check("{mcp: {region: dd-eu}}", "https://api-eu.dimensiondata.com");
    check("{mcp: {endpoint: 'https://127.0.0.1:8443/'}}", "https://127.0.0.1:8443");
}

#[test]
fn everything_wrong_is_said_at_once() {
    insta::assert_snapshot!(problems(
        "fleet: bad_name
cluod: local
parameters:
  size: {information: Disk, type: integer, default: 5, minimum: 10}
  colour: {information: Colour, type: choice, choices: [red, green], default: blue, maximum: 3}
  plain: {information: Unused, type: text, default: x}
defaults:
  memoryGB: 4
  memoryGb: 300
  monitoring: some
  disks: [{sizeGb: 5}, {size: 10}, {sizeGb: 20, speed: fast}]
  internet: [icmp, 0, 22, 22, http]
classes:
  web: {cpu: {count: 3, coresPerSocket: 2}, information: 'http://{{ node.publik }} {{ parameter.nope }}'}
  idle: {}
locations:
  - id: EU6
    domain: {name: D, service: premium}
    networks:
      - name: front
        subnet: 10.0.0.0/16
        accept: [EU7::back, EU6::backk, nowhere::x, front]
        nodes:
          - {name: db, class: wbe}
          - {name: web1, class: web, image: i}
          - {name: WEB1, image: i, information: '{{ db.public }} {{ EU7::db.ipv6 }} {{ ghost.ipv6 }} {{ open'}
          - {name: no_good, image: i}
          - {name: bare}
      - name: back
        subnet: 10.0.128.0/17
      - name: back
        subnet: 10.0.0.7/24
  - id: EU6
    domain: D
    networks: []
"
    ));
}

#[test]
fn each_kind_of_problem_has_its_message() {
    insta::assert_snapshot!(
        [
            ("unquoted reference", with("image: Debian 12", "image: {{ parameter.image }}")),
            ("duplicate key", with("cloud: local", "cloud: local\ncloud: local")),
            ("no value", with("subnet: 10.10.0.0/24", "subnet:")),
            ("subnet", with("10.10.0.0/24", "10.10.0.0/33")),
            ("public subnet", with("10.10.0.0/24", "8.8.8.0/24")),
            ("wrong kind", with("internet: [icmp, 22]", "internet: 22")),
            ("no duration", with("cloud: local", "cloud: local\nexpires: tomorrow")),
            ("over at once", with("cloud: local", "cloud: local\nexpires: 5s")),
            ("cloud", with("cloud: local", "cloud: {mcp: {region: dd-mars}}")),
            ("endpoint", with("cloud: local", "cloud: {mcp: {endpoint: api.example.org}}")),
            ("no nodes", with("          - name: one", "          []\n        more:\n          - name: one")),
            ("no public address", with("internet: [icmp, 22]", "internet: none")),
            ("a name that is taken", with("- name: one", "- name: Controller")),
            ("another one", with("- name: one", "- name: localhost")),
            ("empty image", with("Debian 12", "''")),
            ("not YAML", with("locations:", "locations: [")),
            ("empty", problems("# nothing\n")),
            ("two documents", problems("fleet: a\n---\nfleet: b\n")),
            ("a list", problems("[]")),
        ]
        .iter()
        .map(|(title, text)| format!("# {title}\n{text}\n"))
        .collect::<String>()
    );
}

fn check_spans(text: &str) {
    if let Err(all) = load("p", text, &BTreeMap::new()) {
        assert!(!all.problems.is_empty(), "an error without a problem");
        for problem in all.problems.iter().chain(&all.warnings) {
            assert!(text.get(problem.span.clone()).is_some(), "{problem} is outside the text");
            assert!(problem.line >= 1 && problem.column >= 1);
        }
        assert!(!all.to_string().is_empty());
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        check_spans(&text);
    }

    #[test]
    fn no_yaml_like_text_panics(text in "([a-c]: |- |\\{|\\}|\\[|\\]|'|\"|&a |\\*a|\n|  |é|#|,|\\{\\{ a.b \\}\\}|<<: )*") {
        check_spans(&text);
    }

    /// The reference plan with pieces cut out, doubled or replaced.
    #[test]
    fn no_damaged_plan_panics(cuts in prop::collection::vec((0..REFERENCE.len(), 0..60usize, 0..6usize), 1..4)) {
        let mut text = REFERENCE.to_owned();
        for (at, len, how) in cuts {
            let floor = |at: usize| (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            let (start, end) = (floor(at), floor(at + len));
            let piece = text[start..end].to_owned();
            let with = ["", "é", ": ", "{{ ", "- ", piece.as_str()][how].to_owned();
            text.replace_range(start..end, &if how == 5 { format!("{piece}{with}") } else { with });
        }
        check_spans(&text);
    }
}

#[test]
fn a_fleet_may_have_an_end() {
    let expires = |text: &str| load("plan.yaml", text, &BTreeMap::new()).expect("no problems").plan.expires;
    assert_eq!(expires(MINIMAL), None);
    let eight = MINIMAL.replacen("cloud: local", "cloud: local\nexpires: 8h", 1);
    assert_eq!(expires(&eight), Some(std::time::Duration::from_secs(8 * 3600)));
}

#[test]
fn machines_that_are_there_already_are_taken_by_address() {
    let loaded = load("hosts.yaml", HOSTS, &BTreeMap::new()).expect("no problems");
    assert_eq!(loaded.warnings, []);
    let plan = loaded.plan;
    assert_eq!(plan.cloud, Cloud::Hosts);
    let hosts: Vec<String> = plan
        .nodes()
        .map(|placed| {
            let host = placed.node.host.as_ref().expect("a machine");
            format!("{} {} {host} {} {:?}", placed.location.id, placed.node.name, host.login, host.ipv6)
        })
        .collect();
    assert_eq!(
        hosts,
        ["home first 192.0.2.7 root None", "rented second [2001:db8::7]:2222 root Some(2001:db8::7)"]
    );
    let plan = load("p", HOSTS, &set(&[("login", "ops")])).expect("no problems").plan;
    assert!(plan.nodes().all(|placed| placed.node.login() == Some("ops")));
}

#[test]
fn what_makes_no_sense_of_a_machine_is_refused() {
    insta::assert_snapshot!(problems(
        "fleet: mine
cloud: hosts
defaults: {image: Debian 12, login: 'root; reboot'}
classes:
  big: {cpu: 4, memoryGb: 8, disks: [{sizeGb: 10}], monitoring: essentials, internet: [22]}
locations:
  - id: home
    domain: D
    networks: []
    nodes:
      - {name: a, class: big, address: 192.0.2.1, hostKey: ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC3}
      - {name: b, address: '192.0.2.1:22', hostKey: 'SHA256:short'}
      - {name: c, address: root@192.0.2.3, private: 10.0.0.300, ipv6: fe80::1}
      - {name: 'd[1..3]', address: 192.0.2.4}
      - {name: e}
      - {name: f, address: 2001:db8::1, ipv6: '2001:db8::9', private: 10.0.0.7}
      - {name: g, address: g.example.org, ipv6: '2001:db8::9', private: 10.0.0.7}
      - name: h
        address: h
        information: '{{ h.private }} {{ h.ipv6 }} {{ f.public }} {{ h.public }}'
        tasks: [{rethinkdb: {seed: h}}]
"
    ));
    insta::assert_snapshot!(
        "machines_need_their_cloud",
        with("- name: one", "- name: one\n            address: 192.0.2.1\n            login: me")
    );
}

#[test]
fn a_plan_says_how_its_changes_are_rolled_out() {
    use fleet_rollout::{
        Policy,
        policy::{Amount, Order},
    };
    use std::time::Duration;

    let plan = |more: &str| {
        let text = MINIMAL.replacen("fleet: m", &format!("{more}fleet: m"), 1);
        load("plan.yaml", &text, &BTreeMap::new()).unwrap_or_else(|why| panic!("{why}")).plan
    };
    assert_eq!(plan("").rollout, Policy::of_plans());
    let policy = plan(
        "rollout:\n  bake: 1m\n  canaries: {named: [one]}\n  budgets: {failed: 3}\n  gates:\n    \
         - {name: web, when: after, check: {httpStatus: {url: 'http://[::1]/', status: 200}}}\n    \
         - {name: todo, when: before, check: todoRoundTrip}\n  windows:\n    \
         EU6: {zone: Europe/Berlin, days: [sunday], from: \"01:00\", until: \"05:00\"}\n",
    )
    .rollout;
    assert_eq!((policy.bake, policy.canary_bake), (Duration::from_secs(60), Duration::from_secs(60)));
    assert_eq!(policy.budgets.failed, Amount::Count(3));
    assert_eq!(policy.gates.len(), 2);
    assert_eq!(policy.deadlines, Policy::of_plans().deadlines);
    let labelled = plan(
        "rollout: {order: {byLabel: {label: tier, values: [test, live]}}}\ndefaults: {labels: {tier: live}}\n",
    );
    assert!(matches!(labelled.rollout.order, Order::ByLabel { .. }));
    assert!(labelled.nodes().all(|placed| placed.node.labels["tier"] == "live"));
}

#[test]
fn what_is_wrong_with_a_rollout_has_a_place_and_a_hint() {
    let check = |rollout: &str, line: usize, wanted: &str, hint: &str| {
        let text = MINIMAL.replacen("fleet: m", &format!("rollout:\n{rollout}\nfleet: m"), 1);
        let first = MINIMAL[..MINIMAL.find("fleet: m").expect("a fleet")].lines().count() + 1;
        let found = load("plan.yaml", &text, &BTreeMap::new()).expect_err(rollout);
        assert_eq!(found.problems.len(), 1, "{found}");
        let problem = &found.problems[0];
        assert_eq!(problem.line, first + line, "{found}");
        assert!(problem.message.contains(wanted), "{found}");
        assert!(problem.hint.as_deref().unwrap_or_default().contains(hint), "{found}");
    };
    check("  bakes: 5s", 1, "unknown `bakes`", "did you mean `bake`?");
    check("  waves: [5%]\n  bake: soon", 2, "a duration such as 90s", "");
    check("  budgets:\n    inFlight: 2\n    failing: 3", 3, "unknown `failing`", "`failed`");
    check("  budgets: {inFlight: ten}", 1, "a share of them such as 10%", "");
    check("  waves: [10%, 0]", 1, "a wave of nobody is no wave", "remove it");
    check("  canaries: {named: [two]}", 1, "`two` is no node of this fleet", "name one that is");
    check("  attempts: 0", 1, "never offered", "say 1 at least");
    check("  order: {byLocation: [EU1]}", 1, "there is no location `EU1`", "");
    check("  order: {byLabel: {label: tier, values: [x]}}", 1, "no node has a label `tier`", "labels");
    check(
        "  gates:\n    - {name: x, when: after, check: {portAnswer: {port: 1}}}",
        2,
        "unknown `portAnswer`",
        "`portAnswers`",
    );
    check("  gates:\n    - {name: x, check: todoRoundTrip}", 2, "missing field `when`", "");
    let text = MINIMAL.replacen("fleet: m", "rollout: {bake: soon, bakes: 5s, bake: 1s}\nfleet: m", 1);
    let found = load("plan.yaml", &text, &BTreeMap::new()).expect_err("three things are wrong");
    assert_eq!(found.problems.len(), 3, "{found}");
    let text = MINIMAL.replacen("fleet: m", "rollout: quickly\nfleet: m", 1);
    assert!(problems(&text).contains("`rollout` must be a mapping"), "{}", problems(&text));
    assert!(with("fleet: m", "defaults: {labels: [a]}\nfleet: m").contains("`labels` must be a mapping"));
}
