//! One look at the server: what it is, against what it is to be. Touches nothing.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Seek, SeekFrom},
    time::Duration,
};

use fleet_model::{Clock as _, SystemClock};
use fleet_reql::ReqlError;
use fleet_task::{Finding, Node, TaskError, TaskId};

use super::{
    cluster::{Cluster, View},
    files,
    settings::{self, Member, Settings},
};
use crate::tasks::{
    certificate::ran_out,
    start,
    support::{
        folder::Folder,
        unit::{self, Unit},
    },
};

/// Longest piece of an issue in RethinkDB's words.
const QUOTED: usize = 300;
/// Issues shown.
const ISSUES: usize = 5;
/// With less than this left of its certificate, a server no longer waits for others to be well.
const CLOSE: Duration = Duration::from_secs(24 * 3600);
/// How much of the end of the server's log is looked at.
const TAIL: u64 = 4096;

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Copies of key and certificates are to be made.
    pub(super) tls: bool,
    /// The instance file is to become this.
    pub(super) file: Option<String>,
    /// A data directory is to be made.
    pub(super) create: bool,
    pub(super) enable: bool,
    pub(super) start: bool,
    pub(super) restart: bool,
    /// The server of this id is to get its name and tags.
    pub(super) label: Option<String>,
}

/// What a look found.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) finding: Finding,
    pub(super) work: Work,
    pub(super) unit: Unit,
    /// Of all a running server has read at its start.
    pub(super) digest: String,
    /// Whether what it waits for is waited for by later phases, too. A restart that is put off is not: they may bring
    /// about what it waits for.
    pub(super) holds: bool,
}

/// Looks at everything behind the package: files, data, unit, membership.
pub(super) async fn look(
    node: &Node,
    id: &TaskId,
    settings: &Settings,
    cluster: &dyn Cluster,
    version: &str,
) -> Result<Look, TaskError> {
    let mut look = Look {
        finding: Finding::default(),
        work: Work::default(),
        unit: unit::show(node, &settings.unit()).await?,
        digest: String::new(),
        holds: true,
    };
    let Some(material) = files::material(node)? else {
        look.finding.waiting = Some("the certificate of the node's services".into());
        return Ok(look);
    };
    // What a server reads at its start.
    let mut changes = files::wrong(node, &material)?;
    look.work.tls = !changes.is_empty();

    let running = look.unit.is_running();
    let fresh = !has_data(node, settings);
    let view = if running && !fresh { Some(cluster.view().await) } else { None };
    let (view, silence) = match view {
        Some(Ok(view)) => (Some(view), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    let file = node.read(&settings.file())?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let answering = if fresh || file.is_none() || silence.is_some() {
        answering(cluster, settings).await
    } else {
        Vec::new()
    };
    let others_seen = view.as_ref().is_some_and(|view| view.servers.len() > 1);
    let joins = match &file {
        _ if fresh => !answering.is_empty(),
        Some(file) if settings::joins(file) => true,
        // The founder gets them once there is somebody to join.
        Some(_) => others_seen,
        None => others_seen || !answering.is_empty() || !settings.seed,
    };
    let wanted = settings.render(joins, memory(node)?, file.as_deref());
    look.digest = files::digest(&[settings::essence(&wanted).as_bytes(), version.as_bytes()], &material);
    let essence = file.as_deref().map(settings::essence);
    if file.as_deref() != Some(wanted.as_str()) {
        let name = settings.file();
        match &file {
            None => changes.push(format!("{name} is missing")),
            Some(now) => {
                let difference = settings::difference(now, &wanted);
                changes.extend(difference.into_iter().map(|line| format!("{name}: {line}")));
            }
        }
        look.work.file = Some(wanted.clone());
    }

    let mut turn = None;
    if running && !fresh {
        let older = look.is_older(node, id, settings)?;
        look.work.restart = look.work.tls || essence.as_deref() != Some(&settings::essence(&wanted)) || older;
        if look.work.restart {
            changes.push(format!("{} runs with an older program, certificate or settings", settings.unit()));
            // With a certificate that ran out it is among the others only for as long as their connections last, and
            // who has a new one finds only those who have one, too: taking turns, all would wait for each other.
            let (own, now) = (node.read(settings::TLS[1])?.unwrap_or_default(), SystemClock.now());
            let is_out = |at| look.work.tls && ran_out(&own, &material[2], at);
            if !is_out(now) {
                // Whoever is away may stay so, and then it would run out waiting.
                turn = match is_out(now.after(CLOSE)) {
                    true => None,
                    false => not_now(settings, view.as_ref(), silence.as_ref()),
                };
                if turn.is_none() {
                    look.finding.permit = Some(join(settings));
                }
            }
        }
    }
    match &turn {
        None => look.finding.drift.extend(changes),
        // Not half of it either: should the server end by itself, it starts again as the one it was.
        Some(_) => (look.work.tls, look.work.file, look.work.restart) = (false, None, false),
    }
    if fresh {
        look.first(settings, &answering);
        if look.finding.waiting.is_some() {
            return Ok(look);
        }
        // One that runs without its data has lost it under way.
        look.work.restart = running;
    }
    if !look.unit.is_enabled() {
        look.work.enable = true;
        look.finding.drift.push(format!("{} is not started at boot", settings.unit()));
    }
    if !running {
        look.work.start = true;
        look.finding.drift.push(format!("{} is {}", settings.unit(), look.unit.state()));
    }
    if let Some(view) = &view {
        look.membership(settings, view);
    }
    if let Some(error) = silence {
        look.finding.waiting = Some(not_ready(node, settings, &answering, &error.to_string()));
    } else if let Some(what) = turn {
        look.holds = false;
        look.finding.waiting.get_or_insert(what);
    }
    Ok(look)
}

/// What the cluster lacks for one more of its servers to go away for a moment, if it lacks something. A server that
/// takes no queries, or sees none of the others, serves nobody: starting it again takes nothing from anyone, and may
/// be just what lets it in again.
fn not_now(settings: &Settings, view: Option<&View>, silence: Option<&ReqlError>) -> Option<String> {
    let before = format!("before {} is restarted with what is new", settings.unit());
    let Some(view) = view else {
        let error = silence.filter(|error| !matches!(error, ReqlError::Connect { .. }))?;
        return Some(format!("its server to say how the cluster is, {before} ({error})"));
    };
    if view.servers.len() <= 1 && !settings.others.is_empty() {
        return None;
    }
    let missing = view.missing(settings.others.iter().map(|member| member.name.as_str()));
    if !missing.is_empty() {
        return Some(format!("{} to be in the cluster, {before}", missing.join(", ")));
    }
    let first = issues(view).into_iter().next()?;
    Some(format!("the cluster to have no issues, {before} ({first})"))
}

/// The permit to start among others, one at a time.
pub(super) fn join(settings: &Settings) -> String {
    format!("join/{}", settings.instance)
}

impl Look {
    /// The server has no data: it joins, founds, or waits.
    fn first(&mut self, settings: &Settings, answering: &[&Member]) {
        let names: Vec<&str> = answering.iter().map(|member| member.name.as_str()).collect();
        let data = settings.data();
        if !names.is_empty() {
            self.finding.drift.push(format!("no data in {data}, to join by way of {}", names.join(", ")));
            self.finding.permit = Some(join(settings));
        } else if settings.seed {
            self.finding.drift.push(format!("no data in {data}, and nobody to join: to found the cluster"));
            self.finding.permit = Some(format!("found/{}", settings.instance));
        } else {
            let all: Vec<String> = settings
                .others
                .iter()
                .map(|member| format!("{} ({})", member.name, member.address))
                .collect();
            // Nothing is to be done before there is somebody: what else differs is done then.
            self.finding.drift.clear();
            self.finding.waiting =
                Some(format!("a server of the cluster to answer; none does of {}", all.join(", ")));
            self.work = Work::default();
            return;
        }
        // A server without data serves nobody yet.
        self.finding.gentle = true;
        self.work.create = true;
    }

    /// What the cluster says of itself: what is ours to change, what is to be waited for, what others should know.
    fn membership(&mut self, settings: &Settings, view: &View) {
        let Finding { drift, waiting, warnings, missing_members, .. } = &mut self.finding;
        match view.own() {
            Some(own) => {
                if own.name != settings.name {
                    drift.push(format!("the server is called `{}`, to become `{}`", own.name, settings.name));
                }
                if own.tags != settings.tags {
                    let words = |tags: &BTreeSet<String>| tags.iter().cloned().collect::<Vec<_>>().join(", ");
                    drift.push(format!(
                        "its tags are {}, to become {}",
                        if own.tags.is_empty() { "none".into() } else { words(&own.tags) },
                        words(&settings.tags)
                    ));
                }
                if own.name != settings.name || own.tags != settings.tags {
                    self.work.label = Some(own.id.clone());
                }
                let wanted = settings.address.to_string();
                if !own.addresses.is_empty() && !own.addresses.contains(&wanted) {
                    let now = own.addresses.join(", ");
                    warnings.push(format!("the server tells others to dial {now}, not {wanted}"));
                }
            }
            None => warnings.push("the server does not list itself among those connected".into()),
        }
        let missing = view.missing(settings.others.iter().map(|member| member.name.as_str()));
        if view.servers.len() == 1 && !settings.others.is_empty() && !settings.seed {
            *waiting = Some(format!("its server to see another one of the cluster: {}", missing.join(", ")));
        } else if !missing.is_empty() {
            warnings.push(format!("not in the cluster: {}", missing.join(", ")));
        }
        let unlisted = view.own().is_none().then_some(settings.name.as_str());
        *missing_members = Some(missing.into_iter().chain(unlisted).map(str::to_owned).collect());
        let known =
            |name: &str| name == settings.name || settings.others.iter().any(|other| other.name == name);
        let foreign: Vec<&str> =
            view.servers.iter().map(|server| server.name.as_str()).filter(|name| !known(name)).collect();
        if !foreign.is_empty() && self.work.label.is_none() {
            warnings.push(format!("in the cluster and not in the plan: {}", foreign.join(", ")));
        }
        warnings.extend(issues(view));
    }

    /// Whether a running server was started with something else than what is there now.
    fn is_older(&self, node: &Node, id: &TaskId, settings: &Settings) -> Result<bool, TaskError> {
        let mut files: Vec<String> = settings::TLS.iter().map(ToString::to_string).collect();
        files.extend([settings.file(), "/usr/bin/rethinkdb".into()]);
        start::is_older(node, id, &self.unit, &self.digest, &files)
    }

    /// The server as it runs has read what this look found.
    pub(super) fn started(&self, node: &Node, id: &TaskId, unit: &Unit) -> Result<(), TaskError> {
        start::remember(node, id, unit, &self.digest)
    }
}

/// RethinkDB's own words on what is wrong.
pub(crate) fn issues(view: &View) -> Vec<String> {
    let mut lines: Vec<String> = view
        .issues
        .iter()
        .take(ISSUES)
        .map(|text| {
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let cut: String = words.chars().take(QUOTED).collect();
            format!("RethinkDB says: {cut}{}", if cut.len() < words.len() { "…" } else { "" })
        })
        .collect();
    if view.issues.len() > ISSUES {
        lines.push(format!("RethinkDB has {} issues more", view.issues.len() - ISSUES));
    }
    lines
}

/// Whether the server has been made. A data directory is put in its place whole ([`super::create`]), so that one with
/// anything in it is one; should it not be, the server refuses it in its own words.
fn has_data(node: &Node, settings: &Settings) -> bool {
    fs::read_dir(node.path(&settings.data())).is_ok_and(|mut entries| entries.next().is_some())
}

async fn answering<'a>(cluster: &dyn Cluster, settings: &'a Settings) -> Vec<&'a Member> {
    let mut found = Vec::new();
    // One after the other would take seconds for each that is away.
    let knocks = settings
        .others
        .iter()
        .map(|member| async move { cluster.answers(member.address).await.then_some(member) });
    let mut knocks: Vec<_> = knocks.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        knocks.retain_mut(|knock| match knock.as_mut().poll(context) {
            std::task::Poll::Ready(member) => {
                found.extend(member);
                false
            }
            std::task::Poll::Pending => true,
        });
        if knocks.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    found.sort();
    found
}

/// Why a server that runs takes no queries, as far as can be told from outside.
fn not_ready(node: &Node, settings: &Settings, answering: &[&Member], error: &str) -> String {
    let mut text = format!("{} to take queries ({error})", settings.unit());
    if !settings.others.is_empty() && answering.is_empty() {
        text.push_str("; a server that finds none of its peers waits for one, and none answers");
    }
    if let Some(words) = last_words(node, settings) {
        text.push_str(&format!("; its log ends: {words}"));
    }
    text
}

fn last_words(node: &Node, settings: &Settings) -> Option<String> {
    // The folder is the server's own: what lies there may be a link to somewhere else, or a pipe nobody writes to.
    let mut file = Folder::open(node, &settings.data()).ok()??.file("log_file").ok()??;
    let length = file.metadata().ok().filter(fs::Metadata::is_file)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> =
        text.lines().rev().map(str::trim).filter(|line| !line.is_empty()).take(2).collect();
    (!lines.is_empty()).then(|| lines.into_iter().rev().collect::<Vec<_>>().join("; "))
}

/// All memory of the node, in KiB (proc_meminfo(5)).
fn memory(node: &Node) -> Result<u64, TaskError> {
    let bytes = node.read("/proc/meminfo")?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    Ok(total.unwrap_or(0))
}
