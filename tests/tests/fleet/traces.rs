//! What a fleet leaves on its host.

use std::{collections::BTreeSet, process::Command};

/// What a local cloud leaves on a host while it lives.
#[derive(Debug, PartialEq)]
pub struct Traces {
    processes: BTreeSet<String>,
    namespaces: String,
    links: BTreeSet<String>,
    routes: String,
}

impl Traces {
    pub fn look() -> Self {
        let say = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().expect("the program runs");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        // One that ended but that nobody has waited for is not left: where tests run, the first process may not
        // be one that reaps.
        let ours = |line: &&str| {
            let named = ["qemu-system", "slirp4netns", "fleetctl"].iter().any(|name| line.contains(name));
            named && !line.contains("<defunct>")
        };
        let processes = say("ps", &["-eo", "pid=,args="]);
        let links = say("ip", &["-o", "link", "show"]);
        Self {
            processes: processes.lines().filter(ours).map(str::to_owned).collect(),
            namespaces: say("ip", &["netns", "list"]),
            links: links.lines().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned).collect(),
            routes: say("ip", &["route", "show"]),
        }
    }
}
