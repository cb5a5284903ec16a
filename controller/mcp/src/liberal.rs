//! JSON values read generously and written strictly.
//!
//! [`decode`] accepts what real services and XML look like: numbers and booleans as text, one element where
//! a list belongs, an empty text where an object has only optional members. [`encode`] leaves absent members
//! out instead of writing `null`.

use serde::{
    Deserialize, Serialize,
    de::{
        DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess,
        SeqAccess, VariantAccess, Visitor,
    },
};
use serde_json::{Error, Map, Value};

/// Reads a `T` from `value`, generously.
///
/// # Errors
/// A required member is missing, or a member cannot be understood at all.
pub fn decode<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    T::deserialize(Liberal(value))
}

/// Writes `item`, leaving absent members out.
///
/// # Errors
/// None for the types of this crate; a map with keys that are no text cannot be written.
pub fn encode<T: Serialize>(item: &T) -> Result<Value, Error> {
    let mut value = serde_json::to_value(item)?;
    strip(&mut value);
    Ok(value)
}

/// Reads a member whose empty text means that it is absent.
///
/// # Errors
/// It is there, and no `T`.
pub fn filled<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let text = text.filter(|text| !text.trim().is_empty());
    text.map(|text| T::deserialize(text.into_deserializer())).transpose()
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

struct Liberal(Value);

impl Liberal {
    fn invalid(&self, wanted: &str) -> Error {
        let found = match &self.0 {
            Value::Null => "nothing".to_owned(),
            Value::Object(_) => "an object".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            other => other.to_string(),
        };
        Error::custom(format!("expected {wanted}, found {found}"))
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $number:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let parsed = match &self.0 {
                Value::Number(number) => number.to_string().parse::<$number>().ok(),
                Value::String(text) => text.trim().parse::<$number>().ok(),
                _ => None,
            };
            parsed.map_or_else(|| Err(self.invalid("a number")), |number| visitor.$visit(number))
        }
    )*};
}

impl<'de> Deserializer<'de> for Liberal {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(members) => visitor.visit_map(Members::new(members)),
            Value::Array(items) => visitor.visit_seq(Items(items.into_iter())),
            other => other.deserialize_any(visitor),
        }
    }

    numbers! {
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64, deserialize_f32 visit_f32 f32,
        deserialize_f64 visit_f64 f64
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.0 {
            Value::Bool(truth) => visitor.visit_bool(*truth),
            Value::String(text) if text.trim().eq_ignore_ascii_case("true") => visitor.visit_bool(true),
            Value::String(text) if text.trim().eq_ignore_ascii_case("false") => visitor.visit_bool(false),
            _ => Err(self.invalid("true or false")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::String(text) => visitor.visit_string(text),
            Value::Number(number) => visitor.visit_string(number.to_string()),
            Value::Bool(truth) => visitor.visit_string(truth.to_string()),
            // An element with text and attributes keeps its text in `value`.
            Value::Object(mut members) if members.contains_key("value") => {
                Liberal(members.remove("value").unwrap_or(Value::Null)).deserialize_str(visitor)
            }
            _ => Err(self.invalid("text")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let items = match self.0 {
            Value::Array(items) => items,
            Value::Null => Vec::new(),
            single => vec![single],
        };
        visitor.visit_seq(Items(items.into_iter()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(members) => visitor.visit_map(Members::new(members)),
            // An element without attributes or children reads as an empty text.
            Value::String(text) if text.trim().is_empty() => visitor.visit_map(Members::new(Map::new())),
            _ => Err(self.invalid("an object")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            // An element with text and no attributes; with some, its text would be in `value` already.
            Value::String(text) if fields.contains(&"value") && !text.trim().is_empty() => {
                let members = Map::from_iter([("value".to_owned(), Value::String(text))]);
                visitor.visit_map(Members::new(members))
            }
            other => Self(other).deserialize_map(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::String(text) => visitor.visit_enum(Word(text)),
            _ => Err(self.invalid("a word")),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct
    }
}

impl<'de> IntoDeserializer<'de, Error> for Liberal {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

struct Items(std::vec::IntoIter<Value>);

impl<'de> SeqAccess<'de> for Items {
    type Error = Error;
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        self.0.next().map(|item| seed.deserialize(Liberal(item))).transpose()
    }
}

struct Members {
    rest: serde_json::map::IntoIter,
    name: String,
    value: Value,
}

impl Members {
    fn new(members: Map<String, Value>) -> Self {
        Self { rest: members.into_iter(), name: String::new(), value: Value::Null }
    }
}

impl<'de> MapAccess<'de> for Members {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((name, value)) = self.rest.next() else { return Ok(None) };
        self.value = value;
        self.name.clone_from(&name);
        seed.deserialize(Liberal(Value::String(name))).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let value = std::mem::take(&mut self.value);
        seed.deserialize(Liberal(value)).map_err(|error| Error::custom(format!("{}: {error}", self.name)))
    }
}

struct Word(String);

impl<'de> EnumAccess<'de> for Word {
    type Error = Error;
    type Variant = Self;
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let name = seed.deserialize(Liberal(Value::String(self.0.clone())))?;
        Ok((name, self))
    }
}

impl<'de> VariantAccess<'de> for Word {
    type Error = Error;
    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, _seed: S) -> Result<S::Value, Error> {
        Err(Error::custom(format!("`{}` takes no content", self.0)))
    }
    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::custom(format!("`{}` takes no content", self.0)))
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        Err(Error::custom(format!("`{}` takes no content", self.0)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        count: u32,
        on: bool,
        name: String,
        note: Option<String>,
        #[serde(default)]
        items: Vec<u8>,
    }

    #[test]
    fn generous_in_what_it_reads() {
        let want = Sample { count: 2, on: true, name: "7".into(), note: None, items: vec![1] };
        let check = |value: Value| assert_eq!(decode::<Sample>(value).expect("understood"), want);
        check(json!({"count": 2, "on": true, "name": "7", "items": [1]}));
        check(json!({"count": "2", "on": "True", "name": 7, "items": ["1"], "unknown": {"a": []}}));
        check(
            json!({"count": " 2 ", "on": "true", "name": {"value": "7", "x": 1}, "items": 1, "note": null}),
        );
    }

    #[test]
    fn says_which_member_it_could_not_read() {
        let check = |value: Value, part: &str| {
            let text = decode::<Sample>(value).expect_err("not understood").to_string();
            assert!(text.contains(part), "{text}");
        };
        check(json!({"count": -1, "on": true, "name": ""}), "count: expected a number, found -1");
        check(json!({"count": 1, "on": "yes", "name": ""}), "on: expected true or false");
        check(json!({"count": 1, "on": true}), "missing field `name`");
        check(json!([]), "expected an object, found a list");
    }

    #[test]
    fn absent_members_are_not_written() {
        let sample = Sample { count: 2, on: true, name: "7".into(), note: None, items: vec![] };
        let value = encode(&sample).expect("plain members");
        assert_eq!(value.to_string(), r#"{"count":2,"items":[],"name":"7","on":true}"#);
    }
}
