//! What the agent knows of its supervisor: on trial or not, and how to say that all is well.

use std::{env, io, path::PathBuf};

use crate::{digest::Digest, notify, record::Slot};

/// The version of the contract in [the crate's text](crate).
pub const CONTRACT: &str = "1";

/// An agent's view of the supervisor that started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supervised {
    /// The folder of the slots.
    pub slots: PathBuf,
    /// The slot this agent was started from.
    pub slot: Slot,
    /// Own digest, while on trial.
    pub trial: Option<Digest>,
}

impl Supervised {
    /// From the environment; nothing if no supervisor of this contract started us.
    pub fn from_env() -> Option<Self> {
        Self::from(|name| env::var(name).ok())
    }

    fn from(get: impl Fn(&str) -> Option<String>) -> Option<Self> {
        if get("FLEET_SUPERVISOR")? != CONTRACT {
            return None;
        }
        let name = get("FLEET_SLOT")?;
        let slot = Slot::BOTH.into_iter().find(|slot| slot.name() == name)?;
        let trial = match get("FLEET_TRIAL") {
            Some(text) => Some(text.parse().ok()?),
            None => None,
        };
        Some(Self { slots: get("FLEET_SLOTS")?.into(), slot, trial })
    }

    /// Says that the trial may end well. It has ended once `state` names this slot active; until then, say it again.
    ///
    /// # Errors
    /// The supervisor does not listen.
    pub fn commit(&self) -> io::Result<()> {
        match self.trial {
            Some(digest) => notify::tell(&format!("X_FLEET_COMMIT={digest}")),
            None => Ok(()),
        }
    }

    /// Says "I am well, the controller is not to be had": the trial's time begins anew.
    ///
    /// # Errors
    /// The supervisor does not listen.
    pub fn extend(&self) -> io::Result<()> {
        match self.trial {
            Some(_) => notify::tell("X_FLEET_EXTEND=1"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_taken_whole_or_not() {
        let digest = Digest::of(b"x").to_string();
        let view = |pairs: &[(&str, &str)]| {
            Supervised::from(|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let base = [("FLEET_SUPERVISOR", "1"), ("FLEET_SLOTS", "/s"), ("FLEET_SLOT", "b")];
        let plain = Supervised { slots: "/s".into(), slot: Slot::B, trial: None };
        assert_eq!(view(&base), Some(plain.clone()));
        let [version, slots, slot] = base;
        let tried = view(&[version, slots, slot, ("FLEET_TRIAL", &digest)]);
        assert_eq!(tried, Some(Supervised { trial: Some(Digest::of(b"x")), ..plain }));
        assert_eq!(view(&[version, slots, slot, ("FLEET_TRIAL", "?")]), None);
        assert_eq!(view(&[("FLEET_SUPERVISOR", "2"), slots, slot]), None);
        assert_eq!(view(&[version, slots, ("FLEET_SLOT", "c")]), None);
        assert_eq!(view(&[]), None);
    }
}
