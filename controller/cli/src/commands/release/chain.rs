//! Whether fleets go by the keys that are here: what a copy of before a rotation signs, no node takes.

use fleet_model::FleetName;
use fleet_proto::v1::ReleasesRequest;

use super::{client, keys::Keys};
use crate::{
    args::Global,
    failure::{Exit, Failure},
    home::Home,
};

/// How the chain of roots that a fleet goes by is not the one here, nor an earlier part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apart {
    /// Theirs goes on after ours ends: ours was copied before a rotation.
    Behind {
        /// Number of our last root.
        ours: usize,
        /// Number of theirs.
        theirs: usize,
    },
    /// Both begin with the same root, and this one is another: such a copy was rotated once more.
    Parted(usize),
    /// They were never the same releaser's.
    Strangers,
}

impl Apart {
    /// Whether the keys here were once the fleet's, so that there is, or was, a newer copy of them.
    pub fn is_stale(self) -> bool {
        self != Self::Strangers
    }

    /// A refusal to use `keys` for `fleet`.
    pub fn refusal(self, fleet: &FleetName, keys: &Keys) -> Failure {
        let dir = keys.dir().display();
        let (what, hint) = match self {
            Self::Behind { ours, theirs } => (
                format!(
                    "the release keys in {dir} are a copy of before a rotation: they end at root {ours}, and fleet \
                     `{fleet}` goes by root {theirs}, so no node takes what they sign"
                ),
                format!("put the newest copy of {dir} back, made after the last `fleetctl release rotate`"),
            ),
            Self::Parted(number) => (
                format!(
                    "the release keys in {dir} are a copy of before a rotation, rotated once more: their root {number} \
                     is not that of fleet `{fleet}`, so no node takes what they sign"
                ),
                format!("put the newest copy of {dir} back, whose root {number} is the fleet's"),
            ),
            Self::Strangers => (
                format!(
                    "fleet `{fleet}` goes by another releaser's keys: no node takes what those in {dir} sign"
                ),
                "sign where that releaser's keys are; --fleet names the fleet to sign for, if it is another"
                    .to_owned(),
            ),
        };
        Failure::new(Exit::Input, what).hint(hint)
    }
}

/// Whether, and how, `theirs` is another chain than `ours` or what went before it.
pub fn apart(ours: &[Vec<u8>], theirs: &[Vec<u8>]) -> Option<Apart> {
    match ours.iter().zip(theirs).position(|(ours, theirs)| ours != theirs) {
        Some(0) => Some(Apart::Strangers),
        Some(at) => Some(Apart::Parted(at + 1)),
        None if ours.len() < theirs.len() => Some(Apart::Behind { ours: ours.len(), theirs: theirs.len() }),
        None => None,
    }
}

/// The fleet that is named, or all of this home: for whom keys are used.
pub fn fleets(global: &Global, home: &Home) -> Vec<FleetName> {
    global.fleet.clone().map_or_else(|| home.fleets(), |fleet| vec![fleet])
}

/// Asks the controllers of these fleets whether they go by other keys, in a way that counts as `bad`. Keys are used also
/// where no controller is: one that does not answer has no say.
///
/// # Errors
/// One does; nothing was signed.
pub async fn fits(
    home: &Home,
    fleets: &[FleetName],
    keys: &Keys,
    bad: impl Fn(Apart) -> bool,
) -> Result<(), Failure> {
    for fleet in fleets {
        let Ok(mut client) = client(home, fleet).await else { continue };
        let Ok(reply) = client.list(ReleasesRequest {}).await else { continue };
        if let Some(apart) = apart(keys.chain(), &reply.into_inner().roots).filter(|apart| bad(*apart)) {
            return Err(apart.refusal(fleet, keys));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_one_or_apart() {
        let chain = |text: &str| text.bytes().map(|byte| vec![byte]).collect::<Vec<_>>();
        let check = |ours, theirs, wanted| assert_eq!(apart(&chain(ours), &chain(theirs)), wanted);
        check("1", "", None);
        check("12", "12", None);
        check("123", "12", None);
        check("12", "1234", Some(Apart::Behind { ours: 2, theirs: 4 }));
        check("1x", "12", Some(Apart::Parted(2)));
        check("1x3", "12", Some(Apart::Parted(2)));
        check("x2", "12", Some(Apart::Strangers));
    }
}
