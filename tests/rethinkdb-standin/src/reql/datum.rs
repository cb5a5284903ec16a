//! Data as ReQL sees it: JSON whose numbers are doubles, with an order over all types.

use std::{cmp::Ordering, io};

use serde_json::{
    Map, Number, Value,
    ser::{Formatter, PrettyFormatter},
};

use super::error::{ReqlError, Result};

/// Largest integer a double holds exactly; beyond it numbers stay doubles.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A number as the server writes it: without a fraction where there is none.
pub fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() <= EXACT {
        return Value::from(value as i64);
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// Makes numbers comparable: `1.0` and `1` become the same value.
pub fn normalise(value: Value) -> Value {
    match value {
        Value::Number(n) => number(n.as_f64().unwrap_or(0.0)),
        Value::Array(items) => Value::Array(items.into_iter().map(normalise).collect()),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, value)| (name, normalise(value))).collect())
        }
        other => other,
    }
}

/// The pseudo-type of an object, if it is one: `TIME`, `BINARY`, `LITERAL`, …
pub fn pseudo_type(value: &Value) -> Option<&str> {
    value.as_object()?.get("$reql_type$")?.as_str()
}

/// The type's name as error messages and `type_of` give it.
pub fn type_name(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::Bool(_) => "BOOL".into(),
        Value::Number(_) => "NUMBER".into(),
        Value::String(_) => "STRING".into(),
        Value::Array(_) => "ARRAY".into(),
        Value::Object(_) => match pseudo_type(value) {
            Some(name) => format!("PTYPE<{name}>"),
            None => "OBJECT".into(),
        },
    }
}

/// The order over all data: by the type's name first, then within the type.
pub fn compare(left: &Value, right: &Value) -> Ordering {
    match (left, right) {
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Bool(l), Value::Bool(r)) => l.cmp(r),
        (Value::Number(l), Value::Number(r)) => {
            l.as_f64().unwrap_or(0.0).total_cmp(&r.as_f64().unwrap_or(0.0))
        }
        (Value::String(l), Value::String(r)) => l.as_bytes().cmp(r.as_bytes()),
        (Value::Array(l), Value::Array(r)) => l
            .iter()
            .zip(r)
            .map(|(l, r)| compare(l, r))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| l.len().cmp(&r.len())),
        (Value::Object(l), Value::Object(r)) => match (pseudo_type(left), pseudo_type(right)) {
            (Some("TIME"), Some("TIME")) => compare_field(l, r, "epoch_time"),
            (Some("BINARY"), Some("BINARY")) => compare_field(l, r, "data"),
            (None, None) => compare_objects(l, r),
            _ => type_name(left).cmp(&type_name(right)),
        },
        _ => type_name(left).cmp(&type_name(right)),
    }
}

fn compare_field(left: &Map<String, Value>, right: &Map<String, Value>, field: &str) -> Ordering {
    compare(left.get(field).unwrap_or(&Value::Null), right.get(field).unwrap_or(&Value::Null))
}

fn compare_objects(left: &Map<String, Value>, right: &Map<String, Value>) -> Ordering {
    // `serde_json`'s map is sorted by key, as the server's objects are.
    for ((l_name, l), (r_name, r)) in left.iter().zip(right) {
        let order = l_name.as_bytes().cmp(r_name.as_bytes()).then_with(|| compare(l, r));
        if order.is_ne() {
            return order;
        }
    }
    left.len().cmp(&right.len())
}

/// Text of a datum within an error message: indented by tabs, as the server prints it.
pub fn print(value: &Value) -> String {
    let mut out = Vec::new();
    let mut writer =
        serde_json::Serializer::with_formatter(&mut out, Tabs(PrettyFormatter::with_indent(b"\t")));
    if serde::Serialize::serialize(value, &mut writer).is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Pretty JSON with a tab after each colon.
struct Tabs(PrettyFormatter<'static>);

impl Formatter for Tabs {
    fn begin_array<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_array(to)
    }

    fn end_array<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_array(to)
    }

    fn begin_array_value<W: io::Write + ?Sized>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(to, first)
    }

    fn end_array_value<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_array_value(to)
    }

    fn begin_object<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_object(to)
    }

    fn end_object<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_object(to)
    }

    fn begin_object_key<W: io::Write + ?Sized>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(to, first)
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b":\t")
    }

    fn end_object_value<W: io::Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_object_value(to)
    }
}

/// Whether `r.literal` is somewhere within.
pub fn has_literal(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_literal),
        Value::Object(fields) => pseudo_type(value) == Some("LITERAL") || fields.values().any(has_literal),
        _ => false,
    }
}

/// `left.merge(right)`: objects are merged field by field, a literal replaces, all else replaces.
pub fn merge(left: &Value, right: &Value) -> Value {
    if pseudo_type(right) == Some("LITERAL") {
        return right.get("value").cloned().unwrap_or(Value::Null);
    }
    let (Value::Object(old), Value::Object(new)) = (left, right) else {
        return without_literals(right);
    };
    if pseudo_type(left).is_some() || pseudo_type(right).is_some() {
        return right.clone();
    }
    let mut merged = old.clone();
    for (name, value) in new {
        let removes = pseudo_type(value) == Some("LITERAL") && value.get("value").is_none();
        if removes {
            merged.remove(name);
            continue;
        }
        let under = old.get(name).unwrap_or(&Value::Null);
        merged.insert(name.clone(), merge(under, value));
    }
    Value::Object(merged)
}

fn without_literals(value: &Value) -> Value {
    let Value::Object(fields) = value else { return value.clone() };
    let mut plain = Map::new();
    for (name, field) in fields {
        if pseudo_type(field) == Some("LITERAL") {
            if let Some(inner) = field.get("value") {
                plain.insert(name.clone(), inner.clone());
            }
        } else {
            plain.insert(name.clone(), without_literals(field));
        }
    }
    Value::Object(plain)
}

/// Keeps (or drops, for `without`) what a path specification names: text, object or array of these.
pub fn pluck(value: &Value, specs: &[Value]) -> Value {
    let Value::Object(fields) = value else { return value.clone() };
    let mut kept = Map::new();
    for spec in specs {
        match spec {
            Value::String(name) => {
                if let Some(field) = fields.get(name) {
                    kept.insert(name.clone(), field.clone());
                }
            }
            Value::Array(inner) => {
                if let Value::Object(more) = pluck(value, inner) {
                    kept.extend(more);
                }
            }
            Value::Object(nested) => {
                for (name, under) in nested {
                    let Some(field) = fields.get(name) else { continue };
                    match under {
                        Value::Bool(true) => {
                            kept.insert(name.clone(), field.clone());
                        }
                        under if field.is_object() => {
                            kept.insert(name.clone(), pluck(field, std::slice::from_ref(under)));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Value::Object(kept)
}

/// The other half of [`pluck`].
pub fn without(value: &Value, specs: &[Value]) -> Value {
    let Value::Object(fields) = value else { return value.clone() };
    let mut left = fields.clone();
    for spec in specs {
        match spec {
            Value::String(name) => {
                left.remove(name);
            }
            Value::Array(inner) => {
                if let Value::Object(rest) = without(&Value::Object(left.clone()), inner) {
                    left = rest;
                }
            }
            Value::Object(nested) => {
                for (name, under) in nested {
                    match (under, left.get(name)) {
                        (Value::Bool(true), _) => {
                            left.remove(name);
                        }
                        (under, Some(field)) if field.is_object() => {
                            let rest = without(field, std::slice::from_ref(under));
                            left.insert(name.clone(), rest);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Value::Object(left)
}

/// Longest text allowed as a primary key (`Primary key too long`).
const KEY_MAX: usize = 127;

/// The text under which a row is stored: one per primary key, in an order that is stable.
pub fn row_key(key: &Value) -> Result<String> {
    let encoded = match key {
        Value::String(text) => {
            if text.contains('\0') {
                return Err(ReqlError::logic(format!(
                    "Primary keys cannot contain `\\u0000`: {}",
                    print(key)
                )));
            }
            format!("S{text}")
        }
        Value::Number(n) => format!("N{}", n.as_f64().unwrap_or(0.0)),
        Value::Bool(flag) => format!("B{flag}"),
        Value::Array(items) => {
            let parts: Result<Vec<String>> = items.iter().map(row_key).collect();
            format!("A{}", parts?.join("\0"))
        }
        Value::Object(fields) if pseudo_type(key) == Some("TIME") => {
            format!("P{}", fields.get("epoch_time").unwrap_or(&Value::Null))
        }
        other => {
            return Err(ReqlError::logic(format!(
                "Primary keys must be either a number, string, bool, pseudotype or array (got type {}):\n{}",
                type_name(other),
                print(other)
            )));
        }
    };
    if encoded.len() > KEY_MAX + 1 {
        return Err(ReqlError::logic(format!(
            "Primary key too long (max {KEY_MAX} characters): {}",
            print(key)
        )));
    }
    Ok(encoded)
}

/// Names of databases, tables, servers and tags.
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_are_ordered_by_name_and_values_within() {
        let ordered = [
            json!([]),
            json!([1, 2]),
            json!([2]),
            json!(false),
            json!(true),
            json!(null),
            json!(-1),
            json!(2.5),
            json!({"a": 1}),
            json!({"a": 2}),
            json!({"b": 0}),
            json!({"$reql_type$": "TIME", "epoch_time": 1.0, "timezone": "+00:00"}),
            json!(""),
            json!("a"),
        ];
        for (i, left) in ordered.iter().enumerate() {
            for (j, right) in ordered.iter().enumerate() {
                assert_eq!(compare(left, right), i.cmp(&j), "{left} against {right}");
            }
        }
    }

    #[test]
    fn merging_and_plucking() {
        let row = json!({"id": 1, "a": {"x": 1, "y": 2}, "t": "old"});
        let change = json!({"a": {"y": 3}, "t": {"$reql_type$": "LITERAL"}});
        assert_eq!(merge(&row, &change), json!({"id": 1, "a": {"x": 1, "y": 3}}));
        assert_eq!(pluck(&row, &[json!("id"), json!({"a": "x"})]), json!({"id": 1, "a": {"x": 1}}));
        assert_eq!(pluck(&row, &[json!({"a": {"y": true}})]), json!({"a": {"y": 2}}));
        assert_eq!(without(&row, &[json!("t"), json!({"a": {"x": true}})]), json!({"id": 1, "a": {"y": 2}}));
    }

    #[test]
    fn keys_are_checked_and_kept_apart_by_type() {
        assert_ne!(row_key(&json!("1")).expect("text"), row_key(&json!(1)).expect("number"));
        assert_eq!(row_key(&json!(1.0)).expect("number"), row_key(&json!(1)).expect("number"));
        assert!(row_key(&json!(null)).is_err());
        assert!(row_key(&json!("x".repeat(128))).is_err());
    }

    #[test]
    fn integral_doubles_are_integers() {
        assert_eq!(normalise(json!([1.0, {"a": 2.50}])), json!([1, {"a": 2.5}]));
    }
}
