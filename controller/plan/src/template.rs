//! References in texts: `{{ parameter.x }}`, `{{ node.public }}`, `{{ EU7::EU7rethinkSeed.ipv6 }}`.

use std::net::{Ipv4Addr, Ipv6Addr};

use fleet_model::NodeName;

use crate::resolved::Template;

/// Addresses of a node, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeValues {
    /// Public IPv4 address.
    pub public: Option<Ipv4Addr>,
    /// Private IPv4 address.
    pub private: Option<Ipv4Addr>,
    /// Private IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
}

impl Template {
    /// The text with every reference replaced. `node` is what `{{ node.… }}` means; `lookup` knows the addresses.
    ///
    /// What is not known yet is shown as `(EU7rethinkSeed.public is not known yet)`, so that the text can be
    /// printed at any time.
    pub fn render(
        &self,
        node: Option<&NodeName>,
        lookup: &dyn Fn(&NodeName) -> Option<NodeValues>,
    ) -> String {
        self.put_together(node, lookup).0
    }

    /// The text with every reference replaced, for uses in which a gap would do harm; `None` while something it
    /// refers to is not known yet.
    pub fn complete(
        &self,
        node: Option<&NodeName>,
        lookup: &dyn Fn(&NodeName) -> Option<NodeValues>,
    ) -> Option<String> {
        let (text, complete) = self.put_together(node, lookup);
        complete.then_some(text)
    }

    /// The text, and whether everything in it was known.
    fn put_together(
        &self,
        node: Option<&NodeName>,
        lookup: &dyn Fn(&NodeName) -> Option<NodeValues>,
    ) -> (String, bool) {
        let mut out = String::with_capacity(self.0.len());
        let mut complete = true;
        for part in parts(&self.0) {
            match part {
                Part::Text(text) | Part::Unclosed(text) => out.push_str(text),
                Part::Reference { whole, inner } => match value(inner, node, lookup) {
                    Some(Ok(value)) => out.push_str(&value),
                    Some(Err(gap)) => {
                        complete = false;
                        out.push_str(&format!("({gap} is not known yet)"));
                    }
                    None => out.push_str(whole),
                },
            }
        }
        (out, complete)
    }
}

/// What stands for a reference; an error names what is not known yet, `None` is no reference at all.
fn value(
    inner: &str,
    this: Option<&NodeName>,
    lookup: &dyn Fn(&NodeName) -> Option<NodeValues>,
) -> Option<Result<String, String>> {
    let reference = Reference::parse(inner).ok()?;
    let name = match reference.target {
        Target::This => this?.clone(),
        Target::Named { name, .. } => name.parse().ok()?,
    };
    let values = lookup(&name).unwrap_or_default();
    let text = match reference.attribute {
        Attribute::Name => return Some(Ok(name.to_string())),
        Attribute::Public => values.public.map(|address| address.to_string()),
        Attribute::Private => values.private.map(|address| address.to_string()),
        Attribute::Ipv6 => values.ipv6.map(|address| address.to_string()),
    };
    Some(text.ok_or_else(|| format!("{name}.{}", reference.attribute.word())))
}

/// A piece of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Text(&'a str),
    /// `whole` is `{{ inner }}`; `inner` is trimmed.
    Reference {
        whole: &'a str,
        inner: &'a str,
    },
    /// `{{` and nothing that closes it.
    Unclosed(&'a str),
}

/// Cuts a text at its references.
pub(crate) fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let part = match rest.find("{{") {
            Some(0) => match rest.find("}}") {
                Some(end) => Part::Reference { whole: &rest[..end + 2], inner: rest[2..end].trim() },
                None => Part::Unclosed(rest),
            },
            Some(start) => Part::Text(&rest[..start]),
            None => Part::Text(rest),
        };
        let (Part::Text(taken) | Part::Unclosed(taken) | Part::Reference { whole: taken, .. }) = part;
        rest = &rest[taken.len()..];
        Some(part)
    })
}

/// A reference to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) target: Target,
    pub(crate) attribute: Attribute,
}

/// Whose attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// `node`: the node the text belongs to.
    This,
    /// A node by name, perhaps with its location.
    Named { location: Option<String>, name: String },
}

/// Which attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    Name,
    Public,
    Private,
    Ipv6,
}

impl Attribute {
    pub(crate) const WORDS: [&str; 4] = ["name", "public", "private", "ipv6"];

    fn parse(word: &str) -> Option<Self> {
        [Self::Name, Self::Public, Self::Private, Self::Ipv6]
            .into_iter()
            .find(|attribute| attribute.word() == word)
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Public => "public",
            Self::Private => "private",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// Why a text between braces is no reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotAReference {
    /// Not `something.attribute`.
    Shape,
    /// The attribute is unknown.
    Attribute(String),
}

impl Reference {
    /// Reads what stands between the braces.
    pub(crate) fn parse(inner: &str) -> Result<Self, NotAReference> {
        let (target, attribute) = inner.rsplit_once('.').ok_or(NotAReference::Shape)?;
        let target = match target.split_once("::") {
            None if target == "node" => Target::This,
            None => Target::Named { location: None, name: target.to_owned() },
            Some((location, name)) => {
                Target::Named { location: Some(location.to_owned()), name: name.to_owned() }
            }
        };
        let plain = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if let Target::Named { location, name } = &target
            && !(plain(name) && location.as_deref().is_none_or(plain))
        {
            return Err(NotAReference::Shape);
        }
        let attribute =
            Attribute::parse(attribute).ok_or_else(|| NotAReference::Attribute(attribute.to_owned()))?;
        Ok(Self { target, attribute })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_what_is_known_and_says_what_is_not() {
        let seed: NodeName = "seed".parse().expect("name");
        let lookup = |name: &NodeName| {
            (name.as_str() == "seed").then(|| NodeValues {
                public: Some(Ipv4Addr::new(198, 51, 100, 2)),
                private: None,
                ipv6: Some(Ipv6Addr::LOCALHOST),
            })
        };
        let check = |text: &str, expected: &str| {
            assert_eq!(Template(text.into()).render(Some(&seed), &lookup), expected);
        };
        check("ssh root@{{ node.public }}.", "ssh root@198.51.100.2.");
        assert_eq!(Template("{{ node.private }}".into()).complete(Some(&seed), &lookup), None);
        assert_eq!(Template("{{ node.ipv6 }}".into()).complete(Some(&seed), &lookup), Some("::1".into()));
        check("{{node.name}} {{ EU7::seed.ipv6 }}", "seed ::1");
        check("{{ node.private }}", "(seed.private is not known yet)");
        check("{{ other.public }}", "(other.public is not known yet)");
        check("plain {{ unclosed", "plain {{ unclosed");
        check("a }} b", "a }} b");
    }

    #[test]
    fn reads_references() {
        let check = |inner: &str, expected: Result<Target, NotAReference>| {
            assert_eq!(Reference::parse(inner).map(|reference| reference.target), expected, "{inner}");
        };
        check("node.public", Ok(Target::This));
        check("a.ipv6", Ok(Target::Named { location: None, name: "a".into() }));
        check("L::a.ipv6", Ok(Target::Named { location: Some("L".into()), name: "a".into() }));
        check("a.colour", Err(NotAReference::Attribute("colour".into())));
        check("a b.ipv6", Err(NotAReference::Shape));
        check("public", Err(NotAReference::Shape));
        check(".name", Err(NotAReference::Shape));
    }
}
