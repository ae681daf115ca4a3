//! Clients that pull a blob over HTTP/2 with TLS, one connection each, with
//! windows so large that flow control is not what is measured.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::http::{Url, invalid};
use super::process::{CpuTime, thread_cpu};
use super::pull::{Client, Outcome};
use super::tls;

/// Bytes that may be under way.
const WINDOW: u32 = 16 << 20;

/// Pulls `url` again and again for `duration`, on `connections` connections.
pub(crate) fn run(
    url: &Url,
    config: &Arc<ClientConfig>,
    connections: usize,
    duration: Duration,
) -> io::Result<Outcome> {
    // The runtime's own threads do the work; their time is in the process's.
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let this = [std::process::id()];
    let (before, own) = (CpuTime::of(&this), thread_cpu());
    let began = Instant::now();
    let clients = runtime.block_on(async {
        let mut running = JoinSet::new();
        for _ in 0..connections {
            let (url, config) = (url.clone(), Arc::clone(config));
            running.spawn(async move {
                let mut client = Client::default();
                let done = pull(&url, config, began, began + duration, &mut client).await;
                client.total = began.elapsed();
                client.error = done.err().map(|error| error.to_string());
                client
            });
        }
        running.join_all().await
    });
    let wall = began.elapsed();
    let used = CpuTime::of(&this).since(&before).max(thread_cpu() - own);
    let each = used / connections as f64;
    let clients = clients.into_iter().map(|client| Client { cpu: each, ..client }).collect();
    Ok(Outcome { clients, wall })
}

async fn pull(
    url: &Url,
    config: Arc<ClientConfig>,
    began: Instant,
    deadline: Instant,
    client: &mut Client,
) -> io::Result<()> {
    let stream = TcpStream::connect((url.host.as_str(), url.port)).await?;
    stream.set_nodelay(true)?;
    let stream = TlsConnector::from(config).connect(tls::name(&url.host)?, stream).await?;
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(1 << 20)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    while Instant::now() < deadline {
        let uri = format!("https://{}:{}{}", url.host, url.port, url.path);
        let request = hyper::Request::get(uri).body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
        let mut answer = sender.send_request(request).await.map_err(io::Error::other)?;
        if answer.status() != hyper::StatusCode::OK {
            return Err(invalid(&format!("status {}", answer.status())));
        }
        while let Some(frame) = answer.frame().await {
            let frame = frame.map_err(io::Error::other)?;
            client.first_byte.get_or_insert_with(|| began.elapsed());
            client.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            if Instant::now() >= deadline {
                connection.abort();
                return Ok(());
            }
        }
        client.pulls += 1;
    }
    connection.abort();
    Ok(())
}
