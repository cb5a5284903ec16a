//! The readers, their good inputs and their words.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
};

use fleet_mcp::xml;
use fleet_proto::v1;
use prost::Message;

use super::{engine::Target, reql, wire};

/// Every target.
pub fn all() -> Vec<Target> {
    vec![
        Target { name: "xml", seeds: wire::xml_seeds(), words: wire::WORDS.to_vec(), attempt: read_xml },
        Target { name: "json", seeds: wire::json_seeds(), words: wire::WORDS.to_vec(), attempt: read_json },
        Target {
            name: "plan",
            seeds: files(&[
                "packaging/plans/minimal.yaml",
                "packaging/plans/nginx.yaml",
                "packaging/plans/rethinkdb.yaml",
            ]),
            words: [YAML_WORDS, PLAN_WORDS].concat(),
            attempt: read_plan,
        },
        Target {
            name: "import",
            seeds: files(&["tests/plans/plumbery/fittings.yaml"]),
            words: [YAML_WORDS, IMPORT_WORDS].concat(),
            attempt: read_import,
        },
        Target { name: "proto", seeds: messages(), words: vec!["\0", "\u{1}", "node"], attempt: read_proto },
        Target { name: "reql", seeds: reql::seeds(), words: reql::WORDS.to_vec(), attempt: reql::read },
    ]
}

/// Words of every plan file.
const YAML_WORDS: &[&str] = &[
    "*a",
    "&a ",
    "<<: *a",
    "!!str ",
    "!!binary ",
    "!tag ",
    "[",
    "]",
    "{",
    "}",
    "? ",
    ": ",
    "- ",
    "|\n",
    ">-\n",
    "#",
    "\n",
    "  ",
    "\t",
    "\"",
    "'",
    "null",
    "true",
    "1e999",
    "0x10",
    "-1",
    "99999999999999999999",
    ".nan",
    ".inf",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "\u{feff}",
    "{{ parameter.a }}",
    "{{ node.public }}",
    "{{",
    "}}",
    "parameters:\n",
    "defaults:\n",
    "web[1..3]",
];

const PLAN_WORDS: &[&str] = &[
    "fleet: x\n",
    "cloud: local\n",
    "locations:\n",
    "  - id: EU6\n",
    "    networks:\n",
    "      - name: a\n",
    "subnet: 10.0.0.0/24\n",
    "nodes:\n",
    "{{ EU7::a.ipv6 }}",
    "tasks:\n",
    "internet: [22]",
    "disks: [{sizeGb: 1}]",
    "classes:\n",
    "accept: [EU6::a]",
    "{port: 1, from: [operator]}",
    "10.0.0.0/33",
];

const IMPORT_WORDS: &[&str] = &[
    "locationId: EU6\n",
    "regionId: dd-eu\n",
    "blueprints:\n",
    "  - a:\n",
    "      domain:\n",
    "      ethernet:\n",
    "      nodes:\n",
    "name: a\n",
    "subnet: 10.0.0.0\n",
    "web[1..99999999]",
    "{{ a.secret }}",
    "{{ random.secret }}",
    "{{ key.rsa_public }}",
    "cloud-config:\n",
    "runcmd:\n",
    "write_files:\n",
    "glue:\n",
    "- internet 22 80\n",
    "disks:\n",
    "- 1 100 standard\n",
    "cpu: 2\n",
    "memory: 4\n",
];

fn files(paths: &[&str]) -> Vec<Vec<u8>> {
    let read = |path: &&str| {
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path))
            .unwrap_or_else(|why| panic!("{path}: {why}"))
    };
    paths.iter().map(read).collect()
}

fn read_xml(input: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(input);
    let document = match xml::parse(&text) {
        Ok(document) => document,
        Err(error) => return kind(std::mem::discriminant(&error)),
    };
    let printed = xml::print(&document.namespace, &document.root, &document.value);
    let again =
        xml::parse(&printed).unwrap_or_else(|error| panic!("printed, but not read: {error}: {printed}"));
    assert_eq!((&again.namespace, &again.root), (&document.namespace, &document.root), "{printed}");
    kind((shape(&document.value), wire::read_all(&document.value)))
}

fn read_json(input: &[u8]) -> u64 {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(input) else { return 0 };
    kind((shape(&value), wire::read_all(&value)))
}

/// What a value looks like from afar.
fn shape(value: &serde_json::Value) -> (usize, usize) {
    match value {
        serde_json::Value::Object(members) => {
            (members.len().min(8), members.values().map(|v| shape(v).0).max().unwrap_or(0))
        }
        serde_json::Value::Array(items) => (9, items.len().min(3)),
        _ => (10, 0),
    }
}

fn read_plan(input: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(input);
    match fleet_plan::load("plan.yaml", &text, &BTreeMap::new()) {
        Ok(loaded) => kind((loaded.plan.nodes().count(), loaded.warnings.len())),
        Err(problems) => {
            let lines = text.lines().count().max(1) + 1;
            for problem in &problems.problems {
                assert!(!problem.message.is_empty() && !problem.message.contains('\n'), "{problem:?}");
            }
            let told = problems.to_string();
            assert!(!told.is_empty(), "{lines} lines and nothing said");
            kind(problems.problems.iter().map(|problem| outline(&problem.message)).collect::<Vec<_>>())
        }
    }
}

fn read_import(input: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(input);
    let _ = fleet_import::looks_like_plumbery(&text);
    match fleet_import::import("fittings.yaml", &text, &fleet_import::Options::default()) {
        Ok(import) => {
            let sound = fleet_plan::load("plan.yaml", &import.plan, &BTreeMap::new()).is_ok();
            assert_eq!(sound, import.problems.is_none(), "{}", import.plan);
            kind((import.notes.len().min(30), sound, import.plan.lines().count() / 10))
        }
        Err(error) => kind(std::mem::discriminant(&error)),
    }
}

/// A message for people without what it quotes.
pub fn outline(message: &str) -> String {
    message.split('`').step_by(2).collect()
}

fn messages() -> Vec<Vec<u8>> {
    let hello = v1::FromAgent::default().encode_to_vec();
    let plan = v1::PlanDocument::default().encode_to_vec();
    // Fields 1 to 9, of each wire type, one in the other.
    let nested = (1..=9_u8).map(|field| vec![field << 3 | 2, 4, field << 3, 1, 18, 0]);
    nested.chain([hello, plan]).collect()
}

/// Decodes, and what decodes means the same once written again.
macro_rules! decode {
    ($input:expr; $($message:ident),* $(,)?) => {[$(
        match v1::$message::decode($input) {
            Ok(read) => {
                let again = v1::$message::decode(&*read.encode_to_vec()).expect("we write what we read");
                assert_eq!(again.encode_to_vec(), read.encode_to_vec());
                1 + u64::try_from(read.encoded_len()).unwrap_or(0).min(64)
            }
            Err(_) => 0,
        },
    )*]};
}

fn read_proto(input: &[u8]) -> u64 {
    kind(
        decode!(input; FromAgent, ToAgent, EnrolRequest, RenewRequest, FirstBootReport, Desired, Observed, ApplyRequest,
        PreviewRequest, StatusRequest, KeepChunk, FetchRequest, Progress, FleetStatus),
    )
}

/// Answers of one kind have the same number.
pub fn kind(answer: impl Hash) -> u64 {
    let mut hash = DefaultHasher::new();
    answer.hash(&mut hash);
    hash.finish()
}
