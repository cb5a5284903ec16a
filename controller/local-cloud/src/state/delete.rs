//! Servers deleted.

use super::{Context, Done, Operation, Refused, State, Work, power::usable};

impl State {
    /// A server must be stopped to be deleted. Its translations stay: they belong to the network domain.
    pub(crate) fn delete_server(
        &mut self,
        id: &str,
        cx: &mut Context<'_>,
    ) -> Result<(Done, Vec<Work>), Refused> {
        let record = self.record(id)?;
        usable(record)?;
        if record.entity.started {
            return Err(Refused::new("SERVER_STARTED", format!("Server {id} is started; stop it first.")));
        }
        self.begin(id, Operation::Delete, cx)
    }
}
