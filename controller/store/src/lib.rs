//! Versioned values, conditional writes, prefix watch, leases.
