//! The real program with agents that go wrong, and killed at random moments.

mod bad;
mod kill;
mod support;
