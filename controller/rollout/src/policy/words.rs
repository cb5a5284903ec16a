//! Amounts, durations and hours as people write them, in files and in the stored form alike.

use std::{fmt, time::Duration};

use serde::{Deserializer, Serializer, de};

/// `90s`, `10m`, `2h`, `1d`, `250ms`, or a number of seconds.
pub(crate) mod duration {
    use super::*;

    const UNITS: [(&str, u64); 5] =
        [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let (unit, size) = if ms == 0 {
            UNITS[1]
        } else {
            *UNITS.iter().rev().find(|(_, size)| ms % size == 0).expect("every number is one of milliseconds")
        };
        to.collect_str(&format_args!("{}{unit}", ms / size))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        struct Reader;
        impl de::Visitor<'_> for Reader {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 90s, 10m, 2h or 1d")
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Duration, E> {
                Ok(Duration::from_secs(seconds))
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Duration, E> {
                let whole = u64::try_from(seconds);
                whole
                    .map(Duration::from_secs)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(seconds), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
                let unit = text[digits.len()..].trim();
                let size = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, size)| *size);
                let number: Option<u64> = digits.parse().ok();
                number
                    .zip(size)
                    .and_then(|(number, size)| number.checked_mul(size))
                    .map(Duration::from_millis)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        from.deserialize_any(Reader)
    }
}

/// `22:30`, as minutes of the day.
pub(crate) mod hour {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(minutes: &u16, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:02}:{:02}", minutes / 60, minutes % 60))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
        struct Reader;
        impl de::Visitor<'_> for Reader {
            type Value = u16;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time of day such as \"22:30\", in quotes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<u16, E> {
                let two = |part: &str| (part.len() == 2).then(|| part.parse::<u16>().ok()).flatten();
                let parts = text.split_once(':').and_then(|(h, m)| Some((two(h)?, two(m)?)));
                parts
                    .filter(|(h, m)| (*h < 24 && *m < 60) || (*h, *m) == (24, 0))
                    .map(|(h, m)| h * 60 + m)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        from.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::policy::{Amount, Deadlines, Window};

    #[test]
    fn durations_as_written() {
        let check = |text: &str, wanted: Option<Duration>, again: &str| {
            let read = serde_json::from_str::<Deadlines>(&format!("{{\"trial\":{text}}}"));
            assert_eq!(read.as_ref().ok().map(|deadlines| deadlines.trial), wanted, "{text}");
            if let Ok(deadlines) = read {
                let written = serde_json::to_value(deadlines).expect("plain data");
                assert_eq!(written["trial"], again, "{text}");
            }
        };
        check("\"90s\"", Some(Duration::from_secs(90)), "90s");
        check("\"10m\"", Some(Duration::from_secs(600)), "10m");
        check("\"2 h\"", Some(Duration::from_secs(7200)), "2h");
        check("\"48h\"", Some(Duration::from_secs(172_800)), "2d");
        check("\"250ms\"", Some(Duration::from_millis(250)), "250ms");
        check("30", Some(Duration::from_secs(30)), "30s");
        check("0", Some(Duration::ZERO), "0s");
        for wrong in [
            "\"10\"",
            "\"m\"",
            "\"10 weeks\"",
            "-1",
            "\"99999999999999999999s\"",
            "\"18446744073709551615d\"",
        ] {
            check(wrong, None, "");
        }
    }

    #[test]
    fn amounts_as_written() {
        let check = |text: &str, wanted: Option<Amount>| {
            let read = serde_json::from_str::<Amount>(text).ok();
            assert_eq!(read, wanted, "{text}");
            if let Some(amount) = read {
                let written = serde_json::to_string(&amount).expect("plain data");
                assert_eq!(serde_json::from_str::<Amount>(&written).expect("reads again"), amount);
            }
        };
        check("3", Some(Amount::Count(3)));
        check("\"3\"", Some(Amount::Count(3)));
        check("\"10%\"", Some(Amount::Percent(10)));
        check("\"10 %\"", Some(Amount::Percent(10)));
        for wrong in ["-1", "\"ten\"", "\"300%\"", "0.5", "\"%\"", "4294967296"] {
            check(wrong, None);
        }
    }

    #[test]
    fn hours_as_written() {
        let check = |hour: &str, wanted: Option<u16>| {
            let text =
                format!("{{\"zone\":\"UTC\",\"days\":[\"monday\"],\"from\":\"{hour}\",\"until\":\"02:00\"}}");
            let read = serde_json::from_str::<Window>(&text).ok();
            assert_eq!(read.map(|window| window.from), wanted, "{hour}");
        };
        check("22:30", Some(1350));
        check("00:00", Some(0));
        check("24:00", Some(1440));
        for wrong in ["24:01", "7:00", "22:60", "22", "noon"] {
            check(wrong, None);
        }
    }
}
