//! XML in and out, by way of the JSON values both forms share.
//!
//! The mapping: same names; attributes become plain members; repeated elements become a list under the
//! element's name; an element with text and attributes keeps its text in `value`.

use quick_xml::{
    XmlVersion,
    escape::escape,
    events::{BytesStart, Event},
    name::ResolveResult,
    reader::NsReader,
};
use serde_json::{Map, Value};

/// Deepest nesting read; requests have five levels.
const MAX_DEPTH: usize = 32;
/// Namespace of `nil`.
const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// A document as read: its root's namespace and name, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) namespace: String,
    pub(crate) root: String,
    pub(crate) value: Value,
}

/// Why a text is no document we read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum XmlError {
    #[error("not well-formed XML: {0}")]
    Form(#[from] quick_xml::Error),
    #[error("an attribute is not well-formed: {0}")]
    Attribute(#[from] quick_xml::events::attributes::AttrError),
    #[error("not well-formed XML: {0}")]
    Escape(#[from] quick_xml::escape::EscapeError),
    #[error("a prefix is bound to no namespace")]
    Prefix,
    #[error("no element in it")]
    Empty,
    #[error("nested too deeply")]
    Depth,
    #[error("document type definitions are not read")]
    Doctype,
}

/// An element under construction.
#[derive(Default)]
struct Open {
    name: String,
    members: Map<String, Value>,
    text: String,
    nil: bool,
}

impl Open {
    fn close(self) -> (String, Value) {
        let text = self.text.trim();
        let value = if self.nil {
            Value::Null
        } else if self.members.is_empty() {
            Value::String(text.to_owned())
        } else {
            let mut members = self.members;
            if !text.is_empty() {
                members.entry("value").or_insert_with(|| Value::String(text.to_owned()));
            }
            Value::Object(members)
        };
        (self.name, value)
    }

    fn add(&mut self, name: String, value: Value) {
        match self.members.get_mut(&name) {
            None => {
                self.members.insert(name, value);
            }
            Some(Value::Array(items)) => items.push(value),
            Some(single) => *single = Value::Array(vec![single.take(), value]),
        }
    }
}

/// Reads a document, whatever prefixes it uses.
pub(crate) fn parse(text: &str) -> Result<Document, XmlError> {
    let mut reader = NsReader::from_str(text);
    let mut stack: Vec<Open> = Vec::new();
    let mut namespace = None;
    loop {
        let (resolved, event) = reader.read_resolved_event()?;
        let bound = match resolved {
            ResolveResult::Bound(bound) => bound.0.to_owned(),
            ResolveResult::Unbound => String::new(),
            ResolveResult::Unknown(_) => return Err(XmlError::Prefix),
        };
        match event {
            Event::Start(start) => {
                if stack.len() >= MAX_DEPTH {
                    return Err(XmlError::Depth);
                }
                namespace.get_or_insert(bound);
                stack.push(open(&reader, &start)?);
            }
            Event::Empty(start) => {
                namespace.get_or_insert(bound);
                let (name, value) = open(&reader, &start)?.close();
                match stack.last_mut() {
                    Some(parent) => parent.add(name, value),
                    None => return Ok(document(namespace, name, value)),
                }
            }
            Event::End(_) => {
                let Some(open) = stack.pop() else { return Err(XmlError::Empty) };
                let (name, value) = open.close();
                match stack.last_mut() {
                    Some(parent) => parent.add(name, value),
                    None => return Ok(document(namespace, name, value)),
                }
            }
            Event::Text(part) => {
                if let Some(open) = stack.last_mut() {
                    open.text.push_str(&part.xml10_content());
                }
            }
            Event::CData(part) => {
                if let Some(open) = stack.last_mut() {
                    open.text.push_str(&part.xml10_content());
                }
            }
            Event::GeneralRef(entity) => {
                if let Some(open) = stack.last_mut() {
                    let entity = entity.xml10_content();
                    open.text.push_str(&quick_xml::escape::unescape(&format!("&{entity};"))?);
                }
            }
            Event::DocType(_) => return Err(XmlError::Doctype),
            Event::Eof => return Err(XmlError::Empty),
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
        }
    }
}

fn document(namespace: Option<String>, root: String, value: Value) -> Document {
    Document { namespace: namespace.unwrap_or_default(), root, value }
}

fn open(reader: &NsReader<&[u8]>, start: &BytesStart<'_>) -> Result<Open, XmlError> {
    let mut open = Open { name: start.local_name().as_ref().to_owned(), ..Open::default() };
    for attribute in start.attributes() {
        let attribute = attribute?;
        if attribute.key.as_namespace_binding().is_some() {
            continue;
        }
        let value = attribute.normalized_value(XmlVersion::Implicit1_0)?.into_owned();
        let (resolved, local) = reader.resolver().resolve_attribute(attribute.key);
        match resolved {
            ResolveResult::Unbound => open.add(local.as_ref().to_owned(), Value::String(value)),
            ResolveResult::Bound(bound) if bound.0 == XSI && local.as_ref() == "nil" => {
                open.nil = value == "true" || value == "1";
            }
            // Attributes of other namespaces are not ours to read.
            ResolveResult::Bound(_) => {}
            ResolveResult::Unknown(_) => return Err(XmlError::Prefix),
        }
    }
    Ok(open)
}

/// Prints `value` as a document.
pub(crate) fn print(namespace: &str, root: &str, value: &Value) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>\n");
    element(&mut text, "", root, Some(namespace), value);
    text
}

fn element(out: &mut String, parent: &str, name: &str, namespace: Option<&str>, value: &Value) {
    out.push('<');
    out.push_str(name);
    if let Some(namespace) = namespace {
        out.push_str(&format!(" xmlns=\"{}\"", escape(namespace)));
    }
    let mut children = String::new();
    match value {
        Value::Object(members) => {
            for (member, value) in members {
                match value {
                    Value::Null => {}
                    Value::Array(items) => {
                        items.iter().for_each(|item| element(&mut children, name, member, None, item));
                    }
                    Value::Object(_) => element(&mut children, name, member, None, value),
                    scalar if is_attribute(parent, name, member) => {
                        out.push_str(&format!(" {member}=\"{}\"", escape(text_of(scalar))));
                    }
                    scalar if member == "value" => children.push_str(&escape(text_of(scalar))),
                    scalar => element(&mut children, name, member, None, scalar),
                }
            }
        }
        // Only a list inside a list gets here; the API has none.
        Value::Array(items) => items.iter().for_each(|item| element(&mut children, name, "item", None, item)),
        scalar => children.push_str(&escape(text_of(scalar))),
    }
    if children.is_empty() {
        out.push_str("/>");
    } else {
        out.push('>');
        out.push_str(&children);
        out.push_str(&format!("</{name}>"));
    }
}

fn text_of(scalar: &Value) -> String {
    match scalar {
        // XML has no way to write most control characters, not even escaped.
        Value::String(text) => text.chars().filter(|c| *c >= ' ' || "\t\n\r".contains(*c)).collect(),
        other => other.to_string(),
    }
}

/// Elements whose simple members are all attributes.
const COMPACT: [&str; 27] = [
    "networking",
    "hypervisor",
    "monitoring",
    "property",
    "cpu",
    "disk",
    "operatingSystem",
    "vmTools",
    "virtualHardware",
    "networkInfo",
    "primaryNic",
    "additionalNic",
    "privateIpv4Range",
    "ipv6Range",
    "outsideTransitVlanIpv4Subnet",
    "port",
    "ipAddress",
    "placement",
    "info",
    "warning",
    "error",
    "childIpAddressList",
    "childPortList",
    "backup",
    "guest",
    "icmpProperties",
    "additionalInformation",
];

/// Paging on the root of a list.
const PAGING: [&str; 4] = ["pageNumber", "pageCount", "totalCount", "pageSize"];

/// Whether XML shows a simple member as an attribute.
fn is_attribute(parent: &str, element: &str, member: &str) -> bool {
    match (parent, element, member) {
        (_, "info" | "warning" | "error" | "property", _) => true,
        // 0.9 keeps the value of its pairs in an element.
        (_, "additionalInformation", "value") => false,
        (_, _, "value") => false,
        (_, "response", "requestId") => true,
        (_, "diskSpeed" | "cpuSpeed", "id" | "default" | "available") => true,
        (_, "datacenter", "id" | "type") => true,
        (_, "ip" | "ipv4", _) => true,
        // Named by another resource; as resources themselves they have their names inside.
        ("vlan", "networkDomain", _) => true,
        ("source" | "destination", "ipAddressList" | "portList", _) => true,
        (_, element, _) if COMPACT.contains(&element) => true,
        (_, _, member) if PAGING.contains(&member) => true,
        (_, "firewallRule", "ruleType") => true,
        (_, "progress" | "step" | "tag", _) => false,
        (_, _, "id" | "datacenterId") => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_attributes_children_and_lists_whatever_the_prefix() {
        let want = json!({"id": "1", "name": "a & b", "nic": [{"vlanId": "v"}, "x"], "empty": ""});
        for text in [
            r#"<a xmlns="urn:x" id="1"><name>a &amp; b</name><nic><vlanId>v</vlanId></nic><nic>x</nic><empty/></a>"#,
            "<?xml version=\"1.0\"?><!-- c -->\n<u:a xmlns:u='urn:x' id='1'>\n <u:name>a &#38; b</u:name><u:nic vlanId='v'/> <u:nic><![CDATA[x]]></u:nic><u:empty></u:empty></u:a>",
        ] {
            let document = parse(text).expect("well formed");
            assert_eq!((document.namespace.as_str(), document.root.as_str()), ("urn:x", "a"));
            assert_eq!(document.value, want);
        }
    }

    #[test]
    fn nil_and_text_with_attributes() {
        let text = r#"<a xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><b xsi:nil="true"/><ip id="1">10.0.0.1</ip></a>"#;
        let document = parse(text).expect("well formed");
        assert_eq!(document.value, json!({"b": null, "ip": {"id": "1", "value": "10.0.0.1"}}));
    }

    #[test]
    fn refuses_what_it_should() {
        let check = |text: &str| assert!(parse(text).is_err(), "{text}");
        check("");
        check("text");
        check("<a><b></a>");
        check("<a>");
        check("<p:a/>");
        check("<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>");
        check("<a>&unknown;</a>");
        check(&("<a>".repeat(40) + &"</a>".repeat(40)));
    }

    proptest! {
        #[test]
        fn any_text_survives_printing(text in "[^\\x00-\\x1f\u{fffe}\u{ffff}]{0,40}") {
            let printed = print("urn:x", "a", &json!({"id": text, "name": text}));
            let document = parse(&printed).expect("we print well-formed XML");
            let read = document.value["name"].as_str().unwrap_or_default().to_owned();
            // Blanks around a text carry no meaning in the API.
            prop_assert_eq!(read, text.trim());
        }

        #[test]
        fn nothing_panics_the_reader(text in "[<>a-c/\"'= &;!\\[\\]-]{0,60}") {
            let _ = parse(&text);
        }
    }
}
