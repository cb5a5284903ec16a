//! One node's server destroyed, the rest left alone.

use fleet_mcp::types::Server;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    event::{Event, StepState},
    testing::{World, small},
};

const NODE: &str = "EU7rethinkSeed";

fn server(world: &World) -> Option<Server> {
    world.cloud.state().servers.values().find(|server| server.name == NODE).cloned()
}

async fn destroy(world: &World) -> (u64, Vec<String>) {
    let (sender, mut events) = mpsc::channel(64);
    let node = NODE.parse().expect("a name");
    let provider = world.provider();
    let (plan, stop) = (small(), CancellationToken::new());
    let destroying = async {
        let sender = sender;
        provider.destroy_node(&plan, &node, &sender, &stop).await.expect("a run")
    };
    let telling = async {
        let mut told = Vec::new();
        while let Some(event) = events.recv().await {
            if let Event::Step(step, StepState::Done) = event {
                told.push(format!("{:?} {}", step.verb, step.kind));
            }
        }
        told
    };
    let (outcome, told) = tokio::join!(destroying, telling);
    assert_eq!(outcome.problems, [] as [String; 0]);
    (outcome.changing_calls, told)
}

#[tokio::test(start_paused = true)]
async fn a_server_goes_and_comes_back_anew() {
    let (world, plan) = (World::new(), small());
    world.apply(&plan).await;
    let old = server(&world).expect("there");
    let before = {
        let state = world.cloud.state();
        (state.blocks.len(), state.vlans.len(), state.rules.len(), state.domains.len(), state.nats.len())
    };
    world.cloud.count_anew();
    let (calls, told) = destroy(&world).await;
    let mut changes = world.cloud.changes();
    assert_eq!(changes.last(), Some(&"deleteServer"));
    changes.sort_unstable();
    assert_eq!(changes, ["deleteNatRule", "deleteServer", "powerOffServer"]);
    assert_eq!((calls, told.len()), (3, 3), "{told:?}");
    assert!(server(&world).is_none());
    {
        let state = world.cloud.state();
        let after = (state.blocks.len(), state.vlans.len(), state.rules.len(), state.domains.len());
        assert_eq!(after, (before.0, before.1, before.2, before.3), "the rest stays");
        assert_eq!((state.servers.len(), state.nats.len()), (2, before.4 - 1));
    }
    assert_eq!(world.vault.0.lock().expect("unlocked").len(), 2, "its password is forgotten");
    // Again, as after a kill: there is nothing to do.
    assert_eq!(destroy(&world).await.0, 0);

    world.apply(&plan).await;
    world.check_exact(&plan).await;
    assert_ne!(server(&world).expect("there").id, old.id);
}

#[tokio::test(start_paused = true)]
async fn a_strangers_server_of_that_name_is_left_alone() {
    let (world, plan) = (World::new(), small());
    world.apply(&plan).await;
    for server in world.cloud.state().servers.values_mut() {
        server.description = Some("somebody's".to_owned());
    }
    assert_eq!(destroy(&world).await.0, 0);
    assert!(server(&world).is_some());
}
