//! Whoever gives artifacts out: the controller over a session, or at the door for those whom no other lets in.

use fleet_proto::{
    rescue::{self, rescue_client::RescueClient},
    v1::{self, agents_client::AgentsClient},
};
use tonic::{Status, Streaming, transport::Channel};

/// Who gives.
#[derive(Clone, Debug)]
pub(crate) enum Giver {
    Session(AgentsClient<Channel>),
    Door {
        client: RescueClient<Channel>,
        /// In whose name.
        node: String,
    },
}

impl Giver {
    /// Bytes of what is called `sha256`, from `offset` on.
    pub(super) async fn fetch(&mut self, sha256: String, offset: u64) -> Result<Pieces, Status> {
        match self {
            Self::Session(client) => {
                Ok(Pieces::Session(client.fetch(v1::FetchRequest { sha256, offset }).await?.into_inner()))
            }
            Self::Door { client, node } => {
                let request = rescue::FetchRequest { node: node.clone(), sha256, offset };
                Ok(Pieces::Door(client.fetch(request).await?.into_inner()))
            }
        }
    }
}

/// Bytes on their way.
pub(super) enum Pieces {
    Session(Streaming<v1::Chunk>),
    Door(Streaming<rescue::Piece>),
}

impl Pieces {
    /// The next of them; none after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Status> {
        match self {
            Self::Session(chunks) => Ok(chunks.message().await?.map(|chunk| chunk.data)),
            Self::Door(pieces) => Ok(pieces.message().await?.map(|piece| piece.data)),
        }
    }
}
