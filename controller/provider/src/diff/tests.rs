use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{
    graph::resources,
    testing::{any_plan, mark, reference},
};

/// Keys in an order that respects needs, or `None` if there is none.
fn order(works: &[Work]) -> Option<Vec<Key>> {
    let mut left: HashMap<&Key, &Vec<Key>> = works.iter().map(|work| (&work.key, &work.needs)).collect();
    let mut order = Vec::new();
    while !left.is_empty() {
        let ready: Vec<Key> = left
            .iter()
            .filter(|(_, needs)| needs.iter().all(|need| !left.contains_key(need)))
            .map(|(key, _)| (*key).clone())
            .collect();
        if ready.is_empty() {
            return None;
        }
        for key in ready {
            left.remove(&key);
            order.push(key);
        }
    }
    Some(order)
}

#[test]
fn the_reference_fleet_from_nothing() {
    let (plan, view) = (reference(), View::default());
    let diff = diff(&resources(&plan), &view, &mark(), &Index::default(), &Settled::default());
    assert_eq!(diff.problems, [] as [String; 0]);
    let steps: Vec<String> = steps(&diff, &view, &mark())
        .into_iter()
        .map(|step| {
            format!("{:?} {} {} {} ({})", step.verb, step.kind, step.location, step.name, step.detail)
        })
        .collect();
    insta::assert_snapshot!(steps.join("\n"));
}

proptest! {
    #[test]
    fn needs_have_an_order_and_are_within_the_run(plan in any_plan()) {
        let diff = diff(&resources(&plan), &View::default(), &mark(), &Index::default(), &Settled::default());
        let keys: BTreeSet<&Key> = diff.works.iter().map(|work| &work.key).collect();
        prop_assert_eq!(keys.len(), diff.works.len(), "keys are unique");
        for work in &diff.works {
            prop_assert!(work.needs.iter().all(|need| keys.contains(need)));
        }
        prop_assert!(order(&diff.works).is_some());
    }
}
