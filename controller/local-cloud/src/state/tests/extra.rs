//! The less common calls of a random life.

use fleet_mcp::types::{
    Address, AddressRange, ApplyTags, AssetType, ChangeNetworkAdapter, CloneServer, CreateAntiAffinityRule,
    CreateIpAddressList, CreateStaticRoute, CreateTagKey, DeployUncustomizedServer, EditIpAddressList,
    ExchangeNicVlans, ExpandVlan, IpVersion, NetworkRequest, NewNic, NotifyNicIpChange, RemoveTags,
    ReserveAddress, RestoreStaticRoutes, Tag,
};

use super::*;

/// A change made of two numbers and of what there is.
pub(super) fn pick(state: &State, a: u8, b: u8) -> Option<Change> {
    fn nth<T>(items: &[T], index: u8) -> Option<&T> {
        if items.is_empty() { None } else { items.get(usize::from(index) % items.len()) }
    }
    let vlan = |n: u8| nth(&state.vlans, n);
    let server = |n: u8| nth(&state.servers, n).map_or("nobody", |server| server.id());
    let tag =
        || Tag { tag_key_name: Some(format!("key{}", b % 3)), value: (b > 40).then(|| "value".to_owned()) };
    let cards = |n: u8| {
        let network = nth(&state.servers, n).and_then(|server| server.entity.network_info.clone());
        network
            .map(|network| network.nics().map(|nic| nic.id.clone()).collect::<Vec<_>>())
            .unwrap_or_default()
    };
    Some(match a % 20 {
        0 => {
            Change::ExpandVlan(ExpandVlan { id: vlan(b)?.id().into(), private_ipv4_prefix_size: 20 + b % 9 })
        }
        1 => {
            let domain = nth(&state.domains, b)?.id();
            let request = DeployVlan {
                network_domain_id: domain.into(),
                name: format!("apart{}", b % 4),
                description: None,
                private_ipv4_base_address: Ipv4Addr::new(172, 16, b % 8, 0),
                private_ipv4_prefix_size: None,
                gateway_addressing: None,
            };
            Change::DeployDetachedVlan(request, Ipv4Addr::new(172, 16, b % 7, 9))
        }
        2 => {
            let ids = cards(b);
            let [nic_id1, nic_id2] = [nth(&ids, a)?.clone(), nth(&ids, a.wrapping_add(1))?.clone()];
            Change::ExchangeNicVlans(ExchangeNicVlans { nic_id1, nic_id2 })
        }
        3 => Change::ChangeNetworkAdapter(ChangeNetworkAdapter {
            nic_id: nth(&cards(b), b)?.clone(),
            network_adapter: ["E1000", "VMXNET3", "none"][usize::from(b) % 3].to_owned(),
        }),
        4 => Change::NotifyNicIpChange(NotifyNicIpChange {
            nic_id: nth(&cards(b), b)?.clone(),
            private_ipv4: Some(Ipv4Addr::new(10, b % 6, 0, b % 32)),
            ipv6: None,
        }),
        5 | 6 => Change::CloneServer(CloneServer {
            id: server(b).into(),
            image_name: format!("image{}", b % 5),
            description: None,
            cluster_id: None,
            guest_os_customization: Some(b > 100),
            tag: if b > 200 { vec![tag()] } else { vec![] },
            tag_by_id: vec![],
        }),
        7 => Change::DeleteImage(nth(&state.copies, b)?.entity.id.to_string()),
        8 => {
            let vlan = vlan(b)?;
            let image = nth(&state.copies, b).map_or_else(|| Id::from("none"), |copy| copy.entity.id.clone());
            Change::DeployUncustomizedServer(DeployUncustomizedServer {
                name: "plain".to_owned(),
                description: None,
                image_id: image,
                cluster_id: None,
                start: b > 128,
                cpu: None,
                memory_gb: None,
                network_info: NetworkRequest {
                    network_domain_id: vlan.domain().into(),
                    primary_nic: NewNic { vlan_id: Some(vlan.id().into()), ..NewNic::default() },
                    additional_nic: vec![],
                },
                disk: vec![],
                tag: (0..b % 14).map(|_| tag()).collect(),
                tag_by_id: vec![],
            })
        }
        9 => Change::CreateTagKey(CreateTagKey {
            name: format!("key{}", b % 3),
            description: None,
            value_required: Some(b > 128),
            display_on_report: None,
        }),
        10 => Change::DeleteTagKey(nth(&state.tag_keys, b)?.id.to_string()),
        11 | 12 => Change::ApplyTags(ApplyTags {
            asset_type: if b > 128 { AssetType::Server } else { AssetType::Vlan },
            asset_id: if b > 128 { server(b).to_owned() } else { vlan(b)?.id().to_owned() },
            tag: vec![tag()],
            tag_by_id: vec![],
        }),
        13 => Change::RemoveTags(RemoveTags {
            asset_type: AssetType::Server,
            asset_id: server(b).to_owned(),
            tag_key_name: vec![format!("key{}", b % 3)],
            tag_key_id: vec![],
        }),
        14 => Change::CreateAntiAffinityRule(CreateAntiAffinityRule {
            server_id: vec![server(b).into(), server(b.wrapping_add(1)).into()],
        }),
        15 => Change::DeleteAntiAffinityRule(nth(&state.affinities, b)?.id.clone()),
        16 => Change::CreateStaticRoute(CreateStaticRoute {
            network_domain_id: nth(&state.domains, b)?.id().into(),
            name: format!("route{}", b % 6),
            description: None,
            ip_version: IpVersion::V4,
            destination_network_address: Address::Ip(Ipv4Addr::new(192, b % 4, 0, 0).into()),
            destination_prefix_size: 16,
            next_hop_address: Address::Ip(Ipv4Addr::new(10, b % 6, 0, 9).into()),
        }),
        17 => Change::RestoreStaticRoutes(RestoreStaticRoutes {
            network_domain_id: nth(&state.domains, b)?.id().into(),
        }),
        18 => {
            let request = ReserveAddress {
                vlan_id: vlan(b)?.id().into(),
                ip_address: Ipv4Addr::new(10, b % 6, 0, 7 + b % 4).into(),
                description: None,
            };
            if b > 80 { Change::ReserveAddress(request) } else { Change::UnreserveAddress(request) }
        }
        _ => list(state, b)?,
    })
}

fn list(state: &State, b: u8) -> Option<Change> {
    let range = AddressRange {
        begin: Address::Ip(Ipv4Addr::new(192, 0, 2, b).into()),
        end: (b > 128).then(|| Address::Ip(Ipv4Addr::new(192, 0, 2, 200).into())),
        prefix_size: None,
    };
    let other = |n: usize| state.ip_lists.get(n % state.ip_lists.len().max(1)).map(|list| list.id.clone());
    Some(match b % 3 {
        0 => Change::CreateIpAddressList(CreateIpAddressList {
            network_domain_id: state.domains.first()?.id().into(),
            name: format!("list{}", b % 5),
            description: None,
            ip_version: IpVersion::V4,
            ip_address: vec![range],
            child_ip_address_list_id: other(b.into()).into_iter().collect(),
        }),
        1 => Change::EditIpAddressList(EditIpAddressList {
            id: other(b.into())?,
            description: Some(String::new()),
            ip_address: Some(vec![range]),
            child_ip_address_list_id: Some(other(usize::from(b) / 3).into_iter().collect()),
        }),
        _ => Change::DeleteIpAddressList(other(b.into())?.to_string()),
    })
}
