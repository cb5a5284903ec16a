//! Plumbery plans turned into plans of ours.
