//! What all servers know: databases, tables, users, addresses.

use std::{io, sync::Arc};

use super::{IDENTITY, Identity, METADATA, Server, lock};
use crate::{
    cluster::{
        message::Frame,
        metadata::{DatabaseEntry, Metadata, TableEntry},
    },
    disk,
    table::{TableConfig, lead::TableHandle, replica::Position},
};

impl Server {
    /// What this server knows of the cluster.
    pub fn metadata(&self) -> Metadata {
        lock(&self.metadata).clone()
    }

    /// Changes what the cluster knows; on disk here when this returns, with the others soon.
    ///
    /// # Errors
    /// The disk does not take it; nothing has changed then.
    pub fn change_metadata(&self, change: impl FnOnce(&mut Metadata)) -> io::Result<()> {
        let mut metadata = lock(&self.metadata);
        let mut after = metadata.clone();
        change(&mut after);
        if after == *metadata {
            return Ok(());
        }
        disk::blocking(|| disk::replace_json(&self.directory.join(METADATA), &after))?;
        metadata.clone_from(&after);
        drop(metadata);
        self.tell_all(|| Frame::Gossip(Box::new(after.clone())));
        self.touch();
        Ok(())
    }

    /// The same where there is nobody to tell that it failed but the journal; what was learnt will be heard again.
    pub(super) fn note_metadata(&self, change: impl FnOnce(&mut Metadata)) {
        if let Err(why) = self.change_metadata(change) {
            self.log(&format!("Cannot keep what the cluster knows: {why}"));
        }
    }

    /// Takes over what another server knows better.
    pub fn learn(&self, theirs: &Metadata) {
        self.note_metadata(|metadata| {
            metadata.merge(theirs);
        });
        self.drop_unwanted_tables();
    }

    fn drop_unwanted_tables(&self) {
        let metadata = self.metadata();
        let handles: Vec<Arc<TableHandle>> = lock(&self.tables).values().cloned().collect();
        for handle in handles {
            let unwanted = match metadata.tables.get(&handle.id) {
                None => false,
                Some(TableEntry { config: None, .. }) => true,
                Some(TableEntry { config: Some(config), position }) => {
                    !config.members().contains(&self.id)
                        && *position > handle.with(|replica| replica.state().position)
                }
            };
            if unwanted {
                self.remove_table(&handle.id);
            }
        }
    }

    pub(super) fn remove_table(&self, id: &str) {
        let Some(handle) = lock(&self.tables).remove(id) else { return };
        if let Err(why) = handle.remove() {
            self.log(&format!("Cannot remove table {id}: {why}"));
        }
        self.set_lead(id, None);
    }

    /// Says what a table's configuration is now.
    pub fn publish_table(&self, position: Position, config: TableConfig) {
        self.note_metadata(|metadata| {
            let entry = TableEntry { position, config: Some(config.clone()) };
            let newer = Metadata { tables: [(config.id.clone(), entry)].into(), ..Metadata::default() };
            metadata.merge(&newer);
        });
    }

    /// Makes a database.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn create_database(&self, name: &str) -> io::Result<String> {
        let id = uuid::Uuid::new_v4().to_string();
        self.change_metadata(|metadata| {
            metadata.databases.insert(id.clone(), DatabaseEntry { version: 1, name: Some(name.into()) });
        })?;
        Ok(id)
    }

    /// Drops a table everywhere.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn drop_table(&self, id: &str) -> io::Result<()> {
        self.change_metadata(|metadata| {
            if let Some(entry) = metadata.tables.get_mut(id) {
                entry.config = None;
            }
        })?;
        self.drop_unwanted_tables();
        Ok(())
    }

    /// Changes name and tags of this server.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn rename(&self, name: String, tags: Vec<String>) -> io::Result<()> {
        let identity = Identity { id: self.id.clone(), name, tags };
        disk::blocking(|| disk::replace_json(&self.directory.join(IDENTITY), &identity))?;
        *lock(&self.identity) = identity;
        self.announce();
        Ok(())
    }
}
