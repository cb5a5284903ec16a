//! `fleetctl repair NODE [TASK]`.

use fleet_proto::v1::RepairRequest;

use crate::{
    args::{Global, Repair},
    connect::{connect, refused},
    failure::{Exit, Failure},
    home::Home,
};

pub async fn run(global: &Global, args: Repair) -> Result<Exit, Failure> {
    let home = Home::of(global)?;
    let fleet = home.chosen(global)?;
    let (mut operator, _) = connect(&home.fleet(&fleet), &fleet).await?;
    let node = args.node.to_string();
    let request = RepairRequest { node: node.clone(), task: args.task.unwrap_or_default() };
    operator.repair(request).await.map_err(|status| refused(&status))?;
    eprintln!("{node} repairs; `fleetctl status {node} --watch` shows how that goes");
    Ok(Exit::Ok)
}
