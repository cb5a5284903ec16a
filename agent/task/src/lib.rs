//! Node work: a task looks, moves, looks again.
//!
//! Start with [`Task`], the unit of work, and [`Engine`], which runs [`Phases`] of them: check → apply →
//! check, under a deadline, with a [`Journal`] on the node so that an apply interrupted by a reboot is known
//! and looked at again. Tasks reach the node through [`Node`] alone: files below one root folder (see
//! [`atomic`]), programs through a [`Runner`], and what only the fleet as a whole can give (permits, artifacts,
//! certificates) through a [`Controller`].
//!
//! What this crate deliberately does not do: it knows no particular task, opens no connection, and
//! decides nothing about schedules. A test can do without a real node: see [`fake`].

pub mod atomic;
mod command;
mod controller;
mod engine;
pub mod fake;
mod journal;
mod node;
mod report;
mod task;

pub use command::{Command, CommandError, NoRunner, Output, Runner, SystemRunner};
pub use controller::{Controller, NoController, Permission};
pub use engine::{Engine, Phases, Run};
pub use journal::{Journal, JournalError};
pub use node::Node;
pub use report::{Outcome, Report};
pub use task::{Finding, Task, TaskError, TaskId};
