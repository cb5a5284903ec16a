//! Every keyword of plumbery's plans.

use fleet_import::{Import, Options, looks_like_plumbery};

use crate::{check, imported, imported_with, loaded, told, with_node};

/// A location with one blueprint of these lines.
fn with_blueprint(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("      {line}\n")).collect();
    format!("locationId: EU6\nblueprints:\n  - web:\n{lines}")
}

/// A complete plan whose first document has these lines.
fn with_head(lines: &str) -> String {
    format!("{lines}\n---\n{}", with_node(""))
}

const NET: &str = "ethernet: {name: Net, subnet: 10.1.0.0}\nnodes: [{one: {appliance: Debian 12}}]\n";
const DOMAIN: &str = "domain: {name: Fox}\nnodes: [{one: {appliance: Debian 12}}]\n";

#[test]
fn of_the_first_document() {
    let head = |lines: &str, expected: &[&str], notes: &[&str]| check(&with_head(lines), expected, notes);
    head("information:\n  - one\n  - two", &["information: |\n  one\n  two\n"], &[]);
    head("information: one", &["information: |\n  one\n"], &[]);
    head(
        "links: {credit: 'https://example.org'}",
        &["# credit: https://example.org\n"],
        &["changed: `links`"],
    );
    head("keys: [~/.ssh/id_rsa.pub]", &[], &["changed: key file `~/.ssh/id_rsa.pub`"]);
    head(
        "actions: [prepare, information, configure]",
        &[],
        &["changed: action `prepare`", "changed: action `information`", "changed: action `configure`"],
    );
    head(
        "actions:\n  - ansible:\n      output: x",
        &[],
        &["lost: action `ansible`", "lost: `output` of action `ansible`"],
    );
    head(
        "actions:\n  - prepare:\n      key: x",
        &[],
        &["changed: action `prepare`", "lost: `key` of action `prepare`"],
    );
    head(
        "actions: [inventory, backup, spit, mine]",
        &[],
        &[
            "lost: action `inventory`",
            "lost: action `backup`",
            "changed: action `spit`",
            "lost: action `mine`",
        ],
    );
    head("buildPolisher: configure", &[], &["lost: `buildPolisher`"]);
    head("safeMode: true", &[], &["lost: `safeMode`"]);
    head("safeMode: false", &[], &["changed: `safeMode: false`"]);
    head("locationId: EU7", &[], &["lost: `locationId` in the first of several documents"]);
    head("colour: red", &[], &["lost: `colour`"]);
    head("defaults: {blueprints: web}", &[], &["lost: `blueprints` under `defaults`"]);
    head("defaults: {ipv4: 4}", &[], &["changed: number of public addresses"]);
    head("defaults: {prepare: [{beachhead: 10.0.0.1}]}", &[], &["lost: a beachhead"]);
    head("defaults: {colour: red}", &[], &["lost: `colour` under `defaults`"]);
    head("defaults: {unused: {cpu: 2}}", &[], &["changed: class `unused`, of which there is no node"]);
    head("defaults: {domain: {service: advanced}}", &["{name: Fox, service: advanced}"], &[]);
    head("defaults: {cloud-config: {packages: [nginx]}}", &["- package: {names: [nginx]}"], &[]);
}

#[test]
fn parameters() {
    let head = |kind: &str, default: &str, expected: &str, notes: &[&str]| {
        let text = format!(
            "parameters:\n  x:\n    information: [a, b]\n    type: {kind}\n    default: {default}\ndefaults: {{domain: {{description: \"{{{{ parameter.x }}}}\"}}}}"
        );
        let mut all = vec![];
        all.extend(notes);
        all.push("changed: description of a domain");
        check(&with_head(&text), &[&format!("  x:\n    information: a b\n{expected}")], &all);
    };
    head("str", "abc", "    type: text\n    default: abc\n", &[]);
    head("integer", "3", "    type: integer\n    default: 3\n", &[]);
    head("locations.list", "EU6", "    type: text\n    default: EU6\n", &[]);
    head("[1..32]", "4", "    type: integer\n    minimum: 1\n    maximum: 32\n    default: 4\n", &[]);
    head(
        "[4..32]",
        "2",
        "    type: integer\n    minimum: 2\n    maximum: 32\n    default: 2\n",
        &["changed: parameter `x` is 2, outside"],
    );
    head("[a, b]", "b", "    type: choice\n    choices: [a, b]\n    default: b\n", &[]);
    head(
        "[a, b]",
        "c",
        "    type: choice\n    choices: [a, b, c]\n    default: c\n",
        &["changed: parameter `x` is `c`, none"],
    );
    head("boolean", "true", "    type: boolean\n    default: \"true\"\n", &[]);
    head("integer", "many", "    type: text\n    default: many\n", &["changed: type `integer`"]);
    head("colour", "red", "    type: text\n    default: red\n", &["changed: type `colour`"]);
    let text = with_head("parameters:\n  x: {information: a, type: str, default: old, hidden: 1}");
    let set = Options { set: [("x".to_owned(), "new".to_owned())].into(), ..Options::default() };
    let import = imported_with(&text, &set);
    assert!(import.plan.contains("default: new"), "{}", import.plan);
    assert!(told(&import).contains("lost line 2: `hidden` of parameter `x`"), "{}", told(&import));
    let wrong = Options { set: [("y".to_owned(), "new".to_owned())].into(), ..Options::default() };
    let error = fleet_import::import("f", &text, &wrong).expect_err("no such parameter");
    assert_eq!(error.to_string(), "the plan has no parameter `y`");
    let import = imported(&with_head("parameters:\n  x: {information: a, type: str}"));
    assert!(import.problems.is_some(), "a parameter without a value");
}

#[test]
fn of_locations() {
    let location = |lines: &str, expected: &[&str], notes: &[&str]| {
        let text = with_node("").replacen("locationId: EU6", lines, 1);
        check(&text, expected, notes);
    };
    location("locationId: EU6 # Frankfurt", &["cloud: {mcp: {region: dd-eu}}", "id: EU6 # Frankfurt"], &[]);
    location("locationId: CA2", &["cloud: {mcp: {region: dd-canada}}"], &[]);
    location("locationId: AU9\nregionId: dd-au-gov", &["cloud: {mcp: {region: dd-au-gov}}"], &[]);
    location(
        "locationId: MY1\napiHost: cloud.example.org",
        &["cloud: {mcp: {endpoint: https://cloud.example.org}}"],
        &[],
    );
    location("locationId: EU6\napiHost: cloud.example.org", &["cloud: {mcp: {region: dd-eu}}"], &[]);
    location("locationId: MY1", &["cloud: local"], &["lost: location `MY1`, whose API is not known"]);
    location("locationId: MY1\nregionId: is-eu", &["cloud: local"], &["lost: region `is-eu`"]);
    location("locationId: EU6\nbasement: web", &[], &["changed: `basement`"]);
    location("locationId: EU6\nprepare: [{beachhead: 10.0.0.1}]", &[], &["lost: a beachhead"]);
    location("locationId: EU6\nkeys: [x]", &[], &["lost: `keys` of a location"]);
    location("locationId: EU6\ncolour: red", &[], &["lost: `colour` of a location"]);
    location(
        "locationId: EU6\ninformation: here",
        &["information: |\n  here\n"],
        &["changed: text about a location"],
    );
}

#[test]
fn locations_may_be_several() {
    let node = |location: &str, name: &str| with_node("").replace("EU6", location).replace("one", name);
    let import = imported(&format!("information: x\n---\n{}---\n{}", node("EU6", "a"), node("EU7", "b")));
    assert_eq!(loaded(&import).locations.len(), 2);
    assert_eq!(told(&import), "");
    // The same location twice is one; the same name twice is two nodes.
    let import = imported(&format!("information: x\n---\n{}---\n{}", node("EU6", "a"), node("EU6", "b")));
    assert_eq!(loaded(&import).locations[0].networks[0].nodes.len(), 2);
    let import = imported(&format!("information: x\n---\n{}---\n{}", node("EU6", "a"), node("EU7", "A")));
    assert!(import.plan.contains("name: EU7-A"), "{}", import.plan);
    let import = imported(&format!("information: x\n---\n{}---\n{}", node("EU6", "a"), node("NA9", "b")));
    assert_eq!(loaded(&import).locations.len(), 1);
    assert!(
        told(&import).starts_with("lost line 15: location `NA9`, which is behind another API"),
        "{}",
        told(&import)
    );
    let local = Options { local: true, ..Options::default() };
    let import =
        imported_with(&format!("information: x\n---\n{}---\n{}", node("EU6", "a"), node("NA9", "b")), &local);
    assert_eq!((loaded(&import).locations.len(), told(&import).as_str()), (2, ""));
}

#[test]
fn of_blueprints() {
    let blueprint =
        |lines: &str, expected: &[&str], notes: &[&str]| check(&with_blueprint(lines), expected, notes);
    blueprint(
        &format!("domain: {{name: Fox, service: advanced}}\n{NET}"),
        &["domain: {name: Fox, service: advanced}"],
        &[],
    );
    blueprint(&format!("domain: {{name: Fox, service: gold}}\n{NET}"), &[], &["lost: service `gold`"]);
    blueprint(
        &format!("domain: {{name: Fox, description: Den}}\n{NET}"),
        &["    # Den\n    domain: {name: Fox}"],
        &["changed: description of a domain"],
    );
    blueprint(
        &format!("domain: {{name: Fox, ipv4: auto}}\n{NET}"),
        &[],
        &["changed: number of public addresses"],
    );
    blueprint(
        &format!("domain: {{name: Fox, ipv4: transient}}\n{NET}"),
        &[],
        &["lost: public addresses while preparing"],
    );
    blueprint(&format!("domain: {{name: Fox, colour: red}}\n{NET}"), &[], &["lost: `colour` of a domain"]);
    blueprint(
        &format!("domain: {{name: My Fox}}\n{NET}"),
        &["domain: {name: My-Fox}"],
        &["changed: a domain named `My Fox`"],
    );
    let ethernet = |setting: &str| format!("{DOMAIN}ethernet:\n  name: Net\n  {setting}\n");
    blueprint(&ethernet("subnet: 10.1.0.0"), &["subnet: 10.1.0.0/24"], &[]);
    blueprint(&ethernet("subnet: 10.1.0.0/20"), &["subnet: 10.1.0.0/20"], &[]);
    blueprint(&ethernet("subnet: 10.1.0.0 low"), &["subnet: 10.1.0.0/24"], &[]);
    blueprint(
        &ethernet("subnet: 10.1.0.0/20 high"),
        &["subnet: 10.1.0.0/20"],
        &["changed: addressing `high`"],
    );
    blueprint(
        &ethernet("subnet: 10.1.0.0\n  description: All"),
        &["      # All\n      - name: Net"],
        &["changed: description of a network"],
    );
    blueprint(&ethernet("subnet: 10.1.0.0\n  reserved: [10.1.0.9]"), &[], &["lost: reserved addresses"]);
    blueprint(&ethernet("subnet: 10.1.0.0\n  destroy: never"), &[], &["lost: `destroy: never` of a network"]);
    blueprint(&ethernet("subnet: 10.1.0.0\n  colour: red"), &[], &["lost: `colour` of a network"]);
    blueprint(
        &ethernet("subnet: 10.1.0.0\n  accept: [Net, nowhere]"),
        &[],
        &["changed: a network that accepts itself", "changed: accepted network `nowhere`"],
    );
    let rest = format!("domain: {{name: Fox}}\n{NET}");
    blueprint(
        &format!("{rest}information: Hello"),
        &["information: |\n  Hello\n"],
        &["changed: text about a location"],
    );
    blueprint(
        &format!("{rest}balancers: [{{http: {{port: 80, protocol: http}}}}]"),
        &[],
        &["lost: balancer `http`"],
    );
    blueprint(&format!("{rest}pool: {{algorithm: round_robin}}"), &[], &["lost: `pool` of a blueprint"]);
    blueprint(&format!("{rest}listeners: []"), &[], &["lost: `listeners` of a blueprint"]);
    blueprint(&format!("{rest}multicloud: {{x: y}}"), &[], &["lost: `multicloud`"]);
    blueprint(&format!("{rest}colour: red"), &[], &["lost: `colour` of a blueprint"]);
    check(&format!("{}  - all: web\n", with_blueprint(&rest)), &[], &["lost: `all`, an alias of blueprints"]);
}

#[test]
fn blueprints_share_domains_and_networks() {
    let web = with_blueprint(&format!("domain: {{name: Fox}}\n{NET}"));
    let more = |lines: &str| {
        format!("{web}  - more:\n{}", lines.lines().map(|line| format!("      {line}\n")).collect::<String>())
    };
    let nodes = |import: &Import| {
        loaded(import).locations[0].networks.iter().map(|network| network.nodes.len()).collect::<Vec<_>>()
    };
    let import =
        imported(&more("domain: {name: Fox}\nethernet: {name: Net, subnet: 10.1.0.0}\nnodes: [two]"));
    assert_eq!(nodes(&import), [2]);
    let import = imported(&more(
        "domain: {name: Fox}\nethernet: {name: Back, subnet: 10.2.0.0, accept: [Net, 'EU6::Net', 'dd-eu::EU6::Net']}\nnodes: [two]",
    ));
    assert_eq!(nodes(&import), [1, 1]);
    assert!(import.plan.contains("accept: [EU6::Net]"), "{}", import.plan);
    let import =
        imported(&more("domain: {name: Other}\nethernet: {name: Back, subnet: 10.2.0.0}\nnodes: [two]"));
    assert_eq!(nodes(&import), [1, 1]);
    assert!(told(&import).contains("lost line 7: a second domain, `Other`"), "{}", told(&import));
    for missing in [
        "domain: {name: Fox}\nnodes: [two]",
        "ethernet: {name: Back, subnet: 10.2.0.0}\nnodes: [two]",
        "domain: {name: Fox}\nethernet: {name: Back}\nnodes: [two]",
    ] {
        let import = imported(&more(missing));
        assert_eq!(nodes(&import), [1], "{missing}");
        assert!(!import.is_whole(), "{missing}");
    }
    let import =
        imported(&more("domain: {name: Fox}\nethernet: {name: Back, subnet: 10.1.0.128}\nnodes: [two]"));
    assert!(import.problems.is_some(), "subnets that overlap");
}

#[test]
fn of_nodes() {
    let node =
        |settings: &str, expected: &[&str], notes: &[&str]| check(&with_node(settings), expected, notes);
    node("description: Hello", &["description: Hello"], &[]);
    node("information: [a, b]", &["information: |\n              a\n              b\n"], &[]);
    node("cpu: 2", &["cpu: 2\n"], &[]);
    node("cpu: 4 2 highperformance", &["cpu: {count: 4, coresPerSocket: 2, speed: highperformance}"], &[]);
    node("cpu: 4 1 standard", &["cpu: {count: 4, coresPerSocket: 1, speed: standard}"], &[]);
    node("cpu: 64", &[], &["lost: cpu `64`"]);
    node("cpu: 3 2", &[], &["lost: cpu `3 2`"]);
    node("memory: 8", &["memoryGb: 8"], &[]);
    node("memory: 512", &[], &["lost: `memory` `512`"]);
    node("disks: [1 50 standard, 2 100]", &["disks: [{sizeGb: 50, speed: standard}, {sizeGb: 100}]"], &[]);
    node(
        "disks: [3 50 economy, 1 10]",
        &["disks: [{sizeGb: 10}, {sizeGb: 50, speed: economy}]"],
        &["changed: numbers of disks with gaps"],
    );
    node("disks: [0 50]", &[], &["lost: a size for the system disk"]);
    node("disks: [1 5000, 2 10 tape]", &[], &["lost: disk `1 5000`", "lost: disk `2 10 tape`"]);
    node("monitoring: essentials", &["monitoring: essentials"], &[]);
    node("monitoring: ADVANCED", &["monitoring: advanced"], &[]);
    node("monitoring: gold", &[], &["lost: monitoring `gold`"]);
    node("glue: [internet icmp 22 tcp:80 udp:137..138]", &["internet: [icmp, 22, 80, udp:137-138]"], &[]);
    node("glue: [internet]", &["internet: [tcp:1-65535]"], &[]);
    node("glue: [internet any]", &["internet: [tcp:1-65535]"], &[]);
    node("glue: [internet http]", &[], &["lost: opening `http`"]);
    node("glue: [primary .11]", &[], &["lost: fixed address `primary .11`"]);
    node("glue: [Net 10.1.0.11]", &[], &["lost: fixed address `Net 10.1.0.11`"]);
    node(
        "glue: [Other .7, 'EU7::Far']",
        &[],
        &["lost: second network `Other .7`", "lost: second network `EU7::Far`"],
    );
    node("backup: essentials", &[], &["lost: backup by the platform"]);
    node("backup: {plan: enterprise, clients: [{type: file}]}", &[], &["lost: backup by the platform"]);
    node("windows: {hostname: x, cmds: [y]}", &[], &["lost: Windows"]);
    node("running: always", &[], &["lost: `running: always`"]);
    node("destroy: never", &[], &["lost: `destroy: never`"]);
    node(
        "prepare: [run a.sh b, put c /d, echo e, run_raw f, put_raw g, h]",
        &[],
        &[
            "lost: prepare `run a.sh b`",
            "lost: prepare `put c /d`",
            "lost: prepare `echo e`",
            "lost: prepare `run_raw f`",
            "lost: prepare `put_raw g`",
            "lost: prepare `h`",
        ],
    );
    node("default: nowhere", &[], &["lost: class `nowhere`"]);
    node("colour: red", &[], &["lost: `colour` of a node"]);
    let image = |name: &str, expected: &str, notes: &[&str]| {
        check(
            &with_node("").replace("appliance: Debian 12", &format!("appliance: {name}")),
            &[expected],
            notes,
        );
    };
    image("'Ubuntu 14'", "image: Debian 12", &["changed: appliance `Ubuntu 14`"]);
    image("CentOS 7", "image: Debian 12", &["lost: appliance `CentOS 7`"]);
    image("Win2012 R2 Std", "image: Win2012 R2 Std", &["lost: appliance `Win2012 R2 Std`"]);
    image("Our own", "image: Our own", &["changed: appliance `Our own`"]);
    check(
        &with_node("").replace("appliance: Debian 12", "cpu: 1"),
        &["defaults:\n  image: Debian 12"],
        &["changed: a node without an appliance"],
    );
}

#[test]
fn names_of_nodes() {
    let named = |name: &str, expected: &str, notes: &[&str]| {
        check(&with_node("").replace("- one:", &format!("- {name}:")), &[expected], notes);
    };
    named("web[1..3]", "name: \"web[1..3]\"", &[]);
    named("web[01..3]", "name: \"web[1..3]\"", &[]);
    named("web_[1..2]_x", "name: \"web-[1..2]-x\"", &["changed: node `web_[1..2]_x`"]);
    named("my_node", "name: my-node", &["changed: node `my_node`"]);
    let import = imported(&with_node("").replace("- one:", "- \"…\":"));
    assert!(told(&import).starts_with("lost line 10: node `…`"), "{}", told(&import));
}

#[test]
fn classes_lie_below_nodes() {
    let text = "\
defaults:
  # Serves.
  server:
    default: other
    appliance: Debian 12
    cpu: 2 # enough
    disks: [1 10]
    glue: [internet 22]
    information: [of all]
---
locationId: EU6
blueprints:
  - web:
      domain: {name: Fox}
      ethernet: {name: Net, subnet: 10.1.0.0}
      nodes:
        - plain: {default: server}
        # Has more.
        - more:
            default: server
            cpu: 4
            disks: [2 20]
            glue: [internet 80]
            information: [of this]
";
    let import = imported(text);
    let plan = loaded(&import);
    let nodes = &plan.locations[0].networks[0].nodes;
    let open = |at: usize| nodes[at].internet.as_ref().map_or(0, |internet| internet.open.len());
    assert_eq!((nodes[0].cpu.count, nodes[0].disks.len(), open(0)), (2, 1, 1));
    assert_eq!((nodes[1].cpu.count, nodes[1].disks.len(), open(1)), (4, 2, 2), "lists of both");
    assert_eq!(nodes[1].information.0, "of all\nof this\n");
    for line in [
        "  # Serves.\n  server:\n",
        "    cpu: 2 # enough\n",
        "          # Has more.\n          - name: more\n",
    ] {
        assert!(import.plan.contains(line), "no {line:?} in\n{}", import.plan);
    }
    assert_eq!(
        told(&import),
        "changed line 4: `default` within a class; plumbery has no classes of classes\n"
    );
}

#[test]
fn shapes_are_told_apart() {
    let check = |text: &str, expected: bool| assert_eq!(looks_like_plumbery(text), expected, "{text}");
    check(&with_node(""), true);
    check("---\ninformation: x\n---\nlocationId: EU6\nblueprints: [\n", true);
    check("fleet: x\nlocations: []\n", false);
    check(include_str!("../../../../packaging/plans/rethinkdb.yaml"), false);
    check("blueprintss: 1", false);
    check("", false);
    let error =
        |text: &str| fleet_import::import("f", text, &Options::default()).expect_err("no plan").to_string();
    assert_eq!(error("fleet: x"), "not a plumbery plan: it has no document with `blueprints`");
    assert_eq!(error("a: ["), "not YAML");
    assert_eq!(error(""), "not a plumbery plan: it has no document with `blueprints`");
}
