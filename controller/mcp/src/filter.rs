/// What a list is narrowed to: fields and the values they must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pairs: Vec<(String, String)>,
}

impl Filter {
    /// Everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// Only what is in this network domain.
    pub fn in_network_domain(id: &crate::Id<crate::types::NetworkDomain>) -> Self {
        Self::all().and("networkDomainId", id)
    }

    /// Only what is in this data centre.
    pub fn in_datacenter(id: &str) -> Self {
        Self::all().and("datacenterId", id)
    }

    /// Also only what has `value` in `field`; a suffix such as `.LIKE` changes the comparison.
    #[must_use]
    pub fn and(mut self, field: &str, value: impl ToString) -> Self {
        self.pairs.push((field.to_owned(), value.to_string()));
        self
    }

    /// Fields and values in the order they were given.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }
}
