//! The command line.

pub mod release;
pub mod rollout;

use std::{net::IpAddr, path::PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use fleet_model::{FleetName, NodeName};

/// One plan file in, a working and watched fleet out.
#[derive(Debug, Parser)]
#[command(name = "fleetctl", version = fleet_proto::VERSION, propagate_version = true, after_help = EXIT_STATUS)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_STATUS: &str = "\
Exit status: 0 done; 1 failed; 2 a preview found changes, or `cloud orphans`
something; 3 not every node is ready or updated, or an import is not whole;
4 no controller or cloud answers, or the line was not stopped everywhere; 5 a
rollout is halted, also that of `up`; 6 it is under way; 64 wrong plan,
arguments or host, nothing was touched; 130 ended by Ctrl-C.";

/// Below what a command itself takes.
const EVERYWHERE: &str = "Options of every command";

/// What every command takes.
#[derive(Clone, Debug, ClapArgs)]
pub struct Global {
    /// Folder with all state of this user's fleets [default: /var/lib/fleet for root, else ~/.local/state/fleet]
    #[arg(long, env = "FLEET_HOME", global = true, value_name = "DIR", hide_env_values = true, help_heading = EVERYWHERE)]
    pub home: Option<PathBuf>,
    /// Which fleet, where there are several
    #[arg(long, global = true, value_name = "NAME", help_heading = EVERYWHERE)]
    pub fleet: Option<FleetName>,
    /// Text for people or JSON for programs
    #[arg(
        long, global = true, value_enum, default_value_t = Output::Text, value_name = "FORM",
        help_heading = EVERYWHERE
    )]
    pub output: Output,
}

/// Form of what goes to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the fleet what the plan says, or finish what a killed run began
    ///
    /// Servers are created, booted, enrolled, and do their work; what changes on running nodes is rolled out, canaries
    /// first.
    Up(Up),
    /// Look at plan files
    #[command(subcommand)]
    Plan(Plan),
    /// Turn a plumbery plan into one of ours
    ///
    /// What has no counterpart is told; exit status 3 if anything.
    Import(Import),
    /// Show every node, or all about one
    Status(Status),
    /// Print the plan's information texts, addresses filled in
    Information,
    /// Log in to a node, or run one command there, over SSH
    Ssh(Ssh),
    /// Stop and delete everything of this fleet, then prove it
    Down(Down),
    /// Destroy a node's server with its disks and make it anew
    ///
    /// It comes back under the same name with another identity.
    Replace(Replace),
    /// Have a node repair its drift now, also where the plan only reports or holds
    Repair(Repair),
    /// Sign, publish and look at releases of the agent: what nodes may run
    #[command(subcommand)]
    Release(release::Release),
    /// Bring a release of the agent to every node, and watch over rollouts
    #[command(subcommand)]
    Rollout(rollout::Rollout),
    /// Have a node go back to the agent it ran before, and keep it there
    Rollback {
        /// The node
        node: NodeName,
    },
    /// Halt every rollout of every fleet of this user, and those to come
    StopTheLine {
        /// Why; everybody who asks is told
        #[arg(value_name = "REASON")]
        reason: Option<String>,
    },
    /// Let rollouts go on after `stop-the-line`
    ClearTheLine,
    /// Run the controller of one fleet
    Serve(Serve),
    /// The local cloud: real machines behind the CloudControl API
    #[command(subcommand)]
    Cloud(Cloud),
    /// Print a node's seed document, for clouds that take user-data directly
    ///
    /// It holds a fresh token.
    UserData {
        /// The node it is for
        node: NodeName,
    },
    /// Say what runs here, what is wrong, and the next step for each
    Doctor,
}

/// Where a plan is and what it is given.
#[derive(Debug, ClapArgs)]
pub struct PlanFile {
    /// Plan file
    #[arg(value_name = "PLAN")]
    pub file: PathBuf,
    /// Set a parameter of the plan, NAME=VALUE; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    pub set: Vec<(String, String)>,
}

#[derive(Debug, ClapArgs)]
pub struct Up {
    #[command(flatten)]
    pub plan: PlanFile,
    #[command(flatten)]
    pub operator: OperatorArgs,
    /// Print what would be created, changed and destroyed, and do nothing; exit status 2 if anything
    #[arg(long)]
    pub preview: bool,
    /// Stop once servers are started, before their first boot
    #[arg(long)]
    pub provision_only: bool,
    /// Destroy servers that the plan no longer has without asking
    #[arg(long)]
    pub yes: bool,
    /// Destroy this node's server with its disks and make it anew, where the plan cannot be had otherwise or simply
    /// because you say so; may be given several times
    #[arg(long, value_name = "NODE")]
    pub replace: Vec<NodeName>,
}

/// What `operator` means in a plan.
#[derive(Debug, Default, ClapArgs)]
pub struct OperatorArgs {
    /// Where you are, as the cloud sees you: IPv4 address or network; may be given several times
    /// [default: this host, for the local cloud; the controller's advertised address, elsewhere]
    #[arg(long, env = "FLEET_OPERATOR", value_name = "ADDRESS", value_delimiter = ',')]
    pub operator: Vec<String>,
    /// Public key that lets you in over SSH; may be given several times
    /// [default: ~/.ssh/id_ed25519.pub, id_ecdsa.pub, id_rsa.pub; else one made for the fleet]
    #[arg(long, value_name = "FILE")]
    pub operator_key: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Plan {
    /// Check a plan: every problem at once, with line, column and hint
    Check(PlanFile),
}

#[derive(Debug, ClapArgs)]
pub struct Import {
    /// Plumbery's plan
    #[arg(value_name = "FITTINGS")]
    pub file: PathBuf,
    /// Value that becomes the default of a parameter, NAME=VALUE; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    pub set: Vec<(String, String)>,
    /// Write the plan to this file, which must not exist [default: standard output]
    #[arg(short = 'o', long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// Write `cloud: local` instead of the API that the locations are behind
    #[arg(long)]
    pub local: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Status {
    /// Only this node, with everything known about it
    pub node: Option<NodeName>,
    /// Keep showing, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Ssh {
    /// The node
    pub node: NodeName,
    /// Program and arguments to run there instead of a shell
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Down {
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Id in the mark, for a fleet that nothing here knows any more; `cloud orphans` shows it
    #[arg(long, value_name = "ID", requires = "fleet")]
    pub id: Option<String>,
    #[command(flatten)]
    pub endpoint: Endpoint,
}

/// Which cloud is meant where nothing here says so.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct Endpoint {
    /// Base URL of a CloudControl API; credentials come from MCP_USERNAME and MCP_PASSWORD
    /// [default: the clouds of this home's fleets, and its local cloud]
    #[arg(long, value_name = "URL")]
    pub cloud_endpoint: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Replace {
    /// The node
    pub node: NodeName,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Repair {
    /// The node
    pub node: NodeName,
    /// Only this task [default: every task]
    pub task: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Serve {
    /// Addresses to listen on [default: loopback, and this host's address in the local cloud]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<IpAddr>,
    /// Addresses nodes reach this controller by [default: those listened on, but loopback]
    #[arg(long, value_name = "ADDRESS")]
    pub advertise: Vec<IpAddr>,
    /// Port for sessions and operators; 0 takes a free one and keeps it
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    pub session_port: u16,
    /// Port for enrolment; 0 takes a free one and keeps it
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    pub enrol_port: u16,
    /// Base URL of the CloudControl API; credentials come from MCP_USERNAME and MCP_PASSWORD
    /// [default: the local cloud of this home]
    #[arg(long, value_name = "URL")]
    pub cloud_endpoint: Option<String>,
    /// The agent's binary, with `fleet-supervisor` beside it [default: `fleet-agent` beside this program, then
    /// /usr/lib/fleet/fleet-agent]
    #[arg(long, env = "FLEET_AGENT", value_name = "FILE")]
    pub agent: Option<PathBuf>,
    /// The todo application's binary [default: `fleet-todo` beside this program, then /usr/lib/fleet/fleet-todo;
    /// without one, plans with a `todo` task are refused]
    #[arg(long, env = "FLEET_TODO", value_name = "FILE")]
    pub todo: Option<PathBuf>,
    /// How long a new server may take until SSH answers, in seconds
    #[arg(long, env = "FLEET_BOOT_DEADLINE", default_value_t = 600, value_name = "SECONDS")]
    pub boot_deadline: u64,
    /// How much nodes may fetch in all, in MiB a second
    #[arg(long, env = "FLEET_TRANSFER_RATE", default_value_t = 64, value_name = "MIB",
          value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub transfer_rate: u64,
}

#[derive(Debug, Subcommand)]
pub enum Cloud {
    /// Serve the CloudControl API on this host
    Serve(CloudServe),
    /// Show the local cloud and its servers
    Status,
    /// Open the serial console of a server (Ctrl-] leaves)
    Console {
        /// Server name
        server: String,
    },
    /// List what is in the cloud and in no plan here, with how to remove or adopt it
    ///
    /// That is what bears a fleet's mark, and what else costs money in fleets' networks. Exit status 2 if anything.
    Orphans(Endpoint),
    /// Remove every process, namespace, link and file of the local cloud, also after a crash
    Reset {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// What stands behind the local cloud's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backing {
    /// Virtual machines and network namespaces.
    Machines,
    /// State only; for tests.
    None,
}

#[derive(Debug, ClapArgs)]
pub struct CloudServe {
    /// Real machines, or state only
    #[arg(long, value_enum, env = "FLEET_CLOUD_BACKING", default_value_t = Backing::Machines)]
    pub backing: Backing,
    /// How long every asynchronous operation takes at least, in milliseconds
    #[arg(long, env = "FLEET_CLOUD_DELAY_MS", default_value_t = 0, value_name = "MS")]
    pub delay_ms: u64,
}

fn parameter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a parameter is set as NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn parameters_need_a_name() {
        assert_eq!(parameter("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parameter("a="), Ok(("a".to_owned(), String::new())));
        assert!(parameter("=b").is_err());
        assert!(parameter("ab").is_err());
    }
}
