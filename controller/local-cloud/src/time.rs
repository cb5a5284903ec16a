//! The time, for servers: simple network time protocol, server mode (RFC 4330, section 6).
//!
//! Servers may reach no other source, and emulated ones drift by seconds when their host is busy. This host's clock
//! is what everything of a local cloud is measured by, so it is told as it is.

use std::{
    io,
    net::Ipv4Addr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

/// The protocol's port.
const PORT: u16 = 123;
/// Length of a message without authentication.
const LENGTH: usize = 48;
/// Seconds from 1900, where the protocol begins, to 1970.
const EPOCH: u64 = 2_208_988_800;
const CLIENT: u8 = 3;
const SERVER: u8 = 4;
/// As if from a reference clock: there is nobody above this host to name.
const STRATUM: u8 = 1;
const REFERENCE: &[u8; 4] = b"LOCL";
/// Seconds as a power of two: about a microsecond.
const PRECISION: i8 = -20;
/// Least versions that share this format.
const VERSIONS: std::ops::RangeInclusive<u8> = 1..=4;

/// How often it is looked whether the address is there; it comes with the first network domain.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Tells the time on `host` until `stop`. A host that has a time server of its own on every address needs none of
/// ours, so failing to listen is worth a line only.
pub(crate) async fn tell(host: Ipv4Addr, stop: CancellationToken) {
    let telling = async {
        match listen(host, PORT).await {
            Ok(socket) => answer_all(&socket).await,
            Err(error) => tracing::info!(%host, %error, "not telling servers the time; another program may"),
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = telling => {}
    }
}

async fn listen(host: Ipv4Addr, port: u16) -> io::Result<UdpSocket> {
    loop {
        match UdpSocket::bind((host, port)).await {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            bound => return bound,
        }
    }
}

async fn answer_all(socket: &UdpSocket) {
    // One byte more than is understood, so that longer messages can be told.
    let mut message = [0; LENGTH + 1];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut message).await else {
            // An earlier answer that could not be delivered; the next question is another matter.
            tokio::task::yield_now().await;
            continue;
        };
        let received = SystemTime::now();
        if let Some(reply) = answer(&message[..length], received, SystemTime::now()) {
            // Lost like any datagram may be: who asked asks again.
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

/// The answer to a client's message; `None` to anything else.
fn answer(message: &[u8], received: SystemTime, sent: SystemTime) -> Option<[u8; LENGTH]> {
    let message: &[u8; LENGTH] = message.try_into().ok()?;
    let (version, mode) = (message[0] >> 3 & 7, message[0] & 7);
    if mode != CLIENT || !VERSIONS.contains(&version) {
        return None;
    }
    let mut reply = [0; LENGTH];
    reply[0] = version << 3 | SERVER;
    reply[1] = STRATUM;
    reply[2] = message[2];
    reply[3] = PRECISION.to_be_bytes()[0];
    reply[12..16].copy_from_slice(REFERENCE);
    let received = timestamp(received)?;
    reply[16..24].copy_from_slice(&received);
    // What the client sent as its own time comes back, so that it knows which question this answers.
    reply[24..32].copy_from_slice(&message[40..48]);
    reply[32..40].copy_from_slice(&received);
    reply[40..48].copy_from_slice(&timestamp(sent)?);
    Some(reply)
}

/// Seconds since 1900, modulo 2^32, and 32 bits of their fraction.
fn timestamp(time: SystemTime) -> Option<[u8; 8]> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    let seconds = since.as_secs().checked_add(EPOCH)? & u64::from(u32::MAX);
    let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
    Some((seconds << 32 | fraction).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(first: u8) -> [u8; LENGTH] {
        let mut message = [0; LENGTH];
        message[0] = first;
        message[2] = 6;
        message[40..].copy_from_slice(b"question");
        message
    }

    #[test]
    fn a_client_is_told_both_times_and_its_own() {
        let received = UNIX_EPOCH + Duration::new(1_000_000_000, 500_000_000);
        let sent = received + Duration::from_millis(250);
        let reply = answer(&question(4 << 3 | CLIENT), received, sent).expect("an answer");
        assert_eq!(reply[..4], [4 << 3 | SERVER, 1, 6, 0xec]);
        assert_eq!(&reply[12..16], b"LOCL");
        assert_eq!(&reply[24..32], b"question");
        // 2001-09-09T01:46:40.5Z is 3208988800.5 s after 1900.
        assert_eq!(reply[32..40], 0xbf45_4880_8000_0000_u64.to_be_bytes());
        assert_eq!(reply[16..24], reply[32..40]);
        assert_eq!(reply[40..48], 0xbf45_4880_c000_0000_u64.to_be_bytes());
    }

    #[test]
    fn seconds_begin_anew_in_2036() {
        let time = UNIX_EPOCH + Duration::from_secs((1 << 32) - EPOCH + 7);
        assert_eq!(timestamp(time), Some((7_u64 << 32).to_be_bytes()));
    }

    #[test]
    fn others_get_no_answer() {
        let now = SystemTime::now();
        let check = |message: &[u8]| assert_eq!(answer(message, now, now), None, "{message:?}");
        check(&[]);
        check(&question(4 << 3 | CLIENT)[..LENGTH - 1]);
        check(&[0; LENGTH + 1]);
        for first in [4 << 3 | SERVER, 4 << 3 | 6, CLIENT, 5 << 3 | CLIENT, 0] {
            check(&question(first));
        }
        check(answer(&question(3 << 3 | CLIENT), now, now).expect("an answer").as_slice());
    }

    #[tokio::test]
    async fn it_answers_on_an_address() {
        let server = listen(Ipv4Addr::LOCALHOST, 0).await.expect("any port");
        let address = server.local_addr().expect("its address");
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("any port");
        client.send_to(b"noise", address).await.expect("sent");
        client.send_to(&question(4 << 3 | CLIENT), address).await.expect("sent");
        let mut reply = [0; 64];
        let length = tokio::select! {
            () = answer_all(&server) => unreachable!("it goes on"),
            received = client.recv(&mut reply) => received.expect("an answer"),
        };
        assert_eq!((length, &reply[24..32]), (LENGTH, b"question".as_slice()));
    }
}
