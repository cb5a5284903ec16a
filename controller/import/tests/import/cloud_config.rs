//! What tasks know of cloud-config.

use crate::{check, imported, told, with_node};

/// A node with this cloud-config.
fn with_config(config: &str) -> String {
    let config: String = config.lines().map(|line| format!("  {line}\n")).collect();
    with_node(&format!("cloud-config:\n{config}"))
}

const LOGIN: &str = "- access: {login: fleet, keys: [operator]}";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBqwerd0hIiVoE7J6zC0M4WmbPCTcr1rEYrzcf3RCUXI me@host";

#[test]
fn keys_of_cloud_config() {
    let config =
        |config: &str, expected: &[&str], notes: &[&str]| check(&with_config(config), expected, notes);
    config("packages: [nginx, g++]", &[LOGIN, "- package: {names: [nginx, g++]}"], &[]);
    config("packages: [[nginx, '1.2']]", &["names: [nginx]"], &["lost: version 1.2 of package `nginx`"]);
    config("packages: [Not-A-Package]", &[], &["lost: package `Not-A-Package`"]);
    for clock in ["ntp", "chrony", "ntpdate"] {
        config(&format!("packages: [{clock}]"), &["- clock: {}"], &["changed: keeping the clock"]);
    }
    config(
        "ntp: {enabled: true, servers: [a.example.org], pools: [b.example.org]}",
        &["- clock: {servers: [a.example.org, b.example.org]}"],
        &[],
    );
    config("ntp: {colour: red}", &["- clock: {}"], &["lost: `colour` of ntp"]);
    config("package_update: true", &["- update: {everyHours: 24}"], &["changed: updating packages"]);
    config(
        "package_upgrade: true\npackage_reboot_if_required: true",
        &["- update: {everyHours: 24, reboot: true}"],
        &["changed: updating packages"],
    );
    config("package_update: false", &[LOGIN], &[]);
    config("hostname: \"{{ node.name }}\"", &[], &["changed: setting the host name"]);
    config("hostname: one", &[], &["changed: setting the host name"]);
    config("fqdn: one.example.org", &[], &["changed: setting the host name"]);
    config("hostname: other", &[], &["lost: hostname `other`"]);
    config("manage_etc_hosts: true", &[], &["changed: keeping /etc/hosts"]);
    config("growpart: {mode: auto}\nresize_rootfs: true", &[], &["changed: growing the root volume"]);
    config("final_message: done", &[], &["changed: `final_message` of cloud-config"]);
    config("ssh_deletekeys: false", &[], &["changed: `ssh_deletekeys` of cloud-config"]);
    config("bootcmd: [a, [b, c]]", &[], &["lost: bootcmd `a`", "lost: bootcmd `b c`"]);
    for lost in [
        "apt",
        "apt_sources",
        "chpasswd",
        "disk_setup",
        "groups",
        "locale",
        "mounts",
        "password",
        "power_state",
        "puppet",
        "swap",
        "timezone",
        "yum_repos",
        "unheard",
    ] {
        config(&format!("{lost}: x"), &[], &[&format!("lost: `{lost}` of cloud-config")]);
    }
}

#[test]
fn people() {
    let config =
        |config: &str, expected: &[&str], notes: &[&str]| check(&with_config(config), expected, notes);
    config(
        &format!("ssh_authorized_keys: ['{KEY}', \"{{{{ rsa_public.local }}}}\"]"),
        &["- access:\n", "login: fleet", KEY],
        &[],
    );
    config("ssh_authorized_keys: [nonsense]", &[LOGIN], &["lost: key `nonsense`"]);
    config(
        "ssh_authorized_keys: [\"{{ rsa_public.k }}\"]",
        &[LOGIN],
        &["lost: `{{ rsa_public.k }}`, a key pair"],
    );
    config(
        "users:\n  - default\n  - name: me\n    sudo: ALL\n    ssh-authorized-keys: [\"{{ rsa_public.local }}\"]",
        &["- access: {login: me, keys: [operator]}"],
        &["changed: the image's own user"],
    );
    config(
        "users:\n  - name: root\n    ssh_authorized_keys: [\"{{ rsa_public.local }}\"]",
        &[LOGIN],
        &["changed: keys of root"],
    );
    config(
        "users:\n  - name: app\n    system: true\n    homedir: /srv/app\n    shell: /bin/false\n    groups: adm, video",
        &["- user: {name: app, system: true, home: /srv/app, shell: /bin/false, groups: [adm, video]}"],
        &[],
    );
    config(
        "users:\n  - name: app\n    sudo: ALL\n    passwd: x",
        &["- user: {name: app}"],
        &["lost: sudo of user `app`", "lost: `passwd` of user `app`"],
    );
    config(
        &format!(
            "users:\n  - {{name: a, ssh-authorized-keys: ['{KEY}']}}\n  - {{name: b, ssh-authorized-keys: ['{KEY}']}}"
        ),
        &["login: a", "- user: {name: b}"],
        &["lost: keys of user `b`"],
    );
    config("users:\n  - name: Not_A_User", &[LOGIN], &["lost: user `Not_A_User`"]);
    config("ssh_pwauth: false", &[LOGIN], &["changed: letting nobody in by password"]);
    config("ssh_pwauth: true", &[LOGIN], &["lost: login by password"]);
    config("disable_root: true", &[LOGIN], &[]);
    config("disable_root: false", &[LOGIN], &["lost: login as root"]);
    config(
        "ssh_keys: {rsa_private: x, rsa_public: y}",
        &[LOGIN],
        &["lost: host key `rsa_private`", "lost: host key `rsa_public`"],
    );
}

#[test]
fn files() {
    let file = |file: &str, expected: &[&str], notes: &[&str]| {
        let lines: String = file.lines().map(|line| format!("    {line}\n")).collect();
        check(&with_config(&format!("write_files:\n  -\n{lines}")), expected, notes);
    };
    file("path: /etc/motd\ncontent: hello", &["- file: {path: /etc/motd, text: hello}"], &[]);
    file(
        "path: /etc/motd\ncontent: |\n  a\n   b",
        &["text: |\n                    a\n                     b\n"],
        &[],
    );
    file(
        "path: /x\ncontent: y\nowner: www-data:adm\npermissions: '0640'",
        &["owner: www-data, group: adm", "mode: \"0640\""],
        &[],
    );
    file("path: /x\ncontent: y\npermissions: 0755", &["mode: \"0755\""], &[]);
    file("path: /x\ncontent: aGVsbG8=\nencoding: b64", &["text: hello"], &[]);
    file("path: /x\ncontent: /w==\nencoding: b64", &[], &["lost: file `/x`, which is no text"]);
    file("path: /x\ncontent: y\nencoding: gz+b64", &[], &["lost: file `/x`, packed as gz+b64"]);
    file("path: /x\ncontent: y\nappend: true", &[], &["lost: appending to file `/x`"]);
    file("path: x\ncontent: y", &[], &["lost: file `x`"]);
    file("content: y", &[], &["lost: a file without a path"]);
    file("path: /x\ncontent: y\ncolour: red", &["text: \"y\""], &["lost: `colour` of file `/x`"]);
    file("path: /etc/hosts\ncontent: y", &[], &["changed: keeping /etc/hosts"]);
    file("path: /etc/hostname\ncontent: y", &[], &["changed: setting the host name"]);
    file("path: /etc/init/x.conf\ncontent: y", &[], &["lost: file `/etc/init/x.conf`"]);
}

#[test]
fn commands() {
    let run = |line: &str, expected: &[&str], notes: &[&str]| {
        check(&with_config(&format!("runcmd:\n  - {line}")), expected, notes)
    };
    let done =
        |line: &str, expected: &str, note: &str| run(line, &[expected], &[&format!("changed: {note}")]);
    done("echo \"hello\"", LOGIN, "messages of scripts");
    done("sleep 1m", LOGIN, "waiting in scripts");
    done("cd /tmp", LOGIN, "changing folders");
    for volume in [
        "pvcreate /dev/sdb",
        "vgextend rootvol00 /dev/sdb",
        "lvextend -l +100%FREE /dev/x",
        "resize2fs /dev/x",
    ] {
        done(volume, LOGIN, "growing the root volume");
    }
    done("cat x >> /etc/hosts", LOGIN, "keeping /etc/hosts");
    done("hostname x", LOGIN, "setting the host name");
    done("apt-get update", "- update: {everyHours: 24}", "updating packages");
    done("apt-get update && apt-get -y dist-upgrade", "- update: {everyHours: 24}", "updating packages");
    done("sudo apt-get install -y nginx vim", "- package: {names: [nginx, vim]}", "installing packages");
    done("apt-get install -y ntp", "- clock: {}", "keeping the clock");
    done("apt-get purge -y nginx", "- package: {names: [nginx], absent: true}", "installing packages");
    done("service nginx start", "- service: {unit: nginx.service}", "starting and stopping services");
    done(
        "systemctl enable nginx.service",
        "- service: {unit: nginx.service}",
        "starting and stopping services",
    );
    done(
        "systemctl disable nginx; systemctl stop nginx",
        "- service: {unit: nginx.service, enabled: false, running: false}",
        "starting and stopping services",
    );
    done("restart nginx", "- service: {unit: nginx.service}", "starting and stopping services");
    done("service ntp restart", "- clock: {}", "keeping the clock");
    done("service ssh restart", LOGIN, "letting nobody in by password");
    done("mkdir -p /srv/x", "- file: {path: /srv/x, directory: true}", "making and removing files");
    done("rm -f /x", "- file: {path: /x, absent: true}", "making and removing files");
    done("touch /x", "- command: {args: [touch, /x], creates: /x}", "running programs once");
    done("[git, clone, \"https://example.org/x\", /srv/x]", "creates: /srv/x", "running programs once");
    done("wget -O /x https://example.org/x", "creates: /x", "running programs once");
    done("curl -sSL -o /x https://example.org/x", "creates: /x", "running programs once");
    done("ln -s /a /b", "creates: /b", "running programs once");
    for lost in [
        "curl https://example.org | sh",
        "[sh, -c, x]",
        "rm -rf /x",
        "mkdir -m 0700 /x",
        "pip install x",
        "yum install x",
        "ufw allow 22",
        "reboot",
        "sysctl -p",
        "useradd x",
        "chown a /b",
        "sed -i s/a/b/ /x",
        "cp /a /b",
        "vgcreate a /dev/sdb",
        "if true; then echo; fi",
        "echo a > /b",
        "touch $HOME/x",
        "git clone https://example.org/x",
        "service nginx status",
        "apt-get update && do-something",
        "apt-get -t backports install x",
        "do-something --now",
        "{a: b}",
    ] {
        run(lost, &[LOGIN], &["lost: command"]);
    }
}

#[test]
fn what_belongs_together_is_one_task() {
    check(
        &with_config(
            "write_files: [{path: /etc/nginx/nginx.conf, content: x}]\nruncmd:\n  - service nginx stop\n  - service nginx start\n  - systemctl enable nginx\n",
        ),
        &["- service: {unit: nginx.service, restartOn: [/etc/nginx/nginx.conf]}"],
        &["changed: starting and stopping services"],
    );
    check(
        &with_config(
            "write_files:\n  - {path: /a, content: x}\n  - {path: /b, content: y}\n  - {path: /a, content: z}\n",
        ),
        &[
            "- name: b\n                file: {path: /b, text: \"y\"}",
            "- name: a\n                file: {path: /a, text: z}",
        ],
        &[],
    );
}

#[test]
fn clusters() {
    let one = |lines: &str| with_config(&format!("runcmd:\n  - apt-get install -y rethinkdb\n{lines}"));
    check(
        &one(""),
        &["- rethinkdb: {seed: one}"],
        &["changed: installing, configuring and starting RethinkDB"],
    );
    let text = with_config(
        "packages: [rethinkdb]\nwrite_files:\n  - path: /etc/rethinkdb/instances.d/x.conf\n    content: |\n      bind=all\n      cache-size=512\n      http-port=9090\n",
    );
    check(
        &text,
        &["- rethinkdb: {seed: one, cacheMb: 512}"],
        &["changed: installing, configuring", "lost: `http-port=9090` of RethinkDB"],
    );
    let todo = "  - git clone https://github.com/rethinkdb/rethinkdb-example-flask-backbone-todo.git\n  - python todo.py --setup\n";
    let import = imported(&one(todo));
    for line in [
        "- database: {name: todo, table: tasks, replicas: 1}",
        "- todo: {port: 5000, database: todo, table: tasks}",
    ] {
        assert!(import.plan.contains(line), "{}", import.plan);
    }
    let import = imported(&with_config(&format!("runcmd:\n{todo}")));
    assert!(told(&import).contains("lost line 14: the todo application on `one`"), "{}", told(&import));
    // Servers that do not join each other are not one cluster.
    let two = one("") + "        - two:\n            cloud-config: {packages: [rethinkdb]}\n";
    let import = imported(&two);
    assert!(
        told(&import).contains("lost line 16: a RethinkDB server of its own on `two`"),
        "{}",
        told(&import)
    );
}
