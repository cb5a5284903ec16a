//! Protobuf with small buffers: an idle session should cost kilobytes, not tens of them.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// First size of a stream's encode and decode buffers, in bytes. tonic's default is 8 KiB each; heartbeats
/// are 40 bytes. Buffers still grow for large messages.
const BUFFER: usize = 512;
/// Bytes gathered before they are handed to HTTP/2.
const YIELD_AT: usize = 8 * 1024;

/// [`ProstCodec`] with buffers sized for heartbeats.
#[derive(Debug, Clone)]
pub struct Small<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Small<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Small<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, YIELD_AT))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, YIELD_AT))
    }
}
