use serde_json::Value;

use crate::{Resource, liberal};

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// What tells each of them from the others, in the same order: its id, or all of it where it has none.
    pub names: Vec<String>,
    /// Its number, from 1; 0 if the service did not say.
    pub number: u32,
    /// How many items there are on all pages, if the service said.
    pub total: Option<u32>,
    /// How many items fit a page, if the service said.
    pub size: Option<u32>,
}

impl<T: Resource> Page<T> {
    /// Reads a page; the items are in the member named after the resource.
    ///
    /// # Errors
    /// No such list, or an item in it cannot be understood.
    pub fn decode(value: Value) -> Result<Self, serde_json::Error> {
        use serde::de::Error as _;
        let Value::Object(mut members) = value else {
            return Err(serde_json::Error::custom("a list is an object"));
        };
        let number = |name: &str| {
            let text = match members.get(name)? {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            text.parse::<u32>().ok()
        };
        let (page, total, size) = (number("pageNumber"), number("totalCount"), number("pageSize"));
        // An empty list may leave the member out, as XML does, but then the paging must be there: any other
        // object is not a list at all.
        let (items, names) = match members.remove(T::ITEM) {
            Some(items) => {
                let names = names(&items);
                (liberal::decode(items)?, names)
            }
            None if page.is_some() || total.is_some() => Default::default(),
            None => return Err(serde_json::Error::custom(format!("missing field `{}`", T::ITEM))),
        };
        Ok(Self { items, names, number: page.unwrap_or(0), total, size })
    }
}

fn names(items: &Value) -> Vec<String> {
    let name = |item: &Value| match item.get("id") {
        None | Some(Value::Null) => item.to_string(),
        Some(id) => id.to_string(),
    };
    match items {
        Value::Array(items) => items.iter().map(name).collect(),
        // Where a list belongs, one may stand alone.
        one => vec![name(one)],
    }
}
