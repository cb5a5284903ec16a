//! Where things are.

use std::{env, path::PathBuf};

/// Root of the checkout: two folders above this crate.
pub fn checkout() -> PathBuf {
    let crate_dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    crate_dir.ancestors().nth(2).map_or(crate_dir.clone(), PathBuf::from)
}

/// One target directory for every build, outside the checkout, so that a fresh clone does not start cold.
pub fn target() -> PathBuf {
    if let Some(dir) = env::var_os("FLEET_TARGET_DIR") {
        return dir.into();
    }
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    cache.unwrap_or_else(|| home().join(".cache")).join("fleet/target")
}

/// Where finished programs lie side by side, as they do when installed.
pub fn dist() -> PathBuf {
    target().join("dist")
}
