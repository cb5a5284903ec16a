//! Settings of nodes: read anywhere (defaults, classes, nodes), laid over each other, node over class over defaults.

use std::collections::BTreeMap;

use crate::{
    hosts,
    internet::{RawOpening, internet},
    parameter::is_word,
    problem::Reporter,
    read::{At, Fields, any_text, choice, integer, list, text, wanted},
    resolved::{Cpu, Disk, Service, Template},
    syntax::{Tree, Value},
    task::{self, RawTask},
};

/// Most disks besides the system disk: SCSI ids 1 to 14 without 7, which the controller itself uses.
const MAX_DISKS: usize = 13;

/// What may be said of a node, each with its place; `None` is left to the next layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) description: Option<At<String>>,
    pub(crate) image: Option<At<String>>,
    pub(crate) cpu: Option<At<Cpu>>,
    pub(crate) memory_gb: Option<At<u32>>,
    pub(crate) disks: Option<At<Vec<Disk>>>,
    pub(crate) monitoring: Option<At<Option<Service>>>,
    pub(crate) internet: Option<At<Option<Vec<RawOpening>>>>,
    pub(crate) login: Option<At<String>>,
    pub(crate) information: Option<At<Template>>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) tasks: Vec<RawTask>,
}

impl Settings {
    /// Takes its keys out of `fields`, which may hold others. A setting that is wrong counts as given, so that its
    /// absence is not reported as well.
    pub(crate) fn read(fields: &mut Fields<'_>, reporter: &mut Reporter<'_>) -> Self {
        let description = fields.get("description", reporter).map(|tree| {
            text(tree, "`description`", reporter).unwrap_or_else(|| At::new(String::new(), &tree.span))
        });
        let image = fields.get("image", reporter).map(|tree| {
            text(tree, "`image`", reporter).unwrap_or_else(|| At::new(String::new(), &tree.span))
        });
        let cpu = fields.get("cpu", reporter).map(|tree| At::new(cpu(tree, reporter), &tree.span));
        let memory_gb = fields.get("memoryGb", reporter).map(|tree| {
            integer(tree, "`memoryGb`", 1..=256, reporter).unwrap_or_else(|| At::new(1, &tree.span))
        });
        let disks = fields.get("disks", reporter).map(|tree| At::new(disks(tree, reporter), &tree.span));
        let monitoring =
            fields.get("monitoring", reporter).map(|tree| At::new(monitoring(tree, reporter), &tree.span));
        let internet =
            fields.get("internet", reporter).map(|tree| At::new(internet(tree, reporter), &tree.span));
        let login =
            fields.get("login", reporter).map(|tree| At::new(hosts::login(tree, reporter), &tree.span));
        let information = fields.get("information", reporter).map(|tree| {
            any_text(tree, "`information`", reporter)
                .map_or_else(|| At::new(Template::default(), &tree.span), |text| text.map(Template))
        });
        let labels = fields.get("labels", reporter).map_or_else(BTreeMap::new, |tree| labels(tree, reporter));
        let tasks = fields.get("tasks", reporter).map_or_else(Vec::new, |tree| task::read(tree, reporter));
        Self {
            description,
            image,
            cpu,
            memory_gb,
            disks,
            monitoring,
            internet,
            login,
            information,
            labels,
            tasks,
        }
    }

    /// These settings, and where they are silent those of `below`; tasks come after those of `below`, labels beside
    /// them.
    pub(crate) fn over(self, below: &Self) -> Self {
        let mut labels = below.labels.clone();
        labels.extend(self.labels);
        Self {
            labels,
            description: self.description.or_else(|| below.description.clone()),
            image: self.image.or_else(|| below.image.clone()),
            cpu: self.cpu.or_else(|| below.cpu.clone()),
            memory_gb: self.memory_gb.or_else(|| below.memory_gb.clone()),
            disks: self.disks.or_else(|| below.disks.clone()),
            monitoring: self.monitoring.or_else(|| below.monitoring.clone()),
            internet: self.internet.or_else(|| below.internet.clone()),
            login: self.login.or_else(|| below.login.clone()),
            information: self.information.or_else(|| below.information.clone()),
            tasks: task::lay(self.tasks, &below.tasks),
        }
    }
}

/// Names with values.
fn labels(tree: &Tree, reporter: &mut Reporter<'_>) -> BTreeMap<String, String> {
    let Value::Map(entries) = &tree.value else {
        wanted(tree, "`labels`", "a mapping of names to values", reporter);
        return BTreeMap::new();
    };
    let mut labels = BTreeMap::new();
    for (key, value) in entries {
        let Some(name) = text(key, "the name of a label", reporter) else { continue };
        if !is_word(&name.value) {
            let hint = "letters, digits, `-` and `_`, a letter first: `tier`".to_owned();
            reporter.problem(&key.span, format!("`{}` cannot name a label", name.value), hint);
        }
        let Some(value) = text(value, &format!("label `{}`", name.value), reporter) else { continue };
        if labels.insert(name.value.clone(), value.value).is_some() {
            reporter.problem(&key.span, format!("label `{}` is given twice", name.value), None);
        }
    }
    labels
}

/// One CPU of standard speed: what a node gets when nothing is said.
pub(crate) fn one_cpu() -> Cpu {
    Cpu { count: 1, cores_per_socket: 1, speed: "STANDARD".into() }
}

/// `service` of a domain.
pub(crate) fn service(tree: &Tree, what: &str, reporter: &mut Reporter<'_>) -> Option<Service> {
    Some(match choice(tree, what, &["essentials", "advanced"], reporter)?.value {
        "advanced" => Service::Advanced,
        _ => Service::Essentials,
    })
}

/// A number of CPUs, or a mapping.
fn cpu(tree: &Tree, reporter: &mut Reporter<'_>) -> Cpu {
    let mut cpu = one_cpu();
    // `{{ x }}` without quotes is a mapping too, and better explained by the number's reading.
    if !matches!(&tree.value, Value::Map(entries) if entries.iter().all(|(key, _)| matches!(key.value, Value::Text(_))))
    {
        cpu.count = integer(tree, "`cpu`", 1..=32, reporter).map_or(1, |count| count.value);
        return cpu;
    }
    let Some(mut fields) = Fields::of(tree, "`cpu`", reporter) else { return cpu };
    if let Some(tree) = fields.require("count", "how many CPUs", reporter) {
        cpu.count = integer(tree, "`count` of `cpu`", 1..=32, reporter).map_or(1, |count| count.value);
    }
    if let Some(tree) = fields.get("coresPerSocket", reporter)
        && let Some(cores) = integer(tree, "`coresPerSocket`", 1..=32, reporter)
    {
        if !cpu.count.is_multiple_of(cores.value) {
            let message = format!("{} CPUs do not fill sockets of {} cores", cpu.count, cores.value);
            reporter.problem(
                &tree.span,
                message,
                "`count` must be a multiple of `coresPerSocket`".to_owned(),
            );
        }
        cpu.cores_per_socket = cores.value;
    }
    if let Some(tree) = fields.get("speed", reporter)
        && let Some(speed) =
            choice(tree, "`speed` of `cpu`", &["standard", "highperformance", "economy"], reporter)
    {
        cpu.speed = speed.value.to_ascii_uppercase();
    }
    fields.finish(reporter);
    cpu
}

fn disks(tree: &Tree, reporter: &mut Reporter<'_>) -> Vec<Disk> {
    let items = list(tree, "`disks`", reporter).unwrap_or_default();
    if items.len() > MAX_DISKS {
        reporter.problem(
            &items[MAX_DISKS].span,
            format!("{} disks", items.len()),
            format!("at most {MAX_DISKS}"),
        );
    }
    // SCSI id 0 is the system disk, 7 the controller's own.
    let ids = (1..=14).filter(|id| *id != 7);
    ids.zip(items).filter_map(|(scsi_id, item)| disk(scsi_id, item, reporter)).collect()
}

fn disk(scsi_id: u8, tree: &Tree, reporter: &mut Reporter<'_>) -> Option<Disk> {
    let mut fields = Fields::of(tree, "a disk", reporter)?;
    let size_gb = fields
        .require("sizeGb", "its size in GB, 10 to 1000", reporter)
        .and_then(|tree| integer(tree, "`sizeGb`", 10..=1000, reporter));
    let speed = match fields.get("speed", reporter) {
        None => "STANDARD".to_owned(),
        Some(tree) => {
            choice(tree, "`speed` of a disk", &["standard", "highperformance", "economy"], reporter)
                .map_or_else(String::new, |speed| speed.value.to_ascii_uppercase())
        }
    };
    fields.finish(reporter);
    Some(Disk { scsi_id, size_gb: size_gb?.value, speed })
}

fn monitoring(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<Service> {
    match choice(tree, "`monitoring`", &["essentials", "advanced", "none"], reporter)?.value {
        "essentials" => Some(Service::Essentials),
        "advanced" => Some(Service::Advanced),
        _ => None,
    }
}
