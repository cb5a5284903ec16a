//! Who gets in: users, keys, passwords.

use fleet_plan::{Tree, Value};

use super::{ACCESS, CloudConfig, Task, is_path, is_user};
use crate::{
    emit::{Entry, Out},
    tree::{entries, get, items},
};

/// The login if the plan names none.
const LOGIN: &str = "fleet";

impl CloudConfig<'_, '_, '_> {
    /// Everything about users; every node with a `cloud-config` has at least the operator's login.
    pub(super) fn people(&mut self, config: &Tree) {
        let mut keys = vec!["operator".to_owned()];
        let mut login: Option<(String, usize)> = None;
        if let Some(list) = get(config, "ssh_authorized_keys") {
            items(list).iter().for_each(|key| self.authorized(key, &mut keys));
        }
        let users = get(config, "users").map(items).unwrap_or_default();
        for user in users {
            self.user(user, &mut login, &mut keys);
        }
        if let Some(value) = get(config, "ssh_pwauth") {
            let text = self.reader.source.text_of(value).unwrap_or_default().to_ascii_lowercase();
            if matches!(text.as_str(), "true" | "yes" | "1" | "unchanged") {
                self.reader.notes.lost(
                    &value.span,
                    "login by password",
                    "`access` lets keys in, nothing else",
                );
            } else {
                self.same(value, ACCESS);
            }
        }
        if let Some(value) = get(config, "disable_root") {
            let text = self.reader.source.text_of(value).unwrap_or_default().to_ascii_lowercase();
            if matches!(text.as_str(), "false" | "no" | "0") {
                let instead = "root is shut out; the login of `access` becomes root with sudo";
                self.reader.notes.lost(&value.span, "login as root", instead);
            }
        }
        if let Some(value) = get(config, "ssh_keys") {
            for (key, _) in entries(value) {
                let instead = "every node has host keys of its own, which the controller checks";
                let word = self.reader.source.text_of(key).unwrap_or_default();
                self.reader.notes.lost(
                    &key.span,
                    format!("host key `{word}`, the same on all nodes"),
                    instead,
                );
            }
        }
        let line = login.as_ref().map(|(_, line)| *line);
        let login = login.map_or_else(|| LOGIN.to_owned(), |(name, _)| name);
        let settings = vec![Entry::new("login", Out::text(login)), Entry::new("keys", Out::texts(keys))];
        let mut task = Task::new("access", settings);
        task.from.extend(line);
        self.work.access = Some(task);
    }

    fn user(&mut self, user: &Tree, login: &mut Option<(String, usize)>, keys: &mut Vec<String>) {
        let line = self.reader.source.line_of(user);
        let Value::Map(_) = user.value else {
            let name = self.reader.source.text_of(user).unwrap_or_default();
            if name == "default" {
                let instead = "`access` makes the login, and no other";
                self.reader.notes.changed(&user.span, "the image's own user", instead);
            } else {
                self.plain_user(&name, user, user, line);
            }
            return;
        };
        let name = get(user, "name").and_then(|tree| self.reader.source.text_of(tree)).unwrap_or_default();
        let name = self.reader.parameters.put_in(&name);
        let authorized = get(user, "ssh-authorized-keys").or_else(|| get(user, "ssh_authorized_keys"));
        let authorized = authorized.map(items).unwrap_or_default();
        if name == "root" {
            if !authorized.is_empty() {
                let instead = "the login of `access` becomes root with sudo";
                self.reader.notes.changed(&user.span, "keys of root", instead);
                authorized.iter().for_each(|key| self.authorized(key, keys));
            }
            return;
        }
        if !authorized.is_empty() && is_user(&name) && login.is_none() {
            authorized.iter().for_each(|key| self.authorized(key, keys));
            *login = Some((name.clone(), line));
            for (key, value) in entries(user) {
                let word = self.reader.source.text_of(key).unwrap_or_default();
                let text = self.reader.source.text_of(value).unwrap_or_default();
                match word.as_str() {
                    "name" | "sudo" | "gecos" | "ssh-authorized-keys" | "ssh_authorized_keys" => {}
                    "lock_passwd" | "lock-passwd" | "lock_password" if text != "false" => {}
                    "shell" if text == "/bin/bash" => {}
                    _ => {
                        let what = format!("`{word}` of user `{name}`");
                        self.reader.notes.lost(
                            &key.span,
                            what,
                            "`access` makes the login with a shell and sudo, nothing else",
                        );
                    }
                }
            }
            return;
        }
        if !authorized.is_empty() {
            let instead =
                "`access` makes one login; put the keys there, or a `file` at ~/.ssh/authorized_keys";
            self.reader.notes.lost(&user.span, format!("keys of user `{name}`"), instead);
        }
        self.plain_user(&name, user, user, line);
    }

    /// A user nobody logs in as.
    fn plain_user(&mut self, name: &str, user: &Tree, at: &Tree, line: usize) {
        if !is_user(name) || name == "root" {
            self.reader.notes.lost(
                &at.span,
                format!("user `{name}`"),
                "lower-case letters, digits, `_` and `-`, at most 32",
            );
            return;
        }
        if self.work.users.iter().any(|task| task.called == name) {
            self.reader.notes.lost(&at.span, format!("user `{name}` is there twice"), "keep one of them");
            return;
        }
        let mut settings = vec![Entry::new("name", Out::text(name))];
        for (key, value) in entries(user) {
            let word = self.reader.source.text_of(key).unwrap_or_default();
            let text = self.reader.source.text_of(value).unwrap_or_default();
            match word.as_str() {
                "name" | "gecos" | "ssh-authorized-keys" | "ssh_authorized_keys" => {}
                "lock_passwd" | "lock-passwd" | "lock_password" if text != "false" => {}
                "system" => {
                    if text == "true" {
                        settings.push(Entry::new("system", Out::plain(true)));
                    }
                }
                "shell" | "homedir" | "home" if is_path(&text) => {
                    let key = if word == "shell" { "shell" } else { "home" };
                    settings.retain(|entry| entry.key != key);
                    settings.push(Entry::new(key, Out::text(text)));
                }
                "groups" => {
                    let groups: Vec<String> = items(value)
                        .iter()
                        .filter_map(|item| self.reader.source.text_of(item))
                        .flat_map(|text| {
                            text.split([',', ' ']).map(|word| word.trim().to_owned()).collect::<Vec<_>>()
                        })
                        .filter(|group| is_user(group))
                        .collect();
                    if !groups.is_empty() {
                        settings.push(Entry::new("groups", Out::texts(groups)));
                    }
                }
                "sudo" => {
                    let instead = format!("`file: {{path: /etc/sudoers.d/{name}, mode: \"0440\", text: …}}`");
                    self.reader.notes.lost(&key.span, format!("sudo of user `{name}`"), instead);
                }
                _ => {
                    let what = format!("`{word}` of user `{name}`");
                    self.reader.notes.lost(
                        &key.span,
                        what,
                        "`user` has name, system, shell, home and groups",
                    );
                }
            }
        }
        self.work.users.push(Task::new("user", settings).called(name).from(line));
    }

    /// A key that lets in.
    fn authorized(&mut self, key: &Tree, keys: &mut Vec<String>) {
        let text = self.reader.source.text_of(key).unwrap_or_default();
        let text = self.reader.parameters.put_in(&text);
        let line = text.trim();
        let form = line.strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}")).map(str::trim);
        match form {
            // The operator's own, there already.
            Some("rsa_public.local" | "local.rsa_public") => {}
            Some(form) => {
                let instead = "make a key pair, and put the line of its public part into `keys` of `access`";
                self.reader.notes.lost(
                    &key.span,
                    format!("`{{{{ {form} }}}}`, a key pair made by plumbery"),
                    instead,
                );
            }
            None if fleet_plan::is_public_key(line) => {
                if keys.iter().all(|known| known != line) {
                    keys.push(line.to_owned());
                }
            }
            None => {
                let what = format!("key `{}`", super::shorten(line));
                self.reader.notes.lost(
                    &key.span,
                    what,
                    "a line as in ~/.ssh/id_ed25519.pub, without options",
                );
            }
        }
    }
}
