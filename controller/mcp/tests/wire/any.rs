//! Values of any wire type, made by its own reader: a deserialiser that answers every question with something
//! at random. New types and members are covered as soon as they are there.

use rand::{Rng, RngCore, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    Visitor, value::Error,
};

/// Most items of a list.
const LONGEST_LIST: usize = 3;
/// Texts that have broken readers of XML or JSON before.
const TEXTS: [&str; 13] = [
    "",
    "web",
    "a b",
    "ä€😀",
    "<a href=\"x\">&amp;</a>",
    "]]>",
    "'\"'",
    "0",
    "true",
    "null",
    "-",
    "a\tb",
    "EU7",
];

/// Other names of members, by type; nobody writes them.
const ALIASES: [(&str, &str); 6] = [
    ("AddDisk", "serverId"),
    ("DeployVlan", "privateIpv4NetworkAddress"),
    ("ReservedPrivateIpv4Address", "value"),
    ("ReservedIpv6Address", "value"),
    ("ReserveAddress", "ipv4"),
    ("ReserveAddress", "privateIpv4"),
];

/// A `T` made of `seed`.
pub fn any<T: DeserializeOwned>(seed: u64) -> T {
    let mut rng = StdRng::seed_from_u64(seed);
    let made = T::deserialize(Any { rng: &mut rng, within: "", member: "", depth: 0 });
    made.unwrap_or_else(|error| panic!("no {} can be made: {error}", std::any::type_name::<T>()))
}

struct Any<'a> {
    rng: &'a mut StdRng,
    /// Type and member this is the value of: some texts have a form.
    within: &'static str,
    member: &'static str,
    depth: usize,
}

impl Any<'_> {
    /// A text of the form the member has.
    fn text(&mut self) -> String {
        let v4 = |rng: &mut StdRng| std::net::Ipv4Addr::from(rng.next_u32()).to_string();
        let v6 = |rng: &mut StdRng| std::net::Ipv6Addr::from(rng.random::<u128>()).to_string();
        match self.member {
            "address" if self.within == "Prefix4" => v4(self.rng),
            "address" if self.within == "Prefix6" => v6(self.rng),
            "ipAddress" | "value" if self.within.ends_with("Ipv4Address") => v4(self.rng),
            "ipAddress" if self.within.starts_with("Reserve") => v6(self.rng),
            "privateIpv4"
            | "snatIpv4Address"
            | "ipv4GatewayAddress"
            | "ipv4Gateway"
            | "baseIp"
            | "internalIp"
            | "externalIp"
            | "privateIpv4BaseAddress" => v4(self.rng),
            "ipv6" | "ipv6GatewayAddress" => v6(self.rng),
            "address" | "destinationNetworkAddress" | "nextHopAddress" | "begin" | "end" => {
                match self.rng.random_range(0..3) {
                    0 => "ANY".to_owned(),
                    1 => v4(self.rng),
                    _ => v6(self.rng),
                }
            }
            _ => (*TEXTS.choose(self.rng).expect("there are texts")).to_owned(),
        }
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit(self.rng.random())
        }
    )*};
}

impl<'de> Deserializer<'de> for Any<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::custom("wire types say what they are"))
    }

    numbers! {
        deserialize_bool visit_bool, deserialize_i64 visit_i64, deserialize_u8 visit_u8, deserialize_u16 visit_u16,
        deserialize_u32 visit_u32, deserialize_u64 visit_u64
    }

    fn deserialize_str<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.text())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.rng.random_bool(0.4) { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let left = self.rng.random_range(0..=LONGEST_LIST.saturating_sub(self.depth / 3));
        visitor.visit_seq(Items { left, any: self })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        members: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(Members { rest: members.iter(), member: "", any: Any { within: name, ..self } })
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct map enum identifier
        ignored_any
    }
}

struct Items<'a> {
    left: usize,
    any: Any<'a>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let Any { rng, within, member, depth } = &mut self.any;
        seed.deserialize(Any { rng, within, member, depth: *depth + 1 }).map(Some)
    }
}

struct Members<'a> {
    rest: std::slice::Iter<'static, &'static str>,
    member: &'static str,
    any: Any<'a>,
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some(member) = self.rest.find(|member| !ALIASES.contains(&(self.any.within, **member))) else {
            return Ok(None);
        };
        self.member = member;
        seed.deserialize(IntoDeserializer::<Error>::into_deserializer(*member)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let Any { rng, within, depth, .. } = &mut self.any;
        seed.deserialize(Any { rng, within, member: self.member, depth: *depth + 1 })
    }
}
