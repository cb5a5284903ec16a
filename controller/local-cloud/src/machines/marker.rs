//! Who holds the public address range: one file under `/run` per range, naming the cloud's folder.
//!
//! Two clouds on one host would fight over the range; the second one is told who has it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{names::Names, net::PublicRange, run::Doing};
use crate::backing::BackingError;

/// Emptied by a reboot, as namespaces and links are.
const FOLDER: &str = "/run/fleet-local-cloud";

fn path(public: &PublicRange) -> PathBuf {
    Path::new(FOLDER).join(format!("{}-{}", public.network, public.prefix))
}

/// The folder of another cloud that holds the range, if that cloud still has its link.
pub fn holder(public: &PublicRange, cloud: &Path, prefix: &str) -> Option<PathBuf> {
    let holder = PathBuf::from(fs::read_to_string(path(public)).ok()?.trim());
    if holder == cloud {
        return None;
    }
    let link = Names::new(prefix, &holder).host_link();
    Path::new("/sys/class/net").join(link).exists().then_some(holder)
}

/// Writes down that this cloud holds the range.
pub fn claim(public: &PublicRange, cloud: &Path, names: &Names) -> Result<(), BackingError> {
    if let Some(other) = holder(public, cloud, names.table()) {
        return Err(taken(public, &other));
    }
    let path = path(public);
    fs::create_dir_all(FOLDER)
        .and_then(|()| fs::write(&path, format!("{}\n", cloud.display())))
        .map_err(|source| Doing::new(format!("write {}", path.display())).io(source))
}

/// Says who has the range and how to end that.
pub fn taken(public: &PublicRange, other: &Path) -> BackingError {
    BackingError::Host {
        what: format!(
            "the local cloud in {} holds the addresses {}/{}",
            other.display(),
            public.network,
            public.prefix
        ),
        fix: format!(
            "remove it: FLEET_HOME={} fleetctl cloud reset",
            other.parent().unwrap_or(other).display()
        ),
    }
}

/// Gives the range back, if this cloud holds it. Says whether it did.
pub fn release(public: &PublicRange, cloud: &Path) -> io::Result<bool> {
    let path = path(public);
    match fs::read_to_string(&path) {
        Ok(holder) if Path::new(holder.trim()) == cloud => fs::remove_file(&path).map(|()| true),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
