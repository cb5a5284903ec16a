//! What tests that were killed left: a local cloud with machines outlives the process that ran it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What the folders of tests begin with; their process id follows.
const FOLDERS: &str = "fleet-test-";
/// Where clouds with machines note which folder is theirs.
const CLAIMS: &str = "/run/fleet-local-cloud";

/// A folder for a test's home, found again by [`abandoned_clouds`] should the test be killed.
///
/// # Panics
/// It cannot be made.
#[track_caller]
pub fn test_folder() -> tempfile::TempDir {
    let prefix = format!("{FOLDERS}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir().expect("make a temporary folder")
}

/// Homes of tests that were killed while their local cloud had machines, and whose folder is still there.
pub fn abandoned_clouds() -> Vec<PathBuf> {
    let claims = fs::read_dir(CLAIMS).into_iter().flatten().flatten();
    let clouds = claims.filter_map(|claim| fs::read_to_string(claim.path()).ok());
    let homes = clouds.filter_map(|cloud| Some(Path::new(cloud.trim()).parent()?.to_path_buf()));
    homes.filter(|home| home.exists() && test_of(home).is_some_and(|test| !runs(test))).collect()
}

/// The test a home belongs to: its process id is in the folder's name.
fn test_of(home: &Path) -> Option<i32> {
    let folder = home.parent()?.file_name()?.to_str()?;
    folder.strip_prefix(FOLDERS)?.split('-').next()?.parse().ok()
}

/// Whether a process still runs. One that ended but that nobody has waited for does not: where tests run,
/// the first process may not be one that reaps.
pub fn runs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_says_whose_it_is() {
        let folder = test_folder();
        let us = i32::try_from(std::process::id()).expect("process ids are small");
        assert_eq!(test_of(&folder.path().join("home")), Some(us));
        assert!(runs(us));
        for other in ["/", "/tmp/home", "/tmp/fleet-test-/home", "/tmp/fleet-test-x-1/home"] {
            assert_eq!(test_of(Path::new(other)), None, "{other}");
        }
    }
}
