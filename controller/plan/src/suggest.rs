//! "Did you mean": the known word nearest to an unknown one.

/// `did you mean ..?` if a known word is near, else the list of known words.
pub(crate) fn suggest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut known: Vec<&str> = known.into_iter().collect();
    let mut seen = std::collections::BTreeSet::new();
    known.retain(|word| seen.insert(*word));
    if let Some(near) = nearest(unknown, &known) {
        return Some(format!("did you mean `{near}`?"));
    }
    (!known.is_empty()).then(|| format!("known here: {}", quoted(&known)))
}

/// `` `a`, `b`, `c` ``.
pub(crate) fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    // A third of the letters may differ: `memoryGB` finds `memoryGb`, `web` does not find `db`.
    let limit = unknown.chars().count().max(3) / 3;
    known
        .iter()
        .map(|word| (distance(&unknown.to_lowercase(), &word.to_lowercase()), *word))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, word)| word)
}

/// Edits that turn one word into the other: insert, delete, replace, swap neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // Words longer than this are prose, not a mistyped key.
    const LONGEST: usize = 80;
    if a.len() > LONGEST || b.len() > LONGEST {
        return usize::MAX;
    }
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let known = ["memoryGb", "disks", "image", "internet", "cpu"];
        let check = |unknown: &str, expected: Option<&str>| assert_eq!(nearest(unknown, &known), expected);
        check("memoryGB", Some("memoryGb"));
        check("dsiks", Some("disks"));
        check("disk", Some("disks"));
        check("imgae", Some("image"));
        check("colour", None);
        check("", None);
    }

    #[test]
    fn lists_what_is_known_when_nothing_is_near() {
        assert_eq!(suggest("x", ["alpha", "beta"]), Some("known here: `alpha`, `beta`".into()));
        assert_eq!(suggest("x", []), None);
    }
}
