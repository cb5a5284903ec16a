//! Sessions: who is connected, what they last said, what they are told.
//!
//! [`registry`] knows every node; [`stream`] is one session, driven by the task that writes its answers, so that
//! an idle agent costs no task of its own; [`admission`] decides who may come in; [`dispatch`] asks many nodes
//! one question.

pub mod admission;
pub mod dispatch;
pub mod pace;
pub mod registry;
pub mod service;
pub mod stream;
