//! What is left of version 0.9: the account, and disk changes that version 2.4 lacks.

use quick_xml::{Reader, escape::escape, events::Event};

use crate::error::Source;

/// The text of the first `name` element directly below the root, whatever its namespace prefix.
pub(crate) fn child_text(xml: &str, name: &str) -> Result<Option<String>, Source> {
    let mut reader = Reader::from_str(xml);
    let mut depth = 0_usize;
    let mut inside = false;
    let mut text = String::new();
    loop {
        match reader.read_event()? {
            Event::Start(start) => {
                inside = depth == 1 && start.local_name().as_ref() == name;
                depth += 1;
            }
            Event::End(_) => {
                if inside {
                    return Ok(Some(text.trim().to_owned()));
                }
                depth = depth.saturating_sub(1);
            }
            Event::Text(part) if inside => text.push_str(&part.xml10_content()),
            Event::GeneralRef(entity) if inside => {
                let entity = entity.xml10_content();
                text.push_str(&quick_xml::escape::unescape(&format!("&{entity};"))?);
            }
            Event::Eof => return Ok(None),
            _ => {}
        }
    }
}

/// Body of `changeSize`.
pub(crate) fn change_size(new_size_gb: u32) -> String {
    format!(
        r#"<ChangeDiskSize xmlns="http://oec.api.opsource.net/schemas/server"><newSizeGb>{new_size_gb}</newSizeGb></ChangeDiskSize>"#
    )
}

/// Body of `changeSpeed`.
pub(crate) fn change_speed(speed: &str) -> String {
    let speed = escape(speed);
    format!(
        r#"<ChangeDiskSpeed xmlns="http://oec.api.opsource.net/schemas/server"><speed>{speed}</speed></ChangeDiskSpeed>"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_organisation_whatever_the_prefix() {
        let check = |xml: &str, found: Option<&str>| {
            assert_eq!(child_text(xml, "orgId").expect("well formed").as_deref(), found, "{xml}");
        };
        check(
            r#"<ns3:Account xmlns:ns3="x"><ns3:userName>a</ns3:userName><ns3:orgId>o-1</ns3:orgId></ns3:Account>"#,
            Some("o-1"),
        );
        check("<?xml version=\"1.0\"?>\n<Account xmlns=\"x\">\n <orgId> o-1 </orgId></Account>", Some("o-1"));
        check("<Account><orgId>a&amp;b</orgId></Account>", Some("a&b"));
        check("<Account><deeper><orgId>o-1</orgId></deeper></Account>", None);
        check("<Account/>", None);
    }

    #[test]
    fn broken_xml_is_an_error() {
        assert!(child_text("<Account><orgId>x</Account>", "orgId").is_err());
    }
}
