//! Making what has a name: network domains, VLANs, servers. Each is looked for first, adopted if ours, cleaned and
//! made again a bounded number of times if it failed.

use fleet_mcp::{
    Id,
    types::{
        CpuRequest, DeployNetworkDomain, DeployServer, DeployVlan, DomainType, NetworkDomain, NetworkRequest,
        NewNic, Server, State, Vlan,
    },
};
use fleet_model::NodeName;
use fleet_plan::resolved::{Node, Service};

use super::{
    Failure, Run,
    act::{About, Done},
    wait::{Began, Settled},
};
use crate::{
    cloud::Change,
    event::{Addresses, Step},
    graph::{Resource, Want},
    mark::Owner,
    view::same_name,
};

impl Run {
    /// Makes `resource` as wanted.
    pub(super) async fn make(&self, step: &Step, resource: &Resource) -> Result<(), Failure> {
        match &resource.want {
            Want::Domain(service) => self.make_domain(step, resource, *service).await,
            Want::Vlan { name, address, prefix } => {
                let request = |domain| DeployVlan {
                    network_domain_id: domain,
                    name: name.clone(),
                    description: Some(self.mark.describe("")),
                    private_ipv4_base_address: *address,
                    private_ipv4_prefix_size: Some(*prefix),
                    gateway_addressing: None,
                };
                self.make_vlan(step, request(self.domain_of(resource)?)).await
            }
            Want::Server { node, network } => self.make_server(step, resource, node, network).await,
            Want::Size { node, cpu, memory_gb } => {
                self.make_size(step, resource, node, (cpu, *memory_gb)).await
            }
            Want::Disk(node, disk) => self.make_disk(step, resource, node, disk).await,
            Want::Monitoring(node, plan) => self.make_monitoring(step, resource, node, *plan).await,
            Want::Power(node) => self.power_on(step, resource, node).await,
            Want::Nat(node) => self.make_nat(step, resource, node).await,
            Want::Rule(name, rule) => self.make_rule(step, resource, name, rule).await,
            Want::List(name, family, places) => self.make_list(step, resource, name, *family, places).await,
            Want::DenyIpv6(on) => self.set_deny_ipv6(step, resource, *on).await,
            Want::Ready(_) => Ok(()),
        }
    }

    /// A node's addresses, as far as they are known.
    pub(crate) fn addresses(&self, node: &NodeName) -> Addresses {
        let view = self.view();
        let mut ours = view.domains.values().filter_map(|held| {
            let server = held.server(&self.mark, node.as_str())?;
            self.mark.is_ours(server.description.as_deref()).then(|| held.addresses(server))
        });
        ours.next().unwrap_or_default()
    }

    /// The domain a resource is in; it was made before, by this run or an earlier one.
    pub(super) fn domain_of(&self, resource: &Resource) -> Result<Id<NetworkDomain>, Failure> {
        let view = self.view();
        let held = view.our_domain(&self.mark, &resource.location, &resource.domain);
        held.map(|held| held.domain.id.clone())
            .ok_or_else(|| Failure(format!("network domain `{}` is gone; run again", resource.domain)))
    }

    /// Says whether what was found under a name may be taken for ours.
    pub(super) fn adopt(&self, description: Option<&str>) -> Result<(), Failure> {
        match self.mark.owner(description) {
            Owner::Ours => Ok(()),
            _ => Err(Failure(
                "something of that name exists and is not this fleet's; use another name, or remove it yourself"
                    .into(),
            )),
        }
    }

    fn given_up(&self, why: &str) -> Failure {
        Failure(format!(
            "{why}, {} times in a row; see what the cloud says of it, and run again",
            self.pace.makes
        ))
    }

    async fn make_domain(&self, step: &Step, resource: &Resource, service: Service) -> Result<(), Failure> {
        let look = || async {
            let all = self.cloud.network_domains().await?;
            Ok(all.into_iter().find(|found| {
                found.datacenter_id.as_str() == resource.location && same_name(&found.name, &resource.domain)
            }))
        };
        let request = Change::DeployNetworkDomain(DeployNetworkDomain {
            datacenter_id: Id::new(&*resource.location),
            name: resource.domain.clone(),
            description: Some(self.mark.describe("")),
            plan: match service {
                Service::Essentials => DomainType::Essentials,
                Service::Advanced => DomainType::Advanced,
            },
        });
        // What was seen at the run's beginning counts at first: a name that somebody takes meanwhile is refused.
        let mut there =
            self.view().domain(&resource.location, &resource.domain).map(|held| held.domain.clone());
        let mut why = String::new();
        for attempt in 0..self.pace.makes {
            if attempt > 0 {
                there = self.read(look).await?;
            }
            let (id, began) = match there.take() {
                Some(found) => {
                    self.adopt(found.description.as_deref())?;
                    (found.id, Began::some_time_ago())
                }
                None => {
                    let done = self.act(step, About::default(), &request, look).await?;
                    let began = Began::by(&request, &done);
                    match done {
                        Done::Accepted(Some(id)) => (Id::new(id), began),
                        Done::Accepted(None) => continue,
                        Done::Found(found) => {
                            self.adopt(found.description.as_deref())?;
                            (found.id, began)
                        }
                    }
                }
            };
            match self.settle(step, &id, began).await? {
                Settled::Normal(domain) => {
                    self.journal.made("domain", domain.id.as_str()).await?;
                    return Ok(());
                }
                Settled::Gone => "it was being deleted".clone_into(&mut why),
                Settled::Failed(domain, state) => {
                    self.waiting(step, format!("{state}; removed and made again")).await;
                    why = state;
                    self.delete_domain(step, &domain.id).await?;
                }
            }
        }
        Err(self.given_up(&why))
    }

    async fn make_vlan(&self, step: &Step, request: DeployVlan) -> Result<(), Failure> {
        let look = || async {
            let all = self.cloud.vlans().await?;
            Ok(all.into_iter().find(|found: &Vlan| {
                found.network_domain.id == request.network_domain_id && same_name(&found.name, &request.name)
            }))
        };
        let change = Change::DeployVlan(request.clone());
        let mut there = {
            let view = self.view();
            let held = view.domains.get(&request.network_domain_id);
            held.and_then(|held| held.vlan(&request.name)).cloned()
        };
        let mut why = String::new();
        for attempt in 0..self.pace.makes {
            if attempt > 0 {
                there = self.read(look).await?;
            }
            let (id, began) = match there.take() {
                Some(found) => {
                    self.adopt(found.description.as_deref())?;
                    (found.id, Began::some_time_ago())
                }
                None => {
                    let done = self.act(step, About::default(), &change, look).await?;
                    let began = Began::by(&change, &done);
                    match done {
                        Done::Accepted(Some(id)) => (Id::new(id), began),
                        Done::Accepted(None) => continue,
                        Done::Found(found) => {
                            self.adopt(found.description.as_deref())?;
                            (found.id, began)
                        }
                    }
                }
            };
            match self.settle(step, &id, began).await? {
                Settled::Normal(vlan) => {
                    self.journal.made("vlan", vlan.id.as_str()).await?;
                    return Ok(());
                }
                Settled::Gone => "it was being deleted".clone_into(&mut why),
                Settled::Failed(vlan, state) => {
                    self.waiting(step, format!("{state}; removed and made again")).await;
                    why = state;
                    self.delete_vlan(step, &vlan.id).await?;
                }
            }
        }
        Err(self.given_up(&why))
    }

    async fn make_server(
        &self,
        step: &Step,
        resource: &Resource,
        node: &Node,
        network: &str,
    ) -> Result<(), Failure> {
        let _turn = self.turn(node.name.as_str()).await;
        let domain = self.domain_of(resource)?;
        let look = || async {
            let all = self.cloud.servers_in(&domain).await?;
            let view = self.view();
            let held = view.domains.get(&domain);
            Ok(held.and_then(|held| held.choose(&self.mark, all.iter(), node.name.as_str()).cloned()))
        };
        let mut there = {
            let view = self.view();
            let held = view.domains.get(&domain);
            held.and_then(|held| held.server(&self.mark, node.name.as_str())).cloned()
        };
        let mut why = String::new();
        for attempt in 0..self.pace.makes {
            if attempt > 0 {
                there = self.read(look).await?;
            }
            let (id, began) = match there.take() {
                Some(found) => {
                    self.adopt(found.description.as_deref())?;
                    (found.id, Began::some_time_ago())
                }
                None => {
                    let request = self.server_request(resource, node, network, &domain).await?;
                    let change = Change::DeployServer(Box::new(request));
                    let done = self.act(step, About::default(), &change, look).await?;
                    let began = Began::by(&change, &done);
                    match done {
                        Done::Accepted(Some(id)) => (Id::new(id), began),
                        // It is being made: sent again, there would be two.
                        Done::Accepted(None) => {
                            return Err(Failure(
                                "the cloud accepted it, yet does not list it; run again once it does".into(),
                            ));
                        }
                        Done::Found(found) => {
                            self.adopt(found.description.as_deref())?;
                            (found.id, began)
                        }
                    }
                }
            };
            match self.settle(step, &id, began).await? {
                Settled::Normal(server) => {
                    self.journal.made("server", server.id.as_str()).await?;
                    self.view().know_server(&server.id);
                    // It was to start as it was made.
                    return if node.disks.is_empty() { self.start(step, &server).await } else { Ok(()) };
                }
                Settled::Gone => "it was being deleted".clone_into(&mut why),
                Settled::Failed(Server { id, state: State::FailedAdd, .. }, state) => {
                    self.waiting(step, format!("{state}; cleaned and made again")).await;
                    why = state;
                    self.clean_server(step, &id).await?;
                }
                Settled::Failed(_, state) => {
                    return Err(Failure(format!(
                        "{state}; look at it at the cloud, delete it there or have it repaired, and run again"
                    )));
                }
            }
        }
        Err(self.given_up(&why))
    }

    async fn server_request(
        &self,
        resource: &Resource,
        node: &Node,
        network: &str,
        domain: &Id<NetworkDomain>,
    ) -> Result<DeployServer, Failure> {
        let platform = self.read(|| self.cloud.platform_images());
        let customer = self.read(|| self.cloud.customer_images());
        let found = self.images.find(&resource.location, &node.image, platform, customer).await?;
        let image = found.map_err(Failure)?;
        let vlan = {
            let view = self.view();
            view.domains.get(domain).and_then(|held| held.vlan(network)).map(|vlan| vlan.id.clone())
        };
        let vlan = vlan.ok_or_else(|| Failure(format!("network `{network}` is gone; run again")))?;
        let password = self.vault.initial_password(&node.name).await.map_err(|error| {
            Failure(format!(
                "{}; without a password no server is made: see that the store works",
                fleet_model::chain(&error)
            ))
        })?;
        Ok(DeployServer {
            name: node.name.to_string(),
            description: Some(self.mark.describe(&node.description)),
            image_id: image.id,
            // One with more disks is started once they are in.
            start: node.disks.is_empty(),
            administrator_password: Some(fleet_mcp::Secret::new(password.reveal())),
            cpu: Some(CpuRequest {
                count: Some(node.cpu.count),
                speed: Some(node.cpu.speed.clone()),
                cores_per_socket: Some(node.cpu.cores_per_socket),
            }),
            memory_gb: Some(node.memory_gb),
            network_info: NetworkRequest {
                network_domain_id: domain.clone(),
                primary_nic: NewNic { vlan_id: Some(vlan), ..NewNic::default() },
                additional_nic: Vec::new(),
            },
            primary_dns: None,
            secondary_dns: None,
            ipv4_gateway: None,
            disk: Vec::new(),
        })
    }
}
