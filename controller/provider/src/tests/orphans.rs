//! What nobody answers for is found, whoever left it.

use fleet_mcp::{Id, types::Server};
use fleet_model::SystemClock;
use fleet_store::MemoryStore;

use super::check_nothing_left;
use crate::{
    Provider,
    mark::Marked,
    orphans::{Orphan, own},
    provider::strays,
    testing::{World, fleet, small},
    vault::LostVault,
};

/// A server like one of ours, with another name, id and description.
fn put_beside(world: &World, id: &str, description: Option<&str>) {
    let mut state = world.cloud.state();
    let mut server: Server = state.servers.values().next().expect("a server").clone();
    (server.id, server.name) = (Id::new(id), format!("name-of-{id}"));
    server.description = description.map(str::to_owned);
    server.create_time = Some("2016-03-21T07:46:26.000Z".to_owned());
    if let Some(info) = &mut server.network_info {
        info.primary_nic.private_ipv4 = Some([10, 70, 0, 250].into());
    }
    state.servers.insert(server.id.clone(), server);
}

fn kinds(found: &[Orphan]) -> Vec<(&str, &str)> {
    found.iter().map(|orphan| (orphan.kind, orphan.name.as_str())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_fleet_as_planned_has_none() {
    let (world, plan) = (World::new(), small());
    world.apply(&plan).await;
    assert_eq!(world.provider().orphans(Some(&plan)).await.expect("a look"), []);
    let all = world.provider().orphans(None).await.expect("a look");
    assert!(
        all.iter().any(|orphan| orphan.kind == "network domain"),
        "with no plan, nothing is wanted: {all:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_ours_strangers_and_lost_is_told_apart() {
    let (world, plan) = (World::new(), small());
    world.apply(&plan).await;
    put_beside(&world, "stranger", None);
    put_beside(&world, "lost", Some("a seed fleet=test id=9999"));
    put_beside(&world, "left", Some("fleet=test id=0001"));
    put_beside(&world, "other", Some("fleet=other id=7"));
    let found = world.provider().orphans(Some(&plan)).await.expect("a look");
    let told: Vec<String> =
        found.iter().map(|orphan| format!("{}: {}\n  {}", orphan.id, orphan.why, orphan.next_step)).collect();
    insta::assert_snapshot!(told.join("\n"));
    let mark = |id: &str| Marked { fleet: fleet().to_string(), id: id.to_owned() };
    assert_eq!(own(&found, &mark("0001")), 2, "what another fleet left is its own affair, whatever its name");
    assert_eq!(own(&found, &mark("9999")), 1, "what is unmarked in another's networks is not ours");
    assert_eq!(found[0].created.expect("said").to_string(), "2016-03-21T07:46:26.000Z");
}

#[tokio::test(start_paused = true)]
async fn blocks_disks_and_images_cost_too() {
    let (world, plan) = (World::new(), small());
    world.apply(&plan).await;
    {
        let mut state = world.cloud.state();
        let mut block = state.blocks.values().next().expect("a block").clone();
        (block.id, block.base_ip) = (Id::new("extra"), [203, 0, 113, 8].into());
        state.blocks.insert(block.id.clone(), block);
        let server = state.servers.values_mut().next().expect("a server");
        let mut disk = server.disk[0].clone();
        (disk.scsi_id, disk.id) = (5, Some(Id::new("disk-5")));
        server.disk.push(disk);
        let mut image = crate::fake::images("EU6").remove(0);
        (image.id, image.name) = (Id::new("own"), "golden".to_owned());
        let elsewhere = fleet_mcp::types::Image { datacenter_id: Id::new("NA9"), ..image.clone() };
        state.customer_images = vec![image, elsewhere];
    }
    let found = world.provider().orphans(Some(&plan)).await.expect("a look");
    let kinds = kinds(&found);
    assert!(kinds.contains(&("public ip block", "203.0.113.8 and 1 more")), "{kinds:?}");
    assert!(kinds.iter().any(|(kind, name)| *kind == "disk" && name.ends_with("/5")), "{kinds:?}");
    assert_eq!(kinds.iter().filter(|(kind, _)| *kind == "image").collect::<Vec<_>>(), [&("image", "golden")]);
    assert_eq!(kinds.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_whose_state_is_lost_is_found_by_its_mark_and_removed() {
    let (world, plan) = (World::new(), small());
    world.apply(&plan).await;
    let cloud: std::sync::Arc<dyn crate::cloud::Cloud> = std::sync::Arc::clone(&world.cloud) as _;
    let found = strays(&cloud).await.expect("a look");
    let mark = found[0].mark.clone().expect("marked");
    assert!(found.iter().all(|orphan| orphan.mark.as_ref() == Some(&mark)), "{found:?}");
    let clock = std::sync::Arc::new(SystemClock);
    let provider = Provider::new(
        cloud.clone(),
        std::sync::Arc::new(MemoryStore::new(clock.clone())),
        std::sync::Arc::new(LostVault),
        mark.fleet.parse().expect("a name"),
        mark.id,
        clock,
    );
    let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
    let listening = tokio::spawn(async move { while receiver.recv().await.is_some() {} });
    let outcome =
        provider.destroy(&sender, &tokio_util::sync::CancellationToken::new()).await.expect("a run");
    drop(sender);
    listening.await.expect("ends");
    assert_eq!(outcome.problems, [] as [String; 0]);
    check_nothing_left(&world);
    assert_eq!(strays(&cloud).await.expect("a look"), []);
}
