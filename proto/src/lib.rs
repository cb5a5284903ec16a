//! The wire: generated messages and services, typed refusals, and the TLS both ends share.
//!
//! Start with [`v1`] (see `proto/fleet.proto`, which carries the documentation), [`refusal`] for how a
//! "no" travels, and [`tls`] for identities. Nothing here decides anything: who may do what is the
//! controller's business, when to dial the agent's.

pub mod codec;
pub mod refusal;
pub mod tls;

/// Generated from `proto/fleet.proto`, which is where the documentation is.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("fleet.v1");
}

/// Generated from `proto/rescue.proto`: the door that never changes, for agents that no other lets in.
#[allow(missing_docs, clippy::all)]
pub mod rescue {
    tonic::include_proto!("fleet.rescue.v1");
}

/// Version of this build: `FLEET_VERSION` as it was when this was built, else the package's.
pub const VERSION: &str = env!("FLEET_STAMP");

/// Oldest and newest protocol version this build speaks.
pub const PROTOCOL: (u32, u32) = (1, 1);

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::rescue;

    /// Agents of any age read and write exactly these bytes.
    #[test]
    fn the_rescue_door_is_frozen() {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let ask = rescue::AskRequest { node: "n".into(), runs: "r".into() };
        assert_eq!(hex(ask.encode_to_vec()), "0a016e120172");
        let reply = rescue::AskReply {
            order: 7,
            roots: vec![b"a".to_vec(), b"b".to_vec()],
            manifest: b"m".to_vec(),
            permit: b"p".to_vec(),
            again: true,
            ready_ms: 1,
            ceiling_ms: 2,
            tries: 3,
            retry_after_ms: 4,
        };
        let frozen = "08071201611201621a016d22017028013001380240034804";
        assert_eq!(hex(reply.encode_to_vec()), frozen);
        let fetch = rescue::FetchRequest { node: "n".into(), sha256: "s".into(), offset: 9 };
        assert_eq!(hex(fetch.encode_to_vec()), "0a016e1201731809");
        assert_eq!(hex(rescue::Piece { data: b"d".to_vec() }.encode_to_vec()), "0a0164");
    }
}
