//! Servers among each other: links, what they say, who is there, what all of them know.

pub mod link;
pub mod mesh;
pub mod message;
pub mod metadata;
pub mod tls;

/// Id of a server: made with its data directory, never again.
pub type ServerId = String;
