//! Moments as the service writes them, in seconds since 1970. Pure.

use std::time::Duration;

/// `2016-03-21T07:46:26.000Z`, as the API writes moments; fractions are cut, and other forms are no moment.
pub fn moment(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let parted = [(4, '-'), (7, '-'), (10, 'T'), (13, ':'), (16, ':')];
    if !parted.iter().all(|(at, mark)| text.as_bytes().get(*at) == Some(&(*mark as u8)))
        || !text.ends_with('Z')
    {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let fine = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    if !fine {
        return None;
    }
    // Years that begin in March, so that leap days come last.
    let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = years.div_euclid(400);
    let of_era = years.rem_euclid(400);
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * months + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, as answers are dated.
pub fn date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, day, month, year, clock, "GMT"] = words.as_slice() else { return None };
    let month = 1 + MONTHS.iter().position(|name| name == month)?;
    moment(&format!("{year}-{month:02}-{day}T{clock}.000Z"))
}

/// What `Retry-After` says (RFC 9110, section 10.2.3): so many seconds, or until then, counted from the answer's own date.
pub(crate) fn retry_after(text: &str, dated: Option<&str>) -> Option<Duration> {
    let seconds = match text.trim().parse() {
        Ok(seconds) => seconds,
        // A moment that has passed is now.
        Err(_) => u64::try_from(date(text)? - date(dated?)?).unwrap_or(0),
    };
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_they_are_written() {
        let check = |text: &str, seconds: Option<i64>| assert_eq!(moment(text), seconds, "{text}");
        check("1970-01-01T00:00:00.000Z", Some(0));
        check("2000-02-29T00:00:00.000Z", Some(951_782_400));
        check("2016-03-21T07:46:26.000Z", Some(1_458_546_386));
        check("2024-02-29T00:01:26Z", Some(1_709_164_886));
        check("2099-12-31T23:59:59.999Z", Some(4_102_444_799));
        for wrong in
            ["", "2016-03-21", "2016-13-21T07:46:26.000Z", "2016-03-21T07:46:26", "2016-03-21 07:46:26Z"]
        {
            check(wrong, None);
        }
    }

    #[test]
    fn dates_of_answers_are_read() {
        assert_eq!(date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(date("Thu, 29 Feb 2024 00:00:00 GMT"), moment("2024-02-29T00:00:00.000Z"));
        for wrong in
            ["", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Foo 1994 08:49:37 GMT", "1994-11-06T08:49:37Z"]
        {
            assert_eq!(date(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn waits_are_read_in_both_forms() {
        const NOW: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        let check = |text: &str, dated: Option<&str>, seconds: Option<u64>| {
            assert_eq!(retry_after(text, dated), seconds.map(Duration::from_secs), "{text} {dated:?}");
        };
        check("120", None, Some(120));
        check(" 0 ", Some(NOW), Some(0));
        check("Sun, 06 Nov 1994 08:51:07 GMT", Some(NOW), Some(90));
        check("Sun, 06 Nov 1994 08:00:00 GMT", Some(NOW), Some(0));
        check("Sun, 06 Nov 1994 08:51:07 GMT", None, None);
        check("-1", Some(NOW), None);
        check("soon", Some(NOW), None);
        check("", None, None);
    }
}
