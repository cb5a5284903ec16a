//! A controller that somebody broke into: its store says what no releaser signed.

use std::sync::Arc;

use fleet_controller::{
    records::{Records, keys},
    releases::ReleaseRecord,
};
use fleet_model::SystemClock;
use fleet_store::{EmbeddedStore, Expected};
use fleet_tests::eventually;

use crate::fleet::{Fleet, PATIENCE, Release};

/// Changes what the controller keeps of a release, while it does not run.
#[track_caller]
pub fn forge(fleet: &Fleet, release: &Release, change: impl FnOnce(&mut ReleaseRecord)) {
    fleet.kill_controller();
    let file = fleet.home().join("store.db");
    // Threads of who was killed may be on their way out still, and hold it.
    let store = eventually("the store is let go", PATIENCE, || {
        EmbeddedStore::open(&file, Arc::new(SystemClock)).ok()
    });
    tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let records = Records::new(Arc::new(store));
        let key = keys::release(&release.digest);
        let held = records.get::<ReleaseRecord>(&key).await.expect("readable").expect("it was published");
        let mut record = held.value;
        change(&mut record);
        records.put(&key, &record, Expected::Version(held.version)).await.expect("written");
    });
    fleet.start_controller();
}
