//! What the platform offers: data centres and images. Fixed; ids are derived from names, so that they are
//! the same after every restart and on every host.

use fleet_mcp::{
    Id,
    types::{
        Cpu, Datacenter, Disk, GeographicRegion, Guest, Hypervisor, Image, Maintained, Networking,
        OperatingSystem, Property, Speed,
    },
};
use sha2::{Digest, Sha256};

use crate::settings::Quotas;

/// Region, data centre, city, country code and display name.
const DATACENTERS: [(&str, &str, &str, &str, &str); 14] = [
    ("dd-eu", "EU6", "Frankfurt", "DE", "Germany - Frankfurt"),
    ("dd-eu", "EU7", "Amsterdam", "NL", "Netherlands - Amsterdam"),
    ("dd-eu", "EU8", "London", "GB", "UK - London"),
    ("dd-eu", "EU9", "Brussels", "BE", "Belgium - Brussels"),
    ("dd-na", "NA9", "Ashburn", "US", "US - East"),
    ("dd-na", "NA12", "Santa Clara", "US", "US - West"),
    ("dd-au", "AU9", "Sydney", "AU", "Australia - Sydney"),
    ("dd-au", "AU10", "Melbourne", "AU", "Australia - Melbourne"),
    ("dd-au", "AU11", "Hamilton", "NZ", "New Zealand - Hamilton"),
    ("dd-ap", "AP3", "Singapore", "SG", "Singapore"),
    ("dd-ap", "AP4", "Tokyo", "JP", "Japan - Tokyo"),
    ("dd-ap", "AP5", "Hong Kong", "HK", "Hong Kong"),
    ("dd-af", "AF3", "Johannesburg", "ZA", "South Africa - Johannesburg"),
    ("dd-canada", "CA2", "Toronto", "CA", "Canada - Toronto"),
];

/// Id, region, name and API host of the service's regions.
const REGIONS: [(&str, &str, &str, &str); 7] = [
    ("africa", "dd-af", "Africa", "api-mea.dimensiondata.com"),
    ("asiapacific", "dd-ap", "Asia Pacific", "api-ap.dimensiondata.com"),
    ("australia", "dd-au", "Australia", "api-au.dimensiondata.com"),
    ("canada", "dd-canada", "Canada", "api-canada.dimensiondata.com"),
    ("europe", "dd-eu", "Europe", "api-eu.dimensiondata.com"),
    ("latam", "dd-latam", "South America", "api-latam.dimensiondata.com"),
    ("northamerica", "dd-na", "North America", "api-na.dimensiondata.com"),
];

/// The machine image behind every entry of the image list.
pub(crate) const BACKING_IMAGE: &str = "debian-12";

/// Key, name, description, operating system. The second is an alias: plans written for the real platform ask
/// for "Ubuntu 14", and get the image this host can build.
const IMAGES: [(&str, &str, &str, &str, &str); 2] = [
    ("T-DEBIAN-12-64-2-4-10", "Debian 12 64-bit 2 CPU", "Debian 12", "DEBIAN1264", "DEBIAN12/64"),
    (
        "T-UBUNTU-14-64-2-4-10",
        "Ubuntu 14.04 64-bit 2 CPU (Debian 12)",
        "Stands in for Ubuntu 14.04; holds Debian 12",
        "UBUNTU1464",
        "UBUNTU14/64",
    ),
];

/// Size of an image's system disk, GiB.
const SYSTEM_DISK_GB: u32 = 10;

/// Data centres of a region.
pub(crate) fn datacenters(region: &str, quotas: &Quotas) -> Vec<Datacenter> {
    let here = DATACENTERS.iter().filter(|(home, ..)| *home == region);
    here.map(|(_, id, city, country, name)| datacenter(id, city, country, name, quotas)).collect()
}

/// Whether the region has this data centre.
pub(crate) fn has_datacenter(region: &str, id: &str) -> bool {
    DATACENTERS.iter().any(|(home, own, ..)| *home == region && *own == id)
}

/// The data centre's number over all regions, from 1; part of IPv6 networks.
pub(crate) fn datacenter_number(id: &str) -> u16 {
    let index = DATACENTERS.iter().position(|(_, own, ..)| *own == id);
    index.and_then(|index| u16::try_from(index + 1).ok()).unwrap_or(0)
}

/// Images of a region, data centre by data centre.
pub(crate) fn images(region: &str) -> Vec<Image> {
    let here = DATACENTERS.iter().filter(|(home, ..)| *home == region);
    here.flat_map(|(_, datacenter, ..)| IMAGES.iter().map(|row| image(datacenter, row))).collect()
}

/// All regions of the service; `home` is the one asked.
pub(crate) fn regions(home: &str) -> Vec<GeographicRegion> {
    let region = |(id, region, name, host): &(&str, &str, &str, &str)| GeographicRegion {
        id: Id::from(*id),
        is_home: *region == home,
        name: (*name).to_owned(),
        cloud_api_host: Some((*host).to_owned()),
        cloud_ui_url: None,
        monitoring_url: None,
        ftps_host: None,
        time_zone: None,
        state: Some("ENABLED".to_owned()),
    };
    REGIONS.iter().map(region).collect()
}

/// Operating systems of the images.
pub(crate) fn operating_systems() -> Vec<OperatingSystem> {
    IMAGES.iter().map(|(_, _, _, id, name)| operating_system(id, name)).collect()
}

fn datacenter(id: &str, city: &str, country: &str, name: &str, quotas: &Quotas) -> Datacenter {
    let normal = || Some("NORMAL".to_owned());
    let property = |name: &str, value: u64| Property { name: name.to_owned(), value: value.to_string() };
    Datacenter {
        id: Id::from(id),
        generation: Some("MCP 2.0".to_owned()),
        display_name: Some(name.to_owned()),
        city: Some(city.to_owned()),
        country: Some(country.to_owned()),
        vpn_url: Some(format!("https://{}.cloud.invalid", id.to_lowercase())),
        ftps_host: Some("ftps.cloud.invalid".to_owned()),
        networking: Some(Networking {
            generation: Some("2".to_owned()),
            maintenance_status: normal(),
            property: vec![property("MAX_NODES_IN_POOL", 100)],
        }),
        hypervisor: Some(Hypervisor {
            kind: Some("VMWARE".to_owned()),
            maintenance_status: normal(),
            disk_speed: vec![
                speed("STANDARD", true, "Standard", "STD"),
                speed("HIGHPERFORMANCE", false, "High Performance", "HPF"),
                speed("ECONOMY", false, "Economy", "ECN"),
            ],
            cpu_speed: vec![
                speed("STANDARD", true, "Standard", "STD"),
                speed("HIGHPERFORMANCE", false, "High Performance", "HPF"),
            ],
            property: vec![
                property("MIN_DISK_SIZE_GB", quotas.min_disk_gb.into()),
                property("MAX_DISK_SIZE_GB", quotas.max_disk_gb.into()),
                property("MAX_TOTAL_ADDITIONAL_STORAGE_GB", quotas.storage_gb.into()),
                property("MAX_CPU_COUNT", quotas.cpus.into()),
                property("MIN_MEMORY_MB", 1024),
                property("MAX_MEMORY_MB", u64::from(quotas.memory_gb) * 1024),
            ],
        }),
        monitoring: Some(Maintained { maintenance_status: normal() }),
    }
}

fn speed(id: &str, default: bool, name: &str, abbreviation: &str) -> Speed {
    Speed {
        id: id.to_owned(),
        default: Some(default),
        available: Some(true),
        display_name: Some(name.to_owned()),
        abbreviation: Some(abbreviation.to_owned()),
        description: Some(name.to_owned()),
    }
}

fn image(datacenter: &str, row: &(&str, &str, &str, &str, &str)) -> Image {
    let (key, name, description, os, os_name) = row;
    Image {
        id: Id::new(derived_id(&format!("image/{datacenter}/{key}"))),
        datacenter_id: Id::from(datacenter),
        name: (*name).to_owned(),
        description: Some((*description).to_owned()),
        cpu: Some(Cpu { count: 2, speed: Some("STANDARD".to_owned()), cores_per_socket: Some(1) }),
        memory_gb: Some(4),
        disk: vec![Disk {
            id: Some(Id::new(derived_id(&format!("image-disk/{datacenter}/{key}")))),
            scsi_id: 0,
            size_gb: SYSTEM_DISK_GB,
            speed: Some("STANDARD".to_owned()),
            state: None,
        }],
        scsi_controller: Vec::new(),
        software_label: Vec::new(),
        create_time: Some("2016-01-01T00:00:00.000Z".to_owned()),
        os_image_key: Some((*key).to_owned()),
        state: None,
        guest: Some(Guest {
            os_customization: Some(true),
            operating_system: Some(operating_system(os, os_name)),
            vm_tools: None,
        }),
        source: None,
        progress: None,
        virtual_hardware: None,
    }
}

fn operating_system(id: &str, name: &str) -> OperatingSystem {
    OperatingSystem {
        id: id.to_owned(),
        display_name: Some(name.to_owned()),
        family: Some("UNIX".to_owned()),
    }
}

/// A UUID that depends on `name` alone.
pub(crate) fn derived_id(name: &str) -> String {
    let digest = Sha256::digest(name.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datacenter_has_what_plans_ask_for() {
        for datacenter in datacenters("dd-eu", &Quotas::default()) {
            for wanted in ["Debian 12", "Ubuntu 14"] {
                let images = images("dd-eu");
                let here =
                    |image: &&Image| image.datacenter_id == datacenter.id && image.name.contains(wanted);
                assert_eq!(images.iter().filter(here).count(), if wanted == "Debian 12" { 2 } else { 1 });
            }
        }
    }

    #[test]
    fn ids_are_stable_and_unique() {
        let ids: std::collections::BTreeSet<_> = images("dd-eu").into_iter().map(|image| image.id).collect();
        assert_eq!(ids.len(), 8);
        assert_eq!(
            derived_id("image/EU7/T-DEBIAN-12-64-2-4-10"),
            derived_id("image/EU7/T-DEBIAN-12-64-2-4-10")
        );
    }
}
