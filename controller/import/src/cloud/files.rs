//! `write_files`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fleet_plan::Tree;

use super::{APPLICATION, CloudConfig, HOSTNAME, HOSTS, RETHINKDB, TODO, Task, is_path, is_user};
use crate::{
    emit::{Entry, Out},
    tree::{entries, get, items},
};

impl CloudConfig<'_, '_, '_> {
    pub(super) fn files(&mut self, list: &Tree) {
        for item in items(list) {
            self.one_file(item);
        }
    }

    fn one_file(&mut self, item: &Tree) {
        let text = |key: &str| get(item, key).and_then(|tree| self.reader.source.text_of(tree));
        let Some(path) = text("path").map(|path| self.reader.parameters.put_in(path.trim())) else {
            self.reader.notes.lost(&item.span, "a file without a path", "`file: {path: /etc/motd, text: …}`");
            return;
        };
        let content = text("content").unwrap_or_default();
        let (owner, permissions, encoding) = (text("owner"), text("permissions"), text("encoding"));
        let append = text("append").is_some_and(|word| word == "true");
        if self.is_known(&path, &content, item) {
            return;
        }
        let what = format!("file `{path}`");
        if path.starts_with("/etc/init/") {
            let instead = format!(
                "`file` for a unit below /etc/systemd/system, then `service`: {} is for upstart",
                path
            );
            self.reader.notes.lost(&item.span, what, instead);
            return;
        }
        if !is_path(&path) {
            self.reader.notes.lost(&item.span, what, "an absolute path");
            return;
        }
        if append {
            let instead = "a `file` is the whole file: say all of it";
            self.reader.notes.lost(&item.span, format!("appending to {what}"), instead);
            return;
        }
        let content = match encoding.as_deref().unwrap_or("text/plain") {
            "text/plain" => content,
            "b64" | "base64" => {
                let packed: String = content.split_whitespace().collect();
                match STANDARD.decode(packed).ok().and_then(|bytes| String::from_utf8(bytes).ok()) {
                    Some(text) if !text.contains('\0') => text,
                    _ => {
                        let instead = "keep it beside the plan: `file: {source: FILE}`";
                        self.reader.notes.lost(&item.span, format!("{what}, which is no text"), instead);
                        return;
                    }
                }
            }
            other => {
                let instead = "unpack it beside the plan: `file: {source: FILE}`";
                self.reader.notes.lost(&item.span, format!("{what}, packed as {other}"), instead);
                return;
            }
        };
        let at = get(item, "content").unwrap_or(item);
        let Some(content) = self.text(&content, at, &what) else { return };
        let mut settings = vec![Entry::new("path", Out::text(&path)), Entry::new("text", Out::text(content))];
        if let Some(mode) = permissions {
            let digits = mode.trim_start_matches("0o");
            if (3..=4).contains(&digits.len()) && digits.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
                settings.insert(1, Entry::new("mode", Out::text(format!("{digits:0>4}"))));
            } else {
                self.reader.notes.lost(
                    &item.span,
                    format!("permissions `{mode}` of {what}"),
                    "`mode: \"0644\"`",
                );
            }
        }
        if let Some(owner) = owner {
            let (user, group) = owner.split_once(':').unwrap_or((&owner, &owner));
            if is_user(user) && is_user(group) {
                if (user, group) != ("root", "root") {
                    settings.insert(1, Entry::new("group", Out::text(group)));
                    settings.insert(1, Entry::new("owner", Out::text(user)));
                }
            } else {
                self.reader.notes.lost(
                    &item.span,
                    format!("owner `{owner}` of {what}"),
                    "`owner` and `group`",
                );
            }
        }
        for (key, _) in entries(item) {
            let word = self.reader.source.text_of(key).unwrap_or_default();
            if !["path", "content", "owner", "permissions", "encoding", "append", "defer"]
                .contains(&word.as_str())
            {
                self.reader.notes.lost(
                    &key.span,
                    format!("`{word}` of {what}"),
                    "`file` has path, text, mode, owner, group",
                );
            }
        }
        // The last one wins, as when they are written one after the other.
        self.work.files.retain(|task| task.called != path);
        self.work
            .files
            .push(Task::new("file", settings).called(&path).from(self.reader.source.line_of(item)));
    }

    /// Whether the file is the business of something that is there already.
    fn is_known(&mut self, path: &str, content: &str, item: &Tree) -> bool {
        if path == "/etc/hosts" {
            self.same(item, HOSTS);
        } else if path == "/etc/hostname" {
            self.same(item, HOSTNAME);
        } else if path.starts_with("/etc/rethinkdb/") && self.work.member.is_some() {
            self.same(item, RETHINKDB);
            self.instance(content, item);
        } else if self.has_todo && (content.contains(TODO) || content.contains("todo.py")) {
            self.work.todo.get_or_insert_with(|| item.span.clone());
            self.same(item, APPLICATION);
        } else if self.used.iter().any(|used| used == path) {
            let instead = "nothing needs it any more";
            self.reader.notes.changed(&item.span, format!("file `{path}`"), instead);
        } else {
            return false;
        }
        true
    }

    /// An instance file of RethinkDB.
    fn instance(&mut self, content: &str, item: &Tree) {
        for line in content.lines().map(str::trim) {
            let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) else {
                continue;
            };
            let (key, value) = (key.trim(), self.reader.parameters.put_in(value.trim()));
            match (key, value.as_str()) {
                (
                    "join" | "server-name" | "bind" | "directory" | "canonical-address" | "runuser"
                    | "rungroup",
                    _,
                )
                | ("http-port", "8080")
                | ("driver-port", "28015")
                | ("cluster-port", "29015") => {}
                ("cache-size", "auto") => {}
                ("cache-size", size)
                    if size.parse::<u32>().is_ok_and(|size| (16..=1 << 20).contains(&size)) =>
                {
                    if let Some(member) = &mut self.work.member {
                        member.cache_mb = Some(size.to_owned());
                    }
                }
                _ => {
                    let place = self.reader.source.locate(item, line);
                    let instead = "`rethinkdb` has `seed`, `package` and `cacheMb`";
                    self.reader.notes.lost(&place, format!("`{line}` of RethinkDB"), instead);
                }
            }
        }
    }
}
