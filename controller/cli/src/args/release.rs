//! `fleetctl release …`.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Subcommand};
use fleet_model::NodeName;
use fleet_release::Version;

use crate::commands::release::keys::RoleName;

const DAY: Duration = Duration::from_secs(86_400);
/// Longest life of anything signed: nothing is good for ever.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

#[derive(Debug, Subcommand)]
pub enum Release {
    /// Show the keys that sign this user's releases; make them if there are none
    Keys,
    /// Make another key for a role, told by the next root; the one of before is withdrawn and destroyed
    Rotate {
        /// Whose key
        #[arg(value_enum)]
        role: RoleName,
    },
    /// Pack programs and sign what they are: a folder to publish
    #[command(disable_version_flag = true)]
    Create(Create),
    /// Bring a release to the controller, which verifies all of it before it keeps it
    Publish {
        /// Folder made by `release create`
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// List releases: expiry, and how many nodes run each
    List,
    /// Show all about one release
    Show {
        /// Its version
        release: Version,
    },
    /// Have the controller forget a release, and remove the programs only it has; refused while a rollout or a node needs it
    Remove {
        /// Its version
        release: Version,
    },
    /// Sign leave for some nodes of a fleet to go back to an older release, beside others signed before
    Permit(Permit),
}

#[derive(Debug, ClapArgs)]
pub struct Create {
    /// The agent's static program [default: `fleet-agent` beside this program, then /usr/lib/fleet/fleet-agent]
    #[arg(long, env = "FLEET_AGENT", value_name = "FILE")]
    pub agent: Option<PathBuf>,
    /// The todo application's static program [default: `fleet-todo` beside this program, then
    /// /usr/lib/fleet/fleet-todo, else none]
    #[arg(long, env = "FLEET_TODO", value_name = "FILE")]
    pub todo: Option<PathBuf>,
    /// What it is called, three numbers [default: as the agent calls itself]
    #[arg(long, value_name = "VERSION")]
    pub version: Option<Version>,
    /// How long it may be installed, in days (180d), weeks (26w) or hours (12h); what runs goes on after that
    #[arg(long, default_value = "180d", value_parser = life, value_name = "TIME")]
    pub expires: Duration,
    /// Folder to make [default: release-VERSION]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct Permit {
    /// Version of a release the controller has, or a folder made by `release create`, which is published with it then
    #[arg(value_name = "VERSION|DIR")]
    pub release: String,
    /// Nodes that may go back
    #[arg(long, required = true, value_delimiter = ',', value_name = "NODE")]
    pub nodes: Vec<NodeName>,
    /// Why, in one line; kept with it
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// How long it may be used
    #[arg(long, default_value = "7d", value_parser = life, value_name = "TIME")]
    pub expires: Duration,
}

fn life(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time such as 180d, 26w or 12h, of ten years at most");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let unit = match unit {
        "h" => DAY / 24,
        "d" => DAY,
        "w" => DAY * 7,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    unit.checked_mul(number).filter(|life| !life.is_zero() && *life <= LONGEST).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_have_a_unit_and_an_end() {
        assert_eq!(life("180d"), Ok(DAY * 180));
        assert_eq!(life("26w"), Ok(DAY * 182));
        assert_eq!(life("1h"), Ok(DAY / 24));
        for wrong in ["", "d", "180", "0d", "-1d", "1.5d", "4000d", "4294967295w", "9x", "1é"] {
            assert!(life(wrong).is_err(), "{wrong}");
        }
    }
}
