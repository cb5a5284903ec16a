//! A managed block in `/etc/hosts`; every byte outside it is left alone.
//!
//! Where a line outside the block maps one of its names (Debian's `127.0.1.1` does), the first match of the
//! file wins for most programs: a new block is put before that line, so that a node's own name leads to the
//! address the others use.

use std::net::IpAddr;

use async_trait::async_trait;
use fleet_proto::v1::HostsEntry;
use fleet_task::{Finding, Node, Task, TaskError, TaskId};

use super::support::block;

const FILE: &str = "/etc/hosts";
/// Longest host name (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;

/// Keeps the block.
#[derive(Clone, Debug)]
pub struct Hosts {
    id: TaskId,
    entries: Vec<HostsEntry>,
}

impl Hosts {
    /// The block is to hold these entries.
    pub fn new(id: TaskId, entries: Vec<HostsEntry>) -> Self {
        Self { id, entries }
    }

    /// The file as it is and as it should be.
    fn compare(&self, node: &Node) -> Result<(Vec<u8>, Vec<u8>), TaskError> {
        let lines = lines(&self.entries)?;
        let now = node.read(FILE)?.unwrap_or_default();
        let names: Vec<&str> =
            self.entries.iter().flat_map(|entry| &entry.names).map(String::as_str).collect();
        let wanted = block::edit(&now, &lines, |line| maps(line, &names));
        let wanted = wanted.map_err(|error| TaskError::Refused {
            why: format!("{FILE}: {error}"),
            next: format!(
                "delete the marker lines `{}` and `{}` and what is between them by hand",
                block::BEGIN,
                block::END
            ),
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

/// The block's lines, every entry checked: a bad one would break name resolution for the whole node.
fn lines(entries: &[HostsEntry]) -> Result<Vec<String>, TaskError> {
    let refuse = |why: String| TaskError::Refused { why, next: "correct the plan".into() };
    let mut lines = Vec::new();
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
        lines.push(format!("{address} {}", entry.names.join(" ")));
    }
    Ok(lines)
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
    use crate::tasks::{
        support::block::{BEGIN, END},
        tests::Rig,
    };

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

    #[tokio::test]
    async fn the_block_goes_before_a_line_with_one_of_its_names() {
        let rig = Rig::new(&[(FILE, DEBIAN)]);
        rig.changed(&task(&[entry("10.0.0.1", &["Debian"])])).await;
        let block = format!("{BEGIN}\n10.0.0.1 Debian\n{END}\n");
        let expected =
            format!("127.0.0.1\tlocalhost\n{block}127.0.1.1\tdebian\n\n::1 localhost ip6-localhost\n");
        assert_eq!(rig.text(FILE), expected);
    }

    #[tokio::test]
    async fn broken_markers_are_named_and_nothing_is_guessed() {
        let text = format!("x\n{BEGIN}\ny\n");
        let rig = Rig::new(&[(FILE, &text)]);
        let why = rig.failed(&task(&[entry("10.0.0.1", &["n1"])])).await;
        assert!(
            why.contains("/etc/hosts: line 2 begins a managed block that has no end; next: delete"),
            "{why}"
        );
        assert_eq!(rig.text(FILE), text);
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
            let of = |n: u8| {
                let entries: Vec<_> = (0..n).map(|i| entry(&format!("10.0.0.{i}"), &[&format!("n{i}")])).collect();
                lines(&entries).expect("valid entries")
            };
            let edit = |now: &[u8], lines: &[String]| block::edit(now, lines, |line| maps(line, &["n1"]));
            let (first, second) = (of(n), of(m));
            let once = edit(&file, &first).expect("no markers");
            prop_assert_eq!(&edit(&once, &first).expect("one block"), &once);
            let twice = edit(&once, &second).expect("one block");
            let text = |lines: &[String]| {
                let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
                format!("{BEGIN}\n{lines}{END}\n")
            };
            let (first, second) = (text(&first), text(&second));
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
