//! Images of the customer's: made of servers, and servers made without customisation.

use fleet_mcp::{
    Id,
    types::{
        Artifact, AssetType, CloneServer, DeployServer, DeployUncustomizedServer, Disk, Guest, Image,
        ImageSource, State as Phase,
    },
};

use super::{
    Context, Copy, Done, Operation, Record, Refused, State, Work, catalogue, deploy::check_name,
    power::usable, record::Under, uuid,
};

type Changed = Result<(Done, Vec<Work>), Refused>;

impl State {
    /// Makes an image of a server's disks. The server is busy meanwhile, the image `PENDING_ADD`.
    pub(crate) fn clone_server(&mut self, request: &CloneServer, cx: &mut Context<'_>) -> Changed {
        let id = request.id.as_str();
        let record = self.record(id)?;
        usable(record)?;
        check_name(&request.image_name)?;
        if record.entity.started {
            return Err(Refused::new("SERVER_STARTED", format!("Server {id} is started; stop it first.")));
        }
        let server = &record.entity;
        let taken = |copy: &Copy| {
            copy.entity.datacenter_id == server.datacenter_id
                && copy.entity.name.eq_ignore_ascii_case(&request.image_name)
        };
        if self.copies.iter().any(taken) {
            return Err(Refused::name_taken("customer image", &request.image_name));
        }
        let tags = self.wanted_tags(&request.tag, &request.tag_by_id)?;
        let guest = server.guest.clone();
        let image = uuid(cx.rng);
        let entity = Image {
            id: Id::new(image.clone()),
            datacenter_id: server.datacenter_id.clone(),
            name: request.image_name.clone(),
            description: request.description.clone().filter(|text| !text.is_empty()),
            cpu: Some(server.cpu.clone()),
            memory_gb: Some(server.memory_gb),
            disk: server
                .disk
                .iter()
                .map(|disk| Disk { id: Some(Id::new(uuid(cx.rng))), state: None, ..disk.clone() })
                .collect(),
            scsi_controller: Vec::new(),
            software_label: server.software_label.clone(),
            create_time: Some(cx.now.to_string()),
            os_image_key: None,
            state: Some(Phase::PendingAdd),
            guest: Some(Guest {
                os_customization: Some(request.guest_os_customization.unwrap_or(true)),
                operating_system: guest.and_then(|guest| guest.operating_system),
                vm_tools: None,
            }),
            source: Some(ImageSource {
                kind: "CLONE".to_owned(),
                artifact: vec![Artifact { kind: "SERVER_ID".to_owned(), value: id.to_owned(), date: None }],
            }),
            progress: None,
            virtual_hardware: server.virtual_hardware.clone(),
        };
        let copy = Copy { entity, image: image.clone() };
        self.put_marks(&AssetType::CustomerImage, &image, tags)?;
        self.copies.push(copy);
        let (mut done, work) = self.begin(id, Operation::Clone(image.clone()), cx)?;
        let progress = self.record(id)?.entity.progress.clone();
        if let Some(copy) = self.copies.last_mut() {
            copy.entity.progress = progress;
        }
        done.message = format!("Request to Clone Server '{id}' has been accepted and is being processed.");
        Ok((done.info("imageId", image), work))
    }

    /// Removes an image; synchronous. Servers made from it have their own disks.
    pub(crate) fn delete_image(&mut self, id: &str) -> Changed {
        let index = self.copies.iter().position(|copy| copy.entity.id.as_str() == id);
        let index = index.ok_or_else(|| Refused::not_found("Customer image", id))?;
        if self.copies[index].entity.state == Some(Phase::PendingAdd) {
            return Err(Refused::busy("Customer image", id, "CLONE_SERVER"));
        }
        let is_copying = |record: &Record| {
            record.image == id
                && matches!(&record.pending, Some(Under { operation: Operation::Deploy { .. }, .. }))
        };
        if self.servers.iter().any(is_copying) {
            return Err(Refused::busy("Customer image", id, "DEPLOY_SERVER"));
        }
        self.copies.remove(index);
        let done = Done::at_once(format!("Customer image {id} has been deleted."));
        Ok((done, vec![Work::RemoveImage(id.to_owned())]))
    }

    /// Ends the making of an image, well or with a reason.
    pub(crate) fn copied(&mut self, image: &str, failure: Option<&str>) {
        let Some(copy) = self.copies.iter_mut().find(|copy| copy.entity.id.as_str() == image) else { return };
        let entity = &mut copy.entity;
        entity.state = Some(if failure.is_none() { Phase::Normal } else { Phase::FailedAdd });
        match failure {
            None => entity.progress = None,
            Some(why) => {
                if let Some(progress) = &mut entity.progress {
                    progress.failure_reason = Some(why.to_owned());
                }
            }
        }
    }

    /// An image of the platform's or the customer's that a server of this data centre may be made from, and what
    /// the backing calls it.
    pub(crate) fn usable_image(
        &self,
        id: &Id<Image>,
        datacenter: &str,
        cx: &Context<'_>,
    ) -> Result<(Image, String), Refused> {
        let images = catalogue::images(cx.region).into_iter();
        let images = images.map(|image| (image, catalogue::BACKING_IMAGE.to_owned()));
        let copies = self.copies.iter().map(|copy| (copy.entity.clone(), copy.image.clone()));
        let mut here = images.chain(copies).filter(|(image, _)| image.datacenter_id.as_str() == datacenter);
        let (image, name) = here
            .find(|(image, _)| image.id == *id)
            .ok_or_else(|| Refused::not_found("Image", id.as_str()))?;
        match &image.state {
            None | Some(Phase::Normal) => Ok((image, name)),
            Some(Phase::PendingAdd) => Err(Refused::busy("Image", id.as_str(), "CLONE_SERVER")),
            Some(state) => Err(Refused::new("INVALID_STATUS", format!("Image {id} is {state}."))),
        }
    }

    pub(crate) fn deploy_uncustomized(
        &mut self,
        request: &DeployUncustomizedServer,
        cx: &mut Context<'_>,
    ) -> Changed {
        let tags = self.wanted_tags(&request.tag, &request.tag_by_id)?;
        let plain = DeployServer {
            name: request.name.clone(),
            description: request.description.clone(),
            image_id: request.image_id.clone(),
            start: request.start,
            administrator_password: None,
            cpu: request.cpu.clone(),
            memory_gb: request.memory_gb,
            network_info: request.network_info.clone(),
            primary_dns: None,
            secondary_dns: None,
            ipv4_gateway: None,
            disk: request.disk.clone(),
        };
        self.deploy(&plain, false, tags, cx)
    }
}
