//! `fleetctl rollout`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use fleet_model::NodeName;

use super::parameter;

#[derive(Debug, Subcommand)]
pub enum Rollout {
    /// Draw canaries and waves of a release and start with them; exit status 0 once it has begun
    Start(Start),
    /// Show how it goes; exit status 0 finished, 3 finished but not for every node, 5 halted, 6 under way
    Status(Status),
    /// Keep showing until it is finished or halted; exit status as of `status`
    Watch(Status),
    /// Start nothing more, and take back what has not begun
    Halt {
        /// Why; shown in status
        reason: Option<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Go on after a halt, knowing what went wrong
    Resume {
        /// Offer it once more to nodes that failed
        #[arg(long)]
        retry: bool,
        #[command(flatten)]
        which: Which,
    },
    /// Send every node that was touched back to what it had before
    Undo {
        #[command(flatten)]
        which: Which,
    },
    /// Show the rollouts there were, the newest first
    List,
    /// Say why a node is not updated yet
    Explain {
        /// The node
        node: NodeName,
    },
}

/// Which rollout is meant.
#[derive(Debug, ClapArgs)]
pub struct Which {
    /// Number of the rollout [default: the one that is not over]
    #[arg(long, value_name = "ROLLOUT")]
    pub rollout: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Start {
    /// Version of a published release, or the first digits of what it is known by
    #[arg(value_name = "RELEASE")]
    pub release: String,
    /// File with how to go about it, YAML; what it does not say is as usual
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Set a member of the policy, such as bake=30s or canaries.drawn=2; may be given several times
    #[arg(long, value_name = "MEMBER=VALUE", value_parser = parameter)]
    pub set: Vec<(String, String)>,
    /// Show the waves and do nothing; exit status 2
    #[arg(long)]
    pub preview: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Status {
    /// Number of the rollout [default: the newest]
    #[arg(value_name = "ROLLOUT")]
    pub id: Option<String>,
}
