//! The tests' stand-in for RethinkDB as a Debian package, with the paths of the official one.
//!
//! Test equipment for machines that cannot reach RethinkDB's packages: its name is `rethinkdb` so that the same tasks
//! install it, its version sorts before the release it stands in for, and its description says what it is.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    build, paths,
    run::{Done, output, run},
};

/// A real 2.4.4 replaces it; the tilde sorts before nothing.
const VERSION: &str = "2.4.4~standin1";

/// `adduser`, as in the official package, makes the user.
const CONTROL: &str = "\
Package: rethinkdb
Version: VERSION
Architecture: ARCHITECTURE
Section: database
Priority: optional
Maintainer: nobody <nobody@invalid>
Depends: adduser
Installed-Size: SIZE
Description: stand-in for RethinkDB, for tests
 Not RethinkDB: a program for tests that speaks its driver protocol for a small
 part of what it does, on machines that cannot reach RethinkDB's packages.
 .
 Do not keep anything in it that matters to you.
";

const POSTINST: &str = "\
#!/bin/sh
set -e
if [ \"$1\" = configure ]; then
    if ! getent passwd rethinkdb >/dev/null; then
        adduser --system --quiet --group --no-create-home --home /var/lib/rethinkdb rethinkdb
    fi
    chown rethinkdb:rethinkdb /var/lib/rethinkdb
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload || true
        # Nothing is started that was not enabled before.
        for unit in $(systemctl list-unit-files --plain --no-legend --state=enabled 'rethinkdb@*.service' | cut -d' ' -f1); do
            case $unit in
                rethinkdb@.service) ;;
                *) systemctl restart \"$unit\" || true ;;
            esac
        done
    fi
fi
";

const PRERM: &str = "\
#!/bin/sh
set -e
if [ \"$1\" = remove ] && [ -d /run/systemd/system ]; then
    systemctl stop 'rethinkdb@*.service' || true
fi
";

const POSTRM: &str = "\
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
fi
";

const UNIT: &str = "\
[Unit]
Description=RethinkDB (stand-in for tests), instance %i
After=network-online.target
Wants=network-online.target

[Service]
User=rethinkdb
Group=rethinkdb
ExecStart=/usr/bin/rethinkdb serve --config-file /etc/rethinkdb/instances.d/%i.conf
PrivateTmp=true

[Install]
WantedBy=multi-user.target
";

const SAMPLE: &str = "\
# An instance of the tests' stand-in for RethinkDB. Copy this to /etc/rethinkdb/instances.d/NAME.conf, make its data
# directory with `rethinkdb create`, and start rethinkdb@NAME. The keys are those of RethinkDB.

# server-name=server1
# server-tag=default
# directory=/var/lib/rethinkdb/default
# bind=127.0.0.1
# bind-cluster=all
# bind-http=all
# canonical-address=[2001:db8::1]:29015
# join=[2001:db8::2]:29015
# cluster-port=29015
# driver-port=28015
# http-port=8080
# cluster-tls-key=/etc/rethinkdb/tls/key.pem
# cluster-tls-cert=/etc/rethinkdb/tls/cert.pem
# cluster-tls-ca=/etc/rethinkdb/tls/ca.pem
# http-tls-key=/etc/rethinkdb/tls/key.pem
# http-tls-cert=/etc/rethinkdb/tls/cert.pem
# cache-size=64
";

/// [`package`], and its path on standard output.
#[expect(clippy::print_stdout, reason = "the path is what the command is run for")]
pub fn print() -> Done {
    println!("{}", package()?.display());
    Ok(())
}

/// Builds the program and the package around it; where the package lies.
pub fn package() -> Done<PathBuf> {
    let program =
        build::static_program(&build::Yard::usual(), "fleet-rethinkdb-standin", "rethinkdb-standin", |_| {
            Ok(())
        })?;
    let root = paths::target().join("standin-root");
    let made = fs::remove_dir_all(&root).or_else(|why| match why.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(why),
    });
    made.map_err(|why| format!("empty {}: {why}", root.display()))?;
    let (_, architecture) = output(Command::new("dpkg").arg("--print-architecture"))?;
    let size = fs::metadata(&program).map_err(|why| format!("{}: {why}", program.display()))?.len();
    let control = CONTROL
        .replace("VERSION", VERSION)
        .replace("ARCHITECTURE", architecture.trim())
        .replace("SIZE", &size.div_ceil(1024).to_string());
    put(&root, "DEBIAN/control", control.as_bytes(), 0o644)?;
    put(&root, "DEBIAN/conffiles", b"/etc/rethinkdb/default.conf.sample\n", 0o644)?;
    put(&root, "DEBIAN/postinst", POSTINST.as_bytes(), 0o755)?;
    put(&root, "DEBIAN/prerm", PRERM.as_bytes(), 0o755)?;
    put(&root, "DEBIAN/postrm", POSTRM.as_bytes(), 0o755)?;
    let binary = fs::read(&program).map_err(|why| format!("read {}: {why}", program.display()))?;
    put(&root, "usr/bin/rethinkdb", &binary, 0o755)?;
    put(&root, "usr/lib/systemd/system/rethinkdb@.service", UNIT.as_bytes(), 0o644)?;
    put(&root, "etc/rethinkdb/default.conf.sample", SAMPLE.as_bytes(), 0o644)?;
    for folder in ["etc/rethinkdb/instances.d", "var/lib/rethinkdb"] {
        open_folder(&root, &root.join(folder))?;
    }
    let file = paths::dist().join("rethinkdb-standin.deb");
    let new = file.with_extension("deb.new");
    run(
        "pack the stand-in",
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zgzip", "--build"])
            .args([&root, &new])
            // The same program gives the same package, byte for byte: its content is its address.
            .env("SOURCE_DATE_EPOCH", "0")
            // What it says is of no interest to whoever wants only the path.
            .stdout(std::process::Stdio::null()),
    )?;
    fs::rename(&new, &file).map_err(|why| format!("place {}: {why}", file.display()))?;
    Ok(file)
}

fn put(root: &Path, path: &str, content: &[u8], mode: u32) -> Done {
    let file = root.join(path);
    if let Some(folder) = file.parent() {
        open_folder(root, folder)?;
    }
    let failed = |why: std::io::Error| format!("write {}: {why}", file.display());
    fs::write(&file, content).map_err(failed)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).map_err(failed)
}

/// Makes a folder that everybody may look into and nobody may change, whatever the umask of whoever builds.
fn open_folder(root: &Path, folder: &Path) -> Done {
    let failed = |why: std::io::Error| format!("make {}: {why}", folder.display());
    fs::create_dir_all(folder).map_err(failed)?;
    for folder in folder.ancestors().take_while(|folder| folder.starts_with(root)) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    }
    Ok(())
}
