//! Images of the customer's: disks of a server as they were when it was copied, one folder for each image.
//!
//! A system disk stays the overlay it was, so a copy is as large as what its server wrote.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    qemu::Files,
    run::{Doing, Program},
};
use crate::backing::{BackingError, DiskSpec, Id, ServerSpec};

/// Disks hold up to a terabyte, of which emptiness costs nothing.
const COPY_TIMEOUT: Duration = Duration::from_secs(1800);
/// How names end of what is not whole yet.
const PARTIAL: &str = ".partial";

/// All images of one cloud.
#[derive(Clone, Debug)]
pub struct Copies {
    folder: PathBuf,
}

impl Copies {
    /// Those of the cloud in `cloud`.
    pub fn of(cloud: &Path) -> Self {
        Self { folder: cloud.join("images") }
    }

    /// The folder of them all.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn disk(image: &Path, disk: &DiskSpec) -> PathBuf {
        image.join(format!("disk-{}", disk.scsi_id))
    }

    /// Makes an image of a server's disks. The server must not run.
    pub async fn take(&self, server: &ServerSpec, files: &Files, image: &str) -> Result<(), BackingError> {
        let whole = self.folder.join(image);
        if whole.exists() {
            return Ok(());
        }
        let partial = self.folder.join(format!("{image}{PARTIAL}"));
        let doing = || Doing::new(format!("fill {}", partial.display()));
        gone(&partial).and_then(|()| fs::create_dir_all(&partial)).map_err(|source| doing().io(source))?;
        for disk in &server.disks {
            copy(&files.disk(disk), &Self::disk(&partial, disk)).await?;
        }
        // In one step: half an image would be taken for a whole one.
        fs::rename(&partial, &whole).map_err(|source| doing().io(source))
    }

    /// Gives a new server the disks of its image. Sizes are the image's.
    pub async fn lay_out(&self, image: &str, server: &ServerSpec, files: &Files) -> Result<(), BackingError> {
        let image = self.folder.join(image);
        for disk in &server.disks {
            let path = files.disk(disk);
            if path.exists() {
                continue;
            }
            let partial = PathBuf::from(format!("{}{PARTIAL}", path.display()));
            copy(&Self::disk(&image, disk), &partial).await?;
            fs::rename(&partial, &path)
                .map_err(|source| Doing::new(format!("make disk {}", path.display())).io(source))?;
        }
        Ok(())
    }

    /// Deletes an image. Fine if it is not there.
    pub fn remove(&self, image: &str) -> Result<(), BackingError> {
        let folder = self.folder.join(image);
        gone(&folder).map_err(|source| Doing::new(format!("remove {}", folder.display())).io(source))
    }

    /// Deletes all others.
    pub fn keep(&self, images: &[Id]) -> Result<(), BackingError> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Ok(()) };
        for name in entries.filter_map(Result::ok).map(|entry| entry.file_name()) {
            let name = name.to_string_lossy();
            if !images.iter().any(|image| *image == name) {
                self.remove(&name)?;
            }
        }
        Ok(())
    }
}

/// Copies a disk, over what an interrupted copy left.
async fn copy(from: &Path, to: &Path) -> Result<(), BackingError> {
    Program::new("cp")
        .args(["--sparse=always", "--reflink=auto", "--preserve=mode", "--"])
        .args([from, to])
        .timeout(COPY_TIMEOUT)
        .run(&format!("copy disk {}", from.display()))
        .await
        .map(drop)
}

fn gone(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    fn server(id: &str, disks: &[(&str, u8)]) -> ServerSpec {
        let disk = |&(id, scsi_id): &(&str, u8)| DiskSpec { id: id.into(), scsi_id, size_gb: 1 };
        ServerSpec {
            id: id.into(),
            name: id.into(),
            domain: "d".into(),
            image: None,
            cpus: 1,
            memory_mib: 1024,
            disks: disks.iter().map(disk).collect(),
            nics: vec![],
            root_password: None,
        }
    }

    /// A server with files, each disk saying whose it is, far into its emptiness.
    fn with_disks(servers: &Path, server: &ServerSpec) -> Files {
        use std::os::unix::fs::FileExt as _;
        let files = Files::new(servers, &server.id);
        fs::create_dir_all(files.folder()).expect("made");
        for disk in &server.disks {
            let file = fs::File::create(files.disk(disk)).expect("made");
            file.set_permissions(fs::Permissions::from_mode(0o600)).expect("private");
            file.write_all_at(disk.id.as_bytes(), 64 << 20).expect("written");
        }
        files
    }

    fn text(path: &Path) -> String {
        let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        String::from_utf8_lossy(&bytes[64 << 20..]).into_owned()
    }

    #[tokio::test]
    async fn a_server_of_an_image_has_copies_of_its_disks() {
        let dir = tempfile::tempdir().expect("a folder");
        let (servers, copies) = (dir.path().join("servers"), Copies::of(dir.path()));
        let source = server("source", &[("a", 0), ("b", 3)]);
        let files = with_disks(&servers, &source);
        // What a copy that was interrupted left is no image.
        fs::create_dir_all(copies.folder().join("i.partial/rest")).expect("made");
        copies.take(&source, &files, "i").await.expect("copied");
        fs::remove_dir_all(files.folder()).expect("an image does not need its server");

        let new = server("new", &[("c", 0), ("d", 3)]);
        let files = Files::new(&servers, &new.id);
        fs::create_dir_all(files.folder()).expect("made");
        copies.lay_out("i", &new, &files).await.expect("laid out");
        let disks: Vec<_> = new.disks.iter().map(|disk| files.disk(disk)).collect();
        assert_eq!(disks.iter().map(|disk| text(disk)).collect::<Vec<_>>(), ["a", "b"]);
        for disk in &disks {
            let metadata = fs::metadata(disk).expect("there");
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
            assert!(metadata.blocks() * 512 < 1 << 20, "emptiness costs nothing");
        }
        // A second time finds the work done, whatever the server wrote since.
        fs::write(&disks[0], "changed").expect("written");
        copies.lay_out("i", &new, &files).await.expect("laid out");
        assert_eq!(fs::read_to_string(&disks[0]).expect("there"), "changed");

        copies.keep(&["i".to_owned()]).expect("kept");
        assert!(copies.folder().join("i").is_dir());
        copies.keep(&[]).expect("removed");
        copies.remove("i").expect("gone already");
        let other = server("other", &[("e", 0)]);
        let files = Files::new(&servers, &other.id);
        fs::create_dir_all(files.folder()).expect("made");
        let error = copies.lay_out("i", &other, &files).await.expect_err("no such image");
        assert!(error.to_string().contains("copy disk"), "{error}");
        assert!(!files.disk(&other.disks[0]).exists());
    }
}
