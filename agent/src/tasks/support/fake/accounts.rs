//! useradd and its kin.

use std::fs;

use fleet_task::Output;
use nix::unistd::{getegid, geteuid};

use super::{Debian, failure};

impl Debian {
    pub(super) fn accounts(&self, program: &str, args: &[&str]) -> Output {
        let name = args.last().copied().unwrap_or_default();
        let value = |option: &str| {
            args.iter().position(|arg| *arg == option).and_then(|at| args.get(at + 1)).copied()
        };
        let passwd = self.text("/etc/passwd");
        let exists = passwd.lines().any(|line| line.starts_with(&format!("{name}:")));
        match program {
            "useradd" if exists => return failure(9, "useradd: user exists"),
            "useradd" => {
                let default = format!("/home/{name}");
                let home = value("--home-dir").unwrap_or(&default);
                let (uid, gid) = ids();
                let shell = value("--shell").unwrap_or("/bin/sh");
                self.put("/etc/passwd", &format!("{passwd}{name}:x:{uid}:{gid}::{home}:{shell}\n"));
                self.put("/etc/shadow", &format!("{}{name}:!:1::::::\n", self.text("/etc/shadow")));
                if args.contains(&"--user-group") {
                    self.put("/etc/group", &format!("{}{name}:x:{gid}:\n", self.text("/etc/group")));
                }
                self.join(name, value("--groups"));
                if args.contains(&"--create-home") {
                    self.home(home);
                }
            }
            _ if !exists => return failure(6, &format!("{program}: user '{name}' does not exist")),
            "userdel" => {
                let kept = passwd.lines().filter(|line| !line.starts_with(&format!("{name}:")));
                let text = kept.map(|line| format!("{line}\n")).collect::<String>();
                self.put("/etc/passwd", &text);
            }
            "mkhomedir_helper" => {
                let line = passwd.lines().find(|line| line.starts_with(&format!("{name}:")));
                self.home(line.and_then(|line| line.split(':').nth(5)).unwrap_or("/home/x"));
            }
            _ if args.contains(&"--lock") => {
                let shadow = self.text("/etc/shadow").replace(&format!("{name}:"), &format!("{name}:!"));
                self.put("/etc/shadow", &shadow);
            }
            _ => {
                let change = |line: &str| {
                    let mut fields: Vec<&str> = line.split(':').collect();
                    if fields[0] == name {
                        for (option, at) in [("--home", 5), ("--shell", 6)] {
                            fields[at] = value(option).unwrap_or(fields[at]);
                        }
                    }
                    fields.join(":") + "\n"
                };
                self.put("/etc/passwd", &passwd.lines().map(change).collect::<String>());
                self.join(name, value("--groups"));
            }
        }
        Output::ok("")
    }

    fn join(&self, name: &str, groups: Option<&str>) {
        for group in groups.unwrap_or_default().split(',').filter(|group| !group.is_empty()) {
            let add = |line: &str| match line.starts_with(&format!("{group}:")) {
                true if line.ends_with(':') => format!("{line}{name}\n"),
                true => format!("{line},{name}\n"),
                false => format!("{line}\n"),
            };
            let text = self.text("/etc/group").lines().map(add).collect::<String>();
            self.put("/etc/group", &text);
        }
    }

    fn home(&self, home: &str) {
        let path = self.path(home);
        fs::create_dir_all(&path).expect("home");
        let (uid, gid) = ids();
        std::os::unix::fs::chown(&path, Some(uid), Some(gid)).expect("its own user");
    }
}

/// Numbers of the first user: an ordinary one where we may give files away, else our own.
fn ids() -> (u32, u32) {
    let mapped = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let all =
        mapped.split_whitespace().nth(2).and_then(|count| count.parse::<u32>().ok()).unwrap_or(0) > 1000;
    if geteuid().is_root() && all { (1000, 1000) } else { (geteuid().as_raw(), getegid().as_raw()) }
}
