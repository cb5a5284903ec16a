//! The engine through its public door: what each fault does in each state, and what holds whatever happens.

mod commands;
mod faults;
mod properties;
mod returns;
mod turns;
mod watch;
mod withdrawals;
mod world;
