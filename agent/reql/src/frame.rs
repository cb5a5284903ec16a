//! Frames: 8 bytes of token, 4 bytes of length, both little endian, then JSON.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes before the JSON.
const HEADER: usize = 12;
/// How much is set aside before anything came: a length is only a promise.
const FIRST_ROOM: usize = 64 * 1024;

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("the server closed it")]
    End,
    #[error("the server closed it in the middle of an answer")]
    Cut,
    #[error("an answer of {bytes} bytes is more than the {limit} allowed")]
    TooLarge { bytes: usize, limit: usize },
    #[error("{0}")]
    Read(#[from] io::Error),
}

/// The bytes of one frame.
pub(crate) fn encode(token: u64, json: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + json.len());
    bytes.extend_from_slice(&token.to_le_bytes());
    // Queries are far smaller: `Options::most_query_bytes` is checked before, and is a u32 itself.
    bytes.extend_from_slice(&u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(json);
    bytes
}

/// Reads one frame; not cancel-safe, so the reader task alone calls it.
pub(crate) async fn read(
    from: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<(u64, Vec<u8>), FrameError> {
    let mut header = [0; HEADER];
    let mut have = 0;
    while have < HEADER {
        match from.read(&mut header[have..]).await? {
            0 if have == 0 => return Err(FrameError::End),
            0 => return Err(FrameError::Cut),
            n => have += n,
        }
    }
    let (token, length) = header.split_at(8);
    let token = u64::from_le_bytes(token.try_into().expect("the first eight of twelve bytes"));
    let length = u32::from_le_bytes(length.try_into().expect("the last four of twelve bytes")) as usize;
    if length > limit {
        return Err(FrameError::TooLarge { bytes: length, limit });
    }
    let mut body = Vec::with_capacity(length.min(FIRST_ROOM));
    from.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length { Err(FrameError::Cut) } else { Ok((token, body)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("runtime").block_on(future)
    }

    /// Gives its bytes in pieces of the sizes asked for.
    fn in_pieces(bytes: Vec<u8>, sizes: Vec<usize>) -> impl AsyncRead + Unpin {
        let mut builder = Vec::new();
        let mut rest = bytes.as_slice();
        for size in sizes.into_iter().cycle().take(10_000) {
            let (piece, more) = rest.split_at(size.clamp(1, rest.len().max(1)).min(rest.len()));
            if piece.is_empty() {
                break;
            }
            builder.push(piece.to_vec());
            rest = more;
        }
        builder.push(rest.to_vec());
        Pieces(builder.into())
    }

    struct Pieces(std::collections::VecDeque<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            while let Some(mut piece) = self.0.pop_front() {
                if piece.is_empty() {
                    continue;
                }
                let rest = piece.split_off(piece.len().min(buffer.remaining()));
                buffer.put_slice(&piece);
                self.0.push_front(rest);
                break;
            }
            std::task::Poll::Ready(Ok(()))
        }
    }

    proptest! {
        #[test]
        fn frames_survive_any_fragmentation(
            frames in prop::collection::vec((any::<u64>(), prop::collection::vec(any::<u8>(), 0..300)), 0..8),
            sizes in prop::collection::vec(1usize..40, 1..8),
        ) {
            let wire: Vec<u8> = frames.iter().flat_map(|(token, body)| encode(*token, body)).collect();
            let mut from = in_pieces(wire, sizes);
            now(async {
                for frame in &frames {
                    prop_assert_eq!(&read(&mut from, 300).await.expect("a whole frame"), frame);
                }
                prop_assert!(matches!(read(&mut from, 300).await, Err(FrameError::End)));
                Ok(())
            })?;
        }

        #[test]
        fn a_cut_frame_is_never_taken_for_a_whole_one(
            body in prop::collection::vec(any::<u8>(), 1..100), cut in 1usize..12,
        ) {
            let mut wire = encode(7, &body);
            let cut = cut.min(wire.len() - 1);
            wire.truncate(wire.len() - cut);
            prop_assert!(matches!(now(read(&mut wire.as_slice(), 1000)), Err(FrameError::Cut)));
        }

        #[test]
        fn any_bytes_end_in_a_frame_or_an_error(wire in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok((_, body)) = now(read(&mut wire.as_slice(), 40)) {
                prop_assert!(body.len() <= 40);
            }
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_bytes_come() {
        let mut wire = 7u64.to_le_bytes().to_vec();
        wire.extend(u32::MAX.to_le_bytes());
        let read = now(read(&mut wire.as_slice(), 1024));
        assert!(
            matches!(read, Err(FrameError::TooLarge { bytes, limit: 1024 }) if bytes == u32::MAX as usize)
        );
    }
}
