//! Whole programs through public doors.
//!
//! [`Sandbox`] is one operator with an empty home: it runs the finished `fleetctl` there and cleans up after
//! itself, by process id. [`LocalCloud`] asks the cloud's API behind fleetctl's back, which is how a test
//! knows what really exists. A [`Container`] is a Debian that boots in a second, for tests of many nodes.

mod browser;
mod cloud;
mod console;
mod container;
mod debian;
mod groups;
mod login;
mod random;
mod sandbox;
mod slots;

pub use browser::Browser;
pub use cloud::{Holdings, LocalCloud};
pub use console::Console;
pub use container::{Container, Network};
pub use debian::debian;
pub use fleet_peers::runs;
pub use login::{Login, Tunnel};
pub use random::Random;
pub use sandbox::{Ended, Sandbox, eventually, program, stand_in};
pub use slots::{OnDisk, whole};
