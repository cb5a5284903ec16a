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
mod board;
mod command;
mod controller;
mod engine;
pub mod fake;
mod journal;
mod node;
mod phases;
mod process;
mod report;
mod task;
mod turn;

pub use command::{Command, CommandError, NoRunner, Output, Runner, Said, Spill, Spilled, SystemRunner};
pub use controller::{AWAY, Controller, NoController, Permission};
pub use engine::{Engine, Repair, Run};
pub use journal::{Journal, JournalError};
pub use node::Node;
pub use phases::{OnDrift, Phases, Terms};
pub use report::{Outcome, Report, age};
pub use task::{Finding, Task, TaskError, TaskId};
