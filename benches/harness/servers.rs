//! The servers that are compared: each in a directory of its own, with nothing
//! cached, on a free port of loopback, with settings its authors would not
//! object to and without an access log.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::configs;
use super::http::Url;
use super::process::{Process, free_port};
use super::tls::Certificate;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// This build.
    Transship,
    /// nginx, the test data as static files.
    NginxStatic,
    /// nginx with `proxy_cache` and `proxy_cache_lock`.
    NginxCache,
    /// Debian's `docker-registry` (the CNCF distribution) in proxy mode.
    DockerRegistry,
    /// drayage.
    Drayage,
}

impl Kind {
    /// All, ours first.
    pub(crate) const ALL: [Kind; 5] =
        [Kind::Transship, Kind::NginxStatic, Kind::NginxCache, Kind::DockerRegistry, Kind::Drayage];

    /// As it is called in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Transship => "transship",
            Kind::NginxStatic => "nginx static",
            Kind::NginxCache => "nginx proxy_cache",
            Kind::DockerRegistry => "docker-registry",
            Kind::Drayage => "drayage",
        }
    }

    /// The program, if it is installed.
    pub(crate) fn program(self) -> Option<PathBuf> {
        let (name, own) = match self {
            Kind::Transship => return Some(env!("CARGO_BIN_EXE_transship").into()),
            Kind::NginxStatic | Kind::NginxCache => ("nginx", None),
            Kind::DockerRegistry => ("docker-registry", None),
            Kind::Drayage => ("drayage", Some(concat!(env!("CARGO_MANIFEST_DIR"), "/target/rivals/bin"))),
        };
        let path = std::env::var("PATH").unwrap_or_default();
        let places = own.into_iter().chain(path.split(':')).chain(["/usr/sbin", "/usr/bin"]);
        places.map(|place| Path::new(place).join(name)).find(|program| program.is_file())
    }

    /// Which version it is, as it says itself.
    pub(crate) fn version(self) -> Option<String> {
        let argument = if matches!(self, Kind::NginxStatic | Kind::NginxCache) { "-v" } else { "--version" };
        let output = Command::new(self.program()?).arg(argument).output().ok()?;
        let said = [output.stdout, output.stderr].concat();
        // The last word of the first line, whatever else they say.
        Some(String::from_utf8_lossy(&said).lines().next()?.split_whitespace().last()?.to_owned())
    }
}

/// What a server is started with.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// The test data; only the static server reads it.
    pub(crate) data: PathBuf,
    /// The port of the sample upstream.
    pub(crate) upstream: u16,
    /// The certificate to show; without one it is plain HTTP.
    pub(crate) tls: Option<Certificate>,
    /// To run on the first core only.
    pub(crate) one_core: bool,
    /// Bytes that the cache may hold, for those who can be told.
    pub(crate) max_size: Option<u64>,
    /// Our eviction policy, if not the default one.
    pub(crate) policy: Option<&'static str>,
}

impl Setup {
    /// Plain HTTP, with as much room as it takes.
    pub(crate) fn new(data: &Path, upstream: u16) -> Setup {
        Setup { data: data.to_owned(), upstream, tls: None, one_core: false, max_size: None, policy: None }
    }
}

/// A running server. It ends, and its cache is deleted, when this goes.
pub(crate) struct Server {
    /// Who.
    pub(crate) kind: Kind,
    /// Its processes. (Dropped before the directory, whence it stands here.)
    pub(crate) process: Process,
    /// Where it listens.
    pub(crate) port: u16,
    tls: bool,
    dir: TempDir,
}

impl Server {
    /// Starts one with an empty cache.
    pub(crate) fn start(kind: Kind, setup: &Setup) -> io::Result<Server> {
        Server::start_in(kind, setup, tempfile::Builder::new().prefix("transship-bench-").tempdir()?)
    }

    /// Starts one on what `dir` holds already.
    pub(crate) fn start_in(kind: Kind, setup: &Setup, dir: TempDir) -> io::Result<Server> {
        let port = free_port()?;
        let program = kind.program().ok_or_else(|| io::Error::other(format!("{} is not installed", kind.name())))?;
        let (file, text, arguments) = match kind {
            Kind::Transship => {
                ("transship.toml", configs::transship(setup, dir.path(), port, free_port()?), vec!["serve", "--config"])
            }
            Kind::NginxStatic => {
                ("nginx.conf", configs::nginx(setup, dir.path(), port, false), vec!["-e", "stderr", "-c"])
            }
            Kind::NginxCache => {
                ("nginx.conf", configs::nginx(setup, dir.path(), port, true), vec!["-e", "stderr", "-c"])
            }
            Kind::DockerRegistry => ("config.yml", configs::docker_registry(setup, dir.path(), port), vec!["serve"]),
            Kind::Drayage => ("config.toml", configs::drayage(setup, dir.path(), port), vec!["serve", "--config"]),
        };
        // One of them does not make its own.
        fs::create_dir_all(dir.path().join("cache"))?;
        let file = dir.path().join(file);
        fs::write(&file, text)?;
        let mut command = contained(&program, setup.one_core);
        command.args(arguments).arg(file);
        let mut process = Process::start(kind.name(), command, dir.path())?;
        process.wait_for(port)?;
        Ok(Server { kind, process, port, tls: setup.tls.is_some(), dir })
    }

    /// Where it serves what the sample upstream has at `path`.
    pub(crate) fn url(&self, path: &str) -> Url {
        Url { tls: self.tls, host: "127.0.0.1".to_owned(), port: self.port, path: path.to_owned() }
    }

    /// Ends it; the directory stays, for another start.
    pub(crate) fn stop(self) -> TempDir {
        let Server { process, dir, .. } = self;
        drop(process);
        dir
    }
}

/// A command that ends with this process, whatever ends this process, where
/// the system can see to that; on the first core only, if so wanted.
pub(crate) fn contained(program: &Path, one_core: bool) -> Command {
    let mut words: Vec<&str> = Vec::new();
    if Path::new("/usr/bin/setpriv").exists() {
        words.extend(["setpriv", "--pdeathsig", "TERM", "--"]);
    }
    if one_core {
        words.extend(["taskset", "--cpu-list", "0"]);
    }
    let Some((first, rest)) = words.split_first() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    command
}
