//! Where the state of this user's fleets is.

use std::{
    env, fs, io,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use fleet_controller::home as files_of_controllers;
use fleet_model::{FleetName, chain};
use fleet_plan::resolved::Cloud;
use serde::Serialize;

use crate::{
    args::Global,
    failure::{Exit, Failure},
};

/// Beside the controller's own files: which cloud its fleet lives in.
const CLOUD_FILE: &str = "cloud.json";
/// Folders of fleets that are no more, on their way out.
const ASIDE: &str = "removed";

/// Beside it: by which addresses nodes reach the controller.
const ADVERTISED_FILE: &str = "advertised.json";
/// Beside it: by which addresses of this host its machines see it, where the fleet has no cloud.
const REACH_FILE: &str = "reach.json";

/// All state of one user's fleets.
#[derive(Clone, Debug)]
pub struct Home(PathBuf);

impl Home {
    /// The folder `--home` or `FLEET_HOME` names, else the default of this user. Not created yet.
    pub fn of(global: &Global) -> Result<Self, Failure> {
        let dir = match &global.home {
            Some(dir) => dir.clone(),
            None if nix::unistd::geteuid().is_root() => "/var/lib/fleet".into(),
            None => user_dir("XDG_STATE_HOME", ".local/state")?.join("fleet"),
        };
        let dir = std::path::absolute(&dir)
            .map_err(|why| Failure::new(Exit::Input, format!("home `{}`: {why}", dir.display())))?;
        Ok(Self(dir))
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// The local cloud's folder.
    pub fn cloud(&self) -> PathBuf {
        self.0.join("cloud")
    }

    /// One fleet's folder.
    pub fn fleet(&self, fleet: &FleetName) -> PathBuf {
        self.0.join("fleets").join(fleet.as_str())
    }

    /// Which cloud the fleet lives in, as its first `up` noted it; `None` if nobody did.
    ///
    /// # Errors
    /// It cannot be read: with a guess, what the fleet has would be looked for elsewhere.
    pub fn cloud_of(&self, fleet: &FleetName) -> Result<Option<Cloud>, Failure> {
        files_of_controllers::read(&self.fleet(fleet).join(CLOUD_FILE)).map_err(|why| {
            Failure::new(Exit::Failed, format!("in which cloud fleet `{fleet}` lives: {}", chain(&why))).hint(
                "delete the file: the next `fleetctl up` with the fleet's plan notes it anew, and the controller knows it \
                 too and refuses a plan for another cloud",
            )
        })
    }

    /// Notes which cloud the fleet lives in. A fleet cannot move: its servers would be forgotten.
    pub fn note_cloud(&self, fleet: &FleetName, cloud: &Cloud) -> Result<(), Failure> {
        match self.cloud_of(fleet)? {
            Some(noted) if noted == *cloud => return Ok(()),
            Some(_) => {
                return Err(Failure::new(
                    Exit::Input,
                    format!("fleet `{fleet}` lives in another cloud than the plan says"),
                )
                .hint("run `fleetctl down` first, or give the plan another fleet name"));
            }
            None => {}
        }
        self.note(fleet, CLOUD_FILE, cloud)
    }

    /// Notes something beside the controller's own files: whole or not at all, and a power cut leaves it there.
    fn note(&self, fleet: &FleetName, name: &str, what: &impl Serialize) -> Result<(), Failure> {
        let dir = self.fleet(fleet);
        let failed =
            |why: String| Failure::new(Exit::Failed, format!("write {}: {why}", dir.join(name).display()));
        make_private(&dir).map_err(|why| failed(why.to_string()))?;
        files_of_controllers::write(&dir.join(name), what).map_err(|why| failed(chain(&why)))
    }

    /// Notes by which address the controller of a fleet is known outside.
    pub fn note_advertised(&self, fleet: &FleetName, addresses: &[IpAddr]) -> Result<(), Failure> {
        self.note(fleet, ADVERTISED_FILE, &addresses)
    }

    /// Notes by which addresses of this host the fleet's machines see it.
    pub fn note_reach(&self, fleet: &FleetName, addresses: &[IpAddr]) -> Result<(), Failure> {
        self.note(fleet, REACH_FILE, &addresses)
    }

    /// By which addresses of this host the fleet's machines see it, as noted.
    pub fn reach(&self, fleet: &FleetName) -> Vec<IpAddr> {
        let noted = fs::read(self.fleet(fleet).join(REACH_FILE)).ok();
        noted.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
    }

    /// The first IPv4 address by which the controller of a fleet is known outside.
    pub fn advertised(&self, fleet: &FleetName) -> Option<Ipv4Addr> {
        let json = fs::read(self.fleet(fleet).join(ADVERTISED_FILE)).ok()?;
        let addresses: Vec<IpAddr> = serde_json::from_slice(&json).ok()?;
        addresses.into_iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }

    /// Leaves word for a controller: it stops its line at its next look, or when it starts.
    pub fn leave_line(&self, fleet: &FleetName, reason: &str) -> Result<(), Failure> {
        let by = env::var("USER").unwrap_or_else(|_| "operator".to_owned());
        fleet_controller::rollout::note::leave(&self.fleet(fleet), &by, reason).map_err(|why| {
            Failure::new(Exit::Failed, format!("leave word for fleet `{fleet}`: {}", chain(&why)))
        })
    }

    /// Takes that back.
    pub fn withdraw_line(&self, fleet: &FleetName) -> Result<(), Failure> {
        fleet_controller::rollout::note::withdraw(&self.fleet(fleet)).map_err(|why| {
            Failure::new(Exit::Failed, format!("take back the word left for fleet `{fleet}`: {why}"))
        })
    }

    /// Fleets that have state here, by name.
    pub fn fleets(&self) -> Vec<FleetName> {
        let Ok(entries) = fs::read_dir(self.0.join("fleets")) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut fleets: Vec<FleetName> = names.collect();
        fleets.sort();
        fleets
    }

    /// The fleet `--fleet` names, or the only one there is.
    pub fn chosen(&self, global: &Global) -> Result<FleetName, Failure> {
        let fleets = self.fleets();
        let list = || fleets.iter().map(|fleet| format!("`{fleet}`")).collect::<Vec<_>>().join(", ");
        match (&global.fleet, fleets.as_slice()) {
            (Some(fleet), _) if fleets.contains(fleet) => Ok(fleet.clone()),
            (Some(fleet), _) => {
                let failure =
                    Failure::new(Exit::Input, format!("no fleet `{fleet}` in {}", self.0.display()));
                Err(failure.hint(if fleets.is_empty() {
                    "`fleetctl up PLAN` makes one".to_owned()
                } else {
                    format!("fleets there: {}", list())
                }))
            }
            (None, [only]) => Ok(only.clone()),
            (None, []) => Err(Failure::new(Exit::Input, format!("no fleet in {}", self.0.display()))
                .hint("`fleetctl up PLAN` makes one; FLEET_HOME or --home names another folder")),
            (None, _) => Err(Failure::new(Exit::Input, format!("several fleets in {}", self.0.display()))
                .hint(format!("choose one with --fleet: {}", list()))),
        }
    }

    /// Takes a fleet's folder out from among the fleets: in one step, however much is in it.
    pub fn set_aside(&self, fleet: &FleetName) -> io::Result<()> {
        let aside = self.0.join(ASIDE);
        make_private(&aside)?;
        // Whatever was set aside under this name before is rubbish all the same.
        let free = (0..).map(|number: u32| aside.join(format!("{fleet}.{number}"))).find(|dir| !dir.exists());
        match fs::rename(self.fleet(fleet), free.expect("some number is free")) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
            _ => Ok(()),
        }
    }

    /// Whether something was set aside and not cleared away yet.
    pub fn has_set_aside(&self) -> bool {
        self.0.join(ASIDE).exists()
    }

    /// Removes what was set aside.
    pub fn clear_set_aside(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.0.join(ASIDE)) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
            _ => Ok(()),
        }
    }

    /// Removes the folder if nothing but empty folders is left in it.
    pub fn remove_if_empty(&self) -> io::Result<()> {
        for dir in [self.0.join("fleets"), self.0.clone()] {
            match fs::remove_dir(&dir) {
                Ok(()) => {}
                Err(why) if matches!(why.kind(), io::ErrorKind::NotFound) => {}
                Err(why) if matches!(why.kind(), io::ErrorKind::DirectoryNotEmpty) => return Ok(()),
                Err(why) => return Err(why),
            }
        }
        Ok(())
    }
}

/// Makes a folder, and those above it, for this user alone.
pub fn make_private(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Machine images and other things worth keeping between fleets.
pub fn cache() -> Result<PathBuf, Failure> {
    if let Some(dir) = env::var_os("FLEET_CACHE") {
        return Ok(dir.into());
    }
    if nix::unistd::geteuid().is_root() {
        return Ok("/var/cache/fleet".into());
    }
    Ok(user_dir("XDG_CACHE_HOME", ".cache")?.join("fleet"))
}

fn user_dir(variable: &str, below_home: &str) -> Result<PathBuf, Failure> {
    if let Some(dir) = env::var_os(variable) {
        return Ok(dir.into());
    }
    let home = env::var_os("HOME").ok_or_else(|| {
        Failure::new(Exit::Input, "neither HOME nor FLEET_HOME is set").hint("set FLEET_HOME to a folder")
    })?;
    Ok(PathBuf::from(home).join(below_home))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn home() -> (Home, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a folder");
        (Home(dir.path().join("home")), dir)
    }

    #[test]
    fn a_removal_cut_anywhere_is_finished_later() {
        let (home, _dir) = home();
        let fleet: FleetName = "Reference".parse().expect("a name");
        let fill = || {
            make_private(&home.fleet(&fleet).join("artifacts")).expect("made");
            fs::write(home.fleet(&fleet).join("artifacts/x"), "x").expect("written");
        };
        fill();
        assert!(!home.has_set_aside());
        home.set_aside(&fleet).expect("in one step");
        assert!(home.fleets().is_empty() && home.has_set_aside(), "no fleet any more, but something to do");
        // Cut here; another fleet of that name came and went meanwhile, and was cut too.
        fill();
        assert_eq!(home.fleets().first(), Some(&fleet));
        home.set_aside(&fleet).expect("beside the first");
        home.set_aside(&fleet).expect("nothing there is fine");
        home.clear_set_aside().expect("cleared");
        home.clear_set_aside().expect("again is fine");
        assert!(!home.has_set_aside());
        home.remove_if_empty().expect("removed");
        assert!(!home.dir().exists());
    }

    #[test]
    fn the_cloud_of_a_fleet_is_noted_once_and_whole() {
        let (home, _dir) = home();
        let fleet: FleetName = "Reference".parse().expect("a name");
        let mcp = Cloud::Mcp { endpoint: "https://api-eu.example.org".to_owned() };
        assert_eq!(home.cloud_of(&fleet).expect("readable"), None);
        home.note_cloud(&fleet, &mcp).expect("noted");
        home.note_cloud(&fleet, &mcp).expect("the same again is fine");
        let refused = home.note_cloud(&fleet, &Cloud::Local).expect_err("a fleet does not move");
        assert!(refused.to_string().contains("lives in another cloud"), "{refused}");
        assert_eq!(home.cloud_of(&fleet).expect("readable"), Some(mcp));
        let noted: Vec<_> = fs::read_dir(home.fleet(&fleet)).expect("a folder").flatten().collect();
        assert_eq!(noted.len(), 1, "no draft stays: {noted:?}");
        let mode = noted[0].metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // Cut short by a disk that lied: said, and never taken for a fleet without a cloud.
        fs::write(home.fleet(&fleet).join(CLOUD_FILE), "").expect("written");
        let unread = home.note_cloud(&fleet, &Cloud::Local).expect_err("damaged");
        assert!(unread.to_string().contains("cloud.json is damaged"), "{unread}");
    }
}
