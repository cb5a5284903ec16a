//! Typed checks that agents run before and after a node changes.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// A check that has to pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gate {
    /// Its name in status and messages; unique in a policy.
    pub name: String,
    /// Before the offer, or after the node's own commit.
    pub when: When,
    /// What is looked at.
    pub check: Check,
    /// How long it may take to pass.
    #[serde(default = "five_minutes", with = "super::words::duration")]
    pub deadline: Duration,
}

/// Long enough for a database to settle after a restart.
fn five_minutes() -> Duration {
    Duration::from_secs(300)
}

/// On which side of the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Before the offer: the node is well enough to be touched.
    Before,
    /// After the commit: what it is there for still works.
    After,
}

/// What an agent can look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Check {
    /// A systemd unit is active.
    UnitActive {
        /// Its name.
        unit: String,
    },
    /// Something accepts connections on a TCP port of the node.
    PortAnswers {
        /// The port.
        port: u16,
    },
    /// A URL answers with this status.
    HttpStatus {
        /// The URL, as seen from the node.
        url: String,
        /// The status, such as 200.
        status: u16,
    },
    /// A RethinkDB table is ready, asked through this node.
    TableReady {
        /// The database.
        database: String,
        /// The table.
        table: String,
    },
    /// An item written through this node's todo application can be read back.
    TodoRoundTrip,
    /// A command ends with status 0.
    Command {
        /// Program and arguments; no shell.
        argv: Vec<String>,
    },
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnitActive { unit } => write!(f, "unit {unit} is active"),
            Self::PortAnswers { port } => write!(f, "port {port} answers"),
            Self::HttpStatus { url, status } => write!(f, "{url} answers {status}"),
            Self::TableReady { database, table } => write!(f, "table {database}.{table} is ready"),
            Self::TodoRoundTrip => f.write_str("a todo item makes its round trip"),
            Self::Command { argv } => write!(f, "`{}` succeeds", argv.join(" ")),
        }
    }
}
