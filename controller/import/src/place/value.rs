//! What single values of a location come to: the API it is behind, names, subnets.

use fleet_plan::Tree;

use crate::{machine::Reader, parameter::word};

/// Cloud behind a location, as far as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    Region(String),
    Endpoint(String),
}

/// API of a location without a region of its own.
const REGIONS: [(&str, &str); 6] = [
    ("AF", "dd-af"),
    ("AP", "dd-ap"),
    ("AU", "dd-au"),
    ("CA", "dd-canada"),
    ("EU", "dd-eu"),
    ("NA", "dd-na"),
];
/// Regions our plans know.
const KNOWN: [&str; 8] = ["dd-na", "dd-eu", "dd-au", "dd-au-gov", "dd-af", "dd-ap", "dd-latam", "dd-canada"];
/// Longest name of a domain or a network our plans take.
const LONGEST_LABEL: usize = 60;

/// Which API a location is behind.
pub(super) fn api(
    id: &str,
    region: Option<&Tree>,
    host: Option<&Tree>,
    at: &Tree,
    reader: &mut Reader<'_, '_>,
) -> Option<Api> {
    let text = |tree: Option<&Tree>, reader: &Reader<'_, '_>| {
        let text = tree.and_then(|tree| reader.source.text_of(tree))?;
        Some(reader.parameters.put_in(&text)).filter(|text| !text.is_empty())
    };
    let letters: String = id.chars().take_while(char::is_ascii_alphabetic).collect();
    let derived =
        REGIONS.iter().find(|(area, _)| *area == letters && id.len() > area.len()).map(|(_, region)| *region);
    if let (Some(given), Some(tree)) = (text(region, reader), region) {
        let given = if given == "dd-ca" { "dd-canada".to_owned() } else { given };
        if KNOWN.contains(&given.as_str()) {
            return Some(Api::Region(given));
        }
        let instead = "`cloud: {mcp: {endpoint: https://HOST}}` with the host of its API";
        reader.notes.lost(&tree.span, format!("region `{given}`"), instead);
        return None;
    }
    let host =
        text(host, reader).map(|host| host.trim_start_matches("https://").trim_end_matches('/').to_owned());
    match (derived, host) {
        // Plumbery never looks at the host of a location it knows.
        (Some(region), _) => Some(Api::Region(region.to_owned())),
        (None, Some(host)) if !host.contains(['/', '@', '?', ' ']) => {
            Some(Api::Endpoint(format!("https://{host}")))
        }
        _ => {
            let instead = "`cloud: {mcp: {region: dd-eu}}`, or `endpoint: https://HOST`";
            reader.notes.lost(&at.span, format!("location `{id}`, whose API is not known"), instead);
            None
        }
    }
}

/// Name of a domain or a network: as our plan writes it, and with parameters put in.
pub(super) fn label(tree: &Tree, what: &str, reader: &mut Reader<'_, '_>) -> Option<(String, String)> {
    let own = reader.own_text(tree, what)?;
    let value = reader.parameters.put_in(&own);
    let fine = label_of(&value);
    if fine == value {
        return Some((own, value));
    }
    reader.notes.changed(&tree.span, format!("{what} named `{value}`"), format!("named `{fine}`"));
    Some((fine.clone(), fine))
}

/// The name `label` gives, for references to it.
pub(crate) fn label_of(value: &str) -> String {
    let mut fine = word(value, 'N', "-_.");
    fine.truncate(LONGEST_LABEL);
    fine
}

/// `10.0.0.0[/24] [low|high]`.
pub(super) fn subnet(tree: &Tree, reader: &mut Reader<'_, '_>) -> Option<String> {
    let own = reader.own_text(tree, "a subnet")?;
    let value = reader.parameters.put_in(&own);
    let parts: Vec<&str> = value.split([' ', '/']).filter(|part| !part.is_empty()).collect();
    let address = parts.first().copied().unwrap_or_default();
    let (mut prefix, mut addressing) = (24_u8, None);
    for part in parts.iter().skip(1) {
        match part.parse::<u8>() {
            Ok(number) => prefix = number,
            Err(_) => addressing = Some(*part),
        }
    }
    if address.parse::<std::net::Ipv4Addr>().is_err() || !(16..=28).contains(&prefix) {
        let instead = "`10.60.0.0/24`, /16 to /28; its network is left out";
        reader.notes.lost(&tree.span, format!("subnet `{value}`"), instead);
        return None;
    }
    if addressing.is_some_and(|word| word.eq_ignore_ascii_case("high")) {
        let instead = "addresses come from below; plumbery never tells the platform otherwise";
        reader.notes.changed(&tree.span, "addressing `high`", instead);
    }
    if !own.contains("{{") {
        return Some(format!("{address}/{prefix}"));
    }
    // One parameter that holds it all, or what the value comes to.
    let exact = format!("{address}/{prefix}") == value;
    if exact {
        return Some(own);
    }
    let only = crate::machine::words(&own).len() == 1 && parts.len() == 1;
    Some(if only { format!("{own}/{prefix}") } else { format!("{address}/{prefix}") })
}
