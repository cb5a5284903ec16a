//! Writes an LVM2 physical volume with one linear logical volume, without device mapper on the host.
//!
//! Many build hosts have no device mapper, and a helper machine to run `lvcreate` in would cost minutes under
//! emulation. The on-disk format is small and frozen: a label, a metadata area header, and a text. Layout as
//! in LVM2's `lib/format_text/layout.h`, `lib/label/label.h` and the text that `vgcfgbackup` prints.

use sha2::{Digest, Sha256};

/// Bytes per sector in every LVM field.
const SECTOR: u64 = 512;
/// LVM's default physical extent, in sectors: 4 MiB.
const EXTENT_SECTORS: u64 = 8192;
/// Where the first extent starts, in sectors: LVM's default alignment of 1 MiB.
const DATA_START_SECTORS: u64 = 2048;
/// The metadata area lies between the labels and the data.
const METADATA_START: u64 = 4096;
const METADATA_SIZE: u64 = DATA_START_SECTORS * SECTOR - METADATA_START;
/// Size of the metadata area's own header; the text follows it.
const METADATA_HEADER: u64 = 512;
/// LVM's CRC starts from this value and is not inverted at the end.
const CRC_START: u32 = 0xf597_a6cf;

/// One group with one volume that fills one physical volume.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Volume group.
    pub group: &'static str,
    /// Logical volume.
    pub volume: &'static str,
    /// Size of the partition that is the physical volume, in bytes.
    pub partition_bytes: u64,
    /// What the UUIDs are derived from, so that the same image always carries the same.
    pub seed: String,
}

impl Layout {
    /// Extents of the logical volume.
    fn extents(&self) -> u64 {
        (self.partition_bytes / SECTOR).saturating_sub(DATA_START_SECTORS) / EXTENT_SECTORS
    }

    /// Where the logical volume's first byte lies in the partition.
    pub fn volume_offset(&self) -> u64 {
        DATA_START_SECTORS * SECTOR
    }

    /// Size of the logical volume in bytes.
    pub fn volume_bytes(&self) -> u64 {
        self.extents() * EXTENT_SECTORS * SECTOR
    }

    /// The first bytes of the partition: label, metadata header, metadata.
    pub fn head(&self) -> Vec<u8> {
        let text = self.text();
        let mut head = vec![0; (METADATA_START + METADATA_HEADER) as usize];
        let label = self.label_sector();
        head[SECTOR as usize..2 * SECTOR as usize].copy_from_slice(&label);
        head[METADATA_START as usize..].copy_from_slice(&metadata_header(&text));
        head.extend_from_slice(&text);
        head
    }

    /// Sector 1: who this physical volume is and where its areas lie.
    fn label_sector(&self) -> [u8; SECTOR as usize] {
        const HEADER: usize = 32;
        let mut body = Vec::new();
        body.extend_from_slice(self.uuid("physical volume").replace('-', "").as_bytes());
        body.extend_from_slice(&self.partition_bytes.to_le_bytes());
        // Data areas, then metadata areas, each list closed by zeros; size 0 means "to the end".
        for area in [(DATA_START_SECTORS * SECTOR, 0), (0, 0), (METADATA_START, METADATA_SIZE), (0, 0)] {
            let (offset, size): (u64, u64) = area;
            body.extend_from_slice(&offset.to_le_bytes());
            body.extend_from_slice(&size.to_le_bytes());
        }
        // Extension, version 2: flag 1 says that the volume belongs to a group; no boot loader area.
        body.extend_from_slice(&2_u32.to_le_bytes());
        body.extend_from_slice(&1_u32.to_le_bytes());

        let mut sector = [0; SECTOR as usize];
        sector[..8].copy_from_slice(b"LABELONE");
        sector[8..16].copy_from_slice(&1_u64.to_le_bytes());
        sector[20..24].copy_from_slice(&(HEADER as u32).to_le_bytes());
        sector[24..32].copy_from_slice(b"LVM2 001");
        sector[HEADER..HEADER + body.len()].copy_from_slice(&body);
        // The checksum covers everything after itself.
        let crc = crc(&sector[20..]);
        sector[16..20].copy_from_slice(&crc.to_le_bytes());
        sector
    }

    /// What `vgcfgbackup` would print, ending in a zero byte as LVM writes it.
    fn text(&self) -> Vec<u8> {
        let Self { group, volume, .. } = self;
        let (extents, sectors) = (self.extents(), self.partition_bytes / SECTOR);
        let (group_id, physical_id, volume_id) =
            (self.uuid("group"), self.uuid("physical volume"), self.uuid("logical volume"));
        let mut text = format!(
            r#"{group} {{
id = "{group_id}"
seqno = 1
format = "lvm2"
status = ["RESIZEABLE", "READ", "WRITE"]
flags = []
extent_size = {EXTENT_SECTORS}
max_lv = 0
max_pv = 0
metadata_copies = 0

physical_volumes {{

pv0 {{
id = "{physical_id}"
device = "/dev/sda1"

status = ["ALLOCATABLE"]
flags = []
dev_size = {sectors}
pe_start = {DATA_START_SECTORS}
pe_count = {extents}
}}
}}

logical_volumes {{

{volume} {{
id = "{volume_id}"
status = ["READ", "WRITE", "VISIBLE"]
flags = []
creation_time = 1
creation_host = "image"
segment_count = 1

segment1 {{
start_extent = 0
extent_count = {extents}

type = "striped"
stripe_count = 1

stripes = [
"pv0", 0
]
}}
}}
}}

}}
# Generated by LVM2 compatible image writer

contents = "Text Format Volume Group"
version = 1

description = ""

creation_host = "image"
creation_time = 1

"#
        )
        .into_bytes();
        text.push(0);
        text
    }

    /// A UUID in LVM's own form: 32 letters and digits in groups of 6, 4, 4, 4, 4, 4 and 6.
    fn uuid(&self, what: &str) -> String {
        const ALPHABET: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let digest = Sha256::digest(format!("{}\n{what}", self.seed));
        let letters: String =
            digest.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect();
        let mut rest = letters.as_str();
        let mut groups = Vec::new();
        for length in [6, 4, 4, 4, 4, 4, 6] {
            let (group, tail) = rest.split_at(length);
            groups.push(group);
            rest = tail;
        }
        groups.join("-")
    }
}

/// The header of a metadata area that holds one text right behind it.
fn metadata_header(text: &[u8]) -> [u8; METADATA_HEADER as usize] {
    let mut header = [0; METADATA_HEADER as usize];
    header[4..20].copy_from_slice(b" LVM2 x[5A%r0N*>");
    header[20..24].copy_from_slice(&1_u32.to_le_bytes());
    header[24..32].copy_from_slice(&METADATA_START.to_le_bytes());
    header[32..40].copy_from_slice(&METADATA_SIZE.to_le_bytes());
    header[40..48].copy_from_slice(&METADATA_HEADER.to_le_bytes());
    header[48..56].copy_from_slice(&(text.len() as u64).to_le_bytes());
    header[56..60].copy_from_slice(&crc(text).to_le_bytes());
    let own = crc(&header[4..]);
    header[..4].copy_from_slice(&own.to_le_bytes());
    header
}

/// CRC-32 (reflected, polynomial 0xedb88320) with LVM's start value and no final inversion.
fn crc(data: &[u8]) -> u32 {
    data.iter().fold(CRC_START, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| {
                if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout {
            group: "rootvol00",
            volume: "rootlvol00",
            partition_bytes: 10 * 1024 * 1024 * 1024 - 1024 * 1024,
            seed: "test".into(),
        }
    }

    #[test]
    fn crc_is_a_crc32_with_another_start() {
        // The well-known check value of CRC-32 is cbf43926 with start and final inversion ffffffff; this
        // function differs in both, so feed it through the same arithmetic.
        let start = |data: &[u8], from: u32| {
            data.iter().fold(from, |crc, byte| {
                (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                    if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 }
                })
            })
        };
        assert_eq!(!start(b"123456789", !0), 0xcbf4_3926);
        assert_eq!(crc(b"123456789"), start(b"123456789", CRC_START));
    }

    #[test]
    fn the_volume_fits_its_partition() {
        let layout = layout();
        assert_eq!(layout.volume_offset(), 1024 * 1024);
        assert_eq!(layout.volume_bytes() % (4 * 1024 * 1024), 0);
        assert!(layout.volume_offset() + layout.volume_bytes() <= layout.partition_bytes);
        assert!(layout.partition_bytes - layout.volume_offset() - layout.volume_bytes() < 4 * 1024 * 1024);
    }

    #[test]
    fn head_carries_label_and_checksums() {
        let head = layout().head();
        assert_eq!(&head[512..520], b"LABELONE");
        let stored = u32::from_le_bytes(head[528..532].try_into().expect("four bytes"));
        assert_eq!(stored, crc(&head[532..1024]));
        let metadata = &head[4096..];
        let stored = u32::from_le_bytes(metadata[..4].try_into().expect("four bytes"));
        assert_eq!(stored, crc(&metadata[4..512]));
        assert!(head.len() < 1024 * 1024, "metadata must end before the data");
    }

    #[test]
    fn text_reads_as_vgcfgbackup_prints_it() {
        let text = String::from_utf8(layout().text()).expect("ASCII");
        insta::assert_snapshot!(text.trim_end_matches('\0'));
    }
}
