//! Puts the base disk together: partition table, LVM, file system.

use std::{
    fs::OpenOptions,
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
};

use super::lvm::Layout;
use crate::{
    backing::BackingError,
    machines::run::{self, Doing},
};

/// Nominal size of the image's disk, as the cloud's images have it.
pub const DISK_GB: u32 = 10;
/// The only partition starts here; everything aligns to it.
const PARTITION_START: u64 = 1024 * 1024;
const SECTOR: u64 = 512;
/// Partition type "Linux LVM".
const TYPE_LVM: u8 = 0x8e;

/// Where on a disk of [`DISK_GB`] everything lies.
pub fn layout(seed: &str) -> Layout {
    Layout {
        group: "rootvol00",
        volume: "rootlvol00",
        partition_bytes: u64::from(DISK_GB) * 1024 * 1024 * 1024 - PARTITION_START,
        seed: seed.to_owned(),
    }
}

/// Writes `disk`, a sparse raw file, whose root volume holds a copy of the tree `root`.
pub async fn write(disk: &Path, root: &Path, seed: &str) -> Result<(), BackingError> {
    let layout = layout(seed);
    let doing = Doing::new(format!("write {}", disk.display()));
    let frame = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(disk)?;
        file.set_len(PARTITION_START + layout.partition_bytes)?;
        file.write_all(&partition_table(layout.partition_bytes))?;
        file.seek(SeekFrom::Start(PARTITION_START))?;
        file.write_all(&layout.head())?;
        file.sync_all()
    };
    frame().map_err(|source| doing.io(source))?;

    let offset = PARTITION_START + layout.volume_offset();
    let blocks = layout.volume_bytes() / 4096;
    run::Program::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "1", "-L", "root"])
        // The file is sparse, so initialised tables cost nothing here and save every guest the work.
        .args(["-E", &format!("offset={offset},lazy_itable_init=0,lazy_journal_init=0,nodiscard")])
        .args(["-J", "size=32", "-d"])
        .arg(root)
        .arg(disk)
        .arg(blocks.to_string())
        .timeout(std::time::Duration::from_secs(600))
        .run("make the image's file system")
        .await?;
    Ok(())
}

/// A DOS partition table with one LVM partition up to the end of the disk.
fn partition_table(bytes: u64) -> [u8; SECTOR as usize] {
    let mut sector = [0; SECTOR as usize];
    let entry = &mut sector[446..462];
    entry[0] = 0x80;
    // Cylinders are long gone: these values say "use the sector numbers".
    entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
    entry[4] = TYPE_LVM;
    entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
    let (start, length) = (PARTITION_START / SECTOR, bytes / SECTOR);
    // Both fit: a DOS table reaches 2 TiB, the image has 10 GiB.
    entry[8..12].copy_from_slice(&(start as u32).to_le_bytes());
    entry[12..16].copy_from_slice(&(length as u32).to_le_bytes());
    sector[510] = 0x55;
    sector[511] = 0xaa;
    sector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_fills_the_disk() {
        let layout = layout("seed");
        let table = partition_table(layout.partition_bytes);
        let number = |at: usize| u32::from_le_bytes(table[at..at + 4].try_into().expect("four bytes"));
        assert_eq!(number(454), 2048);
        assert_eq!(u64::from(number(454) + number(458)) * SECTOR, u64::from(DISK_GB) << 30);
        assert_eq!(table[450], TYPE_LVM);
        assert_eq!(&table[510..], &[0x55, 0xaa]);
    }
}
