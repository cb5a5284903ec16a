//! Servers made.

use fleet_mcp::{
    Id,
    types::{
        AssetType, Cpu, DeployServer, Disk, Guest, Image, Ipv6, NetworkInfo, NewNic, Nic, Server,
        State as Phase, ToolsStatus, ToolsVersion, VirtualHardware, VmTools,
    },
};
use fleet_model::Secret;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    Context, Done, Operation, Record, Refused, State, Work,
    reshape::{check_size, disk_speed},
    uuid,
};

/// Longest name the platform takes.
const MAX_NAME: usize = 75;
/// VMware's range of Ethernet addresses.
const MAC_PREFIX: &str = "00:50:56";

pub(crate) fn check_name(name: &str) -> Result<(), Refused> {
    if name.trim().is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(Refused::invalid(format!("A name has 1 to {MAX_NAME} printable characters.")));
    }
    Ok(())
}

impl State {
    pub(crate) fn deploy_server(
        &mut self,
        request: &DeployServer,
        cx: &mut Context<'_>,
    ) -> Result<(Done, Vec<Work>), Refused> {
        self.deploy(request, true, Vec::new(), cx)
    }

    /// Makes a server. One that is not `customised` comes as its image is, without a password.
    pub(crate) fn deploy(
        &mut self,
        request: &DeployServer,
        customised: bool,
        tags: Vec<(String, Option<String>)>,
        cx: &mut Context<'_>,
    ) -> Result<(Done, Vec<Work>), Refused> {
        check_name(&request.name)?;
        let domain_id = request.network_info.network_domain_id.as_str();
        let domain = self.domain(domain_id)?;
        if !domain.entity.state.is_normal() {
            return Err(Refused::busy("Network domain", domain_id, domain.entity.state.as_str()));
        }
        let datacenter = domain.entity.datacenter_id.clone();
        let (image, backing_image) = self.usable_image(&request.image_id, datacenter.as_str(), cx)?;
        if self.servers.iter().filter(|server| server.domain() == Some(domain_id)).count()
            >= cx.quotas.servers
        {
            return Err(Refused::limit("servers per network domain", cx.quotas.servers));
        }
        let asked = request.cpu.clone().unwrap_or_default();
        check_size(asked.count, request.memory_gb, cx.quotas)?;
        let password =
            request.administrator_password.as_ref().filter(|password| !password.reveal().is_empty());
        if customised {
            check_customisation(&image, password, cx)?;
        }

        let primary_vlan = self.nic_vlan(domain_id, &request.network_info.primary_nic)?;
        let primary_nic = self.make_nic(&primary_vlan, &request.network_info.primary_nic, &[], cx)?;
        let mut additional_nic: Vec<Nic> = Vec::new();
        let mut vlans = vec![primary_vlan];
        for nic in &request.network_info.additional_nic {
            let vlan = self.nic_vlan(domain_id, nic)?;
            if vlans.contains(&vlan) {
                return Err(Refused::invalid(format!("Two network cards in VLAN {vlan}.")));
            }
            additional_nic.push(self.make_nic(&vlan, nic, &additional_nic, cx)?);
            vlans.push(vlan);
        }
        if additional_nic.len() > cx.quotas.additional_nics {
            return Err(Refused::limit("additional network cards per server", cx.quotas.additional_nics));
        }
        let network_info = NetworkInfo {
            network_domain_id: Id::from(domain_id),
            network_domain_name: None,
            primary_nic,
            additional_nic,
        };
        let speeds = request
            .disk
            .iter()
            .map(|disk| Ok((disk.scsi_id, disk_speed(disk.speed.as_deref().unwrap_or("STANDARD"))?)));
        let speeds = speeds.collect::<Result<Vec<_>, Refused>>()?;
        let tools =
            if cx.choices.tools_are_current { ToolsVersion::Current } else { ToolsVersion::NeedUpgrade };
        let id = uuid(cx.rng);
        let disk = image.disk.iter().map(|disk| Disk {
            id: Some(Id::new(uuid(cx.rng))),
            speed: speeds
                .iter()
                .find(|(scsi_id, _)| *scsi_id == disk.scsi_id)
                .map(|(_, speed)| (*speed).to_owned())
                .or_else(|| disk.speed.clone()),
            state: Some(Phase::PendingAdd),
            ..disk.clone()
        });
        let entity = Server {
            id: Id::new(id.clone()),
            datacenter_id: datacenter,
            name: request.name.clone(),
            description: request.description.clone(),
            guest: Some(guest(&image, tools)),
            cpu: Cpu {
                count: asked.count.or(image.cpu.as_ref().map(|cpu| cpu.count)).unwrap_or(1),
                speed: asked.speed.or_else(|| Some("STANDARD".to_owned())),
                cores_per_socket: asked.cores_per_socket.or(Some(1)),
            },
            memory_gb: request.memory_gb.or(image.memory_gb).unwrap_or(1),
            disk: disk.collect(),
            scsi_controller: Vec::new(),
            network_info: Some(network_info),
            backup: None,
            monitoring: None,
            software_label: Vec::new(),
            source_image_id: Some(image.id.clone()),
            create_time: Some(cx.now.to_string()),
            deployed: cx.choices.deployed_while_adding,
            started: request.start,
            state: Phase::PendingAdd,
            progress: None,
            virtual_hardware: Some(VirtualHardware {
                version: Some("vmx-10".to_owned()),
                up_to_date: Some(true),
            }),
            tag: Vec::new(),
        };
        self.servers.push(Record {
            entity,
            image: backing_image,
            password: password.map(|password| Secret::new(password.reveal())),
            uncustomised: password.is_none(),
            made: false,
            pending: None,
            ghost: request.start && cx.twist.never_boots,
            settled: cx.now,
        });
        self.put_marks(&AssetType::Server, &id, tags)?;
        let operation = Operation::Deploy { start: request.start, speeds: !request.disk.is_empty() };
        let (mut done, work) = self.begin(&id, operation, cx)?;
        done.message = format!("Request to deploy server '{}' accepted.", request.name);
        Ok((done.info("serverId", id), work))
    }

    /// The VLAN a new card goes to: named, or the one that holds its address.
    pub(crate) fn nic_vlan(&self, domain: &str, nic: &NewNic) -> Result<String, Refused> {
        let vlan = match (&nic.vlan_id, nic.private_ipv4) {
            (Some(id), None) => {
                let vlan = self.network(id.as_str())?;
                if vlan.domain() != domain {
                    return Err(Refused::invalid(format!("VLAN {id} is in another network domain.")));
                }
                vlan
            }
            (None, Some(address)) => {
                let mut vlans = self.vlans.iter().filter(|vlan| vlan.domain() == domain);
                vlans.find(|vlan| super::network::contains(vlan, address)).ok_or_else(|| {
                    let message = format!("{address} is in no VLAN of network domain {domain}.");
                    Refused::new("IP_ADDRESS_OUT_OF_RANGE", message)
                })?
            }
            _ => return Err(Refused::invalid("A network card has either a vlanId or a privateIpv4.")),
        };
        if !vlan.entity.state.is_normal() {
            return Err(Refused::busy("VLAN", vlan.id(), vlan.entity.state.as_str()));
        }
        Ok(vlan.id().to_owned())
    }

    /// A new card in the VLAN; `more` are cards of the same request.
    pub(crate) fn make_nic(
        &mut self,
        vlan: &str,
        nic: &NewNic,
        more: &[Nic],
        cx: &mut Context<'_>,
    ) -> Result<Nic, Refused> {
        let network = self.network(vlan)?;
        let adapter = super::nic::adapter(nic.network_adapter.as_deref().unwrap_or("E1000"))?;
        let range = network.entity.private_ipv4_range;
        let (first, size) = (u32::from(range.address), 1_u32 << (32 - u32::from(range.prefix_size)));
        let gateway = network.entity.ipv4_gateway_address;
        let taken = |address: Ipv4Addr| {
            Some(address) == gateway
                || more.iter().any(|nic| nic.private_ipv4 == Some(address))
                || self.address_taken(vlan, address)
        };
        let private_ipv4 = match nic.private_ipv4 {
            Some(address) if taken(address) => {
                return Err(Refused::new("IP_ADDRESS_NOT_UNIQUE", format!("{address} is in use.")));
            }
            Some(address) => {
                let offset = u32::from(address).wrapping_sub(first);
                if offset == 0 || offset + 1 >= size || super::network::is_reserved(network, offset) {
                    let message = format!("{address} is reserved by the platform.");
                    return Err(Refused::new("IP_ADDRESS_OUT_OF_RANGE", message));
                }
                address
            }
            None => (cx.choices.first_host..size - 1)
                .filter(|offset| !super::network::is_reserved(network, *offset))
                .map(|offset| Ipv4Addr::from(first + offset))
                .find(|address| !taken(*address))
                .ok_or_else(|| {
                    Refused::new("NO_IP_ADDRESS_AVAILABLE", format!("VLAN {vlan} has no address left."))
                })?,
        };
        let ipv6_network = network.entity.ipv6_range.map_or(Ipv6Addr::UNSPECIFIED, |range| range.address.0);
        // Random as on the platform; the first bit keeps clear of the gateway and of small handmade numbers.
        let host = cx.rng.next_u64() | 1 << 63;
        let ipv6 = Ipv6Addr::from_bits(ipv6_network.to_bits() | u128::from(host));
        let vlan_name = network.entity.name.clone();
        self.given.macs = self.given.macs.wrapping_add(1) & 0x3f_ffff;
        let [_, a, b, c] = self.given.macs.to_be_bytes();
        Ok(Nic {
            id: Id::new(uuid(cx.rng)),
            private_ipv4: Some(private_ipv4),
            ipv6: Some(Ipv6(ipv6)),
            vlan_id: Some(Id::from(vlan)),
            vlan_name: Some(vlan_name),
            network_adapter: Some(adapter.to_owned()),
            mac_address: Some(format!("{MAC_PREFIX}:{a:02x}:{b:02x}:{c:02x}")),
            key: Some(4000),
            connected: Some(true),
            state: Some(Phase::PendingAdd),
        })
    }

    pub(crate) fn address_taken(&self, vlan: &str, address: Ipv4Addr) -> bool {
        let kept = |reserved: &super::Reserved| {
            reserved.vlan == vlan && reserved.address == std::net::IpAddr::V4(address)
        };
        self.reserved.iter().any(kept)
            || self.servers.iter().any(|server| {
                let mut nics = server.entity.network_info.iter().flat_map(NetworkInfo::nics);
                nics.any(|nic| {
                    nic.private_ipv4 == Some(address)
                        && nic.vlan_id.as_ref().is_some_and(|id| id.as_str() == vlan)
                })
            })
    }
}

/// Servers that are customised need an image that can be, and a password unless the image is a customer's Unix.
fn check_customisation(
    image: &Image,
    password: Option<&fleet_mcp::Secret>,
    cx: &Context<'_>,
) -> Result<(), Refused> {
    let guest = image.guest.as_ref();
    if guest.and_then(|guest| guest.os_customization) == Some(false) {
        let message = "This image has no Guest OS Customization: use deployUncustomizedServer.";
        return Err(Refused::new("INCOMPATIBLE_OPERATION", message));
    }
    let family = guest.and_then(|guest| guest.operating_system.as_ref()).and_then(|os| os.family.as_deref());
    match password {
        None if image.source.is_some() && family == Some("UNIX") => Ok(()),
        None => Err(Refused::invalid("administratorPassword is required for this image.")),
        Some(password) if password.reveal().chars().count() < cx.choices.shortest_password => {
            let least = cx.choices.shortest_password;
            Err(Refused::invalid(format!("administratorPassword must have at least {least} characters.")))
        }
        Some(_) => Ok(()),
    }
}

fn guest(image: &Image, tools: ToolsVersion) -> Guest {
    Guest {
        vm_tools: Some(VmTools {
            kind: Some("VMWARE_TOOLS".to_owned()),
            version_status: Some(tools),
            running_status: Some(ToolsStatus::NotRunning),
            api_version: Some(9354),
        }),
        ..image.guest.clone().unwrap_or(Guest {
            os_customization: Some(true),
            operating_system: None,
            vm_tools: None,
        })
    }
}
