//! Random sequences of calls, ticks and results of the backing. Whatever comes, nothing panics, nothing stays
//! busy for ever, nothing is given out twice, and every answer can be read in both forms.

use std::{collections::BTreeSet, time::Duration};

use fleet_mcp::{
    Id,
    resource::ServerCall,
    types::{
        Action, AddDisk, AddNic, AddPublicIpBlock, CreateFirewallRule, CreateNatRule, DeployNetworkDomain,
        DeployServer, DeployVlan, DomainType, EditFirewallRule, EnableServerMonitoring, Endpoint, IpVersion,
        NetworkInfo, NetworkRequest, NewNic, Placement, Placing, Protocol, ReconfigureServer, RemoveDisk,
        RemoveNic, ServicePlan,
    },
};
use fleet_model::Timestamp;
use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use super::*;

mod extra;
mod steps;

/// One step of a random life; the number picks among what there is.
#[derive(Clone, Debug)]
enum Move {
    Deploy(u8),
    Vlan(u8, u8),
    Server(u8, bool),
    Call(u8, u8),
    Delete(u8, u8),
    Shape(u8, u8),
    Address(u8, u8),
    Rule(u8, u8),
    Extra(u8, u8),
    /// Time passes.
    Wait(u16),
    /// The backing ends its oldest work; well or not.
    Done(bool),
    /// The process is killed and starts again.
    Restart,
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        2 => any::<u8>().prop_map(Move::Deploy),
        3 => any::<(u8, u8)>().prop_map(|(a, b)| Move::Vlan(a, b)),
        4 => any::<(u8, bool)>().prop_map(|(a, b)| Move::Server(a, b)),
        5 => any::<(u8, u8)>().prop_map(|(a, b)| Move::Call(a, b)),
        3 => any::<(u8, u8)>().prop_map(|(a, b)| Move::Delete(a, b)),
        4 => any::<(u8, u8)>().prop_map(|(a, b)| Move::Shape(a, b)),
        4 => any::<(u8, u8)>().prop_map(|(a, b)| Move::Address(a, b)),
        3 => any::<(u8, u8)>().prop_map(|(a, b)| Move::Rule(a, b)),
        6 => any::<(u8, u8)>().prop_map(|(a, b)| Move::Extra(a, b)),
        8 => (0_u16..6000).prop_map(Move::Wait),
        16 => prop::bool::weighted(0.93).prop_map(Move::Done),
        1 => Just(Move::Restart),
    ]
}

/// The state, and a backing that ends its work when told to.
struct World {
    state: State,
    now: Timestamp,
    rng: StdRng,
    delays: Delays,
    quotas: Quotas,
    work: Vec<Work>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        Self {
            state: State::new(Ipv4Addr::new(198, 51, 100, 0), &mut rng),
            now: Timestamp::from_millis(1_700_000_000_000),
            rng,
            delays: Delays { default: Duration::from_secs(2), ..Delays::default() },
            quotas: Quotas { servers: 6, vlans: 4, domains: 2, ..Quotas::default() },
            work: Vec::new(),
        }
    }

    fn ask(&mut self, call: &Call) -> Result<Answer, Refused> {
        let mut context = Context {
            now: self.now,
            user: "tester",
            region: "dd-eu",
            mentions: &[],
            rng: &mut self.rng,
            delays: &self.delays,
            quotas: &self.quotas,
            choices: &Choices::default(),
            twist: Twist::default(),
        };
        let outcome = self.state.handle(call, &mut context);
        let (answer, work) = outcome?;
        self.work.extend(work);
        Ok(answer)
    }

    fn change(&mut self, change: Change) -> Result<Answer, Refused> {
        self.ask(&Call::Change(Box::new(change)))
    }

    fn step(&mut self, step: &Move) {
        match *step {
            Move::Wait(millis) => self.now = self.now.after(Duration::from_millis(millis.into())),
            Move::Done(well) => self.finish_oldest(well),
            Move::Restart => {
                let text = serde_json::to_string(&self.state).expect("a state can be written");
                self.state = serde_json::from_str(&text).expect("and read");
                self.work = self.state.resume();
            }
            _ => {
                let before = serde_json::to_value(&self.state).expect("a state can be written");
                if let Some(change) = self.pick(step)
                    && self.change(change).is_err()
                {
                    // Numbers once drawn may be lost; anything else must be as it was.
                    let mut after = serde_json::to_value(&self.state).expect("a state can be written");
                    after["given"] = before["given"].clone();
                    assert_eq!(after, before, "a refused call changes nothing: {step:?}");
                }
            }
        }
        self.state.tick(self.now);
    }

    fn finish_oldest(&mut self, well: bool) {
        if self.work.is_empty() {
            return;
        }
        let result = || if well { Ok(()) } else { Err("it broke".to_owned()) };
        match self.work.remove(0) {
            Work::Domain(id) => {
                if let Some((_, revision)) = self.state.domain_spec(&id) {
                    self.state.domain_done(&id, revision, result(), self.now);
                    // As the driver does: a domain that failed is tried again.
                    if !well && self.state.is_behind(&id) {
                        self.work.push(Work::Domain(id));
                    }
                }
            }
            Work::RemoveDomain(id) => self.state.domain_removed(&id, result()),
            Work::Server(id, _) => self.state.server_done(&id, result()),
            Work::RemoveImage(_) => {}
        }
    }

    /// Makes a change out of what there is; some of them on purpose impossible.
    fn pick(&self, step: &Move) -> Option<Change> {
        fn nth<T>(items: &[T], index: u8) -> Option<&T> {
            // Mostly something that is there, now and then nothing.
            if index > 250 || items.is_empty() { None } else { items.get(usize::from(index) % items.len()) }
        }
        let domain = |n: u8| nth(&self.state.domains, n).map_or_else(|| "nowhere".to_owned(), Domain::id);
        let vlan = |n: u8| nth(&self.state.vlans, n);
        let server = |n: u8| nth(&self.state.servers, n);
        let server_id =
            |n: u8| server(n).map_or_else(|| "nobody".to_owned(), |server| server.id().to_owned());
        Some(match *step {
            Move::Extra(a, b) => return extra::pick(&self.state, a, b),
            Move::Deploy(n) => Change::DeployNetworkDomain(DeployNetworkDomain {
                datacenter_id: ["EU6", "EU7", "XX1"][usize::from(n) % 3].into(),
                name: format!("domain{}", n % 4),
                description: None,
                plan: DomainType::Essentials,
            }),
            Move::Vlan(a, b) => Change::DeployVlan(DeployVlan {
                network_domain_id: domain(a).into(),
                name: format!("vlan{}", b % 5),
                description: None,
                private_ipv4_base_address: Ipv4Addr::new(if b > 250 { 11 } else { 10 }, b % 6, 0, b & 16),
                private_ipv4_prefix_size: Some(24 + b % 6),
                gateway_addressing: None,
            }),
            Move::Server(a, start) => {
                let vlan = vlan(a)?;
                let image = catalogue::images("dd-eu").into_iter().find(|image| {
                    self.state
                        .domain(vlan.domain())
                        .is_ok_and(|domain| domain.entity.datacenter_id == image.datacenter_id)
                });
                Change::DeployServer(DeployServer {
                    name: format!("server{a}"),
                    description: None,
                    image_id: image.map_or_else(|| Id::from("none"), |image| image.id),
                    start,
                    administrator_password: Some(fleet_mcp::Secret::new("secret")),
                    cpu: None,
                    memory_gb: Some(u32::from(a % 6) + u32::from(a < 250)),
                    network_info: NetworkRequest {
                        network_domain_id: vlan.domain().into(),
                        primary_nic: NewNic { vlan_id: Some(vlan.id().into()), ..NewNic::default() },
                        additional_nic: vec![],
                    },
                    primary_dns: None,
                    secondary_dns: None,
                    ipv4_gateway: None,
                    disk: vec![],
                })
            }
            Move::Call(a, b) => {
                use ServerCall::{
                    Clean, DisableMonitoring, PowerOff, Reboot, Reset, Shutdown, Start, UpdateTools,
                };
                let calls = [Start, Shutdown, PowerOff, Reboot, Reset, Clean, UpdateTools, DisableMonitoring];
                Change::Server(calls[usize::from(b) % calls.len()], server_id(a))
            }
            Move::Delete(a, b) => match b % 6 {
                0 => Change::DeleteServer(server_id(a)),
                1 => Change::DeleteVlan(vlan(a)?.id().to_owned()),
                2 => Change::DeleteNetworkDomain(domain(a)),
                3 => Change::RemovePublicIpBlock(nth(&self.state.blocks, a)?.id.to_string()),
                4 => Change::DeleteNatRule(nth(&self.state.nats, a)?.id.to_string()),
                _ => Change::DeleteFirewallRule(nth(&self.state.rules, a)?.id.to_string()),
            },
            Move::Shape(a, b) => {
                let disks = server(a).map(|server| server.entity.disk.clone()).unwrap_or_default();
                let disk = nth(&disks, b).and_then(|disk| disk.id.clone()).unwrap_or_else(|| "none".into());
                match b % 8 {
                    0 => Change::AddDisk(AddDisk {
                        id: server_id(a).into(),
                        size_gb: u32::from(b),
                        speed: None,
                        scsi_id: (b > 200).then_some(b % 17),
                    }),
                    1 => Change::RemoveDisk(RemoveDisk { id: disk }),
                    2 => Change::ExpandDisk { server: None, disk: disk.to_string(), size_gb: u32::from(b) },
                    3 => Change::ChangeDiskSpeed {
                        server: None,
                        disk: disk.to_string(),
                        speed: ["economy", "STANDARD", "warp"][usize::from(a) % 3].to_owned(),
                    },
                    4 => Change::AddNic(AddNic {
                        server_id: server_id(a).into(),
                        nic: NewNic { vlan_id: vlan(b).map(|vlan| vlan.id().into()), ..NewNic::default() },
                    }),
                    5 => {
                        let network = server(a)?.entity.network_info.as_ref()?;
                        Change::RemoveNic(RemoveNic { id: nth(&network.additional_nic, b)?.id.clone() })
                    }
                    6 => Change::Reconfigure(ReconfigureServer {
                        id: server_id(a).into(),
                        memory_gb: Some(u32::from(b)),
                        cpu_count: Some(u32::from(b % 40)),
                        cpu_speed: None,
                        cores_per_socket: None,
                    }),
                    _ => Change::EnableMonitoring(EnableServerMonitoring {
                        id: server_id(a).into(),
                        service_plan: ServicePlan::Essentials,
                    }),
                }
            }
            Move::Address(a, b) => match b % 2 {
                0 => Change::AddPublicIpBlock(AddPublicIpBlock { network_domain_id: domain(a).into() }),
                _ => Change::CreateNatRule(CreateNatRule {
                    network_domain_id: domain(a).into(),
                    internal_ip: server(b)?.entity.network_info.as_ref()?.primary_nic.private_ipv4?,
                    external_ip: nth(&self.state.blocks, b).map(|block| block.base_ip),
                }),
            },
            Move::Rule(a, b) if b % 4 == 0 => {
                let rule = nth(&self.state.rules, a)?;
                Change::EditFirewallRule(EditFirewallRule::enabling(rule.id.clone(), b > 99))
            }
            Move::Rule(a, b) => Change::CreateFirewallRule(CreateFirewallRule {
                network_domain_id: domain(a).into(),
                name: format!("rule{b}"),
                action: Action::Drop,
                ip_version: if b % 2 == 0 { IpVersion::V4 } else { IpVersion::V6 },
                protocol: Protocol::Tcp,
                source: Endpoint::any(),
                destination: Endpoint::any().ports(u16::from(b), u16::from(a)),
                enabled: true,
                placement: Some(Placement {
                    position: [Placing::First, Placing::Last, Placing::Before, Placing::After]
                        [usize::from(a) % 4]
                        .clone(),
                    relative_to_rule: nth(&self.state.rules, b).map(|rule| rule.name.clone()),
                }),
            }),
            Move::Wait(_) | Move::Done(_) | Move::Restart => return None,
        })
    }

    /// All ids and addresses there are, each once.
    fn check_unique(&self) {
        let mut seen = BTreeSet::new();
        let mut once = |what: &str, value: String| {
            assert!(seen.insert((what.to_owned(), value.clone())), "{what} {value} twice")
        };
        for domain in &self.state.domains {
            once("id", domain.id());
            once("public", domain.entity.snat_ipv4_address.expect("always one").to_string());
        }
        for vlan in &self.state.vlans {
            once("id", vlan.id().to_owned());
            once("ipv6 network", vlan.entity.ipv6_range.expect("always one").address.to_string());
        }
        for block in &self.state.blocks {
            once("id", block.id.to_string());
            block.addresses().for_each(|address| once("public", address.to_string()));
        }
        for nat in &self.state.nats {
            once("id", nat.id.to_string());
            once("external", nat.external_ip.to_string());
        }
        for rule in &self.state.rules {
            once("id", rule.id.to_string());
            once("rule", format!("{}/{}", rule.network_domain_id, rule.name));
        }
        for server in &self.state.servers {
            once("id", server.id().to_owned());
            let scsi: BTreeSet<_> = server.entity.disk.iter().map(|disk| disk.scsi_id).collect();
            assert_eq!(scsi.len(), server.entity.disk.len(), "one disk per place");
            for disk in &server.entity.disk {
                once("id", disk.id.clone().expect("always one").to_string());
            }
            for nic in server.entity.network_info.iter().flat_map(NetworkInfo::nics) {
                once("id", nic.id.to_string());
                once("mac", nic.mac_address.clone().expect("always one"));
                once("ipv6", nic.ipv6.expect("always one").to_string());
                let vlan = nic.vlan_id.clone().expect("always one");
                once("ipv4", format!("{vlan}/{}", nic.private_ipv4.expect("always one")));
                assert!(self.state.network(vlan.as_str()).is_ok(), "a VLAN in use is never deleted");
            }
        }
    }

    /// Everything there is, asked for in both forms.
    fn check_answers(&mut self) {
        for kind in Kind::ALL {
            let query = vec![("pageSize".to_owned(), "250".to_owned())];
            let answer = self.ask(&Call::List { kind, query }).expect("a list");
            let Answer::Page { items, .. } = &answer else { panic!("a list is a page") };
            let items = items.clone();
            crate::api::check_forms(&answer);
            for id in items.iter().filter_map(|item| item["id"].as_str()) {
                let found = self.ask(&Call::Get { kind, id: id.to_owned() }).expect("listed, so there");
                crate::api::check_forms(&found);
            }
        }
    }

    /// What is asked for ends once the backing has ended its work and time has passed.
    fn settle(&mut self) {
        for _ in 0..1000 {
            if self.work.is_empty() {
                break;
            }
            self.finish_oldest(true);
        }
        self.now = self.now.after(Duration::from_secs(60));
        self.state.tick(self.now);
        assert!(self.state.servers.iter().all(|server| server.pending.is_none()), "no server stays busy");
        assert!(self.state.vlans.iter().all(|vlan| vlan.pending.is_none()), "no VLAN stays busy");
        assert!(self.state.domains.iter().all(|domain| domain.pending.is_none()), "no domain stays busy");
        assert!(self.state.affinities.iter().all(|rule| rule.pending.is_none()), "no rule stays busy");
        let made =
            |copy: &Copy| copy.entity.state.as_ref().is_none_or(|state| state.as_str() != "PENDING_ADD");
        assert!(self.state.copies.iter().all(made), "no image stays in the making");
        assert_eq!(self.state.next_due(self.now), None);
        for server in &self.state.servers {
            let idle = server.entity.progress.is_none();
            assert_eq!(idle, server.entity.state.is_normal(), "progress is there only after a failure");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_life_is_a_good_one(seed: u64, steps in prop::collection::vec(moves(), 1..120)) {
        let mut world = World::new(seed);
        // Half of the lives begin with something there, so that they get further.
        if seed % 2 == 0 {
            with_server(&mut world);
        }
        for step in &steps {
            world.step(step);
            world.check_unique();
        }
        world.check_answers();
        world.settle();
        world.check_answers();
    }
}

/// A settled domain with a VLAN and a server in it.
fn with_server(world: &mut World) -> (String, String, String) {
    let settle = |world: &mut World| {
        world.settle();
    };
    world.change(world.pick(&Move::Deploy(1)).expect("a domain")).expect("accepted");
    settle(world);
    world.change(world.pick(&Move::Vlan(0, 0)).expect("a VLAN")).expect("accepted");
    settle(world);
    world
        .change(
            world
                .pick(&Move::Server(0, false))
                .map(|change| match change {
                    Change::DeployServer(request) => {
                        Change::DeployServer(DeployServer { memory_gb: Some(1), ..request })
                    }
                    other => other,
                })
                .expect("a server"),
        )
        .expect("accepted");
    settle(world);
    let ids = (
        world.state.domains[0].id(),
        world.state.vlans[0].id().to_owned(),
        world.state.servers[0].id().to_owned(),
    );
    assert!(world.state.servers[0].entity.state.is_normal());
    ids
}

#[test]
fn an_operation_needs_both_its_delay_and_its_work() {
    let mut world = World::new(1);
    let (_, _, server) = with_server(&mut world);
    let start = Change::Server(ServerCall::Start, server.clone());
    world.change(start.clone()).expect("accepted");
    assert_eq!(world.work.len(), 1);
    assert_eq!(world.change(start.clone()).expect_err("busy").code, "RESOURCE_BUSY");
    // The delay alone is not enough.
    world.now = world.now.after(Duration::from_secs(10));
    assert!(!world.state.tick(world.now));
    world.finish_oldest(true);
    assert!(world.state.tick(world.now));
    assert!(world.state.servers[0].entity.started);
    // Neither is the work alone.
    world.change(Change::Server(ServerCall::Shutdown, server)).expect("accepted");
    world.finish_oldest(true);
    assert!(!world.state.tick(world.now));
    assert_eq!(world.state.next_due(world.now), Some(Duration::from_secs(2)));
    world.now = world.now.after(Duration::from_secs(2));
    assert!(world.state.tick(world.now));
    assert!(!world.state.servers[0].entity.started);
}

#[test]
fn progress_names_the_action_and_goes_when_idle() {
    let mut world = World::new(2);
    let (_, _, server) = with_server(&mut world);
    world.change(Change::Server(ServerCall::Start, server)).expect("accepted");
    let shown = &world.state.servers[0].entity;
    let progress = shown.progress.as_ref().expect("busy");
    assert_eq!((progress.action.as_str(), progress.user_name.as_deref()), ("START_SERVER", Some("tester")));
    assert!(shown.started && shown.state == fleet_mcp::types::State::PendingChange);
    world.settle();
    assert_eq!(world.state.servers[0].entity.progress, None);
}

#[test]
fn a_guest_that_powers_itself_off_is_noticed() {
    let mut world = World::new(3);
    let (_, _, server) = with_server(&mut world);
    world.change(Change::Server(ServerCall::Start, server.clone())).expect("accepted");
    let asked = world.now;
    world.settle();
    // A look from before the start ended says nothing.
    assert!(!world.state.notice_running(&[], asked));
    let later = world.now.after(Duration::from_secs(1));
    assert!(!world.state.notice_running(&[server], later));
    assert!(world.state.notice_running(&[], later));
    let server = &world.state.servers[0].entity;
    assert!(!server.started && !server.tools_running());
}

#[test]
fn passwords_are_never_written_down() {
    let mut world = World::new(4);
    with_server(&mut world);
    world
        .change(
            world
                .pick(&Move::Server(0, true))
                .map(|change| match change {
                    Change::DeployServer(request) => {
                        Change::DeployServer(DeployServer { memory_gb: Some(1), ..request })
                    }
                    other => other,
                })
                .expect("a server"),
        )
        .expect("accepted");
    let Some(Work::Server(_, steps)) = world.work.last() else { panic!("work for the server") };
    let Some(Step::Apply(spec)) = steps.first() else { panic!("files first") };
    assert_eq!(spec.root_password.as_ref().map(fleet_model::Secret::reveal), Some("secret"));
    let text = serde_json::to_string(&world.state).expect("a state can be written");
    assert!(!text.contains("secret"), "the password is in the state file");
    // Killed now, the server cannot be made: that is said, not hung upon.
    world.step(&Move::Restart);
    world.settle();
    let failed = &world.state.servers[1].entity;
    assert_eq!(failed.state, fleet_mcp::types::State::FailedAdd);
    let reason = failed.progress.as_ref().and_then(|progress| progress.failure_reason.as_deref());
    assert!(reason.is_some_and(|reason| reason.contains("restarted")), "{reason:?}");
}

#[test]
fn specifications_follow_the_state() {
    let mut world = World::new(5);
    let (domain, vlan, server) = with_server(&mut world);
    let disk = AddDisk { id: server.as_str().into(), size_gb: 20, speed: None, scsi_id: None };
    world.change(Change::AddDisk(disk)).expect("accepted");
    let Some(Work::Server(_, steps)) = world.work.last() else { panic!("work for the server") };
    let [Step::Apply(spec)] = steps.as_slice() else { panic!("{steps:?}") };
    let disks: Vec<_> = spec.disks.iter().map(|disk| (disk.scsi_id, disk.size_gb)).collect();
    assert_eq!(disks, [(0, 10), (1, 20)]);
    assert_eq!(spec.root_password, None);
    world.settle();
    let (spec, _) = world.state.domain_spec(&domain).expect("there");
    assert_eq!((spec.vlans.len(), spec.rules.len()), (1, 5));
    let deny = world
        .state
        .rules
        .iter()
        .find(|rule| rule.name.ends_with("InboundIPv6"))
        .expect("a default")
        .id
        .clone();
    world.change(Change::EditFirewallRule(EditFirewallRule::enabling(deny, false))).expect("done");
    assert_eq!(world.state.domain_spec(&domain).expect("there").0.rules.len(), 4);
    world.change(Change::DeleteServer(server)).expect("accepted");
    world.settle();
    world.change(Change::DeleteVlan(vlan)).expect("accepted");
    assert_eq!(world.state.domain_spec(&domain).expect("there").0.vlans, []);
}
