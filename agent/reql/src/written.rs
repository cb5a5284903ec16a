//! What writes and change feeds answer with.

use serde::Deserialize;
use serde_json::Value;

/// What a write did, in rows.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Written {
    /// Rows that were not there before.
    pub inserted: u64,
    /// Rows that are different now.
    pub replaced: u64,
    /// Rows that are as before.
    pub unchanged: u64,
    /// Rows that are gone.
    pub deleted: u64,
    /// Rows that were not there to be written.
    pub skipped: u64,
    /// Rows that could not be written.
    pub errors: u64,
    /// Why the first of those could not.
    pub first_error: Option<String>,
    /// Primary keys the server chose.
    pub generated_keys: Vec<String>,
    /// The rows, where asked for.
    pub changes: Vec<Change>,
}

/// One step of a change feed, or one row of a write.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Change {
    /// The row before; none if it is new.
    pub old_val: Option<Value>,
    /// The row now; none if it is gone.
    pub new_val: Option<Value>,
    /// Instead of a row: `initializing`, or `ready` once all first rows were told.
    pub state: Option<String>,
    /// `add`, `remove`, `change`, `initial`, `uninitial` or `state`, where asked for.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The server left changes out because nobody took them in time.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_with_and_without_their_optional_parts() {
        let text = r#"{"deleted":0,"errors":1,"inserted":0,"replaced":0,"skipped":0,"unchanged":0,
            "first_error":"Duplicate primary key","changes":[{"old_val":null,"new_val":{"id":1},"error":"x"}]}"#;
        let written: Written = serde_json::from_str(text).expect("reads");
        assert_eq!((written.errors, written.first_error.as_deref()), (1, Some("Duplicate primary key")));
        assert_eq!(written.changes[0].new_val.as_ref().map(|row| row["id"].clone()), Some(1.into()));
        assert_eq!(serde_json::from_str::<Written>("{}").expect("reads"), Written::default());
        let state: Change = serde_json::from_str(r#"{"type":"state","state":"ready"}"#).expect("reads");
        assert_eq!((state.state.as_deref(), state.kind.as_deref()), (Some("ready"), Some("state")));
    }
}
