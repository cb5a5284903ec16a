//! Plain data read from a tree, so that whatever is wrong with it has a place.

use std::fmt;

use serde::{
    de::{
        self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, StrDeserializer},
    },
    forward_to_deserialize_any,
};

use crate::{
    problem::Span,
    suggest::suggest,
    syntax::{Tree, Value},
};

/// Why a tree is not what was to be read, and where.
#[derive(Debug)]
pub(crate) struct Wrong {
    message: String,
    pub(crate) span: Option<Span>,
    /// Something else is to blame, which was reported already.
    pub(crate) known: bool,
}

impl Wrong {
    fn at(mut self, tree: &Tree) -> Self {
        self.span.get_or_insert_with(|| tree.span.clone());
        self.known |= tree.value == Value::Unknown;
        self
    }

    /// What it is, and what to try.
    pub(crate) fn said(&self) -> (String, Option<String>) {
        let unknown =
            self.message.strip_prefix("unknown field `").or(self.message.strip_prefix("unknown variant `"));
        let Some((word, known)) = unknown.and_then(|rest| rest.split_once('`')) else {
            return (self.message.clone(), None);
        };
        let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
        (format!("unknown `{word}`"), suggest(word, known))
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), span: None, known: false }
    }
}

/// A tree to be read from.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'de>(pub(crate) &'de Tree);

impl<'de> de::Deserializer<'de> for Reader<'de> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.0.value {
            Value::Null | Value::Unknown => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Number => Err(de::Error::custom("a number with a fraction is not expected here")),
            Value::Text(text) => visitor.visit_str(text),
            Value::List(items) => visitor.visit_seq(Items(items.iter())),
            Value::Map(entries) => visitor.visit_map(Entries { rest: entries.iter(), value: None }),
        }
        .map_err(|wrong: Wrong| wrong.at(self.0))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.0.value == Value::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match &self.0.value {
            Value::Text(word) => {
                let word: StrDeserializer<'_, Wrong> = word.as_str().into_deserializer();
                visitor.visit_enum(word)
            }
            Value::Map(entries) => {
                let entries = Entries { rest: entries.iter(), value: None };
                visitor.visit_enum(MapAccessDeserializer::new(entries))
            }
            other => {
                Err(de::Error::custom(format!("a word or a mapping is expected here, not {}", other.kind())))
            }
        }
        .map_err(|wrong: Wrong| wrong.at(self.0))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct Items<'de>(std::slice::Iter<'de, Tree>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Wrong;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Wrong> {
        self.0.next().map(|item| seed.deserialize(Reader(item)).map_err(|wrong| wrong.at(item))).transpose()
    }
}

struct Entries<'de> {
    rest: std::slice::Iter<'de, (Tree, Tree)>,
    value: Option<&'de Tree>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Wrong> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(Reader(key)).map(Some).map_err(|wrong| wrong.at(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let value = self.value.take().ok_or_else(|| de::Error::custom("a value without a name"))?;
        seed.deserialize(Reader(value)).map_err(|wrong| wrong.at(value))
    }
}
