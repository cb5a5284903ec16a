//! A user of the node: there with its shell, home and groups, or not there.
//!
//! Groups a user is in beside those of the plan are left alone, and so is the home folder of one that is removed.

use std::path::Path;

use async_trait::async_trait;
use fleet_proto::v1::UserTask;
use fleet_task::{Command, Finding, Node, Task, TaskError, TaskId};

use super::support::{
    accounts::{self, Account},
    names,
};

/// Keeps a user.
#[derive(Clone, Debug)]
pub struct User {
    id: TaskId,
    spec: UserTask,
}

impl User {
    /// A user as `spec` says.
    pub fn new(id: TaskId, spec: UserTask) -> Self {
        Self { id, spec }
    }

    fn is_fine(&self, node: &Node) -> Result<(), TaskError> {
        let spec = &self.spec;
        names::account("user", &spec.name)?;
        for (what, path) in [("shell", &spec.shell), ("home", &spec.home)] {
            if path.is_empty() {
                continue;
            }
            names::path(what, path)?;
            if path.contains(':') {
                // It would end the field of /etc/passwd.
                return Err(names::refuse(format!("{what} `{path}` has a colon")));
            }
        }
        if spec.absent {
            return match accounts::user(node, &spec.name)? {
                Some(found) if found.uid == 0 => Err(names::refuse(format!("`{}` is root", spec.name))),
                _ => Ok(()),
            };
        }
        spec.groups.iter().try_for_each(|name| names::account("group", name))?;
        if !spec.shell.is_empty() && !node.path(&spec.shell).exists() {
            return Err(TaskError::Refused {
                why: format!("there is no shell {} on the node", spec.shell),
                next: "install it with an earlier task of the plan, or name another".into(),
            });
        }
        for name in &spec.groups {
            accounts::gid(node, name)?;
        }
        Ok(())
    }

    /// What differs, each with the command that settles it.
    fn steps(&self, node: &Node) -> Result<Vec<(String, Command)>, TaskError> {
        self.is_fine(node)?;
        let spec = &self.spec;
        let name = spec.name.as_str();
        let found = accounts::user(node, name)?;
        if spec.absent {
            let gone = found.map(|_| (format!("remove user {name}"), Command::new("userdel", ["--", name])));
            return Ok(gone.into_iter().collect());
        }
        let account =
            Account { name, system: spec.system, shell: &spec.shell, home: &spec.home, groups: &spec.groups };
        let Some(found) = found else { return Ok(vec![(format!("make user {name}"), account.make(node)?)]) };
        let mut steps = Vec::new();
        let mut change = |what: String, option: &str, value: &str| {
            steps.push((what, Command::new("usermod", [option, value, "--", name])));
        };
        for (what, option, is, wanted) in
            [("shell", "--shell", &found.shell, &spec.shell), ("home", "--home", &found.home, &spec.home)]
        {
            if !wanted.is_empty() && is != wanted {
                change(format!("{what} of {name} is {is}, to become {wanted}"), option, wanted);
            }
        }
        let missing = accounts::missing_groups(node, &found, &spec.groups)?;
        if !missing.is_empty() {
            let list = missing.join(",");
            let what = format!("add {name} to {}", missing.join(", "));
            steps.push((what, Command::new("usermod", ["--append", "--groups", &list, "--", name])));
        }
        let home = if spec.home.is_empty() { &found.home } else { &spec.home };
        // Cut off between the entry and the folder, useradd leaves the second one out.
        if !spec.system && Path::new(home).is_absolute() && !node.path(home).exists() {
            steps.push((format!("make {home}"), Command::new("mkhomedir_helper", [name])));
        }
        Ok(steps)
    }
}

#[async_trait]
impl Task for User {
    fn id(&self) -> &TaskId {
        &self.id
    }

    async fn check(&self, node: &Node) -> Result<Finding, TaskError> {
        Ok(Finding::drift(self.steps(node)?.into_iter().map(|(line, _)| line)))
    }

    async fn apply(&self, node: &Node) -> Result<(), TaskError> {
        for (_, command) in self.steps(node)? {
            tracing::info!(%command, "user");
            node.run(&command).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::support::fake::Debian;

    fn spec() -> UserTask {
        UserTask {
            name: "web".into(),
            shell: "/bin/bash".into(),
            groups: vec!["adm".into()],
            ..UserTask::default()
        }
    }

    fn task(spec: UserTask) -> User {
        User::new(TaskId::new("user"), spec)
    }

    #[tokio::test]
    async fn it_is_made_then_changed_then_removed() {
        let (debian, rig) =
            Debian::rig(&[("/bin/bash", ""), ("/bin/dash", ""), ("/etc/group", "adm:x:4:\nweb2:x:5:\n")]);
        assert_eq!(rig.changed(&task(spec())).await, ["make user web"]);
        assert!(rig.path("/home/web").is_dir());
        rig.unchanged(&task(spec())).await;
        let other =
            UserTask { shell: "/bin/dash".into(), groups: vec!["adm".into(), "web2".into()], ..spec() };
        let expected = ["shell of web is /bin/bash, to become /bin/dash", "add web to web2"];
        assert_eq!(rig.changed(&task(other.clone())).await, expected);
        rig.unchanged(&task(other)).await;
        // Fewer groups in the plan take none away.
        rig.unchanged(&task(UserTask { shell: String::new(), groups: Vec::new(), ..spec() })).await;
        let gone = UserTask { absent: true, ..spec() };
        assert_eq!(rig.changed(&task(gone.clone())).await, ["remove user web"]);
        let before = debian.ran("").len();
        rig.unchanged(&task(gone)).await;
        assert_eq!(debian.ran("").len(), before, "a look starts no program");
    }

    #[tokio::test]
    async fn a_system_user_has_no_login_and_no_home() {
        let (debian, rig) = Debian::rig(&[]);
        let spec = UserTask { name: "todo".into(), system: true, ..UserTask::default() };
        rig.changed(&task(spec.clone())).await;
        let expected = "useradd --system --user-group --shell /usr/sbin/nologin --no-create-home -- todo";
        assert_eq!(debian.ran("useradd"), [expected]);
        rig.unchanged(&task(spec)).await;
    }

    #[tokio::test]
    async fn a_home_that_was_not_made_is_made() {
        let (_debian, rig) = Debian::rig(&[("/bin/bash", ""), ("/etc/group", "adm:x:4:\n")]);
        rig.changed(&task(spec())).await;
        std::fs::remove_dir(rig.path("/home/web")).expect("an empty home");
        assert_eq!(rig.changed(&task(spec())).await, ["make /home/web"]);
        rig.unchanged(&task(spec())).await;
    }

    #[tokio::test]
    async fn bad_input_is_refused_before_anything_runs() {
        let check = async |spec: UserTask, expected: &str| {
            let (debian, rig) =
                Debian::rig(&[("/bin/bash", ""), ("/etc/passwd", "toor:x:0:0::/root:/bin/sh\n")]);
            let why = rig.failed(&task(spec)).await;
            assert!(why.contains(expected) && why.contains("next: "), "{why}");
            assert_eq!(debian.ran("").len(), 0);
        };
        check(UserTask { name: "-r".into(), ..spec() }, "`-r` is not the name of a user").await;
        check(UserTask { name: "a\nroot".into(), ..spec() }, "is not the name of a user").await;
        check(UserTask { shell: "bash".into(), ..spec() }, "shell `bash` is not an absolute path").await;
        check(UserTask { home: "/home/x:/bin/sh".into(), ..spec() }, "has a colon").await;
        check(UserTask { shell: "/bin/fish".into(), ..spec() }, "there is no shell /bin/fish").await;
        check(UserTask { groups: vec!["nowhere".into()], ..spec() }, "there is no group `nowhere`").await;
        check(UserTask { groups: vec!["-G".into()], ..spec() }, "is not the name of a group").await;
        check(UserTask { name: "toor".into(), absent: true, ..UserTask::default() }, "is root").await;
    }
}
