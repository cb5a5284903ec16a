//! The networks with real packets: namespaces stand in for machines, connections are TCP.
//!
//! Needs root, as everything about namespaces does, and fails without. Uses a prefix and a public range of its
//! own, so that it runs beside a live cloud.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};

use super::{PublicRange, Settings, names::Names, namespace, net::Network, reset};
use crate::backing::{DomainSpec, Match, NatSpec, Protocol, RuleSpec, VlanSpec};

/// What is open answers in well under a millisecond; a busy build host may take longer.
const OPEN: Duration = Duration::from_secs(10);
/// What is filtered never answers; waiting longer proves nothing more.
const FILTERED: Duration = Duration::from_millis(400);
// From the block for tests of networks (RFC 2544): documentation blocks may be in use where this runs.
const HOST: Ipv4Addr = Ipv4Addr::new(198, 19, 250, 1);
const PUBLIC_A: Ipv4Addr = Ipv4Addr::new(198, 19, 250, 10);
const SNAT_A: Ipv4Addr = Ipv4Addr::new(198, 19, 250, 20);
const SNAT_B: Ipv4Addr = Ipv4Addr::new(198, 19, 250, 21);

/// Runs something in a namespace; sockets made there stay there.
fn inside<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let place = namespace::path(name);
    let thread = std::thread::spawn(move || {
        setns(File::open(place).expect("the namespace exists"), CloneFlags::CLONE_NEWNET)
            .expect("root may enter");
        work()
    });
    thread.join().expect("the thread does not panic")
}

/// Listens in a namespace, or on the host; answers every connection with the caller's address, then echoes.
fn listen(namespace: Option<&str>, address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    let at = SocketAddr::new(address.into(), port);
    let bind = move || TcpListener::bind(at).expect("binds");
    let listener = match namespace {
        Some(name) => inside(name, bind),
        None => bind(),
    };
    let bound = listener.local_addr().expect("is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || -> io::Result<()> {
                let mut stream = stream?;
                let caller = stream.peer_addr()?.ip();
                writeln!(stream, "{caller}")?;
                let mut byte = [0];
                while stream.read(&mut byte)? == 1 {
                    stream.write_all(&byte)?;
                }
                Ok(())
            });
        }
    });
    bound
}

fn connect(from: Option<&str>, to: impl Into<IpAddr>, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let to = SocketAddr::new(to.into(), port);
    let work = move || TcpStream::connect_timeout(&to, limit);
    match from {
        Some(name) => inside(name, work),
        None => work(),
    }
}

/// An open connection and the address the other side saw.
fn open(from: Option<&str>, to: impl Into<IpAddr>, port: u16) -> (TcpStream, IpAddr) {
    let to = to.into();
    let mut stream = connect(from, to, port, OPEN)
        .unwrap_or_else(|error| panic!("{to} port {port} should be open: {error}"));
    stream.set_read_timeout(Some(OPEN)).expect("a timeout");
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).expect("is greeted") == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    let seen = String::from_utf8(line).expect("text").parse().expect("an address");
    (stream, seen)
}

fn filtered(from: Option<&str>, to: impl Into<IpAddr>, port: u16) {
    let to = to.into();
    let error = connect(from, to, port, FILTERED).expect_err(&format!("{to} port {port} should be filtered"));
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{to} port {port} should be silent: {error}");
}

/// Whether a connection made before still carries data.
fn carries(stream: &mut TcpStream, limit: Duration) -> bool {
    stream.set_read_timeout(Some(limit)).expect("a timeout");
    let mut byte = [0];
    stream.write_all(b"x").is_ok() && stream.read(&mut byte).is_ok_and(|length| length == 1)
}

fn vlan(id: &str, ipv4: u8, ipv6: &str) -> VlanSpec {
    VlanSpec {
        id: id.into(),
        ipv4: (Ipv4Addr::new(10, ipv4, 0, 0), 24),
        ipv4_gateway: Ipv4Addr::new(10, ipv4, 0, 1),
        ipv6: format!("{ipv6}::").parse().expect("an address"),
        ipv6_gateway: format!("{ipv6}::1").parse().expect("an address"),
    }
}

fn rule(accept: bool, ipv6: bool, protocol: Option<Protocol>) -> RuleSpec {
    RuleSpec {
        name: "test".into(),
        accept,
        ipv6,
        protocol,
        source: vec![],
        source_ports: vec![],
        destination: vec![],
        destination_ports: vec![],
    }
}

/// One address in a /64 or /24, as network, host `7`.
fn host7(vlan: &VlanSpec) -> (Ipv4Addr, Ipv6Addr) {
    let [a, b, c, _] = vlan.ipv4.0.octets();
    (Ipv4Addr::new(a, b, c, 7), Ipv6Addr::from_bits(vlan.ipv6.to_bits() | 7))
}

/// A namespace that sits in a VLAN as a machine would.
async fn machine(names: &Names, domain: &str, vlan: &VlanSpec) -> String {
    let (name, router, tap) =
        (format!("{}m-{}", names.namespaces(), vlan.id), names.domain(domain), names.tap(&vlan.id));
    let (ipv4, ipv6) = host7(vlan);
    let lines =
        format!("netns add {name}\nlink add {tap} netns {router} type veth peer name eth0 netns {name}\n");
    namespace::ip(None, "test", &lines).await.expect("a namespace");
    let lines = format!("link set {tap} master {} up\n", names.bridge(&vlan.id));
    namespace::ip(Some(&router), "test", &lines).await.expect("a port");
    let lines = format!(
        "link set lo up\nlink set eth0 up\naddress add {ipv4}/24 dev eth0\naddress add {ipv6}/64 dev eth0 nodad\n\
         route add default via {}\nroute add ::/0 via {} dev eth0\n",
        vlan.ipv4_gateway, vlan.ipv6_gateway
    );
    namespace::ip(Some(&name), "test", &lines).await.expect("addresses");
    name
}

async fn scenario(settings: Settings) {
    let names = Names::new(&settings.prefix, &settings.cloud);
    let network = Network::new(names.clone(), settings.public, settings.cloud);
    let (one, two, far) = (
        vlan("one", 60, "2001:db8:a:1"),
        vlan("two", 70, "2001:db8:a:2"),
        // The same IPv4 network as in the other domain, as in the reference fleet.
        vlan("far", 60, "2001:db8:b:1"),
    );
    let (one4, one6) = host7(&one);
    let public = Match::Network(PUBLIC_A.into(), 32);
    let ssh = RuleSpec {
        destination: vec![public],
        destination_ports: vec![(22, 22)],
        ..rule(true, false, Some(Protocol::Tcp))
    };
    let no_mail =
        RuleSpec { destination_ports: vec![(2525, 2525)], ..rule(false, false, Some(Protocol::Tcp)) };
    let deny_ipv6 = rule(false, true, None);
    let from_far = RuleSpec {
        source: vec![Match::Network(far.ipv6.into(), 64)],
        destination: vec![Match::Network(one.ipv6.into(), 64)],
        ..rule(true, true, None)
    };
    let mut a = DomainSpec {
        id: "a".into(),
        snat: SNAT_A,
        vlans: vec![one.clone(), two.clone()],
        nat: vec![NatSpec { internal: one4, external: PUBLIC_A }],
        rules: vec![no_mail.clone(), deny_ipv6.clone(), ssh.clone()],
    };
    let b = DomainSpec {
        id: "b".into(),
        snat: SNAT_B,
        vlans: vec![far.clone()],
        nat: vec![],
        rules: vec![deny_ipv6.clone()],
    };
    for domain in [&a, &b, &a] {
        network.apply(domain).await.expect("applies, and applies again");
    }
    let at_one = machine(&names, "a", &one).await;
    let at_two = machine(&names, "a", &two).await;
    let at_far = machine(&names, "b", &far).await;
    for port in [22, 8080] {
        listen(Some(&at_one), one4, port);
        listen(Some(&at_one), one6, port);
    }

    // From the host: what the rule opens is open, what it does not name is silent, also for an ended domain.
    let (mut through_nat, _) = open(None, PUBLIC_A, 22);
    filtered(None, PUBLIC_A, 8080);
    filtered(None, SNAT_A, 22);

    // An opening for one source alone: this host, then whoever comes from the other domain.
    let only = |source: Ipv4Addr| RuleSpec {
        source: vec![Match::Network(source.into(), 32)],
        destination: vec![Match::Network(PUBLIC_A.into(), 32)],
        destination_ports: vec![(8080, 8080)],
        ..rule(true, false, Some(Protocol::Tcp))
    };
    a.rules.push(only(HOST));
    network.apply(&a).await.expect("applies");
    let (mut console, seen) = open(None, PUBLIC_A, 8080);
    assert_eq!(seen, HOST, "the host is seen by its own address");
    filtered(Some(&at_far), PUBLIC_A, 8080);
    a.rules.pop();
    a.rules.push(only(SNAT_B));
    network.apply(&a).await.expect("applies");
    assert_eq!(open(Some(&at_far), PUBLIC_A, 8080).1, SNAT_B);
    filtered(None, PUBLIC_A, 8080);
    assert!(!carries(&mut console, FILTERED), "who is no longer let in is cut off");
    a.rules.pop();
    network.apply(&a).await.expect("applies");

    // Outbound: a translated host shows its public address, another one its domain's.
    let outside = listen(None, HOST, 0).port();
    assert_eq!(open(Some(&at_one), HOST, outside).1, PUBLIC_A);
    assert_eq!(open(Some(&at_two), HOST, outside).1, SNAT_A);
    assert_eq!(open(Some(&at_far), HOST, outside).1, SNAT_B);
    listen(None, HOST, 2525);
    filtered(Some(&at_one), HOST, 2525);
    assert_eq!(open(Some(&at_far), HOST, 2525).1, SNAT_B, "the rule is the other domain's");
    assert_eq!(
        open(Some(&at_far), PUBLIC_A, 22).1,
        SNAT_B,
        "from one domain to the public address of another"
    );

    // IPv6 between domains needs a rule, sees private addresses, and ends with the rule.
    filtered(Some(&at_far), one6, 8080);
    a.rules = vec![no_mail.clone(), ssh.clone(), from_far.clone()];
    network.apply(&a).await.expect("applies");
    let (mut private, seen) = open(Some(&at_far), one6, 8080);
    assert_eq!(seen, host7(&far).1);
    assert!(carries(&mut private, OPEN));
    filtered(Some(&at_one), host7(&far).1, 8080);
    a.rules = vec![no_mail.clone(), deny_ipv6.clone(), from_far, ssh.clone()];
    network.apply(&a).await.expect("applies");
    filtered(Some(&at_far), one6, 8080);
    assert!(!carries(&mut private, FILTERED), "a flow ends with the rule that let it in");
    assert!(carries(&mut through_nat, OPEN), "and no other flow does");

    // Between VLANs of one domain: the same, with private addresses.
    filtered(Some(&at_two), one4, 8080);
    let neighbours = RuleSpec {
        source: vec![Match::Network(two.ipv4.0.into(), 24)],
        destination: vec![Match::Network(one.ipv4.0.into(), 24)],
        ..rule(true, false, None)
    };
    a.rules.push(neighbours);
    network.apply(&a).await.expect("applies");
    assert_eq!(open(Some(&at_two), one4, 8080).1, host7(&two).0);

    // A translation that is moved to another machine takes its flows along; the address still leads here.
    listen(Some(&at_two), host7(&two).0, 22);
    a.nat[0].internal = host7(&two).0;
    network.apply(&a).await.expect("applies");
    assert!(!carries(&mut through_nat, FILTERED), "a flow ends with its translation");
    let (mut through_nat, _) = open(None, PUBLIC_A, 22);
    assert_eq!(open(Some(&at_two), HOST, outside).1, PUBLIC_A);
    a.nat.clear();
    network.apply(&a).await.expect("applies");
    // Nobody holds the address any more, and the backbone says so.
    let nowhere = connect(None, PUBLIC_A, 22, OPEN).expect_err("leads nowhere");
    assert_eq!(nowhere.kind(), io::ErrorKind::HostUnreachable, "{nowhere}");
    assert!(!carries(&mut through_nat, FILTERED));
    assert_eq!(open(Some(&at_one), HOST, outside).1, SNAT_A);

    // VLANs and domains go.
    a.vlans.retain(|vlan| vlan.id == "one");
    network.apply(&a).await.expect("applies");
    let links = namespace::links(Some(&names.domain("a"))).await.expect("links");
    assert!(links.iter().any(|link| link.ifname == names.bridge("one")));
    assert!(!links.iter().any(|link| link.ifname == names.bridge("two")));
    for _again in 0..2 {
        network.remove("b").await.expect("removes, and removes again");
    }
    network.apply(&b).await.expect("comes back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_and_translations_hold_for_real_packets() {
    assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
    let folder = tempfile::tempdir().expect("a folder");
    let settings = Settings {
        prefix: "flt".into(),
        public: PublicRange { network: Ipv4Addr::new(198, 19, 250, 0), prefix: 24, host: HOST },
        ..Settings::new(folder.path(), folder.path().join("cache"))
    };
    // In a task, so that a failed assertion still leaves the host clean.
    let outcome = tokio::spawn(scenario(settings.clone())).await;
    let removed = reset(&settings).await.expect("removes everything");
    if let Err(error) = outcome {
        std::panic::resume_unwind(error.into_panic());
    }
    let names = Names::new(&settings.prefix, &settings.cloud);
    assert!(removed.iter().any(|line| line == &format!("link {}", names.host_link())), "{removed:?}");
    assert!(namespace::list(&names.namespaces()).expect("a list").is_empty());
    assert!(!Path::new("/sys/class/net").join(names.host_link()).exists());
    assert_eq!(reset(&settings).await.expect("is fine"), Vec::<String>::new());
}
