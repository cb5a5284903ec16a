//! Looking into trees, and laying one over another as plumbery does.

use fleet_plan::{Tree, Value};

/// The value of `key` in a mapping, unless it is null.
pub(crate) fn get<'t>(tree: &'t Tree, key: &str) -> Option<&'t Tree> {
    entries(tree)
        .iter()
        // The last one counts, as in every reader that does not refuse two.
        .rfind(|(name, _)| matches!(&name.value, Value::Text(text) if text == key))
        .map(|(_, value)| value)
        .filter(|value| value.value != Value::Null)
}

/// The key itself, for its place.
pub(crate) fn key<'t>(tree: &'t Tree, key: &str) -> Option<&'t Tree> {
    entries(tree)
        .iter()
        .map(|(name, _)| name)
        .rfind(|name| matches!(&name.value, Value::Text(text) if text == key))
}

/// Entries of a mapping; none of anything else.
pub(crate) fn entries(tree: &Tree) -> &[(Tree, Tree)] {
    match &tree.value {
        Value::Map(entries) => entries,
        _ => &[],
    }
}

/// Items of a list; a single value counts as a list of itself, as people write it.
pub(crate) fn items(tree: &Tree) -> &[Tree] {
    match &tree.value {
        Value::List(items) => items,
        Value::Null => &[],
        _ => std::slice::from_ref(tree),
    }
}

/// Nothing, at the place of `tree`.
pub(crate) fn nothing(at: &Tree) -> Tree {
    Tree { span: at.span.clone(), value: Value::Map(Vec::new()) }
}

/// Lays `above` over `below`: mappings are laid key by key, lists come one after the other, anything else is
/// replaced; null says nothing.
pub(crate) fn lay(below: &mut Tree, above: &Tree) {
    match (&mut below.value, &above.value) {
        (_, Value::Null) => {}
        (Value::Map(entries), Value::Map(more)) => {
            for (key, value) in more {
                match entries.iter_mut().find(|(known, _)| known.value == key.value) {
                    Some((place, known)) => {
                        if !matches!(known.value, Value::List(_) | Value::Map(_)) {
                            *place = key.clone();
                        }
                        lay(known, value);
                    }
                    None if value.value == Value::Null => {}
                    None => entries.push((key.clone(), value.clone())),
                }
            }
        }
        (Value::List(list), _) => list.extend_from_slice(items(above)),
        _ => *below = above.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_lie_as_in_plumbery() {
        let tree = |text: &str| fleet_plan::tree(text).expect("YAML");
        let check = |below: &str, above: &str, expected: &str| {
            let mut laid = tree(below);
            lay(&mut laid, &tree(above));
            assert_eq!(laid.value, tree(expected).value, "{above} over {below}");
        };
        check("{a: 1, b: [1], c: {d: 1}}", "{a: 2, b: [2], c: {e: 2}}", "{a: 2, b: [1, 2], c: {d: 1, e: 2}}");
        check("{b: [1]}", "{b: 2}", "{b: [1, 2]}");
        check("{a: 1}", "{a: null, b: null}", "{a: 1}");
        check("{a: 1}", "[x]", "[x]");
    }
}
