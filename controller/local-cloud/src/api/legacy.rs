//! Changes of version 0.9: what they are called, and what they ask of the state.

use fleet_mcp::types::{CloneServer, CreateAntiAffinityRule, EditServerMetadata, ReconfigureServer};

use super::{
    envelope::DELETE_AFFINITY,
    request::{Body, parse_query},
    route::Legacy,
};
use crate::state::{Change, Refused};

/// Memory in one GiB, in the unit of 0.9.
const MIB_PER_GIB: u32 = 1024;

impl Legacy<'_> {
    /// Name of the 2.x operation that does the same, and the name in answers.
    pub(crate) fn names(&self) -> (&'static str, &'static str) {
        match self {
            Self::Disk { speed: true, .. } => ("CHANGE_DISK_SPEED", "Change Server Disk Speed"),
            Self::Disk { .. } => ("EXPAND_DISK", "Change Server Disk Size"),
            Self::Edit(_) => ("EDIT_SERVER", "Edit Server"),
            Self::Clone(_) => ("CLONE_SERVER", "Clone Server"),
            Self::CreateAffinity => ("CREATE_ANTI_AFFINITY_RULE", "Create Anti Affinity Rule"),
            Self::DeleteAffinity(_) => ("DELETE_ANTI_AFFINITY_RULE", DELETE_AFFINITY),
        }
    }

    /// What it asks of the state.
    pub(crate) fn change(&self, query: &[(String, String)], body: &[u8]) -> Result<Change, Refused> {
        match self {
            Self::Disk { server, disk, speed: true } => {
                let speed = Body::parse(body)?.of(&["ChangeDiskSpeed"])?.text(&["speed"])?;
                Ok(Change::ChangeDiskSpeed {
                    server: Some((*server).to_owned()),
                    disk: (*disk).to_owned(),
                    speed,
                })
            }
            Self::Disk { server, disk, .. } => {
                let size_gb = number(&Body::parse(body)?.of(&["ChangeDiskSize"])?.text(&["newSizeGb"])?)?;
                Ok(Change::ExpandDisk {
                    server: Some((*server).to_owned()),
                    disk: (*disk).to_owned(),
                    size_gb,
                })
            }
            Self::Edit(server) => edit(server, body),
            Self::Clone(server) => Ok(Change::CloneServer(CloneServer {
                id: (*server).into(),
                image_name: value(query, "clone").unwrap_or_default(),
                description: value(query, "desc"),
                cluster_id: None,
                guest_os_customization: None,
                tag: Vec::new(),
                tag_by_id: Vec::new(),
            })),
            Self::CreateAffinity => {
                let request: CreateAntiAffinityRule =
                    Body::parse(body)?.of(&["NewAntiAffinityRule"])?.decode()?;
                Ok(Change::CreateAntiAffinityRule(request))
            }
            Self::DeleteAffinity(rule) => Ok(Change::DeleteAntiAffinityRule((*rule).to_owned())),
        }
    }
}

/// A form: name and description, CPUs, memory in MiB.
fn edit(server: &str, body: &[u8]) -> Result<Change, Refused> {
    let form = std::str::from_utf8(body).map_err(|_| Refused::invalid("The request is not UTF-8."))?;
    let form = parse_query(form);
    let cpu_count = value(&form, "cpuCount").map(|text| number(&text)).transpose()?;
    let memory = value(&form, "memory").map(|text| number(&text)).transpose()?;
    if memory.is_some_and(|memory| memory % MIB_PER_GIB != 0) {
        return Err(Refused::invalid("memory must be a multiple of 1024."));
    }
    let (name, description) = (value(&form, "name"), value(&form, "description"));
    let resize = (cpu_count.is_some() || memory.is_some()).then(|| ReconfigureServer {
        id: server.into(),
        memory_gb: memory.map(|memory| memory / MIB_PER_GIB),
        cpu_count,
        cpu_speed: None,
        cores_per_socket: None,
    });
    if resize.is_none() && name.is_none() && description.is_none() {
        return Err(Refused::invalid("At least one of name, description, cpuCount and memory is needed."));
    }
    Ok(Change::EditServer(EditServerMetadata { id: server.into(), name, description }, resize))
}

fn value(pairs: &[(String, String)], name: &str) -> Option<String> {
    pairs.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone())
}

fn number(text: &str) -> Result<u32, Refused> {
    text.parse().map_err(|_| Refused::invalid(format!("'{text}' is not a number.")))
}
