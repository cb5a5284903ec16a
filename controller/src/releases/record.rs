//! What is remembered of releases.

use fleet_model::Timestamp;
use fleet_release::Accepted;
use serde::{Deserialize, Deserializer, Serialize};

/// Whom releases are taken from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustRecord {
    /// Signed roots, the first one first; documents are text.
    pub roots: Vec<String>,
    /// The highest release ever kept here.
    pub highest: Option<Accepted>,
}

/// A release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRecord {
    /// Signed.
    pub manifest: String,
    /// Signed; leave to go back to it, each for its nodes and its time.
    #[serde(default, alias = "permit", deserialize_with = "one_or_many")]
    pub permits: Vec<String>,
    /// When it was kept.
    pub published: Timestamp,
    /// Which operator brought it.
    pub by: String,
}

/// Records of before have one at most.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Option<String>),
    Many(Vec<String>),
}

fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(one) => one.into_iter().collect(),
        OneOrMany::Many(many) => many,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn records_with_one_permit_are_still_read() {
        let check = |member: &str, value: Value, wanted: &[&str]| {
            let mut record = json!({ "manifest": "m", "published": Timestamp::default(), "by": "ops" });
            record[member] = value;
            let read: ReleaseRecord = serde_json::from_value(record).expect("a record");
            assert_eq!(read.permits, wanted);
            let again = serde_json::to_value(&read).expect("written");
            assert_eq!(serde_json::from_value::<ReleaseRecord>(again).expect("a record"), read);
        };
        check("permit", Value::Null, &[]);
        check("permit", json!("one"), &["one"]);
        check("permits", json!([]), &[]);
        check("permits", json!(["one", "two"]), &["one", "two"]);
        check("other", Value::Null, &[]);
    }
}
