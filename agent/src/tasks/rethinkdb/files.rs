//! Files the server reads beside its instance file: copies of the node's key and certificates, for its own user.

use std::{fs, os::unix::fs::MetadataExt};

use fleet_task::{Node, TaskError, atomic};

use super::{USER, settings::TLS, units::folder_of};
use crate::tasks::{
    certificate::{CA, CERTIFICATE, KEY},
    support::{accounts, hex},
};

const MODE: u32 = 0o600;

/// Key, certificate and trust of the node's services; `None` until there are any.
pub(super) fn material(node: &Node) -> Result<Option<[Vec<u8>; 3]>, TaskError> {
    let all = [node.read(KEY)?, node.read(CERTIFICATE)?, node.read(CA)?];
    Ok(match all {
        [Some(key), Some(certificate), Some(ca)] => Some([key, certificate, ca]),
        _ => None,
    })
}

/// What is wrong with the server's copies, one line each.
pub(super) fn wrong(node: &Node, material: &[Vec<u8>; 3]) -> Result<Vec<String>, TaskError> {
    let Some(user) = accounts::user(node, USER)? else {
        return Ok(vec![format!("there is no user `{USER}`")]);
    };
    let mut wrong = Vec::new();
    for (path, wanted) in TLS.iter().zip(material) {
        let fine = fs::symlink_metadata(node.path(path)).is_ok_and(|meta| {
            meta.is_file() && meta.mode() & 0o7777 == MODE && (meta.uid(), meta.gid()) == (user.uid, user.gid)
        });
        if !fine || node.read(path)?.as_ref() != Some(wanted) {
            wrong.push(format!("{path} is not the node's, for {USER} alone"));
        }
    }
    Ok(wrong)
}

/// Makes the copies.
pub(super) fn copy(node: &Node, material: &[Vec<u8>; 3]) -> Result<(), TaskError> {
    let (uid, gid) = (accounts::uid(node, USER)?, accounts::gid(node, USER)?);
    for (path, bytes) in TLS.iter().zip(material) {
        folder_of(node, path)?;
        node.write(path, bytes, MODE)?;
        atomic::give(&node.path(path), Some((uid, gid)), MODE)?;
    }
    Ok(())
}

/// Digest of all this together.
pub(super) fn digest(parts: &[&[u8]], material: &[Vec<u8>; 3]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts.iter().copied().chain(material.iter().map(Vec::as_slice)) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    hex(context.finish().as_ref())
}
