//! Lines of ours in a file that others write to as well: a block between two markers; every byte outside it is left
//! alone. Pure.

/// First line of a block.
pub const BEGIN: &str = "# BEGIN fleet (managed block; changes in here are lost)";
/// Last line of a block.
pub const END: &str = "# END fleet";

/// Why a file is not touched: guessing could cost somebody's lines.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// A begin with no end.
    #[error("line {0} begins a managed block that has no end")]
    NoEnd(usize),
    /// An end with no begin.
    #[error("line {0} ends a managed block that has no beginning")]
    NoBegin(usize),
    /// More than one block.
    #[error("line {0} begins a second managed block")]
    Second(usize),
}

/// `now` with its block holding these lines; a new block goes before the first line that `before` names, else to the end.
///
/// # Errors
/// [`BlockError`] if the markers are broken.
pub fn edit(now: &[u8], lines: &[String], before: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, BlockError> {
    let all: Vec<&[u8]> = now.split_inclusive(|byte| *byte == b'\n').collect();
    let (mut begin, mut end) = (None, None);
    for (at, line) in all.iter().enumerate() {
        let line = line.trim_ascii();
        if line == BEGIN.as_bytes() {
            match (begin, end) {
                (None, _) => begin = Some(at),
                (Some(first), None) => return Err(BlockError::NoEnd(first + 1)),
                (Some(_), Some(_)) => return Err(BlockError::Second(at + 1)),
            }
        } else if line == END.as_bytes() {
            match (begin, end) {
                (Some(_), None) => end = Some(at),
                _ => return Err(BlockError::NoBegin(at + 1)),
            }
        }
    }
    let (first, last) = match (begin, end) {
        (Some(begin), Some(end)) => (begin, end + 1),
        (Some(begin), None) => return Err(BlockError::NoEnd(begin + 1)),
        (None, _) => {
            let place = all.iter().position(|line| before(line)).unwrap_or(all.len());
            (place, place)
        }
    };
    let mut new = all[..first].concat();
    if new.last().is_some_and(|last| *last != b'\n') {
        new.push(b'\n');
    }
    let text: String = [BEGIN]
        .into_iter()
        .chain(lines.iter().map(String::as_str))
        .chain([END])
        .map(|line| format!("{line}\n"))
        .collect();
    new.extend_from_slice(text.as_bytes());
    new.extend(all[last..].concat());
    Ok(new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(now: &str, lines: &[&str]) -> String {
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        let new = edit(now.as_bytes(), &lines, |line| line.starts_with(b"!"));
        String::from_utf8(new.expect("whole markers")).expect("text")
    }

    #[test]
    fn the_block_is_added_then_replaced() {
        let one = text("theirs", &["a"]);
        assert_eq!(one, format!("theirs\n{BEGIN}\na\n{END}\n"));
        let more = format!("{one}later\n");
        assert_eq!(text(&more, &["b", "c"]), format!("theirs\n{BEGIN}\nb\nc\n{END}\nlater\n"));
        assert_eq!(text("theirs\n!x\n!y\n", &["a"]), format!("theirs\n{BEGIN}\na\n{END}\n!x\n!y\n"));
        assert_eq!(text("!x\ntheirs", &["a"]), format!("{BEGIN}\na\n{END}\n!x\ntheirs"));
    }

    #[test]
    fn broken_markers_are_named() {
        let check = |text: String, expected: BlockError| {
            assert_eq!(edit(text.as_bytes(), &[], |_| false), Err(expected))
        };
        check(format!("x\n{BEGIN}\n"), BlockError::NoEnd(2));
        check(format!("{BEGIN}\n{BEGIN}\n{END}\n"), BlockError::NoEnd(1));
        check(format!("x\n{END}\n"), BlockError::NoBegin(2));
        check(format!("{BEGIN}\n{END}\n{BEGIN}\n{END}\n"), BlockError::Second(3));
        check(format!("{BEGIN}\n{END}\n{END}\n"), BlockError::NoBegin(3));
    }

    proptest! {
        #[test]
        fn what_others_wrote_stays_to_the_byte(before in "[a-z \n]{0,40}", lines in proptest::collection::vec("[a-z]{1,8}", 1..4)) {
            let once = edit(before.as_bytes(), &lines, |_| false).expect("no markers");
            prop_assert!(once.starts_with(before.as_bytes()));
            prop_assert_eq!(edit(&once, &lines, |_| false).expect("whole"), once);
        }
    }
}
