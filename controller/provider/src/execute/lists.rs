//! Lists of networks, which firewall rules name.

use fleet_mcp::{
    Id,
    types::{AddressRange, CreateIpAddressList, EditIpAddressList, IpAddressList, NetworkDomain},
};

use super::{
    Failure, Run,
    act::{About, Done},
};
use crate::{
    cloud::Change,
    event::Step,
    graph::{Family, Place, Resource},
    rule,
    view::same_name,
};

impl Run {
    /// Makes a list of these networks, or makes the one of that name such a list. Lists are made at once.
    pub(super) async fn make_list(
        &self,
        step: &Step,
        resource: &Resource,
        name: &str,
        family: Family,
        places: &[Place],
    ) -> Result<(), Failure> {
        let domain = self.domain_of(resource)?;
        let (wanted, held) = {
            let view = self.view();
            let held = view.domains.get(&domain).and_then(|held| held.list(name)).cloned();
            (rule::listed(&view, &self.mark, family, places), held)
        };
        let wanted = wanted.ok_or_else(|| Failure("an address it needs is not known; run again".into()))?;
        let made = match held {
            Some(held) => self.edit_list(step, &domain, held, wanted).await?,
            None => {
                let request = CreateIpAddressList {
                    network_domain_id: domain.clone(),
                    name: name.to_owned(),
                    description: Some(self.mark.describe("")),
                    ip_version: rule::version(family),
                    ip_address: wanted.clone(),
                    child_ip_address_list_id: Vec::new(),
                };
                self.create_list(step, request, wanted).await?
            }
        };
        self.journal.made("list", made.id.as_str()).await?;
        if let Some(held) = self.view().domains.get_mut(&domain) {
            held.lists.insert(made.id.clone(), made);
        }
        Ok(())
    }

    async fn create_list(
        &self,
        step: &Step,
        request: CreateIpAddressList,
        wanted: Vec<AddressRange>,
    ) -> Result<IpAddressList, Failure> {
        let domain = request.network_domain_id.clone();
        let look = || async {
            let all = self.cloud.address_lists(&domain).await?;
            Ok(all.into_iter().find(|found| same_name(&found.name, &request.name)))
        };
        let change = Change::CreateAddressList(request.clone());
        let found = match self.act(step, About::default(), &change, look).await? {
            Done::Accepted(Some(id)) => {
                return Ok(IpAddressList {
                    id: Id::new(id),
                    name: request.name,
                    description: request.description,
                    ip_version: Some(request.ip_version),
                    ip_address: request.ip_address,
                    child_ip_address_list: Vec::new(),
                    state: None,
                    create_time: None,
                    network_domain_id: Some(domain),
                });
            }
            Done::Found(found) => Some(found),
            Done::Accepted(None) => self.read(look).await?,
        };
        let found = found.ok_or_else(|| {
            Failure("the cloud accepted the list, yet does not show it; run again in a while".into())
        })?;
        self.edit_list(step, &domain, found, wanted).await
    }

    async fn edit_list(
        &self,
        step: &Step,
        domain: &Id<NetworkDomain>,
        held: IpAddressList,
        wanted: Vec<AddressRange>,
    ) -> Result<IpAddressList, Failure> {
        self.adopt(held.description.as_deref())?;
        if rule::has_listed(&held, &wanted) {
            return Ok(held);
        }
        let change = Change::EditAddressList(EditIpAddressList {
            id: held.id.clone(),
            // The mark stays, whatever the cloud makes of a description that is not given.
            description: held.description.clone(),
            ip_address: Some(wanted.clone()),
            child_ip_address_list_id: Some(Vec::new()),
        });
        let look = || async {
            let all = self.cloud.address_lists(domain).await?;
            Ok(all
                .into_iter()
                .find(|found| found.id == held.id && rule::has_listed(found, &wanted))
                .map(drop))
        };
        self.act(step, About::default(), &change, look).await?;
        Ok(IpAddressList { ip_address: wanted, child_ip_address_list: Vec::new(), ..held })
    }
}
