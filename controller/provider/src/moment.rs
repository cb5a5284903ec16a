//! Moments as the cloud writes them, as ours. Pure.

use fleet_model::Timestamp;

/// A moment in the API's own form.
pub(crate) fn moment(text: &str) -> Option<Timestamp> {
    fleet_mcp::moment::moment(text).map(of_seconds)
}

/// A moment as answers are dated; to the second.
pub(crate) fn date(text: &str) -> Option<Timestamp> {
    fleet_mcp::moment::date(text).map(of_seconds)
}

fn of_seconds(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_ours() {
        for seconds in [0, 951_782_400, 1_458_546_386, 1_709_164_800, 4_102_444_799_i64] {
            let at = Timestamp::from_millis(seconds * 1000);
            assert_eq!(moment(&at.to_string()), Some(at), "{at}");
        }
        assert_eq!(date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Timestamp::from_millis(784_111_777_000)));
    }
}
