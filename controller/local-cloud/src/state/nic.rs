//! Network cards of servers.

use fleet_mcp::types::{
    AddNic, ChangeNetworkAdapter, ExchangeNicVlans, NetworkInfo, Nic, NotifyNicIpChange, State as Phase,
};

use super::{Context, Done, Operation, Record, Refused, State, Work, network, power::usable};

type Changed = Result<(Done, Vec<Work>), Refused>;

/// Models the platform has.
const ADAPTERS: [&str; 5] = ["E1000", "VMXNET3", "E1000E", "ENHANCED_VMXNET2", "FLEXIBLE_PCNET32"];

impl State {
    pub(crate) fn add_nic(&mut self, request: &AddNic, cx: &mut Context<'_>) -> Changed {
        let id = request.server_id.as_str();
        let record = self.record(id)?;
        usable(record)?;
        stopped(record)?;
        let Some(network) = &record.entity.network_info else {
            return Err(Refused::new("OPERATION_NOT_SUPPORTED", "The server has no network."));
        };
        if network.additional_nic.len() >= cx.quotas.additional_nics {
            return Err(Refused::limit("additional network cards per server", cx.quotas.additional_nics));
        }
        let domain = network.network_domain_id.to_string();
        let vlan = self.nic_vlan(&domain, &request.nic)?;
        if record.in_vlan(&vlan) {
            return Err(Refused::invalid(format!("Server {id} has a network card in VLAN {vlan} already.")));
        }
        let nic = self.make_nic(&vlan, &request.nic, &[], cx)?;
        let nic_id = nic.id.to_string();
        if let Some(network) = &mut self.record_mut(id)?.entity.network_info {
            network.additional_nic.push(nic);
        }
        let (done, work) = self.begin(id, Operation::AddNic(nic_id.clone()), cx)?;
        Ok((done.info("nicId", nic_id), work))
    }

    pub(crate) fn remove_nic(&mut self, nic: &str, cx: &mut Context<'_>) -> Changed {
        let mut servers = self.servers.iter();
        let record = servers.find(|record| record.has_additional_nic(nic));
        let record = record.ok_or_else(|| Refused::not_found("Additional network card", nic))?;
        usable(record)?;
        stopped(record)?;
        let id = record.id().to_owned();
        self.begin(&id, Operation::RemoveNic(nic.to_owned()), cx)
    }

    /// The guest has given a card other addresses; the platform only notes them.
    pub(crate) fn notify_nic(&mut self, request: &NotifyNicIpChange, cx: &mut Context<'_>) -> Changed {
        let nic = request.nic_id.as_str();
        let (record, card) = self.with_nic(nic)?;
        usable(record)?;
        let id = record.id().to_owned();
        let vlan = card.vlan_id.as_ref().map(ToString::to_string).unwrap_or_default();
        let (ipv4, ipv6) = (request.private_ipv4, request.ipv6);
        if ipv4.is_none() && ipv6.is_none() {
            return Err(Refused::invalid("privateIpv4 or ipv6 is needed."));
        }
        let network = self.network(&vlan)?;
        let asked = [ipv4.map(Into::into), ipv6.map(|address| address.0.into())];
        for address in asked.into_iter().flatten() {
            if !network::holds(network, address) {
                let message = format!("{address} is not in VLAN {vlan}.");
                return Err(Refused::new("IP_ADDRESS_OUT_OF_RANGE", message));
            }
        }
        let new = ipv4.filter(|new| card.private_ipv4 != Some(*new));
        if new.is_some_and(|new| self.address_taken(&vlan, new)) {
            return Err(Refused::new("IP_ADDRESS_NOT_UNIQUE", "The address is in use."));
        }
        self.begin(&id, Operation::NotifyNic { nic: nic.to_owned(), ipv4, ipv6 }, cx)
    }

    /// Two cards of a server change places: each keeps its own id and Ethernet address.
    pub(crate) fn exchange_nics(&mut self, request: &ExchangeNicVlans, cx: &mut Context<'_>) -> Changed {
        let (one, other) = (request.nic_id1.as_str(), request.nic_id2.as_str());
        let (record, _) = self.with_nic(one)?;
        if record.nic(other).is_none() {
            return Err(Refused::not_found("Network card", other));
        }
        if one == other {
            return Err(Refused::invalid("Two network cards are needed."));
        }
        usable(record)?;
        stopped(record)?;
        let id = record.id().to_owned();
        self.begin(&id, Operation::ExchangeNics(one.to_owned(), other.to_owned()), cx)
    }

    pub(crate) fn change_adapter(&mut self, request: &ChangeNetworkAdapter, cx: &mut Context<'_>) -> Changed {
        let nic = request.nic_id.as_str();
        let (record, card) = self.with_nic(nic)?;
        usable(record)?;
        stopped(record)?;
        let adapter = adapter(&request.network_adapter)?;
        if card.network_adapter.as_deref() == Some(adapter) {
            return Err(Refused::new("NO_CHANGE", format!("Network card {nic} is an {adapter} already.")));
        }
        let id = record.id().to_owned();
        self.begin(&id, Operation::ChangeAdapter(nic.to_owned(), adapter.to_owned()), cx)
    }

    fn with_nic(&self, nic: &str) -> Result<(&Record, &Nic), Refused> {
        let found = self.servers.iter().find_map(|record| Some((record, record.nic(nic)?)));
        found.ok_or_else(|| Refused::not_found("Network card", nic))
    }
}

/// The model as the platform spells it.
pub(crate) fn adapter(word: &str) -> Result<&'static str, Refused> {
    let known = ADAPTERS.into_iter().find(|known| known.eq_ignore_ascii_case(word));
    known.ok_or_else(|| Refused::invalid(format!("Network adapter '{word}' is not known.")))
}

/// Not started.
pub(crate) fn stopped(record: &Record) -> Result<(), Refused> {
    if record.entity.started {
        let message = format!("Server {} is started; stop it first.", record.id());
        return Err(Refused::new("SERVER_STARTED", message));
    }
    Ok(())
}

/// Changes one card.
pub(crate) fn with_card(network: &mut Option<NetworkInfo>, id: &str, change: impl FnOnce(&mut Nic)) {
    let Some(network) = network else { return };
    let mut cards = std::iter::once(&mut network.primary_nic).chain(&mut network.additional_nic);
    if let Some(card) = cards.find(|card| card.id.as_str() == id) {
        change(card);
        card.state = Some(Phase::Normal);
    }
}

/// Puts two cards into each other's VLANs, with the addresses there.
pub(crate) fn exchange(network: &mut Option<NetworkInfo>, one: &str, other: &str) {
    let Some(info) = network else { return };
    let find = |id: &str| info.nics().find(|nic| nic.id.as_str() == id).cloned();
    let (Some(first), Some(second)) = (find(one), find(other)) else { return };
    let place = |from: Nic| {
        move |card: &mut Nic| {
            card.vlan_id = from.vlan_id;
            card.vlan_name = from.vlan_name;
            card.private_ipv4 = from.private_ipv4;
            card.ipv6 = from.ipv6;
        }
    };
    with_card(network, one, place(second));
    with_card(network, other, place(first));
}
