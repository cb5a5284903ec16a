//! `cloud-config` to tasks: what our tasks do is recognised, all else is noted.

mod files;
mod people;
mod run;
mod shell;

use fleet_plan::Tree;

use crate::{
    emit::{Entry, Out},
    form::{Scope, Translated},
    machine::Reader,
    tree::{entries, get, items},
};

/// A task of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) kind: &'static str,
    /// What it could be called if there are several.
    pub(crate) called: String,
    pub(crate) settings: Vec<Entry>,
    /// Lines it came from.
    pub(crate) from: Vec<usize>,
}

impl Task {
    pub(crate) fn new(kind: &'static str, settings: Vec<Entry>) -> Self {
        Self { kind, called: kind.to_owned(), settings, from: Vec::new() }
    }

    pub(crate) fn called(mut self, name: impl Into<String>) -> Self {
        self.called = name.into();
        self
    }

    pub(crate) fn from(mut self, line: usize) -> Self {
        self.from.push(line);
        self
    }
}

/// A member of a RethinkDB cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Member {
    /// The node it joins, by our name.
    pub(crate) joins: Option<String>,
    pub(crate) cache_mb: Option<String>,
    pub(crate) at: std::ops::Range<usize>,
}

/// What a `cloud-config` makes of its node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Work {
    pub(crate) clock: Option<Task>,
    pub(crate) update: Option<Task>,
    pub(crate) access: Option<Task>,
    pub(crate) users: Vec<Task>,
    pub(crate) files: Vec<Task>,
    packages: Vec<(String, usize)>,
    pub(crate) commands: Vec<Task>,
    pub(crate) member: Option<Member>,
    /// It has the todo application, from here.
    pub(crate) todo: Option<std::ops::Range<usize>>,
    /// It makes the application's database, from here.
    pub(crate) setup: Option<std::ops::Range<usize>>,
}

impl Work {
    /// The tasks that need to know nothing of other nodes, in their order.
    pub(crate) fn tasks(&self) -> Vec<Task> {
        let files = self.files.iter().filter(|file| {
            // What a command makes of the path comes last.
            !self.commands.iter().any(|task| task.kind == "file" && task.called == file.called)
        });
        let first = self.clock.iter().chain(&self.access).chain(&self.update).chain(&self.users).chain(files);
        let commands = self.commands.iter().cloned().map(|mut task| {
            if task.kind == "service" {
                self.restart(&mut task);
            }
            task
        });
        first.cloned().chain(self.package()).chain(commands).collect()
    }

    /// A service starts again when a file changes that lies in a folder of its name, or is its unit.
    fn restart(&self, service: &mut Task) {
        let stem = service.called.rsplit_once('.').map_or(service.called.as_str(), |(stem, _)| stem);
        let paths = self.files.iter().map(|task| task.called.as_str());
        let of = paths.filter(|path| path.split('/').any(|part| part == stem || part == service.called));
        let of: Vec<&str> = of.collect();
        if !of.is_empty() {
            service.settings.push(Entry::new("restartOn", Out::texts(of)));
        }
    }

    /// One task for all packages.
    fn package(&self) -> Option<Task> {
        let (_, first) = self.packages.first()?;
        let names = Out::texts(self.packages.iter().map(|(name, _)| name.clone()));
        Some(Task::new("package", vec![Entry::new("names", names)]).from(*first))
    }

    fn add_package(&mut self, name: &str, line: usize) {
        if self.packages.iter().all(|(known, _)| known != name) {
            self.packages.push((name.to_owned(), line));
        }
    }

    fn has_clock(&mut self, line: usize) -> &mut Task {
        self.clock.get_or_insert_with(|| Task::new("clock", Vec::new()).from(line))
    }

    fn has_update(&mut self, line: usize) -> &mut Task {
        let every = || vec![Entry::new("everyHours", Out::plain(24))];
        self.update.get_or_insert_with(|| Task::new("update", every()).from(line))
    }
}

/// Reads one node's `cloud-config`, all layers laid.
pub(crate) struct CloudConfig<'a, 'b, 's> {
    reader: &'a mut Reader<'b, 's>,
    scope: Scope<'a>,
    /// The node's own names: more than one for a range.
    names: &'a [String],
    work: Work,
    /// The example application is put on the node.
    has_todo: bool,
    /// Files that something recognised makes use of.
    used: Vec<String>,
}

/// Programs that keep the clock.
const CLOCKS: [&str; 8] =
    ["ntp", "ntpd", "ntpdate", "chrony", "chronyd", "openntpd", "systemd-timesyncd", "ntpsec"];
/// Folder of the example application.
const TODO: &str = "rethinkdb-example-flask-backbone-todo";
/// What the example application needs to be installed from its source.
const TODO_NEEDS: [&str; 9] = [
    "git",
    "python",
    "python-pip",
    "python-dev",
    "python-setuptools",
    "python-flask",
    "python3",
    "python3-pip",
    "python3-flask",
];

/// What is recognised, and what does it.
const MESSAGES: (&str, &str) = ("messages of scripts", "agents report what they do");
const FOLDER: (&str, &str) = ("changing folders in scripts", "tasks have absolute paths");
const WAITING: (&str, &str) = ("waiting in scripts", "tasks wait for what they need");
const VOLUME: (&str, &str) =
    ("growing the root volume", "every node takes added disks into its root volume by itself");
const HOSTS: (&str, &str) = ("keeping /etc/hosts", "every node knows all others by name");
const HOSTNAME: (&str, &str) = ("setting the host name", "every node is called as the plan calls it");
const RETHINKDB: (&str, &str) = ("installing, configuring and starting RethinkDB", "task `rethinkdb`");
const APPLICATION: (&str, &str) = ("installing and starting the todo application", "task `todo`");
const DATABASE: (&str, &str) = ("making the application's database", "task `database` of the seed");
const UPDATES: (&str, &str) = ("updating packages", "task `update`");
const PACKAGES: (&str, &str) = ("installing packages", "task `package`");
const CLOCK: (&str, &str) = ("keeping the clock", "task `clock`");
const ACCESS: (&str, &str) = ("letting nobody in by password", "task `access` does so");
const SERVICES: (&str, &str) = ("starting and stopping services", "task `service`");
const FILES: (&str, &str) = ("making and removing files", "task `file`");
const COMMANDS: (&str, &str) = ("running programs once", "task `command`");

/// Keys of cloud-config with no task for them, and what to do.
const WITHOUT: [(&str, &str); 30] = [
    ("apt", "`file` for the repository's list and key, `package` for its packages"),
    ("apt_sources", "`file` for the repository's list and key, `package` for its packages"),
    ("apt_mirror", "`file: {path: /etc/apt/sources.list, …}`"),
    ("apt_preserve_sources_list", "`file: {path: /etc/apt/sources.list, …}`"),
    ("bootcmd", "tasks run again and again, not at boot; `command` with `creates` or `unless`"),
    ("byobu", "`package` and `file`"),
    (
        "ca-certs",
        "`file` below /usr/local/share/ca-certificates, then a `command` for update-ca-certificates",
    ),
    ("chef", "tasks say what a node is"),
    ("chpasswd", "nobody logs in by password; `access` lets keys in"),
    ("password", "nobody logs in by password; `access` lets keys in"),
    ("disk_setup", "added disks belong to the root volume"),
    ("fs_setup", "added disks belong to the root volume"),
    ("mounts", "`file` for a unit that ends with .mount, then `service`"),
    ("swap", "`file` for a unit that ends with .swap; tasks do not make swap space"),
    ("keyboard", "`file: {path: /etc/default/keyboard, …}`"),
    ("landscape", "`package` and `file`"),
    ("locale", "`file: {path: /etc/default/locale, …}`"),
    ("mcollective", "tasks say what a node is"),
    ("phone_home", "nodes enrol with the controller, and `status` shows them"),
    ("power_state", "`update: {reboot: true}` reboots when packages ask for it"),
    ("puppet", "tasks say what a node is"),
    ("resolv_conf", "`file: {path: /etc/resolv.conf, …}`"),
    ("rsyslog", "`package: {names: [rsyslog]}` and `file` below /etc/rsyslog.d"),
    ("salt_minion", "tasks say what a node is"),
    ("snap", "`package` for what Debian has"),
    ("snappy", "`package` for what Debian has"),
    ("timezone", "`file: {path: /etc/timezone, …}`; nodes are at UTC"),
    ("yum_repos", "tasks work with Debian's packages"),
    ("groups", "`user` has `groups`; a group of its own comes with a package"),
    ("ssh_import_id", "put the keys into `access`"),
];

/// Keys of cloud-config about the platform's own first boot, which is ours.
const OURS: [&str; 14] = [
    "output",
    "final_message",
    "datasource",
    "datasource_list",
    "cloud_init_modules",
    "cloud_config_modules",
    "cloud_final_modules",
    "system_info",
    "syslog_fix_perms",
    "no_ssh_fingerprints",
    "ssh_fp_console_blacklist",
    "merge_how",
    "merge_type",
    "debug",
];

/// What the node's agent is to do.
pub(crate) fn translate<'s>(
    config: &Tree,
    scope: Scope<'_>,
    names: &[String],
    reader: &mut Reader<'_, 's>,
) -> Work {
    let mut texts = Vec::new();
    gather(config, &mut texts);
    let has_todo = texts.iter().any(|text| text.contains(TODO));
    let mut cloud = CloudConfig { reader, scope, names, work: Work::default(), has_todo, used: Vec::new() };
    cloud.find_member(config, &texts);
    // Commands say which files are only their own means.
    if let Some(list) = get(config, "runcmd") {
        cloud.run(list);
    }
    for (key, _) in entries(config) {
        let Some(word) = cloud.reader.source.text_of(key) else { continue };
        if let Some(value) = get(config, &word) {
            cloud.key(&word, key, value);
        }
    }
    cloud.people(config);
    cloud.work
}

fn gather<'t>(tree: &'t Tree, texts: &mut Vec<&'t str>) {
    match &tree.value {
        fleet_plan::Value::Text(text) => texts.push(text),
        fleet_plan::Value::List(list) => list.iter().for_each(|item| gather(item, texts)),
        fleet_plan::Value::Map(map) => map.iter().for_each(|(_, value)| gather(value, texts)),
        _ => {}
    }
}

impl CloudConfig<'_, '_, '_> {
    /// A key that is neither commands nor people.
    fn key(&mut self, word: &str, key: &Tree, value: &Tree) {
        let line = self.reader.source.line_of(key);
        let text = self.reader.source.text_of(value).unwrap_or_default();
        let yes = matches!(text.to_ascii_lowercase().as_str(), "true" | "yes" | "on" | "1");
        match word {
            "runcmd" | "users" | "ssh_authorized_keys" | "ssh_pwauth" | "disable_root" | "ssh_keys" => {}
            "write_files" => self.files(value),
            "packages" => self.packages(value),
            "package_update" | "package_upgrade" | "apt_update" | "apt_upgrade" | "apt-update"
            | "apt-upgrade" => {
                if yes {
                    self.work.has_update(line);
                    self.same(key, UPDATES);
                }
            }
            "package_reboot_if_required" | "apt_reboot_if_required" => {
                if yes {
                    let update = self.work.has_update(line);
                    update.settings.push(Entry::new("reboot", Out::plain(true)));
                    self.same(key, UPDATES);
                }
            }
            "hostname" | "fqdn" => self.hostname(word, &text, value),
            "preserve_hostname" | "prefer_fqdn_over_hostname" => self.same(key, HOSTNAME),
            "manage_etc_hosts" | "manage-etc-hosts" => self.same(key, HOSTS),
            "growpart" | "resize_rootfs" => self.same(key, VOLUME),
            "ntp" => self.ntp(value, line),
            "ssh_deletekeys" | "ssh_genkeytypes" => {
                let instead = "every node has host keys of its own, which the controller checks";
                self.reader.notes.changed(&key.span, format!("`{word}` of cloud-config"), instead);
            }
            "bootcmd" => {
                for item in items(value) {
                    let what = format!("bootcmd `{}`", self.short(item));
                    let instead =
                        "tasks run again and again, not at boot; `command` with `creates` or `unless`";
                    self.reader.notes.lost(&item.span, what, instead);
                }
            }
            _ if OURS.contains(&word) => {
                let instead = "nodes boot once, with a seed of the controller's";
                self.reader.notes.changed(&key.span, format!("`{word}` of cloud-config"), instead);
            }
            _ => {
                let known = WITHOUT.iter().find(|(key, _)| *key == word);
                let instead = known.map_or(
                    "tasks say what a node is: `file`, `package`, `service`, `user`, `command`",
                    |(_, instead)| *instead,
                );
                self.reader.notes.lost(&key.span, format!("`{word}` of cloud-config"), instead);
            }
        }
    }

    /// Notes that something is done already.
    fn same(&mut self, at: &Tree, (what, instead): (&str, &str)) {
        self.reader.notes.changed(&at.span, what, instead);
    }

    fn hostname(&mut self, word: &str, text: &str, at: &Tree) {
        let name = self.reader.parameters.put_in(text);
        let first = name.split('.').next().unwrap_or_default();
        if name.replace(' ', "").starts_with("{{node.name}}") || self.names == [first] {
            self.same(at, HOSTNAME);
        } else {
            let instead = "a node's name in the plan is its host name";
            self.reader.notes.lost(&at.span, format!("{word} `{name}`"), instead);
        }
    }

    fn ntp(&mut self, value: &Tree, line: usize) {
        let mut servers = Vec::new();
        for (key, value) in entries(value) {
            let word = self.reader.source.text_of(key).unwrap_or_default();
            match word.as_str() {
                "servers" | "pools" => {
                    for item in items(value) {
                        let text = self.reader.source.text_of(item).unwrap_or_default();
                        let said = self.scope.translate(text.trim());
                        if said.gaps.is_empty()
                            && !said.text.is_empty()
                            && (said.text.contains("{{") || !said.text.contains(char::is_whitespace))
                        {
                            servers.push(said.text);
                        } else {
                            self.reader.notes.lost(
                                &item.span,
                                format!("time server `{text}`"),
                                "a name or an address",
                            );
                        }
                    }
                }
                "enabled" | "ntp_client" => {}
                _ => self.reader.notes.lost(&key.span, format!("`{word}` of ntp"), "`clock: {servers: […]}`"),
            }
        }
        let clock = self.work.has_clock(line);
        if !servers.is_empty() {
            clock.settings.push(Entry::new("servers", Out::texts(servers)));
        }
    }

    fn packages(&mut self, list: &Tree) {
        for item in items(list) {
            let line = self.reader.source.line_of(item);
            let parts: Vec<String> =
                items(item).iter().filter_map(|part| self.reader.source.text_of(part)).collect();
            let Some(name) = parts.first() else {
                self.reader.notes.lost(
                    &item.span,
                    "a package that is no text",
                    "`package: {names: [nginx]}`",
                );
                continue;
            };
            if parts.len() > 1 {
                let instead = "tasks install the version Debian has";
                self.reader.notes.lost(
                    &item.span,
                    format!("version {} of package `{name}`", parts[1]),
                    instead,
                );
            }
            self.one_package(&name.clone(), item, line);
        }
    }

    /// A package somebody wants.
    fn one_package(&mut self, name: &str, at: &Tree, line: usize) {
        let value = self.reader.parameters.put_in(name);
        if CLOCKS.contains(&value.as_str()) {
            self.work.has_clock(line);
            self.same(at, CLOCK);
        } else if value == "rethinkdb" && self.work.member.is_some() {
            self.same(at, RETHINKDB);
        } else if self.has_todo && TODO_NEEDS.contains(&value.as_str()) {
            self.same(at, APPLICATION);
        } else if value == "cloud-init" || value == "sudo" || value == "openssh-server" {
            self.reader.notes.changed(
                &at.span,
                format!("package `{value}`"),
                "the image has what nodes need",
            );
        } else if is_package(&value) {
            let own = crate::machine::only_parameters(name, self.reader.parameters).unwrap_or(value);
            self.work.add_package(&own, line);
        } else {
            self.reader.notes.lost(
                &at.span,
                format!("package `{value}`"),
                "a package of Debian: `package: {names: [nginx]}`",
            );
        }
    }

    /// Finds out whether the node has a RethinkDB server, and which node it joins.
    fn find_member(&mut self, config: &Tree, texts: &[&str]) {
        let installs = |text: &&&str| {
            let mut words = text.split_whitespace();
            text.contains("/etc/rethinkdb/instances.d")
                || (text.contains("install")
                    && words.clone().any(|word| word == "rethinkdb")
                    && !text.contains("pip"))
                || (words.next() == Some("service") && words.next() == Some("rethinkdb"))
                || **text == "rethinkdb"
        };
        let Some(first) = texts.iter().find(installs) else { return };
        let mut member = Member { at: self.reader.source.locate(config, first), ..Member::default() };
        for text in texts {
            let mut before = "";
            for part in crate::form::parts(text) {
                match part {
                    crate::form::Part::Text(text) => before = text,
                    crate::form::Part::Form { inner, .. } => {
                        if before.ends_with("join=")
                            && !self.reader.parameters.put_in(inner).starts_with("node")
                        {
                            let path = inner.rsplit_once('.').map_or(inner, |(path, _)| path);
                            let here = self.scope.location.map(|(id, _)| id);
                            if let Some(found) = self.scope.directory.find(path, here)
                                && member.joins.is_none()
                            {
                                member.joins = Some(found.name);
                            }
                        }
                        before = "";
                    }
                }
            }
        }
        self.work.member = Some(member);
    }

    /// A text for our plan, if all of it can be said; what cannot is noted.
    fn text(&mut self, text: &str, at: &Tree, what: &str) -> Option<String> {
        let Translated { text, gaps } = self.scope.translate(text);
        for gap in &gaps {
            let place = self.reader.source.locate(at, &gap.whole);
            self.reader.notes.lost(
                &place,
                format!("`{}` in {what}, which is left out", gap.whole),
                gap.instead,
            );
        }
        gaps.is_empty().then_some(text)
    }

    /// A part in few words.
    fn short(&self, at: &Tree) -> String {
        let words: Vec<String> = match &at.value {
            fleet_plan::Value::List(list) => {
                list.iter().filter_map(|item| self.reader.source.text_of(item)).collect()
            }
            _ => self.reader.source.text_of(at).into_iter().collect(),
        };
        shorten(&words.join(" "))
    }
}

/// The first words of a text, in one line.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 72;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= LONGEST {
        return line;
    }
    line.chars().take(LONGEST - 1).chain(['…']).collect()
}

/// A package of Debian; see its policy manual, section 5.6.1.
fn is_package(name: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() >= 2
        && name.bytes().next().is_some_and(word)
        && name.bytes().all(|b| word(b) || b"+-.".contains(&b))
}

/// An absolute path our plans take.
fn is_path(path: &str) -> bool {
    path.len() > 1
        && path.len() < 4096
        && path
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(|part| !part.is_empty() && part != "." && part != ".."))
        && !path.contains("{{")
        && !path.chars().any(char::is_control)
}

/// A user or group our plans take.
fn is_user(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}
