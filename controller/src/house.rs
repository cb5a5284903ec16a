//! What goes on in the background while a controller serves: each a loop that looks, decides and acts.

use std::{sync::Arc, time::Duration};

use fleet_model::{Clock, NodeName};
use fleet_proto::tls::IdentitySlot;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_util::sync::CancellationToken;

use crate::{
    artifacts::Artifacts,
    enrol::ca::{Ca, SERVER_LIFE},
    reconcile::board::Board,
    records::{ObservedRecord, Records, keys},
    session::stream::Desk,
    tls::peer::Connections,
};

/// How often the house is kept: silence noticed, certificates that ran out cut off.
const KEEP: Duration = Duration::from_secs(1);
/// How often artifacts are swept that nothing names any more: they stay for a day anyway.
const SWEEP: Duration = Duration::from_secs(3600);
/// How often observations are written behind, and how many at once.
const WRITE_BEHIND: Duration = Duration::from_secs(2);
const WRITE_BEHIND_NODES: usize = 512;

/// Renews our own certificate at two thirds of its life, by the clock that certificates are judged by.
pub(crate) async fn renew_identity(
    identity: Arc<IdentitySlot>,
    ca: Arc<Ca>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    const LOOK: Duration = Duration::from_secs(30);
    let mut issued = clock.now();
    // Cancel safe: nothing is under way while it sleeps.
    while !stopped_after(LOOK, &stop).await {
        let now = clock.now();
        // A clock that was set back makes the certificate not valid yet: as good a reason as age.
        if now.since(issued) < SERVER_LIFE * 2 / 3 && now >= issued {
            continue;
        }
        let renewed =
            ca.issue_server(&uuid::Uuid::new_v4().to_string(), now).map_err(|e| fleet_model::chain(&e));
        let swapped = renewed.and_then(|(leaf, key)| {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
            identity.swap(vec![leaf.der], key).map_err(|error| fleet_model::chain(&error))
        });
        match swapped {
            Ok(()) => {
                tracing::info!("own certificate renewed");
                issued = now;
            }
            Err(error) => tracing::error!(error, "own certificate not renewed; trying again"),
        }
    }
}

/// Connections since the last trim that make the next one worth its while, and new ones within one look that mean
/// the storm is not over.
const STORM: (u64, u64) = (500, 20);

/// Notices silence, trims memory after storms, and ends connections whose certificate ran out: TLS looks at it in the handshake only.
pub(crate) async fn keep(desk: Arc<Desk>, connections: Connections, stop: CancellationToken) {
    let mut silent = 0;
    let (mut entered, mut trimmed) = (0, 0);
    while !stopped_after(KEEP, &stop).await {
        let now = desk.clock.now();
        let count = desk.registry.silent();
        if count != silent {
            tracing::info!(silent = count, "sessions silent");
            silent = count;
            desk.registry.touch();
        }
        let ended = connections.cut(|peer| peer.not_after <= now);
        if ended > 0 {
            tracing::info!(connections = ended, "certificates ran out; connections ended");
        }
        let entered_before = std::mem::replace(&mut entered, connections.entered());
        if entered - trimmed >= STORM.0 && entered - entered_before < STORM.1 {
            trimmed = entered;
            // Fails only while the runtime shuts down.
            tokio::task::spawn_blocking(crate::memory::trim).await.ok();
        }
    }
}

/// Removes artifacts that nothing names any more, now and then, whether or not anybody runs `up`.
pub(crate) async fn sweep_artifacts(artifacts: Artifacts, board: Arc<Board>, stop: CancellationToken) {
    loop {
        sweep(&artifacts, &board).await;
        if stopped_after(SWEEP, &stop).await {
            return;
        }
    }
}

/// Removes artifacts that nothing names any more.
pub(crate) async fn sweep(artifacts: &Artifacts, board: &Board) {
    let (artifacts, named) = (artifacts.clone(), board.named_artifacts());
    match tokio::task::spawn_blocking(move || artifacts.sweep(&named)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(error = fleet_model::chain(&error), "artifacts not swept"),
        // Only while the runtime shuts down; the next one sweeps.
        Err(error) => tracing::debug!(%error, "artifacts not swept"),
    }
}

/// Writes observations behind: often enough for a restarted controller, seldom enough for the disk.
pub(crate) async fn write_behind(desk: Arc<Desk>, records: Records, stop: CancellationToken) {
    while !stopped_after(WRITE_BEHIND, &stop).await {
        let dirty = desk.registry.take_dirty(WRITE_BEHIND_NODES);
        write(&records, dirty).await;
    }
}

pub(crate) async fn write(records: &Records, dirty: Vec<(NodeName, ObservedRecord)>) {
    let writes = dirty
        .into_iter()
        .map(|(node, record)| async move { records.put_message(&keys::observed(&node), &record).await });
    // All at once, so that the store's writer takes them in few transactions.
    for outcome in futures::future::join_all(writes).await {
        if let Err(error) = outcome {
            // Lost only if the controller also dies before the node is next heard of.
            tracing::warn!(error = %fleet_model::chain(&error), "observation not written");
        }
    }
}

async fn stopped_after(pause: Duration, stop: &CancellationToken) -> bool {
    tokio::time::timeout(pause, stop.cancelled()).await.is_ok()
}
