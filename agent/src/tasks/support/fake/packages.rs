//! apt-get and dpkg.

use fleet_task::Output;

use super::{Debian, failure};

const STATUS: &str = "/var/lib/dpkg/status";

impl Debian {
    /// A package that can be installed.
    pub(crate) fn offers(&self, name: &str) -> &Self {
        self.lock().offered.insert(name.into(), "1.0".into());
        self
    }

    /// A newer version of a package can be installed.
    pub(crate) fn offers_newer(&self, name: &str, version: &str) -> &Self {
        self.lock().offered.insert(name.into(), version.into());
        self
    }

    /// The mirror lists a newer package and does not have it; `None` if it has all it lists.
    pub(crate) fn mirror_lacks(&self, name: Option<&str>) {
        self.lock().lacking = name.map(str::to_owned);
    }

    /// A package that brings a file.
    pub(crate) fn brings(&self, name: &str, path: &str, text: &str) -> &Self {
        self.offers(name).lock().brings.entry(name.into()).or_default().push((path.into(), text.into()));
        self
    }

    /// A package that is installed.
    pub(crate) fn has(&self, name: &str) -> &Self {
        self.offers(name).set(name, "install ok installed", "1.0");
        self
    }

    /// A package that somebody's interrupted run left unpacked.
    pub(crate) fn half_done(&self, name: &str) -> &Self {
        self.set(name, "install ok half-configured", "1.0");
        self
    }

    /// A package somebody removed.
    pub(crate) fn lost(&self, name: &str) -> &Self {
        self.set(name, "deinstall ok config-files", "1.0");
        self
    }

    pub(super) fn apt(&self, args: &[&str]) -> Output {
        let verb = args.iter().find(|arg| ["update", "install", "remove", "upgrade"].contains(arg));
        let names: Vec<&str> = args.iter().skip_while(|arg| **arg != "--").skip(1).copied().collect();
        match verb {
            Some(&"update") => Output::ok(""),
            Some(&"upgrade") if let Some(name) = self.lock().lacking.clone() => {
                failure(100, &format!("E: Failed to fetch http://deb.example/{name}.deb  404  Not Found"))
            }
            Some(&"upgrade") => {
                let status = self.text(STATUS);
                let newer: Vec<(String, String)> = self.lock().offered.clone().into_iter().collect();
                for (name, version) in newer {
                    if status.contains(&format!("Package: {name}\nStatus: install ok installed\n")) {
                        self.set(&name, "install ok installed", &version);
                    }
                }
                Output::ok("")
            }
            Some(&"remove") => {
                names.iter().for_each(|name| self.set(name, "deinstall ok config-files", "1.0"));
                Output::ok("")
            }
            Some(&"install") => {
                for name in names {
                    let Some(version) = self.lock().offered.get(name).cloned() else {
                        return failure(100, &format!("E: Unable to locate package {name}"));
                    };
                    let files = self.lock().brings.get(name).cloned().unwrap_or_default();
                    for (path, text) in files {
                        if !self.path(&path).exists() {
                            self.put(&path, &text);
                        }
                    }
                    self.set(name, "install ok installed", &version);
                    self.installed(name);
                }
                Output::ok("")
            }
            _ => failure(100, "E: Invalid operation"),
        }
    }

    /// `--configure -a`: whatever was half done is done.
    pub(super) fn dpkg(&self) -> Output {
        let text = self.text(STATUS).replace("install ok half-configured", "install ok installed");
        self.put(STATUS, &text);
        Output::ok("")
    }

    fn set(&self, name: &str, state: &str, version: &str) {
        let text = self.text(STATUS);
        let head = format!("Package: {name}\n");
        let others = text.split("\n\n").filter(|stanza| !stanza.is_empty() && !stanza.starts_with(&head));
        let mut stanzas: Vec<String> = others.map(|stanza| stanza.trim_end().to_owned()).collect();
        stanzas.push(format!("{head}Status: {state}\nArchitecture: amd64\nVersion: {version}"));
        self.put(STATUS, &format!("{}\n\n", stanzas.join("\n\n")));
    }
}
