//! Thin overlays: the qcow2 images that servers' system disks are.
//!
//! Only the frame is written here (QEMU `docs/interop/qcow2.txt`): header, one refcount block, an empty L1
//! table. QEMU fills it. The L1 table has its final size from the start, so that growing an overlay is a
//! change of one number.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{FileExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// One cluster of L1 entries; each covers 512 MiB, so an overlay may grow to 4 TiB.
const L1_ENTRIES: u32 = 8192;
/// Where the header keeps the virtual size.
const SIZE_OFFSET: u64 = 24;
/// Where the header keeps where the base image's path is, and after it how long that is.
const BASE_OFFSET: u64 = 8;
/// Longest path of a base image, in bytes.
const BASE_MAX: u32 = 1023;
const MAGIC: &[u8; 4] = b"QFI\xfb";

/// Makes an overlay of the raw image `base`. `path` must not exist.
pub fn create(path: &Path, base: &Path, bytes: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&frame(base, bytes)?)?;
    file.sync_all()
}

/// Grows the overlay at `path`; QEMU must not have it open. A smaller size is ignored.
pub fn grow(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if bytes > read_size(&file)? {
        file.write_all_at(&bytes.to_be_bytes(), SIZE_OFFSET)?;
        file.sync_all()?;
    }
    Ok(())
}

/// The image that the overlay at `path` lies over.
pub fn base(path: &Path) -> io::Result<PathBuf> {
    let file = File::open(path)?;
    read_size(&file)?;
    let (mut from, mut length) = ([0; 8], [0; 4]);
    file.read_exact_at(&mut from, BASE_OFFSET)?;
    file.read_exact_at(&mut length, BASE_OFFSET + 8)?;
    let length = u32::from_be_bytes(length);
    if length == 0 || length > BASE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not an overlay"));
    }
    let mut base = vec![0; length as usize];
    file.read_exact_at(&mut base, u64::from_be_bytes(from))?;
    Ok(OsString::from_vec(base).into())
}

fn read_size(file: &File) -> io::Result<u64> {
    let (mut magic, mut size) = ([0; 4], [0; 8]);
    file.read_exact_at(&mut magic, 0)?;
    file.read_exact_at(&mut size, SIZE_OFFSET)?;
    if &magic != MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a qcow2 image"));
    }
    Ok(u64::from_be_bytes(size))
}

/// The four clusters of an empty overlay: header, refcount table, refcount block, L1 table.
fn frame(base: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    const HEADER: u32 = 104;
    const EXTENSION_BASE_FORMAT: u32 = 0xe279_2aca;
    let base = base.as_os_str().as_bytes();
    if base.len() > BASE_MAX as usize {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "path of the base image is over 1023 bytes"));
    }
    let mut header: Vec<u8> = Vec::new();
    let put32 = |to: &mut Vec<u8>, value: u32| to.extend_from_slice(&value.to_be_bytes());
    let put64 = |to: &mut Vec<u8>, value: u64| to.extend_from_slice(&value.to_be_bytes());
    // Extensions follow the header: base format "raw" (padded to 8), end mark; then the base's path.
    let base_offset = u64::from(HEADER) + 16 + 8;
    header.extend_from_slice(MAGIC);
    put32(&mut header, 3);
    put64(&mut header, base_offset);
    put32(&mut header, base.len() as u32);
    put32(&mut header, CLUSTER_BITS);
    put64(&mut header, bytes);
    put32(&mut header, 0); // not encrypted
    put32(&mut header, L1_ENTRIES);
    put64(&mut header, 3 * CLUSTER); // L1 table
    put64(&mut header, CLUSTER); // refcount table
    put32(&mut header, 1); // its length in clusters
    put32(&mut header, 0); // no snapshots
    put64(&mut header, 0);
    for _features in ["incompatible", "compatible", "autoclear"] {
        put64(&mut header, 0);
    }
    put32(&mut header, 4); // refcounts of 16 bits
    put32(&mut header, HEADER);
    put32(&mut header, EXTENSION_BASE_FORMAT);
    put32(&mut header, 3);
    header.extend_from_slice(b"raw\0\0\0\0\0");
    put64(&mut header, 0);
    header.extend_from_slice(base);

    let mut frame = header;
    frame.resize(4 * CLUSTER as usize, 0);
    let at = |cluster: u64| (cluster * CLUSTER) as usize;
    frame[at(1)..at(1) + 8].copy_from_slice(&(2 * CLUSTER).to_be_bytes());
    for cluster in 0..4 {
        let entry = at(2) + cluster * 2;
        frame[entry..entry + 2].copy_from_slice(&1_u16.to_be_bytes());
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_names_its_base_and_grows_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("overlay");
        create(&path, Path::new("/images/disk.raw"), 10 << 30).expect("creates");
        assert_eq!(base(&path).expect("reads"), Path::new("/images/disk.raw"));

        let size = || read_size(&File::open(&path).expect("opens")).expect("has a size");
        grow(&path, 20 << 30).expect("grows");
        assert_eq!(size(), 20 << 30);
        grow(&path, 5 << 30).expect("is fine");
        assert_eq!(size(), 20 << 30);
        assert!(create(&path, Path::new("/x"), 1).is_err(), "never overwrites");
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("raw");
        std::fs::write(&path, [0; 64]).expect("writes");
        assert!(grow(&path, 1 << 30).is_err());
        assert!(base(&path).is_err());
    }
}
