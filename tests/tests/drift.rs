//! A preview tells what a run does: what the plan changes, what others changed, and what needs consent.

use std::fs;

use fleet_tests::{Ended, LocalCloud, Sandbox};
use serde_json::{Value, json};

const PLAN: &str = include_str!("../../packaging/plans/minimal.yaml");

/// An operator with a plan of one node, which is up.
struct Fleet {
    sandbox: Sandbox,
    plan: tempfile::NamedTempFile,
}

impl Fleet {
    fn up() -> Self {
        let plan = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a file");
        let fleet = Self { sandbox: Sandbox::with_state_only_cloud(0), plan };
        fleet.say(&node(""));
        fleet.run(&[]).expect(0);
        fleet
    }

    fn say(&self, plan: &str) {
        fs::write(self.plan.path(), plan).expect("written");
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let plan = self.plan.path().display().to_string();
        self.sandbox.run(&[&["up", &plan], arguments].concat())
    }

    /// Steps of a preview, one line each.
    fn preview(&self, status: i32, arguments: &[&str]) -> Vec<String> {
        let ended = self.run(&[&["--output", "json", "--preview"], arguments].concat()).expect(status);
        let steps = ended.json()["steps"].as_array().expect("a list").clone();
        let text = |step: &Value, member: &str| step[member].as_str().expect("text").to_owned();
        let line = |step: &Value| {
            let mark = |member: &str, word: &str| {
                if step[member] == json!(true) { word.to_owned() } else { String::new() }
            };
            let detail = text(step, "detail");
            let [colon, detail] = if detail.is_empty() { ["", ""] } else { [": ", &detail] };
            format!(
                "{}{}{} {} {}{colon}{detail}",
                mark("outside", "outside! "),
                mark("wants_consent", "consent? "),
                text(step, "verb"),
                text(step, "kind"),
                text(step, "name"),
            )
        };
        steps.iter().map(line).collect()
    }

    fn cloud(&self) -> LocalCloud {
        self.sandbox.cloud().expect("the cloud serves")
    }

    fn server(&self) -> Value {
        self.cloud().list("server/server").into_iter().next().expect("a server")
    }

    fn change(&self, operation: &str, body: &Value) {
        let answer = self.cloud().operate(operation, body);
        let code = answer["responseCode"].as_str().expect("a code");
        assert!(["OK", "IN_PROGRESS"].contains(&code), "{answer}");
    }

    /// Nothing is left to do.
    fn settled(&self) {
        assert_eq!(self.preview(0, &[]), [] as [&str; 0]);
    }
}

/// The plan with more said of its node.
fn node(more: &str) -> String {
    PLAN.replace("            image: Debian 12\n", &format!("            image: Debian 12\n{more}"))
}

#[test]
fn size_disks_rules_and_monitoring_change_in_place() {
    let fleet = Fleet::up();
    let id = fleet.server()["id"].clone();
    fleet.say(&node("            cpu: 2\n            memoryGb: 2\n            disks: [{sizeGb: 20}]\n            monitoring: essentials\n"));
    let steps = fleet.preview(2, &[]);
    let wanted = [
        "change server size one: 1 CPU and 1 GB becomes 2 CPU and 2 GB; the server is restarted",
        "create disk one/1",
        "create monitoring one: ESSENTIALS",
    ];
    assert_eq!(steps, wanted);
    fleet.run(&[]).expect(0);
    fleet.settled();
    fleet.say(
        &node("            cpu: 2\n            memoryGb: 2\n            disks: [{sizeGb: 30}]\n            monitoring: advanced\n")
            .replace("[icmp, 22]", "[icmp, 2222]"),
    );
    let steps = fleet.preview(2, &[]);
    let wanted = [
        "change disk one/1: 20 GB becomes 30 GB",
        "change monitoring one: ESSENTIALS becomes ADVANCED",
        "create firewall rule one.TCPv4_2222.fleet",
        "destroy firewall rule one.TCPv4_22.fleet: not in the plan any more",
    ];
    assert_eq!(steps, wanted);
    fleet.run(&[]).expect(0);
    fleet.settled();
    let server = fleet.server();
    assert_eq!((&server["id"], &server["cpu"]["count"], &server["memoryGb"]), (&id, &json!(2), &json!(2)));
    assert_eq!(server["started"], json!(true), "it was restarted");
}

#[test]
fn what_others_change_is_shown_and_put_back() {
    let fleet = Fleet::up();
    let id = fleet.server()["id"].clone();
    fleet.change("server/powerOffServer", &json!({ "id": id }));
    let rules = fleet.cloud().list_in("network/firewallRule", domain(&fleet).as_str());
    let ssh = rules.iter().find(|rule| rule["name"] == "one.TCPv4_22.fleet").expect("the rule for ssh");
    fleet.change("network/deleteFirewallRule", &json!({ "id": ssh["id"] }));
    let wanted = ["outside! change power on one", "outside! create firewall rule one.TCPv4_22.fleet"];
    assert_eq!(fleet.preview(2, &[]), wanted);
    let text = fleet.run(&["--preview"]).expect(2).out;
    assert!(text.contains("changed outside of the plan"), "{text}");
    fleet.run(&[]).expect(0);
    fleet.settled();

    // A server that somebody deleted is made again, and that is said to be no doing of the plan.
    fleet.change("server/powerOffServer", &json!({ "id": id }));
    let nat = fleet.cloud().list_in("network/natRule", domain(&fleet).as_str())[0]["id"].clone();
    fleet.change("network/deleteNatRule", &json!({ "id": nat }));
    fleet.change("server/deleteServer", &json!({ "id": id }));
    let steps = fleet.preview(2, &[]);
    assert!(steps.contains(&"outside! create server one".to_owned()), "{steps:#?}");
    fleet.run(&[]).expect(0);
    fleet.settled();
    assert_ne!(fleet.server()["id"], id);
}

#[test]
fn what_bears_our_mark_is_adopted() {
    let fleet = Fleet::up();
    let (server, domain) = (fleet.server(), domain(&fleet));
    let network = &server["networkInfo"];
    // Somebody deletes the node's server, and makes it again by hand under its name and our mark.
    fleet.change("server/powerOffServer", &json!({ "id": server["id"] }));
    let nat = fleet.cloud().list_in("network/natRule", &domain)[0]["id"].clone();
    fleet.change("network/deleteNatRule", &json!({ "id": nat }));
    fleet.change("server/deleteServer", &json!({ "id": server["id"] }));
    fleet.change(
        "server/deployServer",
        &json!({
            "name": "one", "description": server["description"], "imageId": server["sourceImageId"], "start": true,
            "administratorPassword": "Something-2-type", "memoryGb": server["memoryGb"],
            "cpu": { "count": server["cpu"]["count"] },
            "networkInfo": {
                "networkDomainId": network["networkDomainId"],
                "primaryNic": { "vlanId": network["primaryNic"]["vlanId"] },
            },
        }),
    );
    let steps = fleet.preview(2, &[]);
    assert!(steps.iter().any(|step| step.starts_with("adopt server one:")), "{steps:#?}");
    assert!(
        !steps.iter().any(|step| step.contains("create server") || step.contains("replace")),
        "{steps:#?}"
    );
    fleet.run(&[]).expect(0);
    fleet.settled();
    assert_eq!(fleet.cloud().list("server/server").len(), 1);
}

#[test]
fn making_anew_wants_consent() {
    let fleet = Fleet::up();
    let id = fleet.server()["id"].clone();
    fleet.say(&node("").replace("Front", "Back"));
    let steps = fleet.preview(2, &[]);
    let reason = "consent? replace server one: it is in network `Front`, the plan says `Back`";
    assert!(steps.contains(&reason.to_owned()), "{steps:#?}");
    let before = fleet.cloud().changing_calls();
    let refused = fleet.run(&["--yes"]).expect(64);
    assert!(refused.err.contains("say --replace one"), "{}", refused.err);
    assert_eq!(fleet.cloud().changing_calls(), before, "nothing was touched");
    assert!(fleet.run(&["--replace", "nobody"]).expect(1).err.contains("no such node"));

    let steps = fleet.preview(2, &["--replace", "one"]);
    assert!(
        steps.iter().any(|step| step.starts_with("replace server one: destroyed with its disks")),
        "{steps:#?}"
    );
    fleet.run(&["--replace", "one"]).expect(0);
    fleet.settled();
    let server = fleet.server();
    assert_ne!(server["id"], id);
    assert_eq!(server["networkInfo"]["primaryNic"]["vlanName"], "Back");
    assert_eq!(fleet.cloud().list("network/vlan").len(), 1, "the old network went with it");
}

/// The fleet's network domain.
fn domain(fleet: &Fleet) -> String {
    fleet.server()["networkInfo"]["networkDomainId"].as_str().expect("an id").to_owned()
}
