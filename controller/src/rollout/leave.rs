//! Who would have to go back, and may not.

use fleet_model::NodeName;
use fleet_release::Version;
use fleet_rollout::Member;

use super::{catalogue::Offerable, floor::Floor, trouble::Trouble};

/// Names told of those who may not.
const NAMES: usize = 10;

/// Whether all members that run a newer version than `release`, as they say themselves, have leave to go back to it. A
/// node knows more: it goes by the newest that it ever took.
///
/// # Errors
/// [`Trouble::Request`] that names those who have none.
pub(super) fn all_have_it(floor: &dyn Floor, release: &Offerable, members: &[Member]) -> Result<(), Trouble> {
    let Ok(version) = release.version.parse::<Version>() else { return Ok(()) };
    let newer = |node: &&NodeName| {
        let runs = floor.standing(node).and_then(|standing| standing.running_version.parse::<Version>().ok());
        runs.is_some_and(|runs| runs > version)
    };
    let without: Vec<&str> = members
        .iter()
        .map(|member| &member.node)
        .filter(newer)
        .filter(|node| release.permit_for(node).is_none())
        .map(NodeName::as_str)
        .collect();
    if without.is_empty() {
        return Ok(());
    }
    let (told, more) = without.split_at(without.len().min(NAMES));
    let (and, dots) = match more.len() {
        0 => (String::new(), ""),
        more => (format!(" and {more} more"), ",…"),
    };
    Err(Trouble::request(
        format!(
            "no permit in force lets these nodes, which run a newer version, go back to {version}: {}{and}",
            told.join(", ")
        ),
        format!(
            "`fleetctl release permit {version} --nodes {}{dots} --reason \"…\"` signs leave for them",
            told.join(",")
        ),
    ))
}
