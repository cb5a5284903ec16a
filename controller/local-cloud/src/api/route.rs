//! From method and path to what is asked.

use http::Method;

use super::operations;
use crate::state::Kind;

/// Versions of the 2.x API that are served, all with one model.
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=13;

/// The version static routes came with.
const STATIC_ROUTES_SINCE: u32 = 9;

/// What a request is about. Paths are borrowed from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// `/oec/0.9/myaccount`.
    Account,
    /// `/caas/2.N/user/myUser`.
    MyUser,
    /// A list.
    List(Kind),
    /// One resource.
    Get(Kind, &'a str),
    /// A change; its path below the organisation.
    Change(&'a str),
    /// A 0.9 change.
    Legacy(Legacy<'a>),
    /// `/oec/0.9/{org}/networkWithLocation`: networks of the generation before, of which there are none.
    LegacyNetworks,
    /// Below `/fleet/`.
    Admin(&'a str),
    /// Another organisation's.
    Foreign,
    /// No such thing.
    Unknown,
}

/// A change of version 0.9. Some of them are reads by their method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Legacy<'a> {
    /// A disk grows, or changes its speed.
    Disk { server: &'a str, disk: &'a str, speed: bool },
    /// A server is edited, by a form.
    Edit(&'a str),
    /// An image is made of a server; the image is in the query.
    Clone(&'a str),
    /// Servers are to stay apart.
    CreateAffinity,
    /// They need not any more.
    DeleteAffinity(&'a str),
}

/// Finds out what is asked.
pub(crate) fn route<'a>(method: &Method, path: &'a str, query: &str, organisation: &str) -> Route<'a> {
    let asks = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (get, post) = (method == Method::GET, method == Method::POST);
    match parts.as_slice() {
        ["fleet", name] => Route::Admin(name),
        ["oec", "0.9", "myaccount"] if get => Route::Account,
        ["oec", "0.9", owner, ..] if *owner != organisation => Route::Foreign,
        ["oec", "0.9", _, "server", server, "disk", disk, what @ ("changeSize" | "changeSpeed")] if post => {
            Route::Legacy(Legacy::Disk { server, disk, speed: *what == "changeSpeed" })
        }
        ["oec", "0.9", _, "server", server] if post => Route::Legacy(Legacy::Edit(server)),
        ["oec", "0.9", _, "server", server] if get && asks("clone") => Route::Legacy(Legacy::Clone(server)),
        ["oec", "0.9", _, "antiAffinityRule"] if post => Route::Legacy(Legacy::CreateAffinity),
        ["oec", "0.9", _, "antiAffinityRule", rule] if get && asks("delete") => {
            Route::Legacy(Legacy::DeleteAffinity(rule))
        }
        ["oec", "0.9", _, "networkWithLocation"] | ["oec", "0.9", _, "networkWithLocation", _] if get => {
            Route::LegacyNetworks
        }
        ["caas", version, ..] if !is_served(version) => Route::Unknown,
        ["caas", _, "user", "myUser"] if get => Route::MyUser,
        ["caas", _, owner, _, ..] if *owner != organisation => Route::Foreign,
        ["caas", _, _, family, resource] if get => {
            find(family, resource, path).map_or(Route::Unknown, Route::List)
        }
        ["caas", _, _, family, resource, id] if get => {
            find(family, resource, path).map_or(Route::Unknown, |kind| Route::Get(kind, id))
        }
        ["caas", version, owner, _, _] if post => {
            let start = "caas/".len() + version.len() + 1 + owner.len() + 1;
            let operation = &path.trim_matches('/')[start..];
            if operations::is_known(operation, minor(path)) {
                Route::Change(operation)
            } else {
                Route::Unknown
            }
        }
        _ => Route::Unknown,
    }
}

/// The minor version of a path of the 2.x API; 0 for anything else.
pub(crate) fn minor(path: &str) -> u32 {
    let version = path.trim_matches('/').strip_prefix("caas/2.").and_then(|rest| rest.split('/').next());
    version.and_then(|minor| minor.parse().ok()).unwrap_or(0)
}

fn is_served(version: &str) -> bool {
    let minor = version.strip_prefix("2.").and_then(|minor| minor.parse().ok());
    minor.is_some_and(|minor: u32| VERSIONS.contains(&minor))
}

fn find(family: &str, resource: &str, path: &str) -> Option<Kind> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.path().split_once('/') == Some((family, resource)))?;
    (kind != Kind::StaticRoute || minor(path) >= STATIC_ROUTES_SINCE).then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let check = |method: Method, path: &str, want: Route<'_>| {
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            assert_eq!(route(&method, path, query, "o-1"), want, "{method} {path}");
        };
        check(Method::GET, "/oec/0.9/myaccount", Route::Account);
        check(Method::GET, "/caas/2.4/user/myUser", Route::MyUser);
        check(Method::GET, "/caas/2.4/o-1/server/server", Route::List(Kind::Server));
        check(Method::GET, "/caas/2.13/o-1/server/server/s-1", Route::Get(Kind::Server, "s-1"));
        check(Method::GET, "/caas/2.14/o-1/server/server", Route::Unknown);
        check(Method::GET, "/caas/2.1/o-1/server/server", Route::Unknown);
        check(Method::GET, "/caas/2.4/o-2/server/server", Route::Foreign);
        check(Method::GET, "/caas/2.4/o-1/server/vlan", Route::Unknown);
        check(Method::POST, "/caas/2.4/o-1/server/server", Route::Unknown);
        check(Method::POST, "/caas/2.10/o-1/network/deployVlan", Route::Change("network/deployVlan"));
        check(Method::POST, "/caas/2.4/o-1/network/deployNothing", Route::Unknown);
        check(
            Method::POST,
            "/oec/0.9/o-1/server/s-1/disk/d-1/changeSize",
            Route::Legacy(Legacy::Disk { server: "s-1", disk: "d-1", speed: false }),
        );
        check(Method::POST, "/oec/0.9/o-1/server/s-1", Route::Legacy(Legacy::Edit("s-1")));
        check(Method::GET, "/oec/0.9/o-1/server/s-1", Route::Unknown);
        check(Method::GET, "/oec/0.9/o-1/server/s-1?clone=a&desc=b", Route::Legacy(Legacy::Clone("s-1")));
        check(Method::POST, "/oec/0.9/o-1/antiAffinityRule", Route::Legacy(Legacy::CreateAffinity));
        check(
            Method::GET,
            "/oec/0.9/o-1/antiAffinityRule/r-1?delete",
            Route::Legacy(Legacy::DeleteAffinity("r-1")),
        );
        check(Method::GET, "/oec/0.9/o-1/networkWithLocation/EU7", Route::LegacyNetworks);
        // Newer calls under older versions.
        check(Method::POST, "/caas/2.4/o-1/server/expandDisk", Route::Unknown);
        check(Method::POST, "/caas/2.5/o-1/server/expandDisk", Route::Change("server/expandDisk"));
        check(Method::GET, "/caas/2.8/o-1/network/staticRoute", Route::Unknown);
        check(Method::GET, "/caas/2.9/o-1/network/staticRoute", Route::List(Kind::StaticRoute));
        check(Method::GET, "/fleet/log", Route::Admin("log"));
        check(Method::GET, "/", Route::Unknown);
        check(Method::GET, "", Route::Unknown);
    }
}
