//! Openings of a node's public address, as they are written.

use std::collections::BTreeSet;

use crate::{
    problem::{Reporter, Span},
    read::{Fields, text, wanted},
    resolved::{Internet, NoSuchSource, Opening, Source, Traffic, distinct},
    syntax::{Tree, Value},
};

/// Port of RethinkDB's web console, which asks nobody for a password.
const CONSOLE: u16 = 8080;

/// An opening with its place.
#[derive(Clone, Debug)]
pub(crate) struct RawOpening {
    traffic: Traffic,
    /// `None` if the plan does not say.
    from: Option<Vec<Source>>,
    span: Span,
}

/// `none`, or a list of openings.
pub(crate) fn internet(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<Vec<RawOpening>> {
    if tree.value == Value::Text("none".into()) {
        return None;
    }
    let Value::List(items) = &tree.value else {
        wanted(tree, "`internet`", "`none` or a list of openings", reporter);
        // Something was asked for, so that references to the public address are no second problem.
        return Some(Vec::new());
    };
    let mut open = Vec::new();
    let mut seen = BTreeSet::new();
    for item in items {
        let Some(opening) = opening(item, reporter) else { continue };
        if seen.insert(opening.traffic) {
            open.push(opening);
        } else {
            reporter.problem(&opening.span, format!("{} is opened twice", opening.traffic), None);
        }
    }
    Some(open)
}

/// What the openings mean on a node; `console` says whether it has one.
pub(crate) fn resolve(open: &[RawOpening], console: bool, reporter: &mut Reporter<'_>) -> Internet {
    let resolve = |raw: &RawOpening| {
        let shows_console =
            console && matches!(raw.traffic, Traffic::Tcp(first, last) if (first..=last).contains(&CONSOLE));
        let from = match &raw.from {
            Some(from) => from.clone(),
            None if shows_console && raw.traffic == Traffic::Tcp(CONSOLE, CONSOLE) => vec![Source::Operator],
            None => vec![Source::Any],
        };
        if shows_console && from.contains(&Source::Any) {
            reporter.warning(
                &raw.span,
                format!("RethinkDB's console on port {CONSOLE} is open to everybody, and has no password"),
                format!("`{{port: {CONSOLE}, from: [operator]}}`, or addresses you trust"),
            );
        }
        Opening { traffic: raw.traffic, from }
    };
    Internet { open: open.iter().map(resolve).collect() }
}

/// A word, or a mapping with `port` and `from`.
fn opening(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<RawOpening> {
    let is_mapping = matches!(&tree.value, Value::Map(entries) if entries.iter().all(|(key, _)| matches!(key.value, Value::Text(_))));
    if !is_mapping {
        let (traffic, span) = traffic(tree, reporter)?;
        return Some(RawOpening { traffic, from: None, span });
    }
    let mut fields = Fields::of(tree, "an opening", reporter)?;
    let port = fields
        .require("port", "`{port: 8080, from: [operator]}`", reporter)
        .and_then(|tree| traffic(tree, reporter));
    let from = fields.get("from", reporter).map(|tree| from(tree, reporter));
    fields.finish(reporter);
    let (traffic, span) = port?;
    Some(RawOpening { traffic, from, span })
}

fn traffic(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<(Traffic, Span)> {
    let word = text(tree, "an opening", reporter)?;
    match parse(&word.value) {
        Ok(traffic) => Some((traffic, word.span)),
        Err(why) => {
            reporter.problem(
                &word.span,
                format!("`{}` is no opening: {why}", word.value),
                "`icmp`, a TCP port (`22`), `tcp:8000-8100`, `udp:53`, or `{port: 22, from: [operator]}`"
                    .to_owned(),
            );
            None
        }
    }
}

fn parse(word: &str) -> Result<Traffic, &'static str> {
    if word.eq_ignore_ascii_case("icmp") {
        return Ok(Traffic::Icmp);
    }
    let (protocol, ports) = word.split_once(':').unwrap_or(("tcp", word));
    let (first, last) = ports.split_once("..").or_else(|| ports.split_once('-')).unwrap_or((ports, ports));
    let port = |text: &str| match text.trim().parse::<u32>() {
        Ok(number @ 1..=65535) => Ok(number as u16),
        Ok(_) => Err("ports are 1 to 65535"),
        Err(_) => Err("not a port"),
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err("the first port is above the last");
    }
    match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Traffic::Tcp(first, last)),
        "udp" => Ok(Traffic::Udp(first, last)),
        _ => Err("unknown protocol"),
    }
}

/// One source or a list of them; wrong ones are left out, so that nothing opens wider than was meant.
fn from(tree: &Tree, reporter: &mut Reporter<'_>) -> Vec<Source> {
    let items = match &tree.value {
        Value::List(items) if items.is_empty() => {
            let hint = "`any`, `operator`, addresses and networks; or remove the opening".to_owned();
            reporter.problem(&tree.span, "`from` is empty: nothing would come in", hint);
            return Vec::new();
        }
        Value::List(items) => items.as_slice(),
        _ => std::slice::from_ref(tree),
    };
    distinct(items.iter().filter_map(|item| source(item, reporter)))
}

fn source(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<Source> {
    let word = text(tree, "a source", reporter)?;
    match word.value.as_str() {
        "any" => return Some(Source::Any),
        "operator" => return Some(Source::Operator),
        _ => {}
    }
    match word.value.parse() {
        Ok(source) => Some(source),
        Err(why) => {
            let hint = match why {
                NoSuchSource::Shape => "`any`, `operator`, `192.0.2.7` or `192.0.2.0/24`".to_owned(),
                NoSuchSource::Inside(network) => format!("did you mean `{network}`?"),
            };
            let what = match why {
                NoSuchSource::Shape => "no source of traffic",
                NoSuchSource::Inside(_) => "inside a network, not its base",
            };
            reporter.problem(&word.span, format!("`{}` is {what}", word.value), hint);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_openings() {
        let check = |word: &str, expected: Result<Traffic, &str>| assert_eq!(parse(word), expected, "{word}");
        check("icmp", Ok(Traffic::Icmp));
        check("22", Ok(Traffic::Tcp(22, 22)));
        check("tcp:80", Ok(Traffic::Tcp(80, 80)));
        check("udp:137..138", Ok(Traffic::Udp(137, 138)));
        check("8000-8100", Ok(Traffic::Tcp(8000, 8100)));
        check("0", Err("ports are 1 to 65535"));
        check("65536", Err("ports are 1 to 65535"));
        check("http", Err("not a port"));
        check("9..8", Err("the first port is above the last"));
        check("sctp:9", Err("unknown protocol"));
    }
}
