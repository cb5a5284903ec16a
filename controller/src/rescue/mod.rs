//! A way to a release for agents that no other door lets in.
//!
//! An agent whose certificate ran out and who may not return, or who speaks no protocol of this controller's, cannot hear
//! its orders: the very update that would help it does not reach it. Here it asks for it, on the enrolment listener, over
//! a protocol that is frozen (`proto/rescue.proto`). It is told the signed release, and given its bytes, if the rollout's
//! engine has ordered that node to take it, or would now if only the node had a session ([`ordered`]); never while the
//! rollout is halted, undone or superseded, nor while the line is stopped. The agent verifies everything by its own chain
//! of trust, as with any order, and goes through the ordinary trial. Whoever is told here that it is its turn takes a
//! place among those in flight until it is heard of, or has had the time for a fetch and a trial: no more are told than
//! the rollout's budgets leave. That is kept here and not in the rollout, which nobody unproved may hold up.
//!
//! # What somebody on the network can do
//!
//! Nobody proves here who they are, so anybody who reaches the listener may ask in any node's name. They learn whether
//! there is an order to a node of that name now, and read a release: signed programs that every node has, and no secret.
//! They can keep the few places in flight, for transfers and asks busy, and so keep others from this door; sessions have
//! places of their own and notice nothing. They cannot change anything else: nothing is written. Who sits between an agent and this door can cut the line; the agent knows the fleet's authority, so nobody
//! else can answer in the controller's place. And who took a controller over can withhold a release or hand out an older
//! order, but not have a node run what the releaser did not sign, nor an older version than it had, nor one that expired.

mod ordered;
mod service;

pub use service::RescueService;
