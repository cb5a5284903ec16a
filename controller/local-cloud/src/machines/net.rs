//! The networks of one cloud.
//!
//! One namespace per network domain is its router and firewall, with a bridge per VLAN. One more, the
//! backbone, joins them: routes for public IPv4 addresses and for every VLAN's IPv6 network, one link to the
//! host, one to the outside through user-mode networking. On the host itself there is one link, carrying the
//! host's address in the public range, and nothing else.
//!
//! ```text
//!  host ── 198.51.100.0/24 ──┐
//!                        backbone ══ domain ══ bridge ── server
//!  outside ── user mode ─────┘  ╚═══ domain ══ bridge ── server
//! ```

use std::{collections::BTreeSet, fmt::Write as _, net::Ipv4Addr, path::PathBuf, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use super::{
    filter, marker,
    names::Names,
    namespace::{self, Link},
    process,
    run::{Doing, Program},
};
use crate::backing::{BackingError, DomainSpec, NicSpec, VlanSpec};

/// Both ends of every link between backbone and domain carry the same addresses: each is alone with its peer.
const BACKBONE_SIDE: (&str, &str) = ("169.254.1.1", "fe80::1");
const DOMAIN_SIDE: (&str, &str) = ("169.254.1.2", "fe80::2");
/// User-mode networking's own network; the top of the shared address space (RFC 6598), so that it meets no
/// network a plan is likely to use.
pub const OUTSIDE_NETWORK: &str = "100.127.255.0/24";
const OUTSIDE_ADDRESS: &str = "100.127.255.100/24";
const OUTSIDE_GATEWAY: &str = "100.127.255.2";
/// Resolver that user-mode networking offers; forwards to the host's.
pub const RESOLVER: &str = "100.127.255.3";
/// How long user-mode networking may take to make its link.
const OUTSIDE_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const INFALLIBLE: &str = "a string takes everything";

/// The IPv4 range that plays the Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicRange {
    /// Network address.
    pub network: Ipv4Addr,
    /// Prefix length.
    pub prefix: u8,
    /// The host's address in it.
    pub host: Ipv4Addr,
}

impl Default for PublicRange {
    /// TEST-NET-2 (RFC 5737): never routed on the real Internet.
    fn default() -> Self {
        Self { network: Ipv4Addr::new(198, 51, 100, 0), prefix: 24, host: Ipv4Addr::new(198, 51, 100, 1) }
    }
}

/// All namespaces and links of one cloud.
#[derive(Debug)]
pub struct Network {
    names: Names,
    public: PublicRange,
    cloud: PathBuf,
    /// Every change also touches the backbone, so changes take turns. Holds whether the backbone is known to
    /// be complete.
    turn: Mutex<bool>,
}

impl Network {
    /// The networks of the cloud in the folder `cloud`. Touches nothing yet.
    pub fn new(names: Names, public: PublicRange, cloud: PathBuf) -> Self {
        Self { names, public, cloud, turn: Mutex::new(false) }
    }

    /// Makes the backbone where it is not complete.
    pub async fn ensure_backbone(&self) -> Result<(), BackingError> {
        let mut complete = self.turn.lock().await;
        self.backbone(&mut complete).await
    }

    /// Makes everything of the domain match.
    pub async fn apply(&self, domain: &DomainSpec) -> Result<(), BackingError> {
        let mut complete = self.turn.lock().await;
        self.backbone(&mut complete).await?;
        let (names, backbone) = (&self.names, self.names.backbone());
        let (own, link) = (names.domain(&domain.id), names.domain_link(&domain.id));

        let doing = format!("make the namespace of network domain {}", domain.id);
        if !namespace::list(&own)?.contains(&own) {
            namespace::ip(None, &doing, &format!("netns add {own}\n")).await?;
        }
        let before = namespace::links(Some(&own)).await?;
        if !has(&before, &names.uplink()) {
            // The backbone's end of a link whose other end is gone may still be on its way out.
            if has(&namespace::links(Some(&backbone)).await?, &link) {
                namespace::ip(Some(&backbone), &doing, &format!("link del {link}\n")).await?;
            }
            namespace::set_switches(&own, router_switches()).await?;
            let line = format!(
                "link add {link} netns {backbone} type veth peer name {} netns {own}\n",
                names.uplink()
            );
            namespace::ip(None, &doing, &line).await?;
        }
        // The filter stands before the first packet can pass.
        namespace::nft(&own, &format!("filter network domain {}", domain.id), filter::ruleset(domain, names))
            .await?;
        namespace::ip(Some(&own), &doing, &domain_lines(domain, names, &before)).await?;

        let mut stale = Vec::new();
        for ipv6 in [false, true] {
            stale.extend(
                namespace::routes(&backbone, ipv6, &link).await?.into_iter().map(|route| (ipv6, route.dst)),
            );
        }
        namespace::ip(Some(&backbone), &doing, &backbone_lines(domain, &link, &stale)).await
    }

    /// Removes the domain. Fine if it is not there.
    pub async fn remove(&self, id: &str) -> Result<(), BackingError> {
        let _turn = self.turn.lock().await;
        let (own, link, backbone) =
            (self.names.domain(id), self.names.domain_link(id), self.names.backbone());
        let doing = format!("remove network domain {id}");
        let known = namespace::list(&self.names.namespaces())?;
        // The link first: a namespace goes when the kernel finds the time, the link at once.
        if known.contains(&backbone) && has(&namespace::links(Some(&backbone)).await?, &link) {
            namespace::ip(Some(&backbone), &doing, &format!("link del {link}\n")).await?;
        }
        if known.contains(&own) {
            namespace::ip(None, &doing, &format!("netns del {own}\n")).await?;
        }
        Ok(())
    }

    /// Plugs the cards of a machine that has just started, or is still running, into their VLANs.
    pub async fn plug(&self, domain: &str, nics: &[NicSpec]) -> Result<(), BackingError> {
        let mut lines = String::new();
        for nic in nics {
            let (tap, bridge) = (self.names.tap(&nic.id), self.names.bridge(&nic.vlan));
            writeln!(lines, "link set {tap} master {bridge} up").expect(INFALLIBLE);
        }
        namespace::ip(Some(&self.names.domain(domain)), "plug network cards in", &lines).await
    }

    /// Removes namespaces of domains that are not in `known`.
    pub async fn remove_strays(&self, known: &[DomainSpec]) -> Result<(), BackingError> {
        let _turn = self.turn.lock().await;
        let mut keep: BTreeSet<String> = known.iter().map(|domain| self.names.domain(&domain.id)).collect();
        keep.insert(self.names.backbone());
        let mut lines = String::new();
        for stray in namespace::list(&self.names.namespaces())?.iter().filter(|name| !keep.contains(*name)) {
            writeln!(lines, "netns del {stray}").expect(INFALLIBLE);
        }
        namespace::ip(None, "remove namespaces nobody knows", &lines).await
    }

    async fn backbone(&self, complete: &mut bool) -> Result<(), BackingError> {
        let (names, own) = (&self.names, self.names.backbone());
        let slirp = process::find(&slirp_mark(names));
        let there = namespace::list(&own)?.contains(&own);
        if *complete && there && !slirp.is_empty() {
            return Ok(());
        }
        let doing = "make the backbone namespace";
        marker::claim(&self.public, &self.cloud, names)?;
        if !there {
            namespace::ip(None, doing, &format!("netns add {own}\n")).await?;
        }
        let mut switches = router_switches();
        let host_link = names.host_link();
        if !has(&namespace::links(None).await?, &host_link) {
            let line =
                format!("link add {host_link} type veth peer name {} netns {own}\n", names.host_peer());
            namespace::ip(None, doing, &line).await?;
        }
        // Answers the host's questions for every public address at once; the default waits up to 0.8 s.
        switches.push((format!("ipv4/conf/{}/proxy_arp", names.host_peer()), "1"));
        switches.push((format!("ipv4/neigh/{}/proxy_delay", names.host_peer()), "0"));
        namespace::set_switches(&own, switches).await?;

        let PublicRange { network, host, prefix } = self.public;
        let (host_peer, outside, table) = (names.host_peer(), names.outside(), names.table());
        let host_lines =
            format!("address replace {host}/{prefix} dev {host_link}\nlink set {host_link} up\n");
        namespace::ip(None, doing, &host_lines).await?;
        let lines = format!(
            "link set lo up\nlink set {host_peer} up\naddress replace {}/32 dev {host_peer}\nroute replace {host} dev {host_peer}\n\
             route replace unreachable ::/0 metric 4000\n",
            BACKBONE_SIDE.0
        );
        namespace::ip(Some(&own), doing, &lines).await?;
        // A public address nobody holds must not lead outside: user-mode networking would dial it from the host,
        // which leads back here, without end.
        let ruleset = format!(
            "table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n  chain outside {{\n    \
             type nat hook postrouting priority srcnat;\n    oifname \"{outside}\" masquerade\n  }}\n  \
             chain nowhere {{\n    type filter hook forward priority filter;\n    \
             oifname \"{outside}\" ip daddr {network}/{prefix} reject with icmp type host-unreachable\n  }}\n}}\n"
        );
        namespace::nft(&own, doing, ruleset).await?;
        if slirp.is_empty() {
            self.start_outside(&own, &outside).await?;
        }
        let lines = format!(
            "link set {outside} up\naddress replace {OUTSIDE_ADDRESS} dev {outside}\n\
             route replace default via {OUTSIDE_GATEWAY} dev {outside}\n"
        );
        namespace::ip(Some(&own), doing, &lines).await?;
        *complete = true;
        Ok(())
    }

    /// User-mode networking: a process of its own, so that servers keep their way out when this one ends.
    async fn start_outside(&self, backbone: &str, link: &str) -> Result<(), BackingError> {
        let folder = self.cloud.join("net");
        let log = folder.join("outside.log");
        std::fs::create_dir_all(&folder)
            .map_err(|source| Doing::new(format!("make {}", folder.display())).io(source))?;
        // The shell only opens the log; `setsid --fork` leaves the process to init.
        Program::new("sh")
            .args(["-c", "exec setsid --fork \"$@\" >\"$0\" 2>&1 </dev/null"])
            .arg(&log)
            .args(["slirp4netns", "--netns-type=path", "--disable-host-loopback", "--mtu=1500"])
            .arg(format!("--cidr={OUTSIDE_NETWORK}"))
            .arg(namespace::path(backbone))
            .arg(link)
            .run("start user-mode networking")
            .await?;
        let deadline = Instant::now() + OUTSIDE_TIMEOUT;
        while !has(&namespace::links(Some(backbone)).await?, link) {
            if Instant::now() > deadline {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(BackingError::Program {
                    doing: "start user-mode networking".into(),
                    program: "slirp4netns".into(),
                    stderr: said.trim().to_owned(),
                });
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }
}

/// What the command line of this cloud's user-mode networking contains, and no other process's.
pub fn slirp_mark(names: &Names) -> process::Mark {
    process::Mark {
        program: "slirp4netns".into(),
        argument: namespace::path(&names.backbone()).display().to_string(),
    }
}

fn has(links: &[Link], name: &str) -> bool {
    links.iter().any(|link| link.ifname == name)
}

/// Switches of a namespace that routes: forwards, believes nobody's advertisements, and answers at once.
fn router_switches() -> Vec<(String, &'static str)> {
    [
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/default/forwarding", "1"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        // A host that filters bridged frames must not filter ours a second time.
        ("bridge/bridge-nf-call-iptables", "0"),
        ("bridge/bridge-nf-call-ip6tables", "0"),
    ]
    .map(|(switch, value)| (switch.to_owned(), value))
    .to_vec()
}

/// Commands that make the domain's own links and addresses match, given the links `before`.
fn domain_lines(domain: &DomainSpec, names: &Names, before: &[Link]) -> String {
    let mut lines = String::new();
    let mut put = |line: String| writeln!(lines, "{line}").expect(INFALLIBLE);
    let uplink = names.uplink();
    put("link set lo up".into());
    put(format!("link set {uplink} up"));
    put(format!("address replace {}/32 dev {uplink}", DOMAIN_SIDE.0));
    put(format!("address replace {}/64 dev {uplink} nodad", DOMAIN_SIDE.1));
    put(format!("route replace default via {} dev {uplink} onlink", BACKBONE_SIDE.0));
    put(format!("route replace ::/0 via {} dev {uplink}", BACKBONE_SIDE.1));

    let wanted: BTreeSet<String> = domain.vlans.iter().map(|vlan| names.bridge(&vlan.id)).collect();
    for link in before.iter().filter(|link| link.ifname.starts_with(&names.bridges())) {
        if !wanted.contains(&link.ifname) {
            put(format!("link del {}", link.ifname));
        }
    }
    for vlan in &domain.vlans {
        let bridge = names.bridge(&vlan.id);
        let link = before.iter().find(|link| link.ifname == bridge);
        if link.is_none() {
            put(format!("link add {bridge} type bridge forward_delay 0 stp_state 0 mcast_snooping 0"));
        }
        let gateways = gateways(vlan);
        for address in
            link.into_iter().flat_map(|link| &link.addr_info).filter(|address| address.scope == "global")
        {
            let address = format!("{}/{}", address.local, address.prefixlen);
            if !gateways.contains(&address) {
                put(format!("address del {address} dev {bridge}"));
            }
        }
        put(format!("address replace {} dev {bridge}", gateways[0]));
        put(format!("address replace {} dev {bridge} nodad", gateways[1]));
        put(format!("link set {bridge} up"));
    }
    lines
}

fn gateways(vlan: &VlanSpec) -> [String; 2] {
    [format!("{}/{}", vlan.ipv4_gateway, vlan.ipv4.1), format!("{}/64", vlan.ipv6_gateway)]
}

/// Commands that make the backbone's routes to the domain match, given the routes `before`.
fn backbone_lines(domain: &DomainSpec, link: &str, before: &[(bool, String)]) -> String {
    let mut lines = format!(
        "link set {link} up\naddress replace {}/32 dev {link}\naddress replace {}/64 dev {link} nodad\n",
        BACKBONE_SIDE.0, BACKBONE_SIDE.1
    );
    let public: BTreeSet<Ipv4Addr> = domain.nat.iter().map(|nat| nat.external).chain([domain.snat]).collect();
    let private: BTreeSet<_> = domain.vlans.iter().map(|vlan| vlan.ipv6).collect();
    for address in &public {
        writeln!(lines, "route replace {address} via {} dev {link} onlink", DOMAIN_SIDE.0).expect(INFALLIBLE);
    }
    for network in &private {
        writeln!(lines, "route replace {network}/64 via {} dev {link}", DOMAIN_SIDE.1).expect(INFALLIBLE);
    }
    for (ipv6, route) in before {
        let wanted = match ipv6 {
            false => route.parse().is_ok_and(|address| public.contains(&address)),
            true => {
                route.starts_with("fe80")
                    || route
                        .strip_suffix("/64")
                        .and_then(|network| network.parse().ok())
                        .is_some_and(|network| private.contains(&network))
            }
        };
        if !wanted {
            writeln!(lines, "route del {route} dev {link}").expect(INFALLIBLE);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::backing::NatSpec;

    fn domain() -> DomainSpec {
        DomainSpec {
            id: "domain".into(),
            snat: [198, 51, 100, 9].into(),
            vlans: vec![VlanSpec {
                id: "vlan".into(),
                ipv4: ([10, 60, 0, 0].into(), 24),
                ipv4_gateway: [10, 60, 0, 1].into(),
                ipv6: "2001:db8:7:1101::".parse().expect("an address"),
                ipv6_gateway: "2001:db8:7:1101::1".parse().expect("an address"),
            }],
            nat: vec![NatSpec { internal: [10, 60, 0, 7].into(), external: [198, 51, 100, 10].into() }],
            rules: vec![],
        }
    }

    fn link(name: &str, addresses: &[(&str, u8)]) -> Link {
        let addr_info = addresses
            .iter()
            .map(|(local, prefixlen)| namespace::Address {
                local: (*local).into(),
                prefixlen: *prefixlen,
                scope: "global".into(),
            })
            .collect();
        Link { ifname: name.into(), addr_info }
    }

    #[test]
    fn a_new_domain_is_made_whole() {
        let names = Names::new("flc", Path::new("/cloud"));
        insta::assert_snapshot!(domain_lines(&domain(), &names, &[]));
    }

    #[test]
    fn what_is_no_longer_in_the_domain_goes() {
        let names = Names::new("flc", Path::new("/cloud"));
        let bridge = names.bridge("vlan");
        let before = [
            link("flc-bgone", &[]),
            link(&bridge, &[("10.60.0.1", 24), ("10.60.0.254", 25)]),
            link("eth0", &[]),
        ];
        let lines = domain_lines(&domain(), &names, &before);
        assert!(lines.contains("link del flc-bgone\n"));
        assert!(lines.contains(&format!("address del 10.60.0.254/25 dev {bridge}\n")));
        assert!(!lines.contains("address del 10.60.0.1/24"));
        assert!(!lines.contains("link add"));
        assert!(!lines.contains("eth0"));
    }

    #[test]
    fn stale_routes_go_and_live_ones_stay() {
        let before = [
            (false, "198.51.100.10".to_owned()),
            (false, "198.51.100.77".to_owned()),
            (true, "2001:db8:7:1101::/64".to_owned()),
            (true, "2001:db8:7:9999::/64".to_owned()),
            (true, "fe80::/64".to_owned()),
        ];
        insta::assert_snapshot!(backbone_lines(&domain(), "flc-dlink", &before));
    }
}
