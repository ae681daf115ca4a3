//! Pulling over TLS without paying for decryption: the handshake and the head
//! of the answer are read as usual; what follows until the server closes the
//! connection is discarded by the kernel as it comes. Each pull has a
//! connection of its own, because nobody can tell afterwards where the next
//! answer would begin. Bytes are those of the TLS records, 0.13 % more than
//! the body's.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use rustix::net::RecvFlags;
use rustls::ClientConfig;

use super::http::{self, invalid};
use super::pull::{BUFFER, Client, Load, connect};
use super::tls;

/// Records that the client's own buffers may hold when it stops decrypting.
const SLACK: u64 = 64 << 10;

/// Pulls until `load` says that it is enough.
pub(crate) fn pull(load: &Load, config: &Arc<ClientConfig>, began: Instant, client: &mut Client) -> io::Result<()> {
    let deadline = load.duration.map(|duration| began + duration);
    loop {
        let whole = one(load, config, began, deadline, client)?;
        client.pulls += u64::from(whole);
        if deadline.is_none_or(|deadline| Instant::now() >= deadline) {
            return Ok(());
        }
    }
}

/// One pull; whether it came to its end.
fn one(
    load: &Load,
    config: &Arc<ClientConfig>,
    began: Instant,
    deadline: Option<Instant>,
    client: &mut Client,
) -> io::Result<bool> {
    let mut headers = load.headers.clone();
    headers.push("Connection: close".to_owned());
    let mut stream = tls::wrap(connect(&load.url)?, &load.url.host, config)?;
    stream.write_all(&http::get(&load.url.host, &load.url.path, &headers))?;
    stream.flush()?;
    let mut head = Vec::new();
    let answer = http::read_head(&mut stream, &mut head)?;
    if answer.status != 200 {
        return Err(invalid(&format!("status {}", answer.status)));
    }
    let length = answer.length.ok_or_else(|| invalid("no Content-Length"))?;
    client.first_byte.get_or_insert_with(|| began.elapsed());
    let mut got = (head.len() - answer.end) as u64;
    client.bytes += got;
    let socket: &TcpStream = stream.get_ref();
    let mut buffer = vec![0; BUFFER];
    loop {
        let (_, count) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::TRUNC)?;
        got += count as u64;
        client.bytes += count as u64;
        if count == 0 {
            let whole = got + SLACK >= length;
            return if whole {
                Ok(true)
            } else {
                Err(invalid(&format!("the body ended after {got} of {length} bytes")))
            };
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(false);
        }
    }
}
