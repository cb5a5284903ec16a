//! Bodies of requests, whichever form they came in.

use fleet_mcp::xml::{self, LEGACY, TYPES};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::state::Refused;

/// A body: what is in it, and the root's name if it was XML.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    root: Option<String>,
    pub(crate) value: Value,
}

impl Body {
    /// Reads a body. The content decides what it is: a public client claims XML with every request.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        let text = std::str::from_utf8(bytes).map_err(|_| Refused::invalid("The request is not UTF-8."))?;
        let text = text.trim_start_matches('\u{feff}').trim_start();
        if text.starts_with('<') {
            let document =
                xml::parse(text).map_err(|error| Refused::invalid(format!("The request is {error}.")))?;
            if document.namespace != TYPES && !document.namespace.starts_with(LEGACY) {
                let message = format!("Namespace '{}' is not one of this API.", document.namespace);
                return Err(Refused::invalid(message));
            }
            return Ok(Self { root: Some(document.root), value: document.value });
        }
        let value = serde_json::from_str(text)
            .map_err(|error| Refused::invalid(format!("The request is not JSON: {error}.")))?;
        Ok(Self { root: None, value })
    }

    /// The root must be the operation's name; JSON has no root.
    pub(crate) fn of(&self, names: &[&str]) -> Result<&Self, Refused> {
        match &self.root {
            Some(root) if !names.contains(&root.as_str()) => {
                Err(Refused::invalid(format!("Expected <{}>, found <{root}>.", names.join("> or <"))))
            }
            _ => Ok(self),
        }
    }

    /// The request as its type.
    pub(crate) fn decode<T: DeserializeOwned>(&self) -> Result<T, Refused> {
        fleet_mcp::liberal::decode(self.value.clone())
            .map_err(|error| Refused::invalid(format!("The request cannot be understood: {error}.")))
    }

    /// Takes a member out; null if there is none, or no members at all.
    pub(crate) fn take(&mut self, name: &str) -> Value {
        self.value.get_mut(name).map(Value::take).unwrap_or_default()
    }

    /// A text member, by any of these names.
    pub(crate) fn text(&self, names: &[&str]) -> Result<String, Refused> {
        let found = names.iter().find_map(|name| match &self.value[*name] {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        });
        found.ok_or_else(|| Refused::invalid(format!("{} is missing.", names[0])))
    }

    /// Every id in it, wherever it is.
    pub(crate) fn ids(&self) -> Vec<String> {
        fn gather(value: &Value, into: &mut Vec<String>) {
            match value {
                Value::String(text) if uuid::Uuid::try_parse(text).is_ok() => into.push(text.clone()),
                Value::Array(items) => items.iter().for_each(|item| gather(item, into)),
                Value::Object(members) => members.values().for_each(|member| gather(member, into)),
                _ => {}
            }
        }
        let mut ids = Vec::new();
        gather(&self.value, &mut ids);
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Ids and names a call has to do with, for faults that are about one resource.
    pub(crate) fn subjects(&self) -> Vec<String> {
        let names = ["id", "serverId", "name"];
        names.iter().filter_map(|name| self.value[*name].as_str()).map(str::to_owned).collect()
    }
}

/// Pairs of a query, decoded; what cannot be decoded is kept as it is.
pub(crate) fn parse_query(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(a, b)| (unescape(a), unescape(b)))
        .collect()
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |rest: &std::str::Bytes<'_>| {
            let digits: Vec<u8> = rest.clone().take(2).collect();
            u8::from_str_radix(std::str::from_utf8(&digits).ok().filter(|digits| digits.len() == 2)?, 16).ok()
        };
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => match hex(&rest) {
                Some(decoded) => {
                    bytes.push(decoded);
                    rest.nth(1);
                }
                None => bytes.push(byte),
            },
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
