//! A managed block in `/etc/hosts`; every byte outside it is left alone.
//!
//! Where a line outside the block maps one of its names (Debian's `127.0.1.1` does), the first match of the
//! file wins for most programs: a new block is put before that line, so that a node's own name leads to the
//! address the others use.

use std::net::IpAddr;

use async_trait::async_trait;
use fleet_proto::v1::HostsEntry;
use fleet_task::{Finding, Node, Task, TaskError, TaskId};

const FILE: &str = "/etc/hosts";
const BEGIN: &str = "# BEGIN fleet (managed block; changes in here are lost)";
const END: &str = "# END fleet";
/// Longest host name (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;

/// Keeps the block.
#[derive(Clone, Debug)]
pub struct Hosts {
    id: TaskId,
    entries: Vec<HostsEntry>,
}

/// Why the file is not touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// A begin with no end.
    #[error("line {0} of {FILE} begins a managed block that has no end")]
    NoEnd(usize),
    /// An end with no begin.
    #[error("line {0} of {FILE} ends a managed block that has no beginning")]
    NoBegin(usize),
    /// More than one block.
    #[error("line {0} of {FILE} begins a second managed block")]
    Second(usize),
}

impl Hosts {
    /// The block is to hold these entries.
    pub fn new(id: TaskId, entries: Vec<HostsEntry>) -> Self {
        Self { id, entries }
    }

    /// The file as it is and as it should be.
    fn compare(&self, node: &Node) -> Result<(Vec<u8>, Vec<u8>), TaskError> {
        let block = block(&self.entries)?;
        let now = node.read(FILE)?.unwrap_or_default();
        let names: Vec<&str> =
            self.entries.iter().flat_map(|entry| &entry.names).map(String::as_str).collect();
        let wanted = edit(&now, &block, &names).map_err(|error| TaskError::Refused {
            why: error.to_string(),
            next: format!("delete the marker lines `{BEGIN}` and `{END}` and what is between them by hand"),
        })?;
        Ok((now, wanted))
    }
}

#[async_trait]
impl Task for Hosts {
    fn id(&self) -> &TaskId {
        &self.id
    }

    async fn check(&self, node: &Node) -> Result<Finding, TaskError> {
        let (now, wanted) = self.compare(node)?;
        if now == wanted {
            return Ok(Finding::converged());
        }
        Ok(Finding::drift([format!("{} entries in {FILE}", self.entries.len())]))
    }

    async fn apply(&self, node: &Node) -> Result<(), TaskError> {
        let (now, wanted) = self.compare(node)?;
        if now != wanted {
            node.write(FILE, &wanted, 0o644)?;
        }
        Ok(())
    }
}

/// The block's text, every entry checked: a bad one would break name resolution for the whole node.
fn block(entries: &[HostsEntry]) -> Result<String, TaskError> {
    let refuse = |why: String| TaskError::Refused { why, next: "correct the plan".into() };
    let mut text = format!("{BEGIN}\n");
    for entry in entries {
        let address: IpAddr =
            entry.address.parse().map_err(|_| refuse(format!("`{}` is not an address", entry.address)))?;
        if entry.names.is_empty() {
            return Err(refuse(format!("{address} has no name")));
        }
        for name in &entry.names {
            let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
            if name.is_empty() || name.len() > MAX_NAME || !letters || name.starts_with(['-', '.']) {
                return Err(refuse(format!("`{name}` is not a host name")));
            }
        }
        text.push_str(&format!("{address} {}\n", entry.names.join(" ")));
    }
    text.push_str(END);
    text.push('\n');
    Ok(text)
}

/// `now` with its managed block replaced by `block`, or with `block` added where there is none. Pure.
///
/// # Errors
/// [`BlockError`] if the markers are broken: guessing could cost somebody's lines.
fn edit(now: &[u8], block: &str, names: &[&str]) -> Result<Vec<u8>, BlockError> {
    let lines: Vec<&[u8]> = now.split_inclusive(|byte| *byte == b'\n').collect();
    let is = |line: &[u8], mark: &str| line.trim_ascii() == mark.as_bytes();
    let (mut begin, mut end) = (None, None);
    for (at, line) in lines.iter().enumerate() {
        if is(line, BEGIN) {
            match (begin, end) {
                (None, _) => begin = Some(at),
                (Some(first), None) => return Err(BlockError::NoEnd(first + 1)),
                (Some(_), Some(_)) => return Err(BlockError::Second(at + 1)),
            }
        } else if is(line, END) {
            match (begin, end) {
                (Some(_), None) => end = Some(at),
                _ => return Err(BlockError::NoBegin(at + 1)),
            }
        }
    }
    let (before, after) = match (begin, end) {
        (Some(begin), Some(end)) => (begin, end + 1),
        (Some(begin), None) => return Err(BlockError::NoEnd(begin + 1)),
        (None, _) => {
            let place = lines.iter().position(|line| maps(line, names)).unwrap_or(lines.len());
            (place, place)
        }
    };
    let mut new: Vec<u8> = lines[..before].concat();
    if new.last().is_some_and(|last| *last != b'\n') {
        new.push(b'\n');
    }
    new.extend_from_slice(block.as_bytes());
    new.extend(lines[after..].concat());
    Ok(new)
}

/// Whether a line maps one of `names`.
fn maps(line: &[u8], names: &[&str]) -> bool {
    let text = String::from_utf8_lossy(line);
    let text = text.split('#').next().unwrap_or_default();
    text.split_whitespace().skip(1).any(|word| names.iter().any(|name| word.eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tasks::tests::Rig;

    fn entry(address: &str, names: &[&str]) -> HostsEntry {
        HostsEntry { address: address.into(), names: names.iter().map(ToString::to_string).collect() }
    }

    fn task(entries: &[HostsEntry]) -> Hosts {
        Hosts::new(TaskId::new("hosts"), entries.to_vec())
    }

    const DEBIAN: &str = "127.0.0.1\tlocalhost\n127.0.1.1\tdebian\n\n::1 localhost ip6-localhost\n";

    #[tokio::test]
    async fn the_block_is_added_then_replaced() {
        let rig = Rig::new(&[(FILE, DEBIAN)]);
        rig.changed(&task(&[entry("10.0.0.1", &["n1"])])).await;
        assert_eq!(rig.text(FILE), format!("{DEBIAN}{BEGIN}\n10.0.0.1 n1\n{END}\n"));
        let two = task(&[entry("10.0.0.1", &["n1"]), entry("2001:db8::2", &["n2", "n2.fleet"])]);
        rig.changed(&two).await;
        assert_eq!(rig.text(FILE), format!("{DEBIAN}{BEGIN}\n10.0.0.1 n1\n2001:db8::2 n2 n2.fleet\n{END}\n"));
        rig.unchanged(&two).await;
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_made() {
        let rig = Rig::new(&[]);
        rig.changed(&task(&[entry("10.0.0.1", &["n1"])])).await;
        assert_eq!(rig.text(FILE), format!("{BEGIN}\n10.0.0.1 n1\n{END}\n"));
    }

    #[test]
    fn the_block_goes_before_a_line_with_one_of_its_names() {
        let new = edit(DEBIAN.as_bytes(), "BLOCK\n", &["Debian"]).expect("fine");
        let expected = "127.0.0.1\tlocalhost\nBLOCK\n127.0.1.1\tdebian\n\n::1 localhost ip6-localhost\n";
        assert_eq!(String::from_utf8(new).expect("text"), expected);
    }

    #[test]
    fn broken_markers_are_named_and_nothing_is_guessed() {
        let check = |text: &str, expected: BlockError| {
            let marks = text.lines().map(|line| match line {
                "B" => BEGIN,
                "E" => END,
                other => other,
            });
            let text = marks.collect::<Vec<_>>().join("\n");
            assert_eq!(edit(text.as_bytes(), "", &[]), Err(expected), "{text}");
        };
        check("x\nB\ny\n", BlockError::NoEnd(2));
        check("x\ny\nE\n", BlockError::NoBegin(3));
        check("B\nB\nE\n", BlockError::NoEnd(1));
        check("B\nE\nB\nE\n", BlockError::Second(3));
        check("B\nE\nE\n", BlockError::NoBegin(3));
    }

    #[tokio::test]
    async fn bad_entries_never_reach_the_file() {
        let check = async |entries: &[HostsEntry], expected: &str| {
            let rig = Rig::new(&[(FILE, DEBIAN)]);
            let why = rig.failed(&task(entries)).await;
            assert!(why.contains(expected), "{why}");
            assert_eq!(rig.text(FILE), DEBIAN);
        };
        check(&[entry("10.0.0", &["n1"])], "`10.0.0` is not an address").await;
        check(&[entry("10.0.0.1", &[])], "10.0.0.1 has no name").await;
        check(&[entry("10.0.0.1", &["a b"])], "`a b` is not a host name").await;
        check(&[entry("10.0.0.1", &["a\n6.6.6.6 bank"])], "is not a host name").await;
        check(&[entry("10.0.0.1", &["#"])], "`#` is not a host name").await;
    }

    #[tokio::test]
    async fn a_link_is_refused() {
        let rig = Rig::new(&[("/etc/elsewhere", DEBIAN)]);
        std::os::unix::fs::symlink(rig.path("/etc/elsewhere"), rig.path(FILE)).expect("link");
        let why = rig.failed(&task(&[entry("10.0.0.1", &["n1"])])).await;
        assert!(why.contains("a symbolic link"), "{why}");
        assert_eq!(rig.text("/etc/elsewhere"), DEBIAN);
    }

    fn line() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            Just(b"127.0.0.1 localhost".to_vec()),
            Just(b"127.0.1.1 n1".to_vec()),
            Just(b"# BEGIN of something else".to_vec()),
            Just(b"\r".to_vec()),
            proptest::collection::vec(any::<u8>().prop_filter("no line end", |byte| *byte != b'\n'), 0..20),
        ]
        .prop_filter("no marker", |line| ![BEGIN.as_bytes(), END.as_bytes()].contains(&line.trim_ascii()))
    }

    fn file() -> impl Strategy<Value = Vec<u8>> {
        (proptest::collection::vec(line(), 0..8), any::<bool>()).prop_map(|(lines, ended)| {
            let mut file = lines.join(&b'\n');
            if ended && !file.is_empty() {
                file.push(b'\n');
            }
            file
        })
    }

    proptest! {
        #[test]
        fn everything_outside_is_kept_and_a_second_edit_changes_nothing(file in file(), n in 0..4_u8, m in 0..4_u8) {
            let block_of = |n: u8| {
                let entries: Vec<_> = (0..n).map(|i| entry(&format!("10.0.0.{i}"), &[&format!("n{i}")])).collect();
                block(&entries).expect("valid entries")
            };
            let (first, second) = (block_of(n), block_of(m));
            let once = edit(&file, &first, &["n1"]).expect("no markers");
            prop_assert_eq!(&edit(&once, &first, &["n1"]).expect("one block"), &once);
            let twice = edit(&once, &second, &["n1"]).expect("one block");
            // Taking the block out again gives the file back, but for a line end it may have lacked.
            for (edited, block) in [(&once, &first), (&twice, &second)] {
                let at = edited.windows(block.len()).position(|w| w == block.as_bytes()).expect("the block");
                let outside = [&edited[..at], &edited[at + block.len()..]].concat();
                let mut expected = file.clone();
                if outside.len() == file.len() + 1 {
                    expected.push(b'\n');
                }
                prop_assert_eq!(outside, expected);
            }
        }
    }
}
