//! The API's XML in and out, by way of the JSON values both forms share.
//!
//! The mapping: same names; attributes become plain members; repeated elements become a list under the
//! element's name; an element with text and attributes keeps its text in `value`. Members are printed in the
//! order of the service's schemas, since some of its clients validate against those.

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
/// Namespace of the 2.x API.
pub const TYPES: &str = "urn:didata.com:api:cloud:types";
/// What the namespaces of the 0.9 API begin with.
pub const LEGACY: &str = "http://oec.api.opsource.net/schemas/";
/// Namespace of `nil`.
const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// A document as read: its root's namespace and name, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The root's namespace; empty if it has none.
    pub namespace: String,
    /// The root's name, without its prefix.
    pub root: String,
    /// What is in it.
    pub value: Value,
}

/// Why a text is no document we read.
#[derive(Debug, thiserror::Error)]
pub enum XmlError {
    /// It is not well-formed.
    #[error("not well-formed XML: {0}")]
    Form(#[from] quick_xml::Error),
    /// One of its attributes is not.
    #[error("an attribute is not well-formed: {0}")]
    Attribute(#[from] quick_xml::events::attributes::AttrError),
    /// It refers to a character or entity that does not exist.
    #[error("not well-formed XML: {0}")]
    Escape(#[from] quick_xml::escape::EscapeError),
    /// It names an element or attribute in a way XML does not have.
    #[error("`{0}` is no name")]
    Name(String),
    /// A prefix means nothing.
    #[error("a prefix is bound to no namespace")]
    Prefix,
    /// There is no complete element.
    #[error("no element in it")]
    Empty,
    /// Deeper than any document of the API.
    #[error("nested too deeply")]
    Depth,
    /// Document types are a way to attack readers, and the API has none.
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
///
/// # Errors
/// It is not well-formed, or more than the API ever has: too deep, or with a document type.
pub fn parse(text: &str) -> Result<Document, XmlError> {
    let mut reader = NsReader::from_str(text);
    let mut stack: Vec<Open> = Vec::new();
    let mut namespace = None;
    loop {
        let (resolved, event) = reader.read_resolved_event()?;
        let bound = match resolved {
            ResolveResult::Bound(bound) => quick_xml::escape::unescape(bound.0)?.into_owned(),
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
    let mut open = Open { name: name(start.local_name().as_ref())?, ..Open::default() };
    for attribute in start.attributes() {
        let attribute = attribute?;
        if attribute.key.as_namespace_binding().is_some() {
            continue;
        }
        let value = attribute.normalized_value(XmlVersion::Implicit1_0)?.into_owned();
        let (resolved, local) = reader.resolver().resolve_attribute(attribute.key);
        match resolved {
            ResolveResult::Unbound => open.add(name(local.as_ref())?, Value::String(value)),
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

/// A name as XML has it (XML 1.0, section 2.3), or nearly: of letters beyond ASCII, all pass.
fn name(text: &str) -> Result<String, XmlError> {
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
    let goes_on = |c: char| starts(c) || c.is_ascii_digit() || "-.".contains(c);
    if text.starts_with(starts) && text.chars().all(goes_on) {
        return Ok(text.to_owned());
    }
    Err(XmlError::Name(text.to_owned()))
}

/// Prints `value` as a document.
pub fn print(namespace: &str, root: &str, value: &Value) -> String {
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
            for (member, value) in in_order(name, members) {
                match value {
                    Value::Null => {}
                    Value::Array(items) if items.is_empty() && NILLABLE.contains(&member) => {
                        children.push_str(&format!("<{member} xmlns:xsi=\"{XSI}\" xsi:nil=\"true\"/>"));
                    }
                    Value::Array(items) => {
                        items.iter().for_each(|item| element(&mut children, name, member, None, item));
                    }
                    Value::Object(_) => element(&mut children, name, member, None, value),
                    scalar if is_attribute(parent, name, member, members) => {
                        out.push_str(&format!(" {member}=\"{}\"", blanks(&escape(text_of(scalar)))));
                    }
                    scalar if is_text(name, member) => children.push_str(&escape(text_of(scalar))),
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

/// Readers turn blanks in attributes into spaces, unless they are escaped (XML 1.0, section 3.3.3).
fn blanks(escaped: &str) -> String {
    escaped.replace('\t', "&#9;").replace('\n', "&#10;").replace('\r', "&#13;")
}

fn text_of(scalar: &Value) -> String {
    match scalar {
        // XML has no way to write most control characters, not even escaped.
        Value::String(text) => text.chars().filter(|c| *c >= ' ' || "\t\n\r".contains(*c)).collect(),
        other => other.to_string(),
    }
}

/// Lists that are emptied on purpose: absent, they would stay what they are.
const NILLABLE: [&str; 4] = ["ipAddress", "childIpAddressListId", "port", "childPortListId"];

/// Elements whose simple members are all attributes.
const COMPACT: [&str; 31] = [
    "networking",
    "hypervisor",
    "monitoring",
    "consoleAccess",
    "property",
    "cpu",
    "disk",
    "scsiController",
    "operatingSystem",
    "vmTools",
    "vmwareTools",
    "virtualHardware",
    "networkInfo",
    "primaryNic",
    "additionalNic",
    "privateIpv4Range",
    "ipv6Range",
    "outsideTransitVlanIpv4Subnet",
    "attachedVlan",
    "detachedVlan",
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
];

/// Paging on the root of a list.
const PAGING: [&str; 4] = ["pageNumber", "pageCount", "totalCount", "pageSize"];

/// Whether XML shows a simple member as an attribute; `siblings` are all members of the element.
fn is_attribute(parent: &str, element: &str, member: &str, siblings: &Map<String, Value>) -> bool {
    match (parent, element, member) {
        (_, "info" | "warning" | "error" | "property", _) => true,
        (_, "response", "requestId") => true,
        (_, "additionalInformation", "name") => true,
        (_, "diskSpeed" | "cpuSpeed", "id" | "default" | "available") => true,
        (_, "datacenter", "id" | "type") => true,
        // Reserved addresses: the text of their element in older versions, an element of it in newer ones.
        (_, "ip" | "ipv4", "value") => false,
        (_, "ip" | "ipv4", "exclusive") => true,
        (_, "ipv4", _) if siblings.contains_key("ipAddress") => member == "datacenterId",
        (_, "ip" | "ipv4", _) => true,
        (_, "reservedIpv6Address", "exclusive") => true,
        // Named by another resource; as resources themselves they have their names inside.
        ("vlan", "networkDomain", _) => true,
        ("source" | "destination", "ipAddressList" | "portList", _) => true,
        (_, "source" | "artifact", "type" | "value" | "date") => true,
        (_, "antiAffinityRule", "state" | "created") => true,
        (_, "geographicRegion", "isHome") => true,
        (_, element, _) if COMPACT.contains(&element) => true,
        (_, _, member) if PAGING.contains(&member) => true,
        (_, "firewallRule", "ruleType") => true,
        (_, "changeNetworkAdapter", "nicId") => true,
        (_, "progress" | "step" | "tag", _) => false,
        (_, _, "id" | "datacenterId") => true,
        _ => false,
    }
}

/// Whether a member is the text of its element.
fn is_text(element: &str, member: &str) -> bool {
    member == "value" && matches!(element, "ip" | "ipv4")
}

/// Members in the order of the schemas; what these do not name comes last, by name.
fn in_order<'a>(element: &str, members: &'a Map<String, Value>) -> Vec<(&'a str, &'a Value)> {
    let order = order(element);
    let rank = |name: &str| order.split(' ').position(|known| known == name).unwrap_or(usize::MAX);
    let mut pairs: Vec<_> = members.iter().map(|(name, value)| (name.as_str(), value)).collect();
    // Stable, and the members come sorted by name.
    pairs.sort_by_cached_key(|(name, _)| rank(name));
    pairs
}

/// The order of an element's members.
fn order(element: &str) -> &'static str {
    match element {
        "datacenter" => {
            "id type displayName city state country vpnUrl ftpsHost networking hypervisor \
             backup consoleAccess monitoring drs"
        }
        "networking" | "hypervisor" => "type maintenanceStatus diskSpeed cpuSpeed property",
        "diskSpeed" | "cpuSpeed" => "id default available displayName abbreviation description",
        "osImage" | "customerImage" => {
            "id datacenterId name description operatingSystem cpu memoryGb disk \
             scsiController softwareLabel createTime osImageKey source state guest progress \
             vmwareTools virtualHardware tag"
        }
        "server" => {
            "id datacenterId name description operatingSystem guest cpu memoryGb disk \
             scsiController networkInfo backup monitoring softwareLabel sourceImageId source \
             createTime deployed started state progress vmwareTools virtualHardware tag"
        }
        "guest" => "osCustomization operatingSystem vmTools",
        "cpu" => "count speed coresPerSocket",
        "disk" => "id scsiId sizeGb speed state",
        "scsiController" => "id adapterType key busNumber state disk",
        "operatingSystem" => "id displayName family",
        "vmTools" | "vmwareTools" => "type versionStatus runningStatus apiVersion",
        "networkInfo" => "networkDomainId networkDomainName primaryNic additionalNic",
        "primaryNic" | "additionalNic" => {
            "id privateIpv4 ipv6 vlanId vlanName networkAdapter macAddress key connected \
             state"
        }
        "progress" => "action requestTime userName numberOfSteps updateTime step failureReason",
        "virtualHardware" => "version upToDate",
        "step" => "name number percentComplete",
        "networkDomain" => {
            "id datacenterId name description type snatIpv4Address \
             outsideTransitVlanIpv4Subnet createTime state progress"
        }
        "vlan" => {
            "id datacenterId networkDomain name description privateIpv4Range \
             gatewayAddressing attachedVlan detachedVlan ipv4GatewayAddress ipv6Range \
             ipv6GatewayAddress createTime state progress"
        }
        "publicIpBlock" => "id datacenterId networkDomainId baseIp size createTime state",
        "natRule" => {
            "id datacenterId networkDomainId internalIp externalIp externalIpAddressability \
             createTime state"
        }
        "firewallRule" => {
            "id datacenterId ruleType networkDomainId name action ipVersion protocol source \
             destination icmpProperties enabled state"
        }
        "source" | "destination" => "type value ip ipAddressList port portList artifact",
        "ip" => "address prefixSize",
        "ipv4" | "reservedIpv6Address" => "datacenterId exclusive vlanId ipAddress description",
        "port" | "ipAddress" => "begin end prefixSize",
        "ipAddressList" | "portList" => {
            "id name description ipVersion ipAddress port childIpAddressList childPortList \
             state createTime"
        }
        "antiAffinityRule" => "id state created datacenterId serverSummary",
        "serverSummary" => "id name description networkingDetails",
        "tagKey" => "id name description valueRequired displayOnReport",
        "tag" => {
            "assetType assetId assetName datacenterId tagKeyId tagKeyName value \
             displayOnReport valueRequired"
        }
        "staticRoute" => {
            "id datacenterId networkDomainId name description type ipVersion \
             destinationNetworkAddress destinationPrefixSize nextHopAddress state createTime"
        }
        "geographicRegion" => "id isHome name cloudApiHost cloudUiUrl monitoringUrl ftpsHost timeZone state",
        "response" => "requestId operation responseCode message info warning error",
        "info" | "warning" | "error" | "property" => "name value",
        "Status" => "operation result resultDetail resultCode additionalInformation",
        "Account" | "user" => "userName fullName firstName lastName emailAddress orgId roles",
        list if list.ends_with('s') => "pageNumber pageCount totalCount pageSize",
        _ => "id name description",
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
        let escaped = parse(r#"<a xmlns="urn:x&amp;y"/>"#).expect("well formed");
        assert_eq!(escaped.namespace, "urn:x&y");
        for text in [r#"<a b="1"/c="2"></a>"#, "<1a/>", "<a><b'/></a>"] {
            assert!(parse(text).is_err(), "{text}");
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

    #[test]
    fn members_come_in_the_order_of_the_schemas() {
        let value = json!({"state": "NORMAL", "name": "n", "id": "1", "datacenterId": "EU7", "zeal": 1, "createTime": "t",
            "networkDomain": {"name": "d", "id": "2"}});
        let want = r#"<vlan xmlns="u" id="1" datacenterId="EU7"><networkDomain id="2" name="d"/><name>n</name><createTime>t</createTime><state>NORMAL</state><zeal>1</zeal></vlan>"#;
        assert_eq!(print("u", "vlan", &value).lines().last(), Some(want));
    }

    #[test]
    fn values_are_texts_attributes_or_elements() {
        let check = |root: &str, value: Value, want: &str| {
            let printed = print("u", root, &value);
            assert_eq!(printed.lines().last(), Some(want));
            assert_eq!(parse(&printed).expect("we print well-formed XML").value, value);
        };
        check(
            "a",
            json!({"ip": {"datacenterId": "E", "value": "1.1.1.1"}}),
            r#"<a xmlns="u"><ip datacenterId="E">1.1.1.1</ip></a>"#,
        );
        check(
            "a",
            json!({"info": {"name": "n", "value": "v"}}),
            r#"<a xmlns="u"><info name="n" value="v"/></a>"#,
        );
        check(
            "a",
            json!({"tag": {"tagKeyName": "n", "value": "v"}}),
            r#"<a xmlns="u"><tag><tagKeyName>n</tagKeyName><value>v</value></tag></a>"#,
        );
        check(
            "a",
            json!({"additionalInformation": {"name": "n", "value": "v"}}),
            r#"<a xmlns="u"><additionalInformation name="n"><value>v</value></additionalInformation></a>"#,
        );
        let nil = print("u", "editPortList", &json!({"port": [], "childPortListId": []}));
        assert_eq!(
            parse(&nil).expect("we print well-formed XML").value,
            json!({"port": null, "childPortListId": null})
        );
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
