//! Policies as people give them: only what differs from the usual.

use serde_json::{Map, Value};

use super::Policy;

impl Policy {
    /// This policy, and what `given` says otherwise. Who says how long waves are watched and nothing of the canaries
    /// means the canaries too.
    ///
    /// # Errors
    /// What is not understood.
    pub fn over(&self, given: Value) -> Result<Self, serde_json::Error> {
        let mut given = given;
        if let Value::Object(members) = &mut given
            && !members.contains_key("canaryBake")
            && let Some(bake) = members.get("bake").cloned()
        {
            members.insert("canaryBake".to_owned(), bake);
        }
        let mut whole = serde_json::to_value(self)?;
        // Understood by itself first: what is wrong is told of what was given.
        serde_json::from_value::<Self>(given.clone())?;
        lay(&mut whole, given);
        serde_json::from_value(whole)
    }

    /// Its members, one line each, as they are set: `budgets.failed=5%`.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Ok(whole) = serde_json::to_value(self) {
            flatten("", &whole, &mut lines);
        }
        lines
    }
}

/// Members whose own members are settings of their own; every other value is one.
const NESTED: [&str; 5] = ["canaries", "canaryBudgets", "waveBudgets", "budgets", "deadlines"];

fn lay(whole: &mut Value, given: Value) {
    let (Value::Object(whole), Value::Object(given)) = (whole, given) else { return };
    for (name, value) in given {
        match whole.get_mut(&name) {
            Some(Value::Object(below)) if NESTED.contains(&name.as_str()) => {
                // What is no mapping was refused when it was read by itself.
                if let Value::Object(members) = value {
                    below.extend(members);
                }
            }
            _ => {
                whole.insert(name, value);
            }
        }
    }
}

fn flatten(path: &str, value: &Value, lines: &mut Vec<String>) {
    let nested =
        |members: &Map<String, Value>| path.is_empty() || (NESTED.contains(&path) && !members.is_empty());
    match value {
        Value::Object(members) if nested(members) => {
            for (name, value) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, value, lines);
            }
        }
        Value::String(text) => lines.push(format!("{path}={text}")),
        other => lines.push(format!("{path}={other}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::policy::{Amount, Budgets};

    #[test]
    fn what_is_not_said_is_as_usual() {
        let usual = Policy::of_plans();
        assert_eq!(usual.over(json!({})).expect("nothing said"), usual);
        let policy =
            usual.over(json!({"budgets": {"failed": 3}, "deadlines": {"trial": "1h"}})).expect("sound");
        assert_eq!(policy.budgets, Budgets { failed: Amount::Count(3), ..usual.budgets });
        assert_eq!(policy.deadlines.trial, Duration::from_secs(3600));
        assert_eq!(policy.deadlines.answer, usual.deadlines.answer, "not as for releases");
        assert_eq!(policy.canary_budgets, usual.canary_budgets);
    }

    #[test]
    fn canaries_are_watched_as_long_as_the_others_unless_it_is_said_otherwise() {
        let check = |given: Value, canaries: u64, others: u64| {
            let policy = Policy::default().over(given.clone()).expect("sound");
            let seconds = (policy.canary_bake.as_secs(), policy.bake.as_secs());
            assert_eq!(seconds, (canaries, others), "{given}");
        };
        check(json!({}), 600, 300);
        check(json!({"bake": "5s"}), 5, 5);
        check(json!({"canaryBake": "5s"}), 5, 300);
        check(json!({"bake": "5s", "canaryBake": "1m"}), 60, 5);
    }

    #[test]
    fn what_is_wrong_is_said_of_what_was_given() {
        let wrong = |given: Value| Policy::default().over(given).expect_err("wrong").to_string();
        assert!(wrong(json!({"bakes": 1})).contains("unknown field `bakes`"));
        assert!(wrong(json!({"budgets": 3})).contains("invalid type"));
    }

    #[test]
    fn lines_are_what_may_be_set() {
        let lines = Policy::default().lines();
        for wanted in
            ["bake=5m", "budgets.failed=5%", "waves=[\"10%\",\"30%\"]", "canaries.drawn=1", "order=byLot"]
        {
            assert!(lines.iter().any(|line| line == wanted), "{wanted} in {lines:#?}");
        }
    }
}
