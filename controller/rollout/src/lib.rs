//! Rollouts: bringing a change to every node of a fleet, and never being sorry. Pure: no I/O, no clock, no runtime.
//!
//! [`advance`] takes one event into a [`Rollout`] and answers with what to do. The first thing to do is always to store
//! the state ([`Effect::Persist`]); a controller that dies anywhere leaves a state from which another goes on with
//! [`outstanding`] and [`Event::Sessions`]. Start reading at [`state`], then `engine`.
//!
//! What is brought is a [`Target`]: a release of the agent, or the work that a plan has its nodes do. The machine is the
//! same for both; whoever drives it knows how each is offered and what nodes say of it.
//!
//! # The rollout
//!
//! | stands | new nodes start | leaves it when |
//! |---|---|---|
//! | draft | no | an operator starts it |
//! | running a wave | of this wave, and who catches up with earlier ones | all of it are settled, and (canaries) one of them committed → baking |
//! | baking | only who catches up | the wave was watched for its bake time, and each of it heard to be well after that → next wave, or finished |
//! | undoing | who was touched, back to what it ran | all of them are settled → finished |
//! | finished | only who catches up | a late failure → halted; another rollout takes over |
//! | halted | no; offers not begun, or failed before the switch, are taken back | resume, undo. It lies *over* the others: they stay where they are |
//!
//! A stopped line lies over it in the same way, and is cleared apart from it.
//!
//! # A node
//!
//! | state | what the node said | next |
//! |---|---|---|
//! | pending | nothing | held, or offered when its turn comes; silent if away by then |
//! | held | nothing; its gates before are asked | offered; failed if a gate answers no until its deadline |
//! | offered | nothing yet | fetching, trial, committed, failed; silent |
//! | fetching, on trial | that it does | committed or proving, failed, rolled back; catching up if cut; silent |
//! | proving | that it committed; its gates after are asked | committed; failed, and told to return when that is its turn |
//! | committed | that it has the target; its gates after are asked on | rolled back (late crash); silent; failed if it does worse than before, and told to return when that is its turn |
//! | failed, rolled back | why | what it says next, or a retry by an operator |
//! | silent | nothing since the deadline | catching up when it returns |
//! | catching up | that it is there | offered the *current* target, within the budgets |
//!
//! # What always holds
//!
//! - Nothing counts as updated because it was sent: only a node's report moves it past *offered*.
//! - Absence is no failure. A node that is away is silent, which has a budget of its own, and only if it was touched.
//!   A node that says others are busy is waited for. A deadline counts time during which a controller listened
//!   ([`state::Moment`]), so an absent controller and a jumping clock are nobody's failure.
//! - Nothing starts that would pass a budget, and nothing at all while halted or while the line is stopped; but a halt
//!   keeps nobody from going back that failed with the target.
//! - A node passes its bake by its own word, said after it: nobody passes because nothing was heard. What it was asked
//!   to pass it passes for as long as it is watched; its agent does not crash, and no task fails that did not before.
//! - Numbers of orders are above all that a node says it has seen, whatever the store remembers.
//! - Canaries are passed by success: one that is away is replaced, one that went wrong halts.
//! - No more members of a database cluster are out than its replicas can spare, whatever took them out.
//! - The log, replayed over the draft, gives the state.

pub mod effect;
mod engine;
pub mod event;
mod explain;
mod member;
pub mod policy;
pub mod state;
mod target;

pub use effect::{Effect, Notice};
pub use engine::{LONGEST_UNHEARD_MS, Refused, advance, outstanding, replay, start::Obstacle};
pub use event::{Entry, Event, Health, Kind, Reason, Step};
pub use explain::{Explanation, PreviewedWave, explain, preview};
pub use member::Member;
pub use policy::Policy;
pub use state::{Finish, Outcome, Phase, Rollout, Spec, Standing, State};
pub use target::Target;
