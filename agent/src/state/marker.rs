//! The file that says which schema counts. Its form is frozen.

use fleet_supervisor::digest::Digest;

/// First line: the form of this file, whatever the schema it speaks of.
const FORM: &str = "fleet-agent-state 1";
/// Stands for a program that is not known.
const UNKNOWN: &str = "-";

/// What counts, and what counted before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) schema: u32,
    /// The program that wrote it last.
    pub(super) writer: Option<Digest>,
    pub(super) before: Option<Before>,
}

/// The work of the version before, as it left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Before {
    pub(super) schema: u32,
    /// The program that left it.
    pub(super) writer: Option<Digest>,
}

impl Marker {
    pub(super) fn encode(&self) -> Vec<u8> {
        let word = |writer: Option<Digest>| writer.map_or_else(|| UNKNOWN.to_owned(), |it| it.to_string());
        let mut text = format!("{FORM}\nschema {}\nwriter {}\n", self.schema, word(self.writer));
        if let Some(Before { schema, writer }) = self.before {
            text.push_str(&format!("before {schema} {}\n", word(writer)));
        }
        text.into_bytes()
    }

    /// Nothing if it is not of that form.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.strip_suffix('\n')?.lines();
        if lines.next()? != FORM {
            return None;
        }
        let digest = |word: &str| match word {
            UNKNOWN => Some(None),
            word => word.parse().ok().map(Some),
        };
        let number = |word: &str| word.parse().ok().filter(|schema: &u32| *schema > 0);
        let (mut schema, mut writer, mut before) = (None, None, None);
        for line in lines {
            match line.split_once(' ')? {
                ("schema", word) => schema = Some(number(word)?),
                ("writer", word) => writer = digest(word)?,
                ("before", words) => {
                    let (schema, writer) = words.split_once(' ')?;
                    before = Some(Before { schema: number(schema)?, writer: digest(writer)? });
                }
                // Of a version that came later.
                _ => (),
            }
        }
        Some(Self { schema: schema?, writer, before })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_came_later_is_left_alone() {
        let digest = Digest::of(b"x");
        let before = Some(Before { schema: 1, writer: Some(digest) });
        for marker in [
            Marker { schema: 1, writer: None, before: None },
            Marker { schema: 3, writer: Some(digest), before },
            Marker { schema: 3, writer: None, before: Some(Before { schema: 2, writer: None }) },
        ] {
            let mut bytes = marker.encode();
            assert_eq!(Marker::decode(&bytes).as_ref(), Some(&marker));
            bytes.extend_from_slice(b"moon full\n");
            assert_eq!(Marker::decode(&bytes), Some(marker));
        }
        let good = format!("{FORM}\nschema 1\nwriter -\n");
        assert!(Marker::decode(good.as_bytes()).is_some());
        let half = &good[..good.len() - 1];
        for bad in ["", "\n", FORM, "fleet-agent-state 2\nschema 1\n", "schema 1\n", half] {
            assert_eq!(Marker::decode(bad.as_bytes()), None, "{bad:?}");
        }
        for bad in ["schema 0", "schema -1", "schema", "writer zz", "before 1", "before x -"] {
            let text = format!("{FORM}\nschema 1\n{bad}\n");
            assert_eq!(Marker::decode(text.as_bytes()), None, "{bad:?}");
        }
    }
}
