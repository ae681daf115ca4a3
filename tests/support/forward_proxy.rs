//! An HTTP proxy as companies have them: CONNECT, and plain HTTP in absolute
//! form; it writes down what it was asked.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A running proxy. It ends with the process of the test.
#[derive(Clone)]
pub(crate) struct ForwardProxy(Arc<Shared>);

struct Shared {
    address: SocketAddr,
    /// `Proxy-Authorization` that it wants.
    wanted: Option<String>,
    /// Where a name leads, whatever the name servers say.
    leads_to: Mutex<Option<SocketAddr>>,
    heads: Mutex<Vec<Vec<String>>>,
}

impl ForwardProxy {
    /// Starts one that wants to see `wanted`.
    pub(crate) fn start(wanted: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self(Arc::new(Shared {
            address: listener.local_addr().unwrap(),
            wanted: wanted.map(str::to_owned),
            leads_to: Mutex::default(),
            heads: Mutex::default(),
        }));
        let served = proxy.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                std::thread::spawn(move || served.serve(stream));
            }
        });
        proxy
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// From now on every name leads there.
    pub(crate) fn resolve_all_to(&self, address: SocketAddr) {
        *self.0.leads_to.lock().unwrap() = Some(address);
    }

    /// The first lines of all that was asked of it.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.0.heads.lock().unwrap().iter().map(|head| head[0].clone()).collect()
    }

    /// All lines of all requests.
    pub(crate) fn heads(&self) -> Vec<Vec<String>> {
        self.0.heads.lock().unwrap().clone()
    }

    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            if line.trim_end().is_empty() {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        self.0.heads.lock().unwrap().push(head.clone());
        let shown = head
            .iter()
            .find_map(|line| line.to_ascii_lowercase().starts_with("proxy-authorization: ").then(|| &line[21..]));
        if self.0.wanted.is_some() && shown != self.0.wanted.as_deref() {
            let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"corp\"\r\nContent-Length: 0\r\n\r\n";
            return (&stream).write_all(refusal).ok();
        }
        let mut words = head[0].split(' ');
        let (method, target) = (words.next()?, words.next()?);
        let (address, first) = if method == "CONNECT" {
            (&stream).write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
            (target.to_owned(), Vec::new())
        } else {
            // One request a connection is enough.
            let (host, path) = target.strip_prefix("http://")?.split_once('/')?;
            let lines = head.iter().skip(1).filter(|line| !line.to_ascii_lowercase().starts_with("proxy-"));
            let rest: String = lines.map(|line| format!("{line}\r\n")).collect();
            (host.to_owned(), format!("{method} /{path} HTTP/1.1\r\nConnection: close\r\n{rest}\r\n").into_bytes())
        };
        let leads_to = *self.0.leads_to.lock().unwrap();
        let mut there = match leads_to {
            Some(address) => TcpStream::connect(address).ok()?,
            None => TcpStream::connect(address).ok()?,
        };
        there.write_all(&first).ok()?;
        let (mut back, mut client) = (there.try_clone().ok()?, stream.try_clone().ok()?);
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut back, &mut client);
            let _ = client.shutdown(Shutdown::Both);
        });
        let _ = std::io::copy(&mut reader.by_ref(), &mut there);
        let _ = there.shutdown(Shutdown::Write);
        Some(())
    }
}
