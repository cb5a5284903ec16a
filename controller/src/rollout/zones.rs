//! How far local times are ahead, for maintenance windows: tables of this host, or those built in.

use std::collections::BTreeMap;

use fleet_model::Timestamp;
use fleet_rollout::Policy;
use jiff::tz::TimeZone;

/// Seconds ahead of UTC of every zone of the policy that is known.
pub(super) fn offsets(policy: &Policy, now: Timestamp) -> BTreeMap<String, i32> {
    let zones = policy.windows.values().map(|window| &window.zone);
    zones.filter_map(|zone| Some((zone.clone(), ahead(zone, now)?))).collect()
}

/// Zones of the policy that nobody knows.
pub(super) fn unknown(policy: &Policy, now: Timestamp) -> Vec<&str> {
    let zones = policy.windows.values().map(|window| window.zone.as_str());
    zones.filter(|zone| ahead(zone, now).is_none()).collect()
}

fn ahead(zone: &str, at: Timestamp) -> Option<i32> {
    let at = jiff::Timestamp::from_millisecond(at.as_millis()).ok()?;
    Some(TimeZone::get(zone).ok()?.to_offset(at).seconds())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summer_and_winter() {
        let check = |zone: &str, at: i64, wanted: Option<i32>| {
            assert_eq!(ahead(zone, Timestamp::from_millis(at)), wanted, "{zone} {at}");
        };
        // 2024-01-15 and 2024-07-15, and a summer for which no table has an entry of its own.
        check("Europe/Brussels", 1_705_276_800_000, Some(3600));
        check("Europe/Brussels", 1_721_001_600_000, Some(7200));
        check("Europe/Brussels", 2_878_761_600_000, Some(3600));
        check("UTC", 1_721_001_600_000, Some(0));
        check("Asia/Kolkata", 1_721_001_600_000, Some(19_800));
        check("Europe/Atlantis", 1_721_001_600_000, None);
    }
}
