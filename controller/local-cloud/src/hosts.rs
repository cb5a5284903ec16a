//! Host names of the real service, and which region answers under each.
//!
//! One API host is one geographic region. Clients keep these names: they are sent here by a proxy setting, or
//! by a name service that knows no better.

/// Host and region, as public clients list them. White-label names lead to the same regions.
const HOSTS: [(&str, &str); 27] = [
    ("api-na.dimensiondata.com", "dd-na"),
    ("api-eu.dimensiondata.com", "dd-eu"),
    ("api-au.dimensiondata.com", "dd-au"),
    ("api-canberra.dimensiondata.com", "dd-au-gov"),
    ("api-mea.dimensiondata.com", "dd-af"),
    ("api-ap.dimensiondata.com", "dd-ap"),
    ("api-latam.dimensiondata.com", "dd-latam"),
    ("api-canada.dimensiondata.com", "dd-canada"),
    ("usapi.cloud.is.co.za", "dd-na"),
    ("euapi.cloud.is.co.za", "dd-eu"),
    ("auapi.cloud.is.co.za", "dd-au"),
    ("meaapi.cloud.is.co.za", "dd-af"),
    ("apapi.cloud.is.co.za", "dd-ap"),
    ("latamapi.cloud.is.co.za", "dd-latam"),
    ("canadaapi.cloud.is.co.za", "dd-canada"),
    ("cloudapi.nttamerica.com", "dd-na"),
    ("eucloudapi.nttamerica.com", "dd-eu"),
    ("aucloudapi.nttamerica.com", "dd-au"),
    ("sacloudapi.nttamerica.com", "dd-af"),
    ("hkcloudapi.nttamerica.com", "dd-ap"),
    ("iaas-api-na.cisco-ccs.com", "dd-na"),
    ("iaas-api-eu.cisco-ccs.com", "dd-eu"),
    ("iaas-api-au.cisco-ccs.com", "dd-au"),
    ("iaas-api-mea.cisco-ccs.com", "dd-af"),
    ("iaas-api-ap.cisco-ccs.com", "dd-ap"),
    ("iaas-api-sa.cisco-ccs.com", "dd-latam"),
    ("iaas-api-ca.cisco-ccs.com", "dd-canada"),
];

/// The port of the real service.
const HTTPS: &str = "443";

/// All host names, for the certificate.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    HOSTS.iter().map(|(host, _)| *host)
}

/// The region that answers under a host name; a port after it does not matter.
pub(crate) fn region(authority: &str) -> Option<&'static str> {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    HOSTS.iter().find(|(own, _)| own.eq_ignore_ascii_case(host)).map(|(_, region)| *region)
}

/// The region behind a `CONNECT` target; `None` is a place no tunnel leads to.
pub(crate) fn tunnel(authority: &str) -> Option<&'static str> {
    let (host, port) = authority.rsplit_once(':')?;
    if port == HTTPS { region(host) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_lead_to_our_own_api_only() {
        let check = |authority: &str, want: Option<&str>| assert_eq!(tunnel(authority), want, "{authority}");
        check("api-eu.dimensiondata.com:443", Some("dd-eu"));
        check("API-NA.dimensiondata.com:443", Some("dd-na"));
        check("api-eu.dimensiondata.com:22", None);
        check("api-eu.dimensiondata.com", None);
        check("127.0.0.1:443", None);
        check("example.org:443", None);
        check("api-eu.dimensiondata.com.example.org:443", None);
        check("", None);
    }

    #[test]
    fn a_host_header_may_carry_a_port() {
        assert_eq!(region("api-mea.dimensiondata.com:443"), Some("dd-af"));
        assert_eq!(region("api-mea.dimensiondata.com"), Some("dd-af"));
        assert_eq!(region("127.0.0.1:4321"), None);
    }
}
