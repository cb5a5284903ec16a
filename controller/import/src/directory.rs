//! Every node of a plan by the names references have for it.

use std::collections::BTreeMap;

/// A node, as references of our plan name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Our name.
    pub(crate) name: String,
    /// The location as it was written in the reference, if it was.
    pub(crate) location: Option<String>,
    pub(crate) public: bool,
}

/// Nodes by location and plumbery's name.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    nodes: BTreeMap<(String, String), (String, bool)>,
}

impl Directory {
    /// Adds a node: plumbery's name for it and ours.
    pub(crate) fn add(&mut self, location: &str, name: &str, own: &str, public: bool) {
        self.nodes.insert((location.to_owned(), name.to_owned()), (own.to_owned(), public));
    }

    /// The node of `[[REGION::]LOCATION::]NAME`; without a location it is looked for where the text is, then
    /// everywhere.
    pub(crate) fn find(&self, path: &str, here: Option<&str>) -> Option<Found> {
        let steps: Vec<&str> = path.split("::").collect();
        let (location, name) = match steps.as_slice() {
            [name] => (None, *name),
            [location, name] | [_, location, name] => (Some(*location), *name),
            _ => return None,
        };
        let at = |location: &str| self.nodes.get(&(location.to_owned(), name.to_owned()));
        let found = |(own, public): &(String, bool)| Found {
            name: own.clone(),
            location: location.map(str::to_owned),
            public: *public,
        };
        if let Some(location) = location {
            return at(location).map(found);
        }
        here.and_then(at).map(found).or_else(|| {
            let mut all = self.nodes.iter().filter(|((_, known), _)| known == name).map(|(_, node)| node);
            let first = all.next()?;
            all.next().is_none().then(|| found(first))
        })
    }
}
