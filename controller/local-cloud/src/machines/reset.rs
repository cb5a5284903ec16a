//! Removes every trace of a cloud's machines and networks, also those a crash left.

use std::{fs, io, time::Duration};

use super::{Settings, marker, names::Names, namespace, net, process, run::Doing, vm::Vms};
use crate::backing::BackingError;

/// What is killed outright is gone at once, unless the host is in trouble.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Removes machines, namespaces, links and files of the cloud, whatever state they are in. Running it again
/// finds nothing. The image cache stays. Answers one line for each thing removed.
///
/// The cloud itself must not be running: it would put things back.
pub async fn reset(settings: &Settings) -> Result<Vec<String>, BackingError> {
    let names = Names::new(&settings.prefix, &settings.cloud);
    let mut removed = Vec::new();

    // Processes are found by their command lines, so that a lost pid file hides none.
    for mark in [Vms::mark(&settings.servers()), net::slirp_mark(&names)] {
        for pid in process::find(&mark) {
            if !process::end(pid, &mark, KILL_TIMEOUT).await {
                return Err(BackingError::Deadline {
                    doing: format!("end process {pid}"),
                    after_s: KILL_TIMEOUT.as_secs(),
                });
            }
            removed.push(format!("process {pid} ({})", mark.program));
        }
    }
    let host_link = names.host_link();
    if namespace::links(None).await?.iter().any(|link| link.ifname == host_link) {
        namespace::ip(None, "remove the host's link", &format!("link del {host_link}\n")).await?;
        removed.push(format!("link {host_link}"));
    }
    for name in namespace::list(&names.namespaces())? {
        namespace::ip(None, "remove a namespace", &format!("netns del {name}\n")).await?;
        removed.push(format!("namespace {name}"));
    }
    for folder in [settings.servers(), settings.copies().folder().to_owned(), settings.cloud.join("net")] {
        match fs::remove_dir_all(&folder) {
            Ok(()) => removed.push(format!("folder {}", folder.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Doing::new(format!("remove {}", folder.display())).io(source)),
        }
    }
    if marker::release(&settings.public, &settings.cloud)
        .map_err(|source| Doing::new("give the public addresses back").io(source))?
    {
        removed.push(format!("claim on {}/{}", settings.public.network, settings.public.prefix));
    }
    Ok(removed)
}
