//! Carries a seed to a machine that is there already, and runs it: no cloud-init, no reboot.

use std::{collections::BTreeSet, time::Duration};

use fleet_provider::bootstrap::{
    BootStage, BootstrapError,
    push::{FIRST_BOOT, carry},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    access::Access,
    door::{Closed, DoorError, open},
    held::Place,
    look::Standing,
    mark::Mark,
    script::{as_root, quoted},
};

/// Pause between looks at a machine that does not answer: it may be starting anew.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long that is waited for: it is there already, so more than a restart is trouble.
const RESTART: Duration = Duration::from_secs(90);

/// Why a machine was not seeded.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// Its door is closed.
    #[error("{0}; then run `fleetctl up` again")]
    Door(DoorError),
    /// The seed did not do its work.
    #[error(transparent)]
    Boot(BootstrapError),
}

/// Opens the machine's door, sees that it is the node's or nobody's, marks it, carries the seed there and runs it.
///
/// # Errors
/// [`SeedError`]; seeding again is safe, with a new token in the seed.
///
/// # Cancel safety
/// Dropping the future, or `stop`, closes the connection; what runs there may go on, and the next waits for its end.
pub async fn push(
    place: &Place,
    mark: &Mark,
    access: &Access,
    document: &[u8],
    events: &mpsc::Sender<BootStage>,
    stop: &CancellationToken,
) -> Result<(), SeedError> {
    tokio::select! {
        () = stop.cancelled() => Err(SeedError::Boot(BootstrapError::Stopped)),
        done = drive(place, mark, access, document, events) => done,
    }
}

async fn drive(
    place: &Place,
    mark: &Mark,
    access: &Access,
    document: &[u8],
    events: &mpsc::Sender<BootStage>,
) -> Result<(), SeedError> {
    // Progress is for watching: when nobody keeps up, the stage is dropped.
    let tell = |stage| drop(events.try_send(stage));
    let started = Instant::now();
    let entrance = loop {
        match open(place, access).await {
            Ok(entrance) => break entrance,
            Err(error) if error.kind == Closed::Away && started.elapsed() < RESTART => {
                tell(BootStage::Reaching(error.why));
                sleep(LOOK_AGAIN).await;
            }
            Err(error) => return Err(SeedError::Door(error)),
        }
    };
    tell(BootStage::Connected);
    let (seen, standing) = entrance.judge(mark, &BTreeSet::new()).await.map_err(SeedError::Door)?;
    if let Some(Ok(other)) = seen.mark.filter(|_| standing == Standing::Free) {
        let why = format!("it has become node `{}` of this fleet meanwhile", other.node);
        return Err(SeedError::Door(DoorError::shut(why)));
    }
    if standing == Standing::Free {
        // Made anew since it was taken: nothing of ours is on it.
        entrance.put_mark(mark).await.map_err(SeedError::Door)?;
    }
    let command = as_root(&script(mark, document.len()), entrance.login());
    let done = match timeout(FIRST_BOOT, carry(entrance.ssh(), &command, document, events)).await {
        Ok(done) => done,
        Err(_) => Err(BootstrapError::TooLong(FIRST_BOOT)),
    };
    entrance.close().await;
    done.map_err(SeedError::Boot)
}

/// Takes the document in whole, waits for one that is still at work, and runs it. It is never left behind: there is a
/// token in it.
fn script(mark: &Mark, size: usize) -> String {
    format!(
        r#"exec 2>&1 9>/run/fleet-first-boot.lock
FLEET_WATCHED=1
export FLEET_WATCHED
umask 077
new=$(mktemp /run/fleet-seed.XXXXXX) || exit 1
trap 'rm -f "$new"' EXIT
trap 'exit 1' HUP INT PIPE TERM
cat >"$new" && [ "$(wc -c <"$new")" -eq {size} ] || exit 1
flock -w 600 9 || {{ echo 'fleet-first-boot: failed an earlier first boot does not end'; exit 1; }}
grep -qxF {line} {file} || {{ echo 'fleet-first-boot: failed somebody else has taken the machine'; exit 1; }}
echo fleet-first-boot: seed-written
sh "$new" 9>&-
"#,
        line = quoted(&mark.line()),
        file = crate::mark::FILE,
    )
}
