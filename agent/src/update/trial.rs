//! What an agent on trial says of itself. Pure.

use crate::{contact::Contact, worker::Board};
use fleet_task::{Outcome, Report};

/// What to tell the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// All is well.
    Commit,
    /// All is well here, and nothing can be said of the controller.
    Extend,
    /// Nothing: the time runs.
    Nothing,
}

/// A version may stay that has its identity, whose task engine works, and that has spoken with a controller. Where no
/// controller is to be had, or it is busy, that says nothing about this version. Where one answers and does not want
/// what this version says, it does.
pub(super) fn word(contact: &Contact, board: &Board) -> Word {
    let well = contact.named.is_some() && (board.cycled || board.reports.iter().any(looked));
    match well {
        true if contact.opened => Word::Commit,
        true if contact.unwanted.is_none() => Word::Extend,
        _ => Word::Nothing,
    }
}

/// Whether the engine has really looked at this task.
fn looked(report: &Report) -> bool {
    !matches!(report.outcome, Outcome::Running | Outcome::Waiting(_))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fleet_model::Timestamp;
    use fleet_task::TaskId;

    use super::*;
    use crate::contact::Named;

    #[test]
    fn who_may_stay() {
        let report = |outcome| {
            let at = Timestamp::from_millis(0);
            Report {
                task: TaskId::new("t"),
                outcome,
                warnings: Vec::new(),
                missing_members: None,
                at,
                took: Duration::ZERO,
            }
        };
        let at_work = |outcome| Board { reports: vec![report(outcome)], running: true, ..Board::default() };
        let cycled = || Board { cycled: true, ..Board::default() };
        let named = || Named { fleet: "x".parse().expect("a name"), node: "n1".parse().expect("a name") };
        let enrolled = || Contact { named: Some(named()), ..Contact::default() };
        let open = || Contact { opened: true, ..enrolled() };
        let unwanted = || Contact { unwanted: Some("too old".into()), ..enrolled() };
        let check = |name: &str, contact: Contact, board: Board, expected: Word| {
            assert_eq!(word(&contact, &board), expected, "{name}");
        };
        check("at its start", Contact::default(), Board::default(), Word::Nothing);
        check(
            "without its identity",
            Contact { opened: true, named: None, ..open() },
            cycled(),
            Word::Nothing,
        );
        check("before any task was looked at", open(), Board::default(), Word::Nothing);
        check("in its first look", open(), at_work(Outcome::Running), Word::Nothing);
        check("waiting for its turn", open(), at_work(Outcome::Waiting("x".into())), Word::Nothing);
        check("with one task looked at", open(), at_work(Outcome::Unchanged), Word::Commit);
        check("with a task that fails", open(), at_work(Outcome::Failed("x".into())), Word::Commit);
        check("with nothing to do", open(), cycled(), Word::Commit);
        check("with the controller away", enrolled(), cycled(), Word::Extend);
        check("with the controller away, engine hanging", enrolled(), Board::default(), Word::Nothing);
        check("not wanted by the controller", unwanted(), cycled(), Word::Nothing);
        check("wanted in the end", Contact { unwanted: None, ..open() }, cycled(), Word::Commit);
    }
}
