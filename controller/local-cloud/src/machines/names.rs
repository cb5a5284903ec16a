//! Names of namespaces and links. All carry a prefix that people recognise and, where they are visible on
//! the host, a tag that tells which cloud folder they belong to.

use std::path::Path;

use sha2::{Digest, Sha256};

/// Derives every name of one cloud. Two clouds, by folder, share no name on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    prefix: String,
    tag: String,
}

impl Names {
    /// Names for the cloud in `folder`. The prefix has at most five letters, so that links fit.
    pub fn new(prefix: &str, folder: &Path) -> Self {
        let prefix: String = prefix.chars().filter(char::is_ascii_alphanumeric).take(5).collect();
        Self { prefix, tag: short(&folder.display().to_string(), 8) }
    }

    /// Start of every namespace name of this cloud.
    pub fn namespaces(&self) -> String {
        format!("{}-{}-", self.prefix, self.tag)
    }

    /// Namespace that joins domains, host and outside.
    pub fn backbone(&self) -> String {
        format!("{}net", self.namespaces())
    }

    /// Namespace of a network domain.
    pub fn domain(&self, id: &str) -> String {
        format!("{}{}", self.namespaces(), short(id, 10))
    }

    /// The host's link to the backbone, the only one outside our namespaces.
    pub fn host_link(&self) -> String {
        format!("{}-{}", self.prefix, self.tag)
    }

    /// The backbone's end of the host's link.
    pub fn host_peer(&self) -> String {
        format!("{}-host", self.prefix)
    }

    /// The backbone's link to the outside.
    pub fn outside(&self) -> String {
        format!("{}-out", self.prefix)
    }

    /// The backbone's link to a domain.
    pub fn domain_link(&self, id: &str) -> String {
        format!("{}-d{}", self.prefix, short(id, 8))
    }

    /// A domain's link to the backbone.
    pub fn uplink(&self) -> String {
        format!("{}-up", self.prefix)
    }

    /// Start of the names of all bridges in a domain.
    pub fn bridges(&self) -> String {
        format!("{}-b", self.prefix)
    }

    /// Bridge of a VLAN.
    pub fn bridge(&self, vlan: &str) -> String {
        format!("{}{}", self.bridges(), short(vlan, 8))
    }

    /// Host's side of a network card.
    pub fn tap(&self, nic: &str) -> String {
        format!("{}-t{}", self.prefix, short(nic, 8))
    }

    /// Table of the packet filter in our namespaces.
    pub fn table(&self) -> &str {
        &self.prefix
    }
}

/// The first letters of a hash.
pub fn short(text: &str, letters: usize) -> String {
    let digest = Sha256::digest(text);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    hex[..letters].to_owned()
}

#[cfg(test)]
mod tests {
    /// Longest link name the kernel takes (IFNAMSIZ less its zero byte).
    const LONGEST_LINK: usize = 15;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn links_fit_the_kernel(prefix in "[a-z]{1,9}", id in ".*", folder in "/[a-z/]{0,200}") {
            let names = Names::new(&prefix, Path::new(&folder));
            for link in [
                names.host_link(), names.host_peer(), names.outside(), names.domain_link(&id), names.uplink(),
                names.bridge(&id), names.tap(&id),
            ] {
                prop_assert!(link.len() <= LONGEST_LINK, "{link}");
                prop_assert!(link.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-'));
            }
        }
    }

    #[test]
    fn clouds_share_no_name() {
        let (one, two) = (Names::new("flc", Path::new("/a")), Names::new("flc", Path::new("/b")));
        assert_ne!(one.host_link(), two.host_link());
        assert_ne!(one.domain("x"), two.domain("x"));
        assert!(one.domain("x").starts_with(&one.namespaces()));
        assert!(one.backbone().starts_with(&one.namespaces()));
    }
}
