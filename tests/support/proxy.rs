//! The real binary, running, with a configuration and a cache of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::http::{self, Response};
use super::process::Daemon;
use super::upstream::{SECRET, USERNAME, Upstream};

/// The environment variable from which a registry's secret is taken.
pub(crate) const PASSWORD: &str = "TEST_REGISTRY_PASSWORD";

/// What a proxy is started with.
pub(crate) struct Setup {
    sections: String,
    registries: Vec<String>,
    environment: Vec<(String, String)>,
    /// A program, and its arguments, that runs the binary.
    under: Vec<String>,
}

impl Setup {
    /// No registries yet.
    pub(crate) fn new() -> Self {
        Self {
            sections: String::new(),
            registries: Vec::new(),
            environment: vec![(PASSWORD.into(), SECRET.into())],
            under: Vec::new(),
        }
    }

    /// A public registry `sample`, the default one, at `upstream`.
    pub(crate) fn open(upstream: &Upstream) -> Self {
        Self::new().registry("sample", upstream, "default = true")
    }

    /// A registry `sample`, the default one, at `upstream`, with a credential,
    /// which everybody may use.
    pub(crate) fn stored(upstream: &Upstream) -> Self {
        Self::new().registry("sample", upstream, &format!("default = true\naccess = \"anyone\"\n{}", credential()))
    }

    /// A registry more; `keys` are further lines of TOML.
    pub(crate) fn registry(mut self, name: &str, upstream: &Upstream, keys: &str) -> Self {
        let insecure = upstream.origin().starts_with("http:");
        self.registries.push(format!(
            "[[registry]]\nname = \"{name}\"\nkind = \"generic\"\nurl = \"{}\"\ninsecure = {insecure}\n\
             allow_private = [\"127.0.0.0/8\"]\n{keys}\n",
            upstream.origin()
        ));
        self
    }

    /// Any `[[registry]]` or `[[client]]`, as text.
    pub(crate) fn text(mut self, toml: &str) -> Self {
        self.registries.push(toml.to_owned());
        self
    }

    /// Sections `[server]`, `[cache]`, … ; keys of `[server]` and `[cache]` that the harness
    /// sets itself are `listen` and `dir`.
    pub(crate) fn sections(mut self, toml: &str) -> Self {
        self.sections += toml;
        self
    }

    /// An environment variable more.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The binary is run by this command, which is given its path and arguments.
    pub(crate) fn under(mut self, command: &[&str]) -> Self {
        self.under = command.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Starts the binary and waits until it listens.
    #[track_caller]
    pub(crate) fn start(self) -> Proxy {
        let dir = tempfile::tempdir().unwrap();
        let mut proxy = Proxy { setup: self, dir, running: None };
        proxy.restart();
        proxy
    }
}

/// The lines of a registry that has the upstream's account.
pub(crate) fn credential() -> String {
    format!("username = \"{USERNAME}\"\npassword = {{ env = \"{PASSWORD}\" }}")
}

/// A running `transship serve`.
pub(crate) struct Proxy {
    setup: Setup,
    dir: TempDir,
    running: Option<Running>,
}

struct Running {
    process: Daemon,
    data: SocketAddr,
    admin: SocketAddr,
}

impl Proxy {
    /// Stops it, if it runs, and starts it anew on the same cache.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.stop();
        let Setup { sections, registries, environment, under } = &self.setup;
        // Nothing of a test's goes to Docker Hub unless the test names it.
        let hub = if sections.contains("docker_hub = ") { "" } else { "docker_hub = false\n" };
        let text = format!("{hub}{sections}\n{}", registries.join("\n"));
        let config = self.dir.path().join("transship.toml");
        fs::write(&config, text).unwrap();
        let mut words = under.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_transship")]);
        let program = words.next().unwrap();
        let mut process = Daemon::start(program, self.dir.path(), |command| {
            command
                .args(words)
                .arg("serve")
                .arg("--config")
                .arg(&config)
                .env("TRANSSHIP_SERVER_LISTEN", "127.0.0.1:0")
                .env("TRANSSHIP_ADMIN_LISTEN", "127.0.0.1:0")
                .env("TRANSSHIP_CACHE_DIR", self.dir.path().join("cache"))
                .env("TRANSSHIP_LOG_LEVEL", "trace")
                .env("TRANSSHIP_LOG_FORMAT", "json")
                // What is waited out is a test's own matter.
                .env("TRANSSHIP_LIMITS_OUTAGE_PATIENCE", "1s")
                .envs(environment.iter().map(|(name, value)| (name, value)));
        });
        process.wait_until(|log| listening(log, "data").is_some() && listening(log, "admin").is_some());
        let log = process.log();
        // The second of two on one directory has the first one's store.
        if let (Some(admin), Ok(token)) = (listening(&log, "admin"), fs::read_to_string(self.admin_token_file())) {
            http::show_admin_token(admin, &token);
        }
        self.running =
            Some(Running { data: listening(&log, "data").unwrap(), admin: listening(&log, "admin").unwrap(), process });
    }

    /// Where the listener called so is, if it is.
    pub(crate) fn listener(&self, name: &str) -> Option<SocketAddr> {
        listening(&self.log(), name)
    }

    /// Where the token for its admin API is.
    pub(crate) fn admin_token_file(&self) -> PathBuf {
        self.dir.path().join("store/admin.token")
    }

    /// Where commands on this machine reach it.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.dir.path().join("store/admin.sock")
    }

    /// Whether the process ends, while a test can wait for it, without being
    /// told to.
    pub(crate) fn ends_by_itself(&mut self) -> bool {
        let ended = eventually(|| self.running.as_mut().is_none_or(|running| running.process.has_ended()));
        if ended {
            self.kill();
        }
        ended
    }

    /// Stops it as an operator would.
    pub(crate) fn stop(&mut self) {
        self.running = None;
    }

    /// Ends it without giving it a chance.
    pub(crate) fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.process.kill();
        }
    }

    /// Where clients pull.
    pub(crate) fn address(&self) -> SocketAddr {
        self.running.as_ref().unwrap().data
    }

    /// Where the default registry alone answers.
    pub(crate) fn mirror(&self) -> SocketAddr {
        assert!(eventually(|| listening(&self.log(), "mirror").is_some()));
        listening(&self.log(), "mirror").unwrap()
    }

    /// Where health and metrics are.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.running.as_ref().unwrap().admin
    }

    /// Its private memory, in KiB.
    pub(crate) fn private_memory(&self) -> u64 {
        self.running.as_ref().unwrap().process.private_memory()
    }

    /// How many files it has open.
    pub(crate) fn open_files(&self) -> usize {
        self.running.as_ref().unwrap().process.open_files()
    }

    /// Lowers the number of files it may have open.
    pub(crate) fn limit_files(&self, files: u32) {
        self.running.as_ref().unwrap().process.limit_files(files);
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().process.pid()
    }

    /// The cache directory.
    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// All that this run of it has written to stdout and stderr.
    pub(crate) fn log(&self) -> String {
        self.running.as_ref().unwrap().process.log()
    }

    /// GET, from whoever may pull.
    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> Response {
        http::get(self.address(), target)
    }

    /// HEAD.
    #[track_caller]
    pub(crate) fn head(&self, target: &str) -> Response {
        http::send(self.address(), "HEAD", target, &[])
    }

    /// GET with headers.
    #[track_caller]
    pub(crate) fn get_with(&self, target: &str, headers: &[(&str, &str)]) -> Response {
        http::send(self.address(), "GET", target, headers)
    }

    /// Takes all registries offline, or back.
    #[track_caller]
    pub(crate) fn set_offline(&self, offline: bool) {
        let body = format!("{{\"offline\": {offline}}}");
        let answer = http::send_json(self.admin(), "PUT", "/api/v1/offline", &body);
        assert_eq!(answer.status, 200);
        let said = String::from_utf8(answer.body).unwrap();
        assert!(said.contains(&format!("\"offline\":{offline}")), "{said}");
    }

    /// A number of the metrics page, all label sets of a name added up.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let page = http::get(self.admin(), "/metrics");
        let text = String::from_utf8(page.body).unwrap();
        text.lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Every file under `blobs/`, its bytes read: what it is called and what it hashes to.
    #[track_caller]
    pub(crate) fn assert_cache_is_sound(&self) {
        for path in self.blobs() {
            let name = path.file_name().unwrap().to_str().unwrap();
            let bytes = fs::read(&path).unwrap();
            let real = if name.len() == 64 { super::digest::sha256(&bytes) } else { super::digest::sha512(&bytes) };
            assert!(real.ends_with(name), "{} holds {real}", path.display());
        }
    }

    /// The files of complete blobs.
    pub(crate) fn blobs(&self) -> Vec<PathBuf> {
        files(&self.cache().join("blobs"))
    }

    /// Waits until so many complete blobs are on disk, which is a little after they were served;
    /// gives how many there are.
    pub(crate) fn wait_for_blobs(&self, count: usize) -> usize {
        eventually(|| self.blobs().len() >= count);
        self.blobs().len()
    }

    /// Waits until no transfer runs, which is a little after the last blob has
    /// its name: until then whoever asks follows it.
    pub(crate) fn wait_for_fills(&self) {
        assert!(eventually(|| self.metric("transship_fills") == 0.0));
    }

    /// The files of blobs that are not complete.
    pub(crate) fn partials(&self) -> Vec<PathBuf> {
        files(&self.cache().join("partial"))
    }
}

/// Whether `holds` comes true while a test can wait for it.
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    (0..1000).any(|_| {
        let true_now = holds();
        if !true_now {
            std::thread::sleep(Duration::from_millis(10));
        }
        true_now
    })
}

fn files(dir: &std::path::Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .flat_map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { vec![entry.path()] })
        .collect()
}

fn listening(log: &str, listener: &str) -> Option<SocketAddr> {
    log.lines().find_map(|line| {
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else {
            // `… listening listener="data" address=127.0.0.1:1234 tls=false`
            let (_, rest) = line.split_once(&format!("listening listener=\"{listener}\" address="))?;
            return rest.split(' ').next()?.parse().ok();
        };
        let this = event["message"] == "listening" && event["listener"] == listener;
        this.then(|| event["address"].as_str()?.parse().ok())?
    })
}
