//! The PROXY protocol, versions 1 and 2: what a load balancer that passes bytes
//! on writes ahead of them, to say whose they are.
//!
//! Looked for only on connections of trusted proxies, which may or may not
//! speak it: neither HTTP nor TLS begins like it.

use std::io;
use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use proxy_header::{Error, ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

/// How the two versions begin.
const BEGINNINGS: [&[u8]; 2] = [b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"];
/// Bytes of a header; those of real load balancers have a few hundred.
const MAX: usize = 4096;

/// Reads the header, if there is one. Gives the client that it names, and what
/// was read beyond it.
///
/// # Errors
/// When the connection fails or ends, and when a header cannot be read.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(Option<IpAddr>, Bytes)> {
    let mut read = BytesMut::with_capacity(MAX);
    loop {
        // Never more than its capacity: a header ends within it or is refused.
        let room = MAX - read.len();
        if room == 0 {
            return Err(invalid("a PROXY header that is too long"));
        }
        if (&mut *stream).take(room as u64).read_buf(&mut read).await? == 0 {
            let in_header = BEGINNINGS.iter().any(|beginning| read.starts_with(beginning));
            return if in_header { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok((None, read.freeze())) };
        }
        let begins = |beginning: &&[u8]| beginning.iter().zip(&read).all(|(wanted, found)| wanted == found);
        let Some(beginning) = BEGINNINGS.iter().find(|beginning| begins(beginning)) else {
            return Ok((None, read.freeze()));
        };
        if read.len() < beginning.len() {
            continue;
        }
        match ProxyHeader::parse(&read, ParseConfig::default()) {
            Ok((header, length)) => {
                let client = header.proxied_address().map(|address| address.source.ip().to_canonical());
                return Ok((client, read.split_off(length).freeze()));
            }
            Err(Error::BufferTooShort) => {}
            Err(_) => return Err(invalid("a PROXY header that cannot be read")),
        }
    }
}

/// Gives out what has been read already; whether there was something.
pub(super) fn hand_out(ahead: &mut Bytes, buf: &mut ReadBuf<'_>) -> bool {
    let some = !ahead.is_empty();
    buf.put_slice(&ahead.split_to(ahead.len().min(buf.remaining())));
    some
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    use proptest::prelude::*;

    const REQUEST: &[u8] = b"GET /v2/ HTTP/1.1\r\n\r\n";

    fn version_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [BEGINNINGS[1], &[0x20 | command, family], &length, body].concat()
    }

    fn of_version_2() -> Vec<u8> {
        // 192.0.2.7:4711 to 10.0.0.2:5000, and a checksum-less TLV.
        let addresses = [192, 0, 2, 7, 10, 0, 0, 2, 0x12, 0x67, 0x13, 0x88];
        version_2(1, 0x11, &[&addresses[..], &[0xea, 0, 2, 1, 2]].concat())
    }

    /// What is found when so many bytes come at a time.
    async fn found(bytes: &[u8], at_a_time: usize) -> io::Result<(Option<String>, Vec<u8>)> {
        let (mut stream, mut sender) = tokio::io::duplex(at_a_time);
        let send = async move {
            // Whoever refuses it does not read to its end.
            let _ = sender.write_all(bytes).await;
        };
        let receive = async move {
            let (client, ahead) = read(&mut stream).await?;
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await?;
            io::Result::Ok((client, ahead, rest))
        };
        let ((), received) = tokio::join!(send, receive);
        let (client, ahead, rest) = received?;
        Ok((client.map(|client| client.to_string()), [&ahead[..], &rest].concat()))
    }

    #[tokio::test]
    async fn a_header_of_either_version_names_the_client() {
        let v6: Vec<u8> = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7], [0; 16]].concat();
        for (header, wanted) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.2 4711 5000\r\n".to_vec(), Some("192.0.2.7")),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 5000\r\n".to_vec(), Some("2001:db8::7")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (of_version_2(), Some("192.0.2.7")),
            (version_2(1, 0x21, &[&v6[..], &[0, 1, 0, 2]].concat()), Some("2001:db8::7")),
            // A health check of the load balancer's own.
            (version_2(0, 0, &[]), None),
            (Vec::new(), None),
        ] {
            for at_a_time in [1, 7, 4096] {
                let (client, rest) = found(&[&header[..], REQUEST].concat(), at_a_time).await.unwrap();
                assert_eq!((client.as_deref(), &rest[..]), (wanted, REQUEST), "{header:?} by {at_a_time}");
            }
        }
    }

    #[tokio::test]
    async fn a_header_that_cannot_be_read_ends_the_connection() {
        let endless = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 8192]].concat();
        for bytes in [
            b"PROXY TCP4 nowhere 10.0.0.2 4711 5000\r\n".to_vec(),
            endless,
            version_2(1, 0x11, &[0; 3]),
            version_2(1, 0x11, &[0; 8000]),
        ] {
            let mut stream = &bytes[..];
            assert!(read(&mut stream).await.is_err(), "{:?}", bytes.first_chunk::<16>());
        }
    }

    proptest! {
        #[test]
        fn nothing_that_comes_is_lost_or_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 1_usize..300, header in any::<bool>()) {
            let bytes = if header { [of_version_2(), bytes].concat() } else { bytes };
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            if let Ok((client, rest)) = runtime.block_on(found(&bytes, cut)) {
                prop_assert!(bytes.ends_with(&rest));
                prop_assert_eq!(client.is_some(), header);
            }
        }
    }
}
