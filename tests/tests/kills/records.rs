//! What an agent keeps beside its slots.

use std::{fs, path::Path};

use fleet_agent::{
    Places,
    identity::{Holdings, Key},
};
use fleet_proto::v1::Desired;
use fleet_release::{Kind, Signed};
use prost::Message as _;
use serde_json::Value;

/// Looks at every record of an agent that was cut off, below the root of its node: each is whole, or not there. How many
/// there are.
#[track_caller]
pub fn whole(root: &Path) -> usize {
    let places = Places::below(root);
    // Without these it would not be a node of this fleet any more.
    let held = Holdings::load(&places).expect("its credentials are whole").expect("it has credentials");
    let key = places.state().join(&held.current.key_file);
    Key::open(key).expect("its key is whole").expect("it has its key");
    let trusted = fs::read(places.release().join("root")).expect("it trusts somebody");
    Signed::decode(Kind::Root, &trusted).expect("whom it trusts is whole");
    let desired = fs::read(places.desired()).expect("it knows what it should be");
    let desired = Desired::decode(desired.as_slice()).expect("what it should be is whole");
    assert!(desired.generation > 0, "{desired:?}");
    let others = [places.release().join("order"), places.release().join("highest"), places.journal()];
    let there = others.iter().filter(|path| {
        let Ok(bytes) = fs::read(path) else { return false };
        let read = serde_json::from_slice::<Value>(&bytes);
        read.unwrap_or_else(|why| panic!("{}: {why} in {bytes:?}", path.display()));
        true
    });
    4 + there.count()
}
