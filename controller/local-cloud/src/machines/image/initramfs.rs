//! Makes the first file system: just enough to find LVM and mount the root volume in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use super::cpio::Archive;
use crate::{
    backing::BackingError,
    machines::run::{Doing, Program},
};

/// Drivers of the hardware that every machine of this cloud has. Loaded here, so that nothing later has to
/// wait for devices to be announced.
const DRIVERS: [&str; 9] = [
    "virtio_pci",
    "virtio_scsi",
    "sd_mod",
    "dm_mod",
    "virtio_net",
    "virtio_rng",
    "qemu_fw_cfg",
    "button",
    "evdev",
];
/// The script that runs first.
const INIT: &str = include_str!("files/initramfs-init");

/// Packs the archive from what the tree `root` holds.
pub async fn pack(root: &Path) -> Result<Vec<u8>, BackingError> {
    let doing = || Doing::new(format!("pack the first file system from {}", root.display()));
    let libraries = libraries(root, "/sbin/lvm").await?;
    let read = |path: &str| std::fs::read(root.join(path.trim_start_matches('/')));
    let assemble = || -> io::Result<Vec<u8>> {
        let mut archive = Archive::default();
        for folder in [
            "bin", "sbin", "dev", "proc", "sys", "root", "run", "etc", "etc/lvm", "modules", "usr", "usr/lib",
        ] {
            archive.folder(folder);
        }
        archive.file("init", INIT.as_bytes());
        archive.file("bin/busybox", &read("/bin/busybox")?);
        archive.file("sbin/lvm", &read("/sbin/lvm")?);
        // On the image /lib is a link to /usr/lib; here the linker's paths simply exist.
        archive.link("lib", "usr/lib");
        archive.link("lib64", "usr/lib");
        let mut made = BTreeSet::from(["/usr/lib".to_owned()]);
        for library in libraries {
            let contents = read(&library)?;
            let place = match library.strip_prefix("/lib64/").or_else(|| library.strip_prefix("/lib/")) {
                Some(rest) => format!("/usr/lib/{rest}"),
                None => library,
            };
            let folder = place.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
            if made.insert(folder.clone()) {
                archive.folder(&folder);
            }
            archive.file(&place, &contents);
        }
        let mut order = String::new();
        let (modules, files) = modules(root)?;
        for path in load_order(&modules, &DRIVERS) {
            let name = path.rsplit('/').next().unwrap_or(path);
            archive.file(&format!("modules/{name}"), &std::fs::read(files.join(path))?);
            order.push_str(name);
            order.push('\n');
        }
        archive.file("modules/order", order.as_bytes());
        Ok(archive.finish())
    };
    assemble().map_err(|source| doing().io(source))
}

/// Shared libraries of a program in the tree, by the tree's own linker.
async fn libraries(root: &Path, program: &str) -> Result<Vec<String>, BackingError> {
    let listed = Program::new("chroot")
        .arg(root)
        .args(["/lib64/ld-linux-x86-64.so.2", "--list", program])
        .run("list the libraries of lvm")
        .await?;
    Ok(library_paths(&listed))
}

/// Paths in what the linker lists: `name => /path (address)`, or just `/path (address)`.
fn library_paths(listed: &str) -> Vec<String> {
    listed
        .lines()
        .filter_map(|line| {
            let place = line.split_once("=>").map_or(line, |(_, place)| place);
            place.split_whitespace().next().filter(|path| path.starts_with('/')).map(str::to_owned)
        })
        .collect()
}

/// Each module's file and the files it needs, and the folder they lie in.
fn modules(root: &Path) -> io::Result<(BTreeMap<String, Vec<String>>, PathBuf)> {
    let versions = root.join("usr/lib/modules");
    let folder = std::fs::read_dir(&versions)?
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the tree has no kernel modules"))??
        .path();
    let dependencies = std::fs::read_to_string(folder.join("modules.dep"))?;
    Ok((parse_dependencies(&dependencies), folder))
}

/// Lines of modules.dep: `path: needed needed…`.
fn parse_dependencies(text: &str) -> BTreeMap<String, Vec<String>> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, needs)| (path.to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
        .collect()
}

/// Files of the wanted modules and what they need, needed ones first. Modules a kernel has built in are not
/// listed and therefore left out.
fn load_order<'a>(modules: &'a BTreeMap<String, Vec<String>>, wanted: &[&str]) -> Vec<&'a str> {
    fn add<'a>(path: &'a str, modules: &'a BTreeMap<String, Vec<String>>, order: &mut Vec<&'a str>) {
        if order.contains(&path) {
            return;
        }
        // modules.dep lists needs outermost first, so they are loaded from the end.
        for need in modules.get(path).into_iter().flatten().rev() {
            add(need, modules, order);
        }
        order.push(path);
    }
    let mut order = Vec::new();
    for name in wanted {
        let found = modules.keys().find(|path| {
            let file = path.rsplit('/').next().unwrap_or(path);
            file.split('.').next().is_some_and(|stem| stem.replace('-', "_") == *name)
        });
        if let Some(path) = found {
            add(path, modules, &mut order);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_modules_come_first_and_once() {
        let modules = parse_dependencies(
            "kernel/a/virtio-scsi.ko: kernel/s/scsi_mod.ko kernel/v/virtio_ring.ko kernel/v/virtio.ko\n\
             kernel/s/scsi_mod.ko: kernel/s/scsi_common.ko\n\
             kernel/s/scsi_common.ko:\n\
             kernel/v/virtio_ring.ko: kernel/v/virtio.ko\n\
             kernel/v/virtio.ko:\n\
             kernel/x/unwanted.ko:\n",
        );
        assert_eq!(
            load_order(&modules, &["virtio_scsi", "scsi_mod", "built_in"]),
            [
                "kernel/v/virtio.ko",
                "kernel/v/virtio_ring.ko",
                "kernel/s/scsi_common.ko",
                "kernel/s/scsi_mod.ko",
                "kernel/a/virtio-scsi.ko",
            ]
        );
    }

    #[test]
    fn libraries_are_those_with_a_path() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\
             \tlibudev.so.1 => /lib/x86_64-linux-gnu/libudev.so.1 (0x00007f)\n\
             \tlibgone.so => not found\n\
             \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            library_paths(listed),
            ["/lib/x86_64-linux-gnu/libudev.so.1", "/lib64/ld-linux-x86-64.so.2"]
        );
    }
}
