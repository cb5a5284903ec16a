//! Templating: every form of plumbery, and what stands for it in our plans.

use crate::{directory::Directory, parameter::Parameters};

/// A piece of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Text(&'a str),
    /// `whole` is `{{ inner }}`, with nothing in braces inside.
    Form {
        whole: &'a str,
        inner: &'a str,
    },
}

/// Cuts a text at its innermost forms.
pub(crate) fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let form = rest.match_indices("}}").find_map(|(end, _)| {
            let start = rest[..end].rfind("{{")?;
            let inner = rest[start + 2..end].trim_matches([' ', '\t', '\\']);
            (!inner.is_empty() && !inner.contains('\n')).then_some((start, end + 2, inner))
        });
        match form {
            Some((0, end, inner)) => {
                let whole = &rest[..end];
                rest = &rest[end..];
                Some(Part::Form { whole, inner })
            }
            Some((start, _, _)) => {
                let text = &rest[..start];
                rest = &rest[start..];
                Some(Part::Text(text))
            }
            None => Some(Part::Text(std::mem::take(&mut rest))),
        }
    })
}

/// Where a text is.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) parameters: &'a Parameters,
    pub(crate) directory: &'a Directory,
    /// Location, as plumbery and as our plan write it.
    pub(crate) location: Option<(&'a str, &'a str)>,
    /// Whether there is a node, and whether it has a public address.
    pub(crate) node: Option<bool>,
}

/// A text for our plan, and what could not be said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Translated {
    /// With every form that has no counterpart in parentheses instead of braces.
    pub(crate) text: String,
    pub(crate) gaps: Vec<Gap>,
}

/// A form without counterpart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// As it is written.
    pub(crate) whole: String,
    /// What to do.
    pub(crate) instead: &'static str,
}

impl Scope<'_> {
    /// Says a text in our forms.
    pub(crate) fn translate(&self, text: &str) -> Translated {
        // A form within a form is a name put together: only its value can be referred to.
        let text = if is_nested(text) { self.parameters.put_in(text) } else { text.to_owned() };
        let mut out = Translated::default();
        for part in parts(&text) {
            match part {
                Part::Text(text) => out.text.push_str(text),
                Part::Form { whole, inner } => match self.form(inner) {
                    Ok(text) => out.text.push_str(&text),
                    Err(instead) => {
                        out.text.push_str(&format!("({inner})"));
                        out.gaps.push(Gap { whole: whole.to_owned(), instead });
                    }
                },
            }
        }
        // Braces that are no form at all, which our plans would take for one.
        if let Some(at) = out.text.find("{{").filter(|_| unclosed(&out.text)) {
            let whole = out.text[at..].lines().next().unwrap_or_default().to_owned();
            out.gaps.push(Gap {
                whole,
                instead: "texts with `{{` of their own come from a file: `file: {source: FILE}`",
            });
            out.text = blunt(&out.text);
        }
        out
    }

    /// What stands for `{{ inner }}`.
    fn form(&self, inner: &str) -> Result<String, &'static str> {
        const SECRET: &str =
            "secrets are not made by plans; keep it in a file of this host: `file: {source: FILE}`";
        const KEYS: &str = "key pairs are not made by plans; make one, and put its parts where they belong";
        const UNKNOWN: &str = "nothing has this name; plumbery leaves it as it is";
        let own = |what: &str| format!("{{{{ {what} }}}}");
        if let Some(name) = inner.strip_prefix("parameter.") {
            let known = self.parameters.name(name).ok_or("declare it under `parameters`")?;
            return Ok(own(&format!("parameter.{known}")));
        }
        if let Some(attribute) = inner.strip_prefix("node.").or((inner == "node").then_some("private")) {
            let public = self.node.ok_or("name the node: `{{ NAME.public }}`")?;
            return match attribute {
                "public" if !public => Err("the node has no public address: give it `internet`"),
                "name" | "private" | "ipv6" | "public" => Ok(own(&format!("node.{attribute}"))),
                "id" => Err("ids of servers are not known to plans; names are: `{{ node.name }}`"),
                "private_host" => Err("say it with `{{ node.private }}`, which has dots"),
                _ => Err(UNKNOWN),
            };
        }
        let words: Vec<&str> = inner.split('.').collect();
        let has = |word: &str| words.len() > 1 && words.contains(&word);
        match inner {
            "location.id" => {
                return self.location.map(|(_, own)| own.to_owned()).ok_or("write the location's name");
            }
            "location.country" => return Err("write the country's name"),
            "shared.user" => return Err("`access` says who logs in"),
            "shared.secret" => {
                return Err("there is no shared password: `access` lets keys in, nothing else");
            }
            "plumbery.version" => return Err("plumbery has no part in it any more"),
            "balancer.name" | "balancer.ip" | "balancer.port" => {
                return Err("fleets have no balancers; name a node: `{{ NAME.public }}`");
            }
            _ => {}
        }
        if inner.starts_with("environment.") {
            return Err("make it a parameter, and say --set NAME=VALUE");
        }
        if inner.starts_with("credentials.") || inner.ends_with(".credentials") {
            return Err("credentials of the cloud stay with the controller");
        }
        if inner.starts_with("http://") || inner.starts_with("https://") {
            return Err("download it to this host: `file: {source: FILE}`");
        }
        if has("rsa_private") || has("rsa_public") {
            return Err(if inner == "rsa_public.local" {
                "`access: {keys: [operator]}` is this key"
            } else {
                KEYS
            });
        }
        if (has("secret") || has("uuid"))
            && self.directory.find(inner, self.location.map(|(id, _)| id)).is_none()
        {
            return Err(if has("uuid") { "write one down, or let a `command` make it" } else { SECRET });
        }
        let (path, attribute) = inner.rsplit_once('.').unwrap_or((inner, "private"));
        let Some(found) = self.directory.find(path, self.location.map(|(id, _)| id)) else {
            return Err(UNKNOWN);
        };
        match attribute {
            "public" if !found.public => Err("the node has no public address: give it `internet`"),
            "private" | "ipv6" | "public" => Ok(own(&match &found.location {
                Some(location) => format!("{location}::{}.{attribute}", found.name),
                None => format!("{}.{attribute}", found.name),
            })),
            _ => Err(UNKNOWN),
        }
    }
}

fn is_nested(text: &str) -> bool {
    let mut depth = 0;
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (two, after) = (&rest[at..], &rest[at + 1..]);
        if two.starts_with("{{") {
            depth += 1;
            rest = &rest[at + 2..];
        } else if two.starts_with("}}") {
            depth = i32::max(depth - 1, 0);
            rest = &rest[at + 2..];
        } else {
            rest = after;
        }
        if depth > 1 {
            return true;
        }
    }
    false
}

/// Whether there are braces that our plans take for a form and cannot read.
fn unclosed(text: &str) -> bool {
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let Some(end) = rest.find("}}") else { return true };
        if end < start {
            // Our reader looks for the first end; an earlier one belongs to nothing.
            rest = &rest[end + 2..];
            continue;
        }
        let inner = rest[start + 2..end].trim();
        if inner.contains(['{', '}', '\n', ' ']) || !inner.contains('.') {
            return true;
        }
        rest = &rest[end + 2..];
    }
    false
}

/// The text with braces that mean nothing set apart.
fn blunt(text: &str) -> String {
    let mut text = text.to_owned();
    while text.contains("{{") {
        text = text.replace("{{", "{ {");
    }
    text
}
