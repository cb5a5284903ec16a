//! `fleetctl user-data NODE`.

use fleet_model::{Clock as _, NodeName, SystemClock, Timestamp};
use fleet_proto::v1::UserDataRequest;

use crate::{
    args::Global,
    connect::{connect, refused},
    failure::{Exit, Failure},
    home::Home,
    printer,
};

/// Largest seed taken in: supervisor and agent in text, many times over.
const SEED_MAX: usize = 32 << 20;

pub async fn run(global: &Global, node: &NodeName) -> Result<Exit, Failure> {
    let home = Home::of(global)?;
    let fleet = home.chosen(global)?;
    let (operator, _) = connect(&home.fleet(&fleet), &fleet).await?;
    let mut operator = operator.max_decoding_message_size(SEED_MAX);
    let request = UserDataRequest { node: node.to_string() };
    let reply = operator.user_data(request).await.map_err(|status| refused(&status))?.into_inner();
    let minutes = Timestamp::from_millis(reply.token_expires_ms).since(SystemClock.now()).as_secs() / 60;
    eprintln!("The token in it is for {node} alone, works once, and expires in {minutes} minutes.");
    printer::bytes(&reply.document)?;
    Ok(Exit::Ok)
}
