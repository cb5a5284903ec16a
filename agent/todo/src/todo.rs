//! What a todo is. No I/O.

use std::{fmt, str::FromStr};

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest text, in characters: a line or two, not an essay.
pub const MOST_CHARS: usize = 500;
/// Longest list. Every browser holds all of it, and so does every node.
pub const MOST_TODOS: usize = 2_000;

/// One line of the list, as it is stored and as the interface shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Todo {
    /// Chosen by whoever made it, so that a repeated request makes no second one.
    pub id: TodoId,
    /// What is to be done.
    pub text: Text,
    /// Whether it is.
    #[serde(default)]
    pub completed: bool,
    /// Milliseconds since 1970, by the clock of the node it was made on.
    #[serde(default)]
    pub created: u64,
}

impl Todo {
    /// Where it stands in the list: by age, and those of one moment by id, so that all nodes agree.
    pub fn rank(&self) -> (u64, TodoId) {
        (self.created, self.id)
    }
}

/// Names a todo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TodoId(Uuid);

impl TodoId {
    /// A new one.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Another one that goes with this one and a text, always the same.
    #[must_use]
    pub fn of_text(self, text: &Text) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(self.0.as_bytes());
        context.update(text.0.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&context.finish().as_ref()[..16]);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

impl fmt::Display for TodoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for TodoId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self)
    }
}

/// The text of a todo: one line, not empty, not too long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Text(String);

/// Why a text is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Nothing but blanks.
    #[error("a todo needs a text")]
    Empty,
    /// More than [`MOST_CHARS`].
    #[error("a todo has at most {MOST_CHARS} characters, this one {0}")]
    TooLong(usize),
}

impl Text {
    /// Takes a text as it was typed: line breaks and other control characters become blanks, blanks at
    /// both ends go.
    ///
    /// # Errors
    /// When nothing is left, or too much.
    pub fn new(typed: &str) -> Result<Self, TextError> {
        let line: String = typed.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let line = line.trim();
        match line.chars().count() {
            0 => Err(TextError::Empty),
            n if n > MOST_CHARS => Err(TextError::TooLong(n)),
            _ => Ok(Self(line.to_owned())),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Text {
    type Error = TextError;

    fn try_from(typed: String) -> Result<Self, Self::Error> {
        Self::new(&typed)
    }
}

/// What changes about a todo.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Patch {
    /// Another text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Text>,
    /// Done, or not any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<bool>,
}

impl Patch {
    /// Whether `todo` is as this wants it.
    pub fn holds_for(&self, todo: &Todo) -> bool {
        self.text.as_ref().is_none_or(|text| *text == todo.text)
            && self.completed.is_none_or(|completed| completed == todo.completed)
    }
}

/// Which todos are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Show {
    /// Every one.
    #[default]
    All,
    /// Those still to be done.
    Active,
    /// Those done.
    Completed,
}

impl Show {
    /// All there are, in the order of their links.
    pub const EACH: [Self; 3] = [Self::All, Self::Active, Self::Completed];

    /// By its name in the URL; what is unknown shows everything.
    pub fn named(name: &str) -> Self {
        Self::EACH.into_iter().find(|show| show.name() == name).unwrap_or_default()
    }

    /// Its name in the URL.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Active => "active",
            Self::Completed => "completed",
        }
    }

    /// The page that shows it.
    pub fn path(self) -> &'static str {
        match self {
            Self::All => "/",
            Self::Active => "/?show=active",
            Self::Completed => "/?show=completed",
        }
    }

    /// Whether it shows this one.
    pub fn includes(self, todo: &Todo) -> bool {
        match self {
            Self::All => true,
            Self::Active => !todo.completed,
            Self::Completed => todo.completed,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts() {
        let check = |typed: &str, expected: Result<&str, TextError>| {
            assert_eq!(
                Text::new(typed).as_ref().map(Text::as_str).map_err(|error| *error),
                expected,
                "{typed:?}"
            );
        };
        check("cut the potatoes", Ok("cut the potatoes"));
        check("  fry twice \n", Ok("fry twice"));
        check("salt\nand\tmayonnaise", Ok("salt and mayonnaise"));
        check("", Err(TextError::Empty));
        check(" \n\t\u{0}\u{a0}", Err(TextError::Empty));
        check(&"é".repeat(500), Ok(&"é".repeat(500)));
        check(&"é".repeat(501), Err(TextError::TooLong(501)));
        check(&format!("  {}  ", "x".repeat(500)), Ok(&"x".repeat(500)));
    }

    #[test]
    fn rows_of_the_database() {
        let read = |text: &str| serde_json::from_str::<Todo>(text);
        let id = "7f1a3a52-5a0e-4c3e-9a86-0f9b6b4d5c11";
        let todo = read(&format!(r#"{{"id":"{id}","text":"x","completed":true,"created":5,"other":1}}"#));
        let todo = todo.expect("a todo");
        assert_eq!((todo.id.to_string().as_str(), todo.completed, todo.created), (id, true, 5));
        assert!(!read(&format!(r#"{{"id":"{id}","text":"x"}}"#)).expect("a todo").completed);
        for row in [
            r#"{"id":"x","text":"x"}"#.to_owned(),
            format!(r#"{{"id":"{id}","text":""}}"#),
            format!(r#"{{"id":"{id}"}}"#),
        ] {
            assert!(read(&row).is_err(), "{row}");
        }
    }

    #[test]
    fn what_is_shown() {
        let id = TodoId::random();
        let todo = |completed| Todo { id, text: Text::new("x").expect("a text"), completed, created: 0 };
        for (show, active, completed) in
            [(Show::All, true, true), (Show::Active, true, false), (Show::Completed, false, true)]
        {
            assert_eq!((show.includes(&todo(false)), show.includes(&todo(true))), (active, completed));
            assert_eq!(Show::named(show.name()), show);
        }
        assert_eq!(Show::named("<script>"), Show::All);
    }

    #[test]
    fn a_patch_knows_when_it_is_done() {
        let text = |typed: &str| Text::new(typed).expect("a text");
        let todo = Todo { id: TodoId::random(), text: text("x"), completed: false, created: 0 };
        let check = |new: Option<&str>, completed, holds| {
            let patch = Patch { text: new.map(text), completed };
            assert_eq!(patch.holds_for(&todo), holds, "{patch:?}");
        };
        check(None, None, true);
        check(Some("x"), Some(false), true);
        check(Some("y"), None, false);
        check(None, Some(true), false);
    }

    proptest! {
        #[test]
        fn a_text_is_one_line_and_stays_as_it_is(typed in any::<String>()) {
            if let Ok(text) = Text::new(&typed) {
                prop_assert!(!text.as_str().chars().any(char::is_control));
                prop_assert!((1..=MOST_CHARS).contains(&text.as_str().chars().count()));
                prop_assert_eq!(Text::new(text.as_str()).expect("still one"), text);
            }
        }
    }
}
