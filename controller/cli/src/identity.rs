//! Who the operator is to the nodes: keys that open SSH, addresses that firewalls let in.

use std::{
    env, fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use fleet_plan::{ResolvedPlan, resolved::Cloud};

use super::home::{Home, make_private};
use crate::{
    args::OperatorArgs,
    commands::cloud,
    failure::{Exit, Failure},
};

/// Files of a user's own keys, below ~/.ssh.
const USUAL: [&str; 3] = ["id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"];
/// A fleet's own key, below its folder.
const OWN_KEY: &str = "id_ed25519";
/// Where traffic from this host would seem to come from, if the local cloud had machines.
const STATE_ONLY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// Folder of everything about SSH of one fleet.
pub fn ssh_dir(home: &Home, fleet: &fleet_model::FleetName) -> PathBuf {
    home.fleet(fleet).join("ssh")
}

/// The fleet's own private key, if one was made.
pub fn own_key(ssh_dir: &Path) -> Option<PathBuf> {
    Some(ssh_dir.join(OWN_KEY)).filter(|key| key.is_file())
}

/// Public keys that stand for `operator` in the plan; a pair is made if this user has none.
///
/// # Errors
/// If a file that was named holds no key, or no pair can be made.
pub fn keys(
    args: &OperatorArgs,
    plan: &ResolvedPlan,
    home: &Home,
    note: impl Fn(&str),
) -> Result<Vec<String>, Failure> {
    if !args.operator_key.is_empty() {
        return read_all(&args.operator_key);
    }
    if !plan.wants_operator_keys() {
        return Ok(Vec::new());
    }
    let dir = ssh_dir(home, &plan.fleet);
    let usual = env::var_os("HOME").map(|home| PathBuf::from(home).join(".ssh"));
    let usual = usual.iter().flat_map(|dir| USUAL.iter().map(move |name| dir.join(name)));
    let own = dir.join(OWN_KEY).with_extension("pub");
    // One that cannot be used is passed over: nobody named it.
    let mut keys: Vec<String> =
        usual.chain([own.clone()]).filter_map(|file| public_keys(&file).ok()).flatten().collect();
    if keys.is_empty() {
        make_pair(&dir, plan)?;
        note(&format!(
            "no SSH key of yours in ~/.ssh: made one for this fleet, {}",
            dir.join(OWN_KEY).display()
        ));
        keys = read_all(&[own])?;
    }
    keys.dedup();
    Ok(keys)
}

fn read_all(files: &[PathBuf]) -> Result<Vec<String>, Failure> {
    let mut keys = Vec::new();
    for file in files {
        let found = public_keys(file)
            .map_err(|why| Failure::new(Exit::Input, format!("read key {}: {why}", file.display())))?;
        if found.is_empty() {
            let failure = Failure::new(Exit::Input, format!("{} holds no public key", file.display()));
            return Err(
                failure.hint("name the file that ends in `.pub`: ssh-ed25519, ecdsa-sha2-… or ssh-rsa")
            );
        }
        keys.extend(found);
    }
    Ok(keys)
}

/// Every line of a file that is a key.
fn public_keys(file: &Path) -> io::Result<Vec<String>> {
    let text = fs::read_to_string(file)?;
    Ok(text
        .lines()
        .map(str::trim)
        .filter(|line| fleet_plan::is_public_key(line))
        .map(str::to_owned)
        .collect())
}

fn make_pair(dir: &Path, plan: &ResolvedPlan) -> Result<(), Failure> {
    let hint = "install openssh-client, or name a public key with --operator-key";
    let failed = |why: String| {
        Failure::new(Exit::Failed, format!("make an SSH key in {}: {why}", dir.display())).hint(hint)
    };
    make_private(dir).map_err(|why| failed(why.to_string()))?;
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C"]).arg(format!("operator of fleet {}", plan.fleet));
    // Never asks whether to overwrite: nobody may be there to answer.
    let ended = command.arg("-f").arg(dir.join(OWN_KEY)).stdin(Stdio::null()).output();
    let ended = ended.map_err(|why| failed(format!("start ssh-keygen: {why}")))?;
    if !ended.status.success() {
        return Err(failed(String::from_utf8_lossy(&ended.stderr).trim().to_owned()));
    }
    Ok(())
}

/// Addresses that stand for `operator` in the plan: as told, else as this host's clouds see it.
///
/// # Errors
/// If the plan needs one and none is known, or what was told is none.
pub fn addresses(args: &OperatorArgs, plan: &ResolvedPlan, home: &Home) -> Result<Vec<String>, Failure> {
    // FLEET_OPERATOR may be set to nothing.
    let mut addresses: Vec<String> =
        args.operator.iter().filter(|text| !text.trim().is_empty()).cloned().collect();
    if addresses.is_empty() {
        addresses = match plan.cloud {
            Cloud::Local => {
                let host = cloud::access(home).and_then(|access| access.host_address);
                vec![host.unwrap_or(STATE_ONLY).to_string()]
            }
            Cloud::Mcp { .. } | Cloud::Hosts => {
                home.advertised(&plan.fleet).filter(is_public).map(|a| a.to_string()).into_iter().collect()
            }
        };
    }
    // Tried on a copy: the controller does it again, and keeps it.
    plan.clone()
        .place_operator(&addresses)
        .map_err(|error| Failure::new(Exit::Input, error.to_string()).hint(error.hint()))?;
    Ok(addresses)
}

/// Whether an address means the same everywhere on the Internet.
fn is_public(address: &Ipv4Addr) -> bool {
    // RFC 6598: between a provider and its customers.
    let shared = u32::from(*address) >> 22 == u32::from(Ipv4Addr::new(100, 64, 0, 0)) >> 22;
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_broadcast()
        || shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_lines_that_are_keys() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("keys");
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBqwerd0hIiVoE7J6zC0M4WmbPCTcr1rEYrzcf3RCUXI me@host";
        fs::write(&file, format!("# mine\n\n{key}\nssh-dss AAAA old\n")).expect("written");
        assert_eq!(read_all(std::slice::from_ref(&file)).expect("keys"), [key]);
        fs::write(&file, "-----BEGIN OPENSSH PRIVATE KEY-----\n").expect("written");
        let failure = read_all(std::slice::from_ref(&file)).expect_err("no key");
        assert!(failure.to_string().contains("holds no public key"), "{failure}");
        assert!(read_all(&[dir.path().join("ghost")]).is_err());
    }

    #[test]
    fn some_addresses_mean_nothing_elsewhere() {
        let check = |address: &str, public| {
            assert_eq!(is_public(&address.parse().expect("an address")), public, "{address}");
        };
        check("8.8.8.8", true);
        check("100.63.255.255", true);
        check("100.64.0.1", false);
        check("100.127.255.255", false);
        check("100.128.0.0", true);
        for address in ["10.0.0.1", "192.168.1.1", "172.16.0.1", "127.0.0.1", "169.254.1.1", "0.0.0.0"] {
            check(address, false);
        }
    }
}
