//! Clients that make many small requests on connections that stay open, all in
//! one thread: a thread for each would cost more than what is measured.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::task::JoinSet;

use super::http::{self, Url, invalid};

/// What the clients saw.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// How long each request took, the shortest first.
    pub(crate) latencies: Vec<Duration>,
    /// How long all of it took.
    pub(crate) wall: Duration,
}

impl Outcome {
    /// Requests a second.
    pub(crate) fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.wall.as_secs_f64()
    }

    /// The latency that this part of the requests stayed below.
    pub(crate) fn quantile(&self, part: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * part) as usize).copied().unwrap_or_default()
    }
}

/// Asks for `paths` over and over, on `connections` connections, for
/// `duration`; without one, asks for each path once.
pub(crate) fn run(
    url: &Url,
    paths: &[String],
    headers: &[String],
    connections: usize,
    duration: Option<Duration>,
) -> io::Result<Outcome> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let began = Instant::now();
        let deadline = duration.map(|duration| began + duration);
        let mut clients = JoinSet::new();
        for client in 0..connections {
            let own = paths.iter().skip(if duration.is_some() { 0 } else { client });
            let own = own.step_by(if duration.is_some() { 1 } else { connections });
            let requests: Vec<Vec<u8>> = own.map(|path| http::get(&url.host, path, headers)).collect();
            let address = (url.host.clone(), url.port);
            clients.spawn(async move { ask(address, &requests, deadline).await });
        }
        let mut latencies = Vec::new();
        while let Some(client) = clients.join_next().await {
            latencies.extend(client.map_err(io::Error::other)??);
        }
        let wall = began.elapsed();
        latencies.sort_unstable();
        Ok(Outcome { latencies, wall })
    })
}

async fn ask(address: (String, u16), requests: &[Vec<u8>], deadline: Option<Instant>) -> io::Result<Vec<Duration>> {
    let mut stream = TcpStream::connect((address.0.as_str(), address.1)).await?;
    stream.set_nodelay(true)?;
    let (mut latencies, mut buffer) = (Vec::with_capacity(1 << 16), Vec::with_capacity(64 << 10));
    loop {
        for request in requests {
            let began = Instant::now();
            stream.write_all(request).await?;
            answer(&mut stream, &mut buffer).await?;
            latencies.push(began.elapsed());
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(latencies);
            }
        }
        if deadline.is_none() || requests.is_empty() {
            return Ok(latencies);
        }
    }
}

/// Reads one answer to its end.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    let mut whole = None;
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if whole.is_none()
            && let Some(head) = http::parse_head(buffer)?
        {
            if head.status != 200 {
                return Err(invalid(&format!("status {}", head.status)));
            }
            let length = head.length.ok_or_else(|| invalid("no Content-Length"))?;
            whole = Some(head.end + length as usize);
        }
        if whole.is_some_and(|whole| buffer.len() >= whole) {
            return Ok(());
        }
    }
}
