//! `runcmd`: programs whose outcome a task can keep become that task; nothing is run by a shell.

use fleet_plan::{Tree, Value};

use super::{
    ACCESS, APPLICATION, CLOCK, CLOCKS, COMMANDS, CloudConfig, DATABASE, FILES, FOLDER, HOSTNAME, HOSTS,
    MESSAGES, PACKAGES, RETHINKDB, SERVICES, TODO, Task, UPDATES, VOLUME, WAITING, is_package, is_path,
    shell::{Step, steps},
};
use crate::{
    emit::{Entry, Out},
    tree::items,
};

/// What becomes of a step.
enum Verdict {
    /// Something does it: what, and by which means.
    Is((&'static str, &'static str)),
    /// Something does it, and that is noted already.
    Noted,
    /// Nothing does; what to do.
    Lost(String),
}

/// Programs that are best said as something else.
const ADVICE: [(&[&str], &str); 13] = [
    (
        &["pip", "pip3", "npm", "gem", "easy_install"],
        "`package` for what Debian has; else a `command` with `creates`",
    ),
    (&["yum", "dnf", "rpm", "zypper"], "tasks work with Debian's packages: `package`"),
    (
        &["dpkg", "apt-key", "add-apt-repository"],
        "`file` for a repository's list and key, `package` for its packages",
    ),
    (
        &["ufw", "iptables", "ip6tables", "firewall-cmd", "nft"],
        "the platform filters: `internet` and `accept`",
    ),
    (
        &["reboot", "shutdown", "poweroff", "init"],
        "`update: {reboot: true}` reboots when packages ask for it",
    ),
    (&["sysctl", "modprobe"], "`file` below /etc/sysctl.d or /etc/modules-load.d"),
    (
        &[
            "vgcreate",
            "lvcreate",
            "mkfs",
            "mkfs.ext4",
            "mkfs.xfs",
            "mount",
            "fdisk",
            "parted",
            "mkswap",
            "swapon",
        ],
        "added disks belong to the root volume; tasks make no others",
    ),
    (
        &["useradd", "adduser", "usermod", "groupadd", "passwd", "chpasswd"],
        "`user: {name: …, groups: […]}`; nobody has a password",
    ),
    (&["chown", "chmod", "chgrp"], "`file` has `mode`, `owner` and `group`"),
    (&["crontab"], "`file` below /etc/cron.d"),
    (
        &["ssh-keygen", "ssh-copy-id", "ssh-keyscan"],
        "nodes have host keys of their own; `access` lets keys in",
    ),
    (
        &["sed", "awk", "tee", "cat", "cp", "mv", "perl"],
        "say the whole file: `file: {path: …, text: …}`, or `source` for one of this host",
    ),
    (
        &["ifup", "ifconfig", "ip", "route", "dhclient"],
        "the platform gives nodes one network and its addresses",
    ),
];

/// Places that say more about a command than its program does.
const PLACES: [(&str, &str); 4] = [
    ("ssh_host_", "a node's host keys stay its own; make a key pair for whoever needs one"),
    (
        "StrictHostKeyChecking",
        "let users know the other nodes' keys, or say it in a `file` below /etc/ssh/ssh_config.d",
    ),
    ("/.ssh/", "`access` keeps the login's keys; other users' are `file`s"),
    ("/etc/ssh/sshd_config", "`access` keeps the SSH server's settings"),
];

impl CloudConfig<'_, '_, '_> {
    pub(super) fn run(&mut self, list: &Tree) {
        let mut folder = None;
        for item in items(list) {
            if matches!(item.value, Value::Map(_)) {
                let instead = "put quotes around it: YAML takes `: ` for a mapping";
                self.reader.notes.lost(&item.span, "command that is no text", instead);
                continue;
            }
            let steps = match &item.value {
                Value::List(words) => {
                    let words: Vec<String> =
                        words.iter().filter_map(|word| self.reader.source.text_of(word)).collect();
                    let raw = words.join(" ");
                    vec![Step { raw, words, simple: true }]
                }
                _ => steps(&self.reader.source.text_of(item).unwrap_or_default()),
            };
            self.line(item, &steps, &mut folder);
        }
    }

    /// One item of the list: all of it becomes something, or none.
    fn line(&mut self, item: &Tree, steps: &[Step], folder: &mut Option<String>) {
        let before = (self.work.clone(), self.used.clone(), folder.clone());
        let mut found = Vec::new();
        for step in steps {
            match self.step(step, item, folder) {
                Verdict::Is(what) => {
                    if !found.contains(&what) {
                        found.push(what);
                    }
                }
                Verdict::Noted => {}
                Verdict::Lost(instead) => {
                    (self.work, self.used, *folder) = before;
                    let what = format!("command `{}`", self.short(item));
                    self.reader.notes.lost(&item.span, what, instead);
                    return;
                }
            }
        }
        for what in found {
            self.same(item, what);
        }
    }

    fn step(&mut self, step: &Step, item: &Tree, folder: &mut Option<String>) -> Verdict {
        let line = self.reader.source.line_of(item);
        let words: Vec<String> = step.words.iter().map(|word| self.reader.parameters.put_in(word)).collect();
        let Some(program) = words.first() else { return Verdict::Is(MESSAGES) };
        let program = program.rsplit('/').next().unwrap_or(program);
        let args: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        let arg = |index: usize| args.get(index).copied().unwrap_or_default();
        let raw = &step.raw;
        // What several programs together do for something we know.
        if let Some(verdict) = self.known(program, &args, raw, item, folder) {
            self.used.extend(words.iter().filter(|word| word.starts_with('/')).cloned());
            return verdict;
        }
        match program {
            "echo" | "printf" | "true" | ":" if step.simple => Verdict::Is(MESSAGES),
            "sleep" | "wait" if step.simple => Verdict::Is(WAITING),
            "cd" if step.simple => {
                *folder = Some(arg(0).to_owned());
                Verdict::Is(FOLDER)
            }
            "set" if step.simple => Verdict::Is(MESSAGES),
            "apt-get" | "apt" | "aptitude" if step.simple => self.apt(&args, item, line),
            "service" | "systemctl" | "start" | "stop" | "restart" if step.simple => {
                self.service(program, &args, line)
            }
            "mkdir" if step.simple => self.folders(&args, line),
            "rm" if step.simple => self.removed(&args, line),
            "touch" | "git" | "wget" | "curl" | "ln" if step.simple => {
                self.once(&step.words, line, folder.as_deref(), item)
            }
            _ => Verdict::Lost(self.advice(program, step)),
        }
    }

    /// What to say about a program nobody knows.
    fn advice(&self, program: &str, step: &Step) -> String {
        if let Some((_, advice)) = PLACES.iter().find(|(place, _)| step.raw.contains(place)) {
            return (*advice).to_owned();
        }
        if let Some((_, advice)) = ADVICE.iter().find(|(programs, _)| programs.contains(&program)) {
            return (*advice).to_owned();
        }
        if !step.simple {
            return "a script of this host: `file: {source: …, mode: \"0755\"}`, then a `command` with `creates` or `unless`".to_owned();
        }
        let args: Vec<String> = step.words.iter().map(|word| format!("{word:?}")).collect();
        format!(
            "`command: {{args: [{}], creates: PATH}}`, or `unless`: it says when it is done",
            args.join(", ")
        )
    }

    /// Steps towards what is a task or a habit of every node.
    fn known(
        &mut self,
        program: &str,
        args: &[&str],
        raw: &str,
        item: &Tree,
        folder: &mut Option<String>,
    ) -> Option<Verdict> {
        let has = |text: &str| raw.contains(text);
        match program {
            "pvcreate" | "vgextend" | "lvextend" | "lvresize" | "pvresize" | "resize2fs" | "xfs_growfs"
            | "growpart" => {
                return Some(Verdict::Is(VOLUME));
            }
            "hostname" | "hostnamectl" => return Some(Verdict::Is(HOSTNAME)),
            _ => {}
        }
        if has("/etc/hosts") && !has("/etc/hosts.allow") && !has("/etc/hosts.deny") {
            return Some(Verdict::Is(HOSTS));
        }
        if has("/etc/hostname") {
            return Some(Verdict::Is(HOSTNAME));
        }
        if self.work.member.is_some() {
            let service = matches!(program, "service" | "systemctl" | "start" | "restart" | "update-rc.d")
                && args.iter().any(|arg| {
                    *arg == "rethinkdb" || arg.starts_with("rethinkdb@") || *arg == "rethinkdb.service"
                })
                && !args.contains(&"stop");
            let init = program == "rethinkdb" && raw.starts_with("/etc/init.d/");
            if service
                || init
                || has("/etc/rethinkdb/")
                || has("download.rethinkdb.com")
                || has("sources.list.d/rethinkdb")
            {
                return Some(Verdict::Is(RETHINKDB));
            }
        }
        if !self.has_todo {
            return None;
        }
        let inside = folder.as_deref().is_some_and(|folder| folder.trim_end_matches('/').ends_with(TODO));
        if program.starts_with("python") && args.first().is_some_and(|file| file.ends_with("todo.py")) {
            if args.contains(&"--setup") {
                self.work.setup = Some(item.span.clone());
                return Some(Verdict::Is(DATABASE));
            }
            return Some(Verdict::Is(APPLICATION));
        }
        let installs = matches!(program, "pip" | "pip3" | "easy_install")
            && args.iter().filter(|arg| !arg.starts_with('-') && **arg != "install").all(|package| {
                matches!(package.to_ascii_lowercase().as_str(), "flask" | "rethinkdb" | "pip" | "setuptools")
            });
        let service =
            matches!(program, "start" | "restart" | "service" | "initctl") && args.contains(&"todo");
        // The login owns its home already; the example lies there.
        let home = program == "chown"
            && args.last().is_some_and(|path| {
                path.starts_with("/home/") && path.trim_end_matches('/').matches('/').count() == 2
            });
        if program == "cd" && has(TODO) {
            *folder = args.first().map(|path| (*path).to_owned());
        }
        if has(TODO) || service {
            self.work.todo = Some(item.span.clone());
        }
        (has(TODO) || installs || service || home || (inside && has("todo.py")))
            .then_some(Verdict::Is(APPLICATION))
    }

    fn apt(&mut self, args: &[&str], item: &Tree, line: usize) -> Verdict {
        let mut words = args.iter().filter(|arg| !arg.starts_with('-'));
        match words.next().copied() {
            Some("update" | "upgrade" | "dist-upgrade" | "full-upgrade" | "safe-upgrade")
                if words.next().is_none() =>
            {
                self.work.has_update(line);
                Verdict::Is(UPDATES)
            }
            Some("autoremove" | "clean" | "autoclean") => Verdict::Is(UPDATES),
            Some("install") => {
                // An option with a value of its own would be taken for a package.
                if args.iter().any(|arg| matches!(*arg, "-t" | "-o" | "-c" | "--target-release")) {
                    return Verdict::Lost(
                        "`package: {names: […]}`; tasks install the version Debian has".to_owned(),
                    );
                }
                let names: Vec<&str> = words.copied().collect();
                if names.is_empty() || !names.iter().all(|name| is_package(name)) {
                    return Verdict::Lost(
                        "`package: {names: […]}`; tasks install the version Debian has".to_owned(),
                    );
                }
                let before = self.work.packages.len();
                for name in names {
                    self.one_package(name, item, line);
                }
                if self.work.packages.len() > before { Verdict::Is(PACKAGES) } else { Verdict::Noted }
            }
            Some("remove" | "purge") => {
                let names: Vec<&str> = words.copied().collect();
                if names.is_empty() || !names.iter().all(|name| is_package(name)) {
                    return Verdict::Lost("`package: {names: […], absent: true}`".to_owned());
                }
                let settings = vec![
                    Entry::new("names", Out::texts(names.clone())),
                    Entry::new("absent", Out::plain(true)),
                ];
                self.work
                    .commands
                    .push(Task::new("package", settings).called(format!("no-{}", names[0])).from(line));
                Verdict::Is(PACKAGES)
            }
            _ => Verdict::Lost("`package` installs and removes, `update` keeps up to date".to_owned()),
        }
    }

    fn service(&mut self, program: &str, args: &[&str], line: usize) -> Verdict {
        let lost =
            || Verdict::Lost("`service: {unit: NAME.service, running: true, enabled: true}`".to_owned());
        let mut words = args.iter().filter(|arg| !arg.starts_with('-')).copied();
        let (verb, names): (&str, Vec<&str>) = match program {
            "service" => {
                let Some(name) = words.next() else { return lost() };
                (words.next().unwrap_or_default(), vec![name])
            }
            "systemctl" => {
                let verb = words.next().unwrap_or_default();
                (verb, words.collect())
            }
            verb => (verb, words.collect()),
        };
        if verb == "daemon-reload" {
            return Verdict::Is(SERVICES);
        }
        let (running, enabled) = match verb {
            "start" | "restart" | "reload" | "force-reload" | "try-restart" => (Some(true), None),
            "stop" => (Some(false), None),
            "enable" => (args.contains(&"--now").then_some(true), Some(true)),
            "disable" => (args.contains(&"--now").then_some(false), Some(false)),
            _ => return lost(),
        };
        if names.is_empty() {
            return lost();
        }
        let mut verdict = Verdict::Is(SERVICES);
        for name in names {
            let stem = name.strip_suffix(".service").unwrap_or(name);
            if CLOCKS.contains(&stem) {
                self.work.has_clock(line);
                verdict = Verdict::Is(CLOCK);
                continue;
            }
            if matches!(stem, "ssh" | "sshd") {
                verdict = Verdict::Is(ACCESS);
                continue;
            }
            let fine = !stem.is_empty()
                && stem.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.@".contains(&b))
                && !stem.starts_with(['@', '-', '.'])
                && !stem.ends_with('@');
            if !fine {
                return lost();
            }
            let known = [".socket", ".timer", ".path", ".mount", ".target", ".slice"];
            let unit = if known.iter().any(|kind| name.ends_with(kind)) {
                name.to_owned()
            } else {
                format!("{stem}.service")
            };
            self.keep(&unit, running, enabled, line);
        }
        verdict
    }

    /// One task for a unit, whatever number of commands: the last word on each of its states counts.
    fn keep(&mut self, unit: &str, running: Option<bool>, enabled: Option<bool>, line: usize) {
        let is = |task: &Task| task.kind == "service" && task.called == unit;
        let mut task = match self.work.commands.iter().position(is) {
            Some(at) => self.work.commands.remove(at),
            None => Task::new("service", vec![Entry::new("unit", Out::text(unit))]).called(unit).from(line),
        };
        for (key, state) in [("running", running), ("enabled", enabled)] {
            let Some(state) = state else { continue };
            task.settings.retain(|entry| entry.key != key);
            // Both are true unless something else is said.
            if !state {
                task.settings.push(Entry::new(key, Out::plain(false)));
            }
        }
        self.work.commands.push(task);
    }

    fn folders(&mut self, args: &[&str], line: usize) -> Verdict {
        let paths: Vec<&str> = args.iter().filter(|arg| !arg.starts_with('-')).copied().collect();
        let plain = args
            .iter()
            .filter(|arg| arg.starts_with('-'))
            .all(|arg| matches!(*arg, "-p" | "-pv" | "--parents" | "-v"));
        if paths.is_empty() || !plain || !paths.iter().all(|path| is_path(path)) {
            return Verdict::Lost("`file: {path: /PATH, directory: true}`".to_owned());
        }
        for path in paths {
            self.file(path, Entry::new("directory", Out::plain(true)), line);
        }
        Verdict::Is(FILES)
    }

    fn removed(&mut self, args: &[&str], line: usize) -> Verdict {
        let paths: Vec<&str> = args.iter().filter(|arg| !arg.starts_with('-')).copied().collect();
        let plain = args.iter().filter(|arg| arg.starts_with('-')).all(|arg| *arg == "-f");
        if paths.is_empty() || !plain || !paths.iter().all(|path| is_path(path)) {
            return Verdict::Lost("`file: {path: /PATH, absent: true}`; folders are not removed".to_owned());
        }
        for path in paths {
            self.file(path, Entry::new("absent", Out::plain(true)), line);
        }
        Verdict::Is(FILES)
    }

    /// A file as a command leaves it; an earlier command about it has had its day.
    fn file(&mut self, path: &str, is: Entry, line: usize) {
        self.work.commands.retain(|task| !(task.kind == "file" && task.called == path));
        let settings = vec![Entry::new("path", Out::text(path)), is];
        self.work.commands.push(Task::new("file", settings).called(path).from(line));
    }

    /// A program that leaves a file behind: done once that is there.
    fn once(&mut self, words: &[String], line: usize, folder: Option<&str>, item: &Tree) -> Verdict {
        let lost = |how: &str| Verdict::Lost(how.to_owned());
        const HOW: &str = "`command: {args: […], creates: PATH}`: the path says when it is done";
        let after = |options: &[&str]| {
            words.iter().position(|word| options.contains(&word.as_str())).and_then(|at| words.get(at + 1))
        };
        let plain: Vec<&String> = words.iter().skip(1).filter(|word| !word.starts_with('-')).collect();
        let creates = match (words[0].rsplit('/').next().unwrap_or_default(), plain.as_slice()) {
            ("touch", [path]) => path.as_str(),
            ("git", [verb, _, path]) if *verb == "clone" && words.len() == 4 => path.as_str(),
            ("wget", _) => after(&["-O", "--output-document"]).map_or("", String::as_str),
            ("curl", _) => after(&["-o", "--output"]).map_or("", String::as_str),
            ("ln", [_, path]) if words.iter().any(|word| word.starts_with("-s")) => path.as_str(),
            _ => return lost(HOW),
        };
        let creates = match folder.filter(|_| !creates.starts_with('/') && !creates.is_empty()) {
            // A folder changed into is no argument: the command would run elsewhere.
            Some(_) => return lost(HOW),
            None => self.reader.parameters.put_in(creates),
        };
        if !is_path(&creates) {
            return lost(HOW);
        }
        let Some(args) =
            words.iter().map(|word| self.text(word, item, "a command")).collect::<Option<Vec<String>>>()
        else {
            return lost(HOW);
        };
        let settings = vec![
            Entry::new("args", Out::texts(args)),
            Entry::new("creates", Out::text(creates.trim_end_matches('/'))),
        ];
        self.work
            .commands
            .push(Task::new("command", settings).called(format!("command-{}", words[0])).from(line));
        Verdict::Is(COMMANDS)
    }
}
