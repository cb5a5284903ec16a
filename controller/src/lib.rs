//! The controller: enrolment, sessions, reconcilers, operator API.
//!
//! Start with [`serve`]: [`Controller`] opens a fleet's state, serves both listeners and stops in order; [`run`] is
//! that in one call. Below it, [`enrol`] says who is who, [`session`] who is there, [`reconcile`] brings a plan about,
//! [`rollout`] brings releases to agents, [`api`] answers operators. Decisions are pure and apart ([`enrol::policy`],
//! [`session::admission`], [`desired`]); what must survive is in [`records`].
//!
//! It knows no cloud but through `fleet-provider`, and no agent but through `fleet-proto`; it holds no state outside
//! its store, and binds no socket: callers do.

pub mod api;
pub mod artifacts;
pub mod authority;
pub mod desired;
mod doors;
pub mod enrol;
pub mod first_boot;
pub mod home;
mod house;
mod identities;
pub mod memory;
pub mod permit;
pub mod reconcile;
pub mod records;
pub mod releases;
pub mod rescue;
pub mod rollout;
pub mod sealing;
pub mod serve;
pub mod session;
pub mod settings;
pub mod tls;
pub mod vault;

pub use serve::{Controller, ControllerError, Listeners, Ready, run};
pub use settings::Settings;
