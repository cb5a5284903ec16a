//! Users and groups, read from /etc/passwd and /etc/group (passwd(5), group(5)).
//!
//! Never through the C library: a static program would load the node's name-service modules and crash.

use std::os::unix::fs::MetadataExt;

use fleet_task::{Command, Node, TaskError};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User number.
    pub uid: u32,
    /// Number of its own group.
    pub gid: u32,
    /// Home folder.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Number.
    pub gid: u32,
    /// Users that are in it beside those whose own group it is.
    pub members: Vec<String>,
}

/// The user of that name.
///
/// # Errors
/// [`TaskError::Read`].
pub fn user(node: &Node, name: &str) -> Result<Option<User>, TaskError> {
    Ok(lines(node, PASSWD)?.iter().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields[..] {
            [found, _, uid, gid, _, home, shell] if found == name => Some(User {
                name: found.to_owned(),
                uid: uid.parse().ok()?,
                gid: gid.parse().ok()?,
                home: home.to_owned(),
                shell: shell.to_owned(),
            }),
            _ => None,
        }
    }))
}

/// All groups.
///
/// # Errors
/// [`TaskError::Read`].
pub fn groups(node: &Node) -> Result<Vec<Group>, TaskError> {
    let group = |line: &String| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members] = fields[..] else { return None };
        let members = members.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Some(Group { name: name.to_owned(), gid: gid.parse().ok()?, members })
    };
    Ok(lines(node, GROUP)?.iter().filter_map(group).collect())
}

/// The group of that name.
///
/// # Errors
/// [`TaskError::Read`].
pub fn group(node: &Node, name: &str) -> Result<Option<Group>, TaskError> {
    Ok(groups(node)?.into_iter().find(|group| group.name == name))
}

/// A user to be made.
#[derive(Clone, Copy, Debug)]
pub struct Account<'a> {
    /// Login name.
    pub name: &'a str,
    /// For a service: no home, and by itself no login.
    pub system: bool,
    /// Login shell; empty means `/usr/sbin/nologin` for a system user, else the node's default.
    pub shell: &'a str,
    /// Home folder; empty means the node's default.
    pub home: &'a str,
    /// Groups beside its own.
    pub groups: &'a [String],
}

impl Account<'_> {
    /// The command that makes it, with a group of its own name; one that is there already is taken.
    ///
    /// # Errors
    /// [`TaskError::Read`].
    pub fn make(&self, node: &Node) -> Result<Command, TaskError> {
        let mut args: Vec<&str> = Vec::new();
        if self.system {
            args.push("--system");
        }
        match group(node, self.name)? {
            Some(_) => args.extend(["--gid", self.name]),
            None => args.push("--user-group"),
        }
        let nologin = if self.system { "/usr/sbin/nologin" } else { "" };
        for (option, value) in
            [("--shell", if self.shell.is_empty() { nologin } else { self.shell }), ("--home-dir", self.home)]
        {
            if !value.is_empty() {
                args.extend([option, value]);
            }
        }
        args.push(if self.system { "--no-create-home" } else { "--create-home" });
        let groups = self.groups.join(",");
        if !groups.is_empty() {
            args.extend(["--groups", &groups]);
        }
        args.extend(["--", self.name]);
        Ok(Command::new("useradd", args))
    }
}

/// Those of `wanted` a user is not in.
///
/// # Errors
/// [`TaskError::Read`].
pub fn missing_groups(node: &Node, user: &User, wanted: &[String]) -> Result<Vec<String>, TaskError> {
    let groups = groups(node)?;
    let is_in = |name: &String| {
        groups
            .iter()
            .any(|group| group.name == *name && (group.gid == user.gid || group.members.contains(&user.name)))
    };
    Ok(wanted.iter().filter(|name| !is_in(name)).cloned().collect())
}

/// Number of a user, or a refusal that names it. Root is the owner of the node's own root folder: 0, but for a
/// rehearsal in somebody's folder.
///
/// # Errors
/// [`TaskError::Refused`] for nobody we know, [`TaskError::Read`].
pub fn uid(node: &Node, name: &str) -> Result<u32, TaskError> {
    if name.is_empty() || name == "root" {
        return Ok(root(node)?.0);
    }
    user(node, name)?.map(|user| user.uid).ok_or_else(|| unknown("user", name))
}

/// Number of a group; see [`uid`].
///
/// # Errors
/// [`TaskError::Refused`] for none we know, [`TaskError::Read`].
pub fn gid(node: &Node, name: &str) -> Result<u32, TaskError> {
    if name.is_empty() || name == "root" {
        return Ok(root(node)?.1);
    }
    group(node, name)?.map(|group| group.gid).ok_or_else(|| unknown("group", name))
}

/// Owner and group of the node's root folder.
///
/// # Errors
/// [`TaskError::Read`].
pub fn root(node: &Node) -> Result<(u32, u32), TaskError> {
    let meta =
        std::fs::metadata(node.path("/")).map_err(|source| TaskError::Read { path: "/".into(), source })?;
    Ok((meta.uid(), meta.gid()))
}

fn unknown(what: &str, name: &str) -> TaskError {
    TaskError::Refused {
        why: format!("there is no {what} `{}` on the node", name.escape_debug()),
        next: format!("make it with an earlier task of the plan, or name another {what}"),
    }
}

fn lines(node: &Node, file: &str) -> Result<Vec<String>, TaskError> {
    let bytes = node.read(file)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::tests::Rig;

    #[test]
    fn what_the_files_say() {
        let rig = Rig::new(&[
            (PASSWD, "root:x:0:0:root:/root:/bin/bash\nbroken\nweb:x:33:34::/var/www:/usr/sbin/nologin\n"),
            (GROUP, "root:x:0:\nsudo:x:27:ann,ben\nbad:x:y:\n"),
        ]);
        let node = rig.node();
        let web = user(&node, "web").expect("look").expect("there");
        assert_eq!((web.uid, web.gid, web.home.as_str()), (33, 34, "/var/www"));
        assert_eq!(user(&node, "broken").expect("look"), None);
        assert_eq!(group(&node, "sudo").expect("look").expect("there").members, ["ann", "ben"]);
        assert_eq!(group(&node, "bad").expect("look"), None);
        assert_eq!(uid(&node, "web").expect("there"), 33);
        let why = gid(&node, "web-admins").expect_err("none").explain();
        assert!(why.contains("no group `web-admins`") && why.contains("next: "), "{why}");
        assert_eq!(user(&Rig::new(&[]).node(), "web").expect("no file"), None);
    }
}
