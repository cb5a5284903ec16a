//! From method and path to what is asked.

use http::Method;

use super::operations;
use crate::state::Kind;

/// Versions of the 2.x API that are served, all with one model.
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=13;

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
    /// A 0.9 change of a disk.
    LegacyDisk { server: &'a str, disk: &'a str, speed: bool },
    /// Below `/fleet/`.
    Admin(&'a str),
    /// Another organisation's.
    Foreign,
    /// No such thing.
    Unknown,
}

/// Finds out what is asked.
pub(crate) fn route<'a>(method: &Method, path: &'a str, organisation: &str) -> Route<'a> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (get, post) = (method == Method::GET, method == Method::POST);
    match parts.as_slice() {
        ["fleet", name] => Route::Admin(name),
        ["oec", "0.9", "myaccount"] if get => Route::Account,
        ["oec", "0.9", owner, ..] if *owner != organisation => Route::Foreign,
        ["oec", "0.9", _, "server", server, "disk", disk, what @ ("changeSize" | "changeSpeed")] if post => {
            Route::LegacyDisk { server, disk, speed: *what == "changeSpeed" }
        }
        ["caas", version, ..] if !is_served(version) => Route::Unknown,
        ["caas", _, "user", "myUser"] if get => Route::MyUser,
        ["caas", _, owner, _, ..] if *owner != organisation => Route::Foreign,
        ["caas", _, _, family, resource] if get => find(family, resource).map_or(Route::Unknown, Route::List),
        ["caas", _, _, family, resource, id] if get => {
            find(family, resource).map_or(Route::Unknown, |kind| Route::Get(kind, id))
        }
        ["caas", version, owner, _, _] if post => {
            let start = "caas/".len() + version.len() + 1 + owner.len() + 1;
            let operation = &path.trim_matches('/')[start..];
            if operations::is_known(operation) { Route::Change(operation) } else { Route::Unknown }
        }
        _ => Route::Unknown,
    }
}

fn is_served(version: &str) -> bool {
    let minor = version.strip_prefix("2.").and_then(|minor| minor.parse().ok());
    minor.is_some_and(|minor: u32| VERSIONS.contains(&minor))
}

fn find(family: &str, resource: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.path().split_once('/') == Some((family, resource)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let check = |method: Method, path: &str, want: Route<'_>| {
            assert_eq!(route(&method, path, "o-1"), want, "{method} {path}");
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
            Route::LegacyDisk { server: "s-1", disk: "d-1", speed: false },
        );
        check(Method::GET, "/fleet/log", Route::Admin("log"));
        check(Method::GET, "/", Route::Unknown);
        check(Method::GET, "", Route::Unknown);
    }
}
