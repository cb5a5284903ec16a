//! The difference between two texts, short enough for a report.

/// Lines shown.
const SHOWN: usize = 2;
/// Longest piece of a line shown, in characters.
const LONGEST: usize = 80;

/// The first lines that differ; sizes for what is no text.
pub(super) fn lines(now: &[u8], wanted: &[u8]) -> String {
    let (Some(old), Some(new)) = (text(now), text(wanted)) else { return sizes(now, wanted) };
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let differ: Vec<usize> =
        (0..old.len().max(new.len())).filter(|at| old.get(*at) != new.get(*at)).collect();
    if differ.is_empty() {
        // Only the end of the last line.
        return sizes(now, wanted);
    }
    let mut parts: Vec<String> =
        differ.iter().take(SHOWN).map(|at| line(*at, old.get(*at), new.get(*at))).collect();
    if differ.len() > SHOWN {
        parts.push(format!("{} more lines", differ.len() - SHOWN));
    }
    parts.join(", ")
}

/// How long both are.
pub(super) fn sizes(now: &[u8], wanted: &[u8]) -> String {
    if now.len() == wanted.len() {
        return format!("other {} bytes than it is to hold", now.len());
    }
    format!("{} bytes, to become {}", now.len(), wanted.len())
}

fn line(at: usize, old: Option<&&str>, new: Option<&&str>) -> String {
    let nth = at + 1;
    match (old, new) {
        (Some(old), Some(new)) => format!("line {nth} is `{}`, to become `{}`", cut(old), cut(new)),
        (Some(old), None) => format!("line {nth} is `{}`, to go", cut(old)),
        (None, new) => format!("line {nth} is missing: `{}`", cut(new.copied().unwrap_or_default())),
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

fn cut(line: &str) -> String {
    let mut shown: String =
        line.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() > LONGEST {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(now: &str, wanted: &str, expected: &str) {
        assert_eq!(lines(now.as_bytes(), wanted.as_bytes()), expected);
    }

    #[test]
    fn the_first_lines_are_shown() {
        check("a\nb\n", "a\nc\n", "line 2 is `b`, to become `c`");
        check("a\n", "a\nb\n", "line 2 is missing: `b`");
        check("a\nb\n", "a\n", "line 2 is `b`, to go");
        check(
            "a\nb\nc\nd\n",
            "1\n2\n3\n4\n",
            "line 1 is `a`, to become `1`, line 2 is `b`, to become `2`, 2 more lines",
        );
        check("a", "a\n", "1 bytes, to become 2");
        check("a\0", "b\0", "other 2 bytes than it is to hold");
        check("\u{1b}[2J", "x", "line 1 is ` [2J`, to become `x`");
        let long = "x".repeat(200);
        assert!(lines(long.as_bytes(), b"y").len() < 140);
    }
}
