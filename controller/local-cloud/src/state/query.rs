//! Filters, order and paging of lists.

use std::cmp::Ordering;

use serde_json::Value;

use super::{Answer, Kind, Refused};

/// Items per page, unless asked for fewer; the platform's default and maximum.
const PAGE_SIZE: usize = 250;

/// The page of `items` that `query` asks for. Beyond the end it is empty.
pub(crate) fn page(kind: Kind, items: Vec<Value>, query: &[(String, String)]) -> Result<Answer, Refused> {
    let (mut number, mut size, mut order) = (1, PAGE_SIZE, "");
    let mut filters = Vec::new();
    for (name, value) in query {
        match name.as_str() {
            "pageNumber" => number = positive(name, value)?,
            "pageSize" => size = positive(name, value)?.min(PAGE_SIZE),
            "orderBy" => order = value,
            _ => filters.push(Filter::parse(name, value)),
        }
    }
    let mut items: Vec<Value> =
        items.into_iter().filter(|item| filters.iter().all(|filter| filter.lets_through(item))).collect();
    // Stable, so that what the order leaves open stays in order of creation.
    for field in order.split(',').rev().filter(|field| !field.is_empty()) {
        let (field, descending) = match field.rsplit_once('.') {
            Some((field, "DESCENDING")) => (field, true),
            Some((field, "ASCENDING")) => (field, false),
            _ => (field, false),
        };
        items.sort_by(|a, b| {
            let order = compare(&first(a, field), &first(b, field));
            if descending { order.reverse() } else { order }
        });
    }
    let total = items.len();
    let items = items.into_iter().skip((number - 1).saturating_mul(size)).take(size).collect();
    Ok(Answer::Page { kind, items, number, size, total })
}

fn positive(name: &str, value: &str) -> Result<usize, Refused> {
    let number = value.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| Refused::invalid(format!("{name} must be a positive number, not '{value}'.")))
}

struct Filter<'a> {
    field: &'a str,
    test: Test,
    value: &'a str,
}

#[derive(Clone, Copy)]
enum Test {
    Equal,
    Like,
    Order(fn(Ordering) -> bool),
}

impl<'a> Filter<'a> {
    fn parse(name: &'a str, value: &'a str) -> Self {
        let (field, test) = match name.rsplit_once('.') {
            Some((field, "LIKE")) => (field, Test::Like),
            Some((field, "GE")) => (field, Test::Order(Ordering::is_ge)),
            Some((field, "LE")) => (field, Test::Order(Ordering::is_le)),
            Some((field, "GT")) => (field, Test::Order(Ordering::is_gt)),
            Some((field, "LT")) => (field, Test::Order(Ordering::is_lt)),
            _ => (name, Test::Equal),
        };
        Self { field, test, value }
    }

    fn lets_through(&self, item: &Value) -> bool {
        values(item, self.field).iter().any(|found| match self.test {
            // Public clients send booleans as `True` and ids in any case.
            Test::Equal => found.eq_ignore_ascii_case(self.value) || same_address(found, self.value),
            Test::Like => like(&found.to_lowercase(), &self.value.to_lowercase()),
            Test::Order(holds) => holds(compare(found, self.value)),
        })
    }
}

/// What an item has in a field. Some fields are shown elsewhere than the filter's name says.
fn values(item: &Value, field: &str) -> Vec<String> {
    let nics = || {
        let network = &item["networkInfo"];
        let more = network["additionalNic"].as_array().into_iter().flatten();
        std::iter::once(&network["primaryNic"]).chain(more)
    };
    let in_nics = |member: &str| nics().filter_map(|nic| text(&nic[member])).collect();
    let one = |value: &Value| text(value).into_iter().collect();
    // Servers of an anti-affinity rule.
    if let Some(servers) = item["serverSummary"].as_array() {
        let place = |server: &Value| text(&server["networkingDetails"]["networkInfo"]["networkDomainId"]);
        match field {
            "serverId" => return servers.iter().filter_map(|server| text(&server["id"])).collect(),
            "networkDomainId" => return servers.iter().filter_map(place).collect(),
            "createTime" => return one(&item["created"]),
            _ => {}
        }
    }
    match field {
        "networkDomainId" if item["networkDomain"].is_object() => one(&item["networkDomain"]["id"]),
        "networkDomainId" if item["networkInfo"].is_object() => one(&item["networkInfo"]["networkDomainId"]),
        "vlanId" if item["networkInfo"].is_object() => in_nics("vlanId"),
        "privateIpv4" => in_nics("privateIpv4"),
        "ipv6" => in_nics("ipv6"),
        "operatingSystemId" => one(&item["guest"]["operatingSystem"]["id"]),
        "privateIpv4Address" => one(&item["privateIpv4Range"]["address"]),
        "ipv6Address" => one(&item["ipv6Range"]["address"]),
        "ipAddress" if item["ipAddress"].is_null() => one(&item["value"]),
        _ => one(&item[field]),
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

fn first(item: &Value, field: &str) -> String {
    values(item, field).into_iter().next().unwrap_or_default()
}

/// Numbers by value, anything else as text.
fn compare(a: &str, b: &str) -> Ordering {
    match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        _ => a.cmp(b),
    }
}

fn same_address(a: &str, b: &str) -> bool {
    matches!((a.parse::<std::net::IpAddr>(), b.parse::<std::net::IpAddr>()), (Ok(a), Ok(b)) if a == b)
}

/// Whether `text` matches `pattern`, where `*` is any run of characters. Takes the first place each piece fits,
/// so that a long text and many stars stay cheap.
fn like(text: &str, pattern: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(query: &[(&str, &str)]) -> (Vec<String>, usize, usize) {
        let items = vec![
            json!({"name": "web2", "started": true, "networkInfo": {"networkDomainId": "d1",
                "primaryNic": {"vlanId": "v1", "ipv6": "fd00:0:0:0:0:0:0:1"}, "additionalNic": [{"vlanId": "v2"}]}}),
            json!({"name": "web1", "started": false, "memoryGb": 16}),
            json!({"name": "db", "started": true, "memoryGb": 4, "networkDomain": {"id": "d2"}}),
        ];
        let query: Vec<_> = query.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        match page(Kind::Server, items, &query).expect("a good query") {
            Answer::Page { items, size, total, .. } => {
                (items.iter().map(|item| first(item, "name")).collect(), size, total)
            }
            other => panic!("not a page: {other:?}"),
        }
    }

    #[test]
    fn filters() {
        let check = |query: &[(&str, &str)], want: &[&str]| assert_eq!(names(query).0, want, "{query:?}");
        check(&[], &["web2", "web1", "db"]);
        check(&[("name", "WEB1")], &["web1"]);
        check(&[("name.LIKE", "web*")], &["web2", "web1"]);
        check(&[("name.LIKE", "*e*1")], &["web1"]);
        check(&[("name.LIKE", "web")], &[]);
        check(&[("started", "True")], &["web2", "db"]);
        check(&[("started", "True"), ("networkDomainId", "d2")], &["db"]);
        check(&[("vlanId", "v2")], &["web2"]);
        check(&[("ipv6", "fd00::1")], &["web2"]);
        check(&[("memoryGb.GT", "4")], &["web1"]);
        check(&[("memoryGb.LE", "4")], &["db"]);
        check(&[("nothing", "x")], &[]);
    }

    #[test]
    fn order_and_pages() {
        assert_eq!(names(&[("orderBy", "name")]).0, ["db", "web1", "web2"]);
        assert_eq!(names(&[("orderBy", "started.DESCENDING,name")]).0, ["db", "web2", "web1"]);
        assert_eq!(names(&[("pageSize", "2"), ("pageNumber", "2")]), (vec!["db".to_owned()], 2, 3));
        assert_eq!(names(&[("pageNumber", "2")]), (vec![], 250, 3));
        assert_eq!(names(&[("pageSize", "9999")]).1, 250);
        let query = [("pageNumber".to_owned(), "0".to_owned())];
        assert_eq!(page(Kind::Vlan, vec![], &query).expect_err("no page 0").code, "INVALID_INPUT_DATA");
    }
}
