//! What is installed, read from dpkg's own records (deb-control(5), dpkg(1)).

use std::{collections::BTreeMap, fs};

use fleet_task::{Node, TaskError};

const STATUS: &str = "/var/lib/dpkg/status";
/// Records of a run that has not come to an end; a finished one leaves the folder empty.
const UPDATES: &str = "/var/lib/dpkg/updates";

/// One package dpkg knows of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Package {
    /// Its version.
    pub version: String,
    /// Third word of its status: `installed`, `half-configured`, `config-files`…
    pub state: String,
    /// Second word of its status is `reinstreq`: its files are not to be trusted.
    pub broken: bool,
}

/// Everything dpkg knows of, by name and by `name:architecture`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packages(BTreeMap<String, Package>);

impl Packages {
    /// What is on the node now.
    ///
    /// # Errors
    /// [`TaskError::Read`].
    pub fn read(node: &Node) -> Result<Self, TaskError> {
        let bytes = node.read(STATUS)?.unwrap_or_default();
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    fn parse(text: &str) -> Self {
        let mut packages = BTreeMap::new();
        for stanza in text.split("\n\n") {
            let (mut name, mut arch, mut package) = ("", "", Package::default());
            for line in stanza.lines() {
                // Continuation lines start with a space and hold no field.
                match line.split_once(": ") {
                    Some(("Package", value)) => name = value,
                    Some(("Architecture", value)) => arch = value,
                    Some(("Version", value)) => package.version = value.to_owned(),
                    Some(("Status", value)) => {
                        let mut words = value.split(' ');
                        package.broken = words.nth(1) == Some("reinstreq");
                        package.state = words.next().unwrap_or_default().to_owned();
                    }
                    _ => (),
                }
            }
            if name.is_empty() {
                continue;
            }
            packages.insert(format!("{name}:{arch}"), package.clone());
            // Of several architectures, the installed one is what the bare name means.
            let bare = packages.entry(name.to_owned()).or_default();
            if bare.state != "installed" {
                *bare = package;
            }
        }
        Self(packages)
    }

    /// Version of an installed package, named with or without its architecture.
    pub fn version(&self, name: &str) -> Option<&str> {
        let package = self.0.get(name)?;
        package.is_installed().then_some(package.version.as_str())
    }

    /// Whether any of its files besides configuration is there.
    pub fn is_there(&self, name: &str) -> bool {
        let gone = ["not-installed", "config-files", ""];
        self.0.get(name).is_some_and(|package| !gone.contains(&package.state.as_str()))
    }

    /// Packages that an interrupted run left in between, by name.
    pub fn half_done(&self) -> impl Iterator<Item = &str> {
        self.bare().filter(|(_, package)| package.is_half_done()).map(|(name, _)| name)
    }

    /// Installed packages with their versions, each once.
    pub fn installed(&self) -> impl Iterator<Item = (&str, &str)> {
        let installed = self.bare().filter(|(_, package)| package.is_installed());
        installed.map(|(name, package)| (name, package.version.as_str()))
    }

    /// Whether dpkg has ever heard of it, removed or not.
    pub fn knows(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn bare(&self) -> impl Iterator<Item = (&str, &Package)> {
        self.0.iter().filter(|(name, _)| !name.contains(':')).map(|(name, package)| (name.as_str(), package))
    }
}

impl Package {
    fn is_installed(&self) -> bool {
        self.state == "installed" && !self.broken
    }

    fn is_half_done(&self) -> bool {
        let between =
            ["half-installed", "unpacked", "half-configured", "triggers-awaited", "triggers-pending"];
        self.broken || between.contains(&self.state.as_str())
    }
}

/// What an interrupted run of dpkg left to be finished; empty if nothing.
///
/// # Errors
/// [`TaskError::Read`].
pub fn unfinished(node: &Node) -> Result<Vec<String>, TaskError> {
    let mut left: Vec<String> = Packages::read(node)?.half_done().map(str::to_owned).collect();
    let records = fs::read_dir(node.path(UPDATES)).map(|entries| entries.flatten().count()).unwrap_or(0);
    if left.is_empty() && records > 0 {
        left.push("dpkg's own records".into());
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::tests::Rig;

    const SAMPLE: &str = "Package: nginx\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.22.1-9\n\
        Description: small\n Status: not a field\n\n\
        Package: old\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n\
        Package: half\nStatus: install ok half-configured\nArchitecture: amd64\nVersion: 2\n\n\
        Package: torn\nStatus: install reinstreq installed\nArchitecture: amd64\nVersion: 3\n\n\
        Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 4\n\n\
        Package: libc6\nStatus: deinstall ok config-files\nArchitecture: i386\nVersion: 5\n";

    #[test]
    fn states_are_told_apart() {
        let packages = Packages::parse(SAMPLE);
        assert_eq!(packages.version("nginx"), Some("1.22.1-9"));
        assert_eq!(packages.version("nginx:amd64"), Some("1.22.1-9"));
        assert_eq!(packages.version("libc6"), Some("4"), "the installed architecture counts");
        assert_eq!(packages.version("libc6:i386"), None);
        assert_eq!(packages.version("old"), None);
        assert_eq!((packages.is_there("old"), packages.knows("old")), (false, true));
        assert!(packages.is_there("half") && !packages.is_there("never"));
        assert_eq!(packages.half_done().collect::<Vec<_>>(), ["half", "torn"]);
        let installed: Vec<_> = packages.installed().collect();
        assert_eq!(installed, [("libc6", "4"), ("nginx", "1.22.1-9")]);
    }

    #[test]
    fn records_of_a_cut_run_are_unfinished_work() {
        let rig = Rig::new(&[("/var/lib/dpkg/updates/.keep", "")]);
        fs::remove_file(rig.path("/var/lib/dpkg/updates/.keep")).expect("an empty folder");
        assert_eq!(unfinished(&rig.node()).expect("look"), [""; 0]);
        fs::write(rig.path("/var/lib/dpkg/updates/0001"), "").expect("record");
        assert_eq!(unfinished(&rig.node()).expect("look"), ["dpkg's own records"]);
    }
}
