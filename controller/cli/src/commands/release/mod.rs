//! `fleetctl release …`: what nodes may run, by whose word.

mod chain;
mod create;
mod draft;
mod folder;
pub mod keys;
mod list;
mod permit;
mod publish;
mod remove;
mod words;

use fleet_model::FleetName;
use fleet_proto::v1::{ReleasesRequest, RootChain, releases_client::ReleasesClient};
use tonic::{Code, transport::Channel};

use crate::{
    args::{Global, Output, release::Release},
    connect::{reach, refused},
    failure::{Exit, Failure},
    home::Home,
    printer,
};

use self::keys::Keys;

pub async fn run(global: &Global, release: Release) -> Result<Exit, Failure> {
    let home = Home::of(global)?;
    match release {
        Release::Keys => {
            let keys = Keys::ensure(&home, note)?;
            keys.keep()?;
            show(&keys, global.output)
        }
        Release::Rotate { role } => {
            if let Some(keys) = Keys::open(&home)? {
                // It would make another root of the same number, which no node that has the right one ever follows.
                chain::fits(&home, &chain::fleets(global, &home), &keys, chain::Apart::is_stale).await?;
            }
            let keys = Keys::rotate(&home, role)?;
            note(&format!(
                "every copy made of {} before is worthless now, whichever key it was: make it anew, and destroy those",
                keys.dir().display()
            ));
            note("tell it to your fleets: `fleetctl up` and `fleetctl release publish` do");
            show(&keys, global.output)
        }
        Release::Create(args) => create::run(global, &home, args).await,
        Release::Publish { dir } => publish::run(global, &home, &dir).await,
        Release::List => list::list(global, &home).await,
        Release::Show { release } => list::show(global, &home, release).await,
        Release::Remove { release } => remove::run(global, &home, release).await,
        Release::Permit(args) => permit::run(global, &home, args).await,
    }
}

fn show(keys: &Keys, output: Output) -> Result<Exit, Failure> {
    match output {
        Output::Json => printer::json(&words::keys_document(keys))?,
        Output::Text => printer::text(&words::keys_text(keys))?,
    }
    words::warn(&words::outlook(keys.trust(), None));
    Ok(Exit::Ok)
}

/// Tells a fleet's controller by whose roots releases are taken: part of `up`. Keys are made if there are none.
///
/// # Errors
/// Keys cannot be made or used, or are an old copy of those the controller knows. One that knows another releaser is told
/// of, and `up` goes on: whoever lost the keys has a fleet still.
pub async fn hand_over(home: &Home, fleet: &FleetName, note: impl Fn(&str)) -> Result<(), Failure> {
    let keys = Keys::ensure(home, &note)?;
    for line in words::outlook(keys.trust(), None) {
        note(&line);
    }
    let mut client = client(home, fleet).await?;
    if let Ok(reply) = client.list(ReleasesRequest {}).await {
        let apart = chain::apart(keys.chain(), &reply.into_inner().roots);
        if let Some(apart) = apart.filter(|apart| apart.is_stale()) {
            return Err(apart.refusal(fleet, &keys));
        }
    }
    let told = client.trust(RootChain { roots: keys.chain().to_vec() }).await;
    match told {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::Unimplemented => {
            note("the controller is older than this program and takes no releases; restart it to have them");
            Ok(())
        }
        Err(status) if status.code() == Code::InvalidArgument => {
            let failure = refused(&status);
            note(&format!("releases are not taken from you: {failure}"));
            Ok(())
        }
        Err(status) => Err(refused(&status)),
    }
}

async fn client(home: &Home, fleet: &FleetName) -> Result<ReleasesClient<Channel>, Failure> {
    Ok(ReleasesClient::new(reach(&home.fleet(fleet), fleet).await?.0))
}

fn note(line: &str) {
    eprintln!("{line}");
}
