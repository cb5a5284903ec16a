//! What the backing is told to do for a call.

use fleet_mcp::types::CloneServer;

use super::*;
use crate::backing::Stop;

impl World {
    /// What a change of a server sets the backing to.
    fn steps(&mut self, change: Change) -> Vec<Step> {
        self.change(change).expect("accepted");
        let Some(Work::Server(_, steps)) = self.work.last().cloned() else { panic!("work for a server") };
        steps
    }
}

#[test]
fn a_guest_is_told_before_it_reboots_and_not_before_it_is_reset() {
    let mut world = World::new(6);
    let (_, _, server) = with_server(&mut world);
    world.change(Change::Server(ServerCall::Start, server.clone())).expect("accepted");
    world.settle();
    let steps = world.steps(Change::Server(ServerCall::Reboot, server.clone()));
    let [Step::Stop(Stop::Graceful), Step::Start(spec)] = steps.as_slice() else { panic!("{steps:?}") };
    assert_eq!(spec.id, server);
    // Neither half of it is taken for a server that powered itself off.
    assert!(!world.state.notice_running(&[], world.now.after(Duration::from_secs(1))));
    world.settle();
    assert!(world.state.servers[0].entity.started);
    assert_eq!(world.steps(Change::Server(ServerCall::Reset, server)), [Step::Reset]);
}

#[test]
fn an_image_of_a_server_is_there_for_others_until_it_is_deleted() {
    let mut world = World::new(7);
    let (_, _, server) = with_server(&mut world);
    let request = CloneServer {
        id: server.as_str().into(),
        image_name: "golden".to_owned(),
        description: None,
        cluster_id: None,
        guest_os_customization: None,
        tag: vec![],
        tag_by_id: vec![],
    };
    let steps = world.steps(Change::CloneServer(request));
    let [Step::Clone(spec, image)] = steps.as_slice() else { panic!("{steps:?}") };
    assert_eq!((&spec.id, &spec.image, spec.disks.len()), (&server, &None, 1));
    assert_eq!(world.state.world().images, [image.as_str()], "also while it is being made");
    world.settle();

    let Some(Change::DeployServer(request)) = world.pick(&Move::Server(0, false)) else { panic!("a server") };
    let request = DeployServer { image_id: image.as_str().into(), memory_gb: Some(1), ..request };
    let steps = world.steps(Change::DeployServer(request));
    let [Step::Apply(spec)] = steps.as_slice() else { panic!("{steps:?}") };
    assert_eq!(spec.image.as_ref(), Some(image));
    let busy = world.change(Change::DeleteImage(image.clone())).expect_err("its disks are being copied");
    assert_eq!(busy.code, "RESOURCE_BUSY");
    world.settle();
    world.change(Change::DeleteImage(image.clone())).expect("nobody needs it");
    assert_eq!(world.work, [Work::RemoveImage(image.clone())]);
    assert!(world.state.world().images.is_empty());
}
