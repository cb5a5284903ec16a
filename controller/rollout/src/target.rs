//! What a rollout brings.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Before the digest of a plan, where a target is written as text; what bears no such word is a release.
const PLAN: &str = "plan:";

/// What nodes are to have. Stored as text: releases as they always were.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Target {
    /// A release of the agent, by the digest of its program.
    Release(String),
    /// What a plan has its nodes do, by the digest of all of it.
    Plan(String),
}

impl Target {
    /// Whether it is a plan's work.
    pub fn is_plan(&self) -> bool {
        matches!(self, Self::Plan(_))
    }

    /// What it is known by.
    pub fn digest(&self) -> &str {
        match self {
            Self::Release(digest) | Self::Plan(digest) => digest,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release(digest) => f.write_str(digest),
            Self::Plan(digest) => write!(f, "{PLAN}{digest}"),
        }
    }
}

impl From<String> for Target {
    fn from(text: String) -> Self {
        match text.strip_prefix(PLAN) {
            Some(digest) => Self::Plan(digest.to_owned()),
            None => Self::Release(text),
        }
    }
}

impl From<&str> for Target {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (target, text) in [
            (Target::Release("sha256:aa".into()), "\"sha256:aa\""),
            (Target::Plan("bb".into()), "\"plan:bb\""),
        ] {
            let written = serde_json::to_string(&target).expect("plain data");
            assert_eq!(written, text);
            assert_eq!(serde_json::from_str::<Target>(&written).expect("reads"), target);
        }
    }
}
