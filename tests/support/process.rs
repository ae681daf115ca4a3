//! Starting, waiting for and ending the processes of others.
//!
//! A [`Daemon`] is ended by its own id when it goes out of scope, politely
//! first, because `dockerd` holds mounts and a containerd that only it undoes.
//! If the test is killed, the kernel ends its daemons (`setpriv --pdeathsig`);
//! it does so with the thread that started them, so a daemon stays in the
//! thread of its test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Where the distribution puts its programs: a test uses those and no others
/// that the machine may have besides.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a daemon may take to be ready, on a slow and busy machine.
const START: Duration = Duration::from_secs(60);

/// How long a daemon may take to end by itself.
const END: Duration = Duration::from_secs(20);

/// How long one command of a client may take before the test gives up on it.
const COMMAND_SECONDS: &str = "120";

/// A directory for a daemon's state. Not where `TMPDIR` may point: the path of
/// a Unix socket has to stay short.
pub(crate) fn state_dir() -> TempDir {
    tempfile::Builder::new().prefix("transship-").tempdir_in("/tmp").unwrap()
}

/// A command that finds the distribution's programs and nothing of the
/// caller's: no proxies, no stored logins, no configuration.
pub(crate) fn command(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    isolate(&mut command, home);
    command
}

/// As [`command`], but killed when it hangs, so that a stuck client is a
/// failed test and not a stuck suite.
pub(crate) fn bounded(program: &str, home: &Path) -> Command {
    let mut command = Command::new("timeout");
    isolate(&mut command, home);
    command.args(["--kill-after=5", COMMAND_SECONDS, program]);
    command
}

fn isolate(command: &mut Command, home: &Path) {
    command.env_clear().env("PATH", PATH).env("HOME", home).env("LC_ALL", "C").current_dir(home);
}

/// What a finished command said and whether it was content.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The command line, for messages.
    pub(crate) line: String,
    /// Whether it exited with 0.
    pub(crate) ok: bool,
    /// Its standard output, byte for byte.
    pub(crate) stdout: Vec<u8>,
    /// Its standard error.
    pub(crate) stderr: String,
}

impl Outcome {
    /// Runs `command` to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let line = format!("{command:?}");
        let Output { status, stdout, stderr } =
            command.output().unwrap_or_else(|error| panic!("{line} does not start: {error}"));
        Self { line, ok: status.success(), stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() }
    }

    /// Its standard output as text, without the last line end.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Fails the test unless the command succeeded.
    #[track_caller]
    pub(crate) fn expect_ok(self) -> Self {
        assert!(self.ok, "{}\nfailed with: {}{}", self.line, self.text(), self.stderr);
        self
    }

    /// Fails the test unless the command failed; what it told its user.
    #[track_caller]
    pub(crate) fn expect_error(self) -> String {
        assert!(!self.ok, "{}\nshould have failed but said: {}", self.line, self.text());
        format!("{}\n{}", self.text(), self.stderr)
    }
}

/// A process that runs until this value is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `program` with stdout and stderr going to its log in `dir`.
    pub(crate) fn start(program: &str, dir: &Path, configure: impl FnOnce(&mut Command)) -> Self {
        let name = program.rsplit('/').next().unwrap_or(program).to_owned();
        let log = dir.join(format!("{name}.log"));
        let out = File::create(&log).unwrap();
        let mut command = command("setpriv", dir);
        command.args(["--pdeathsig", "TERM", program]);
        configure(&mut command);
        command.stdout(out.try_clone().unwrap()).stderr(out);
        let child = command.spawn().unwrap_or_else(|error| panic!("{program} does not start: {error}"));
        Self { name, child, log }
    }

    /// Waits until `ready`, given the log so far, says yes; fails the test, with the daemon's log,
    /// when it ends or takes too long.
    pub(crate) fn wait_until(&mut self, mut ready: impl FnMut(&str) -> bool) {
        let deadline = Instant::now() + START;
        while !ready(&self.log()) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} ended with {status}:\n{}", self.name, self.log());
            }
            assert!(Instant::now() < deadline, "{} is not ready:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// Its private memory, in KiB, as the kernel counts it: what is mapped from
    /// files is not in it.
    pub(crate) fn private_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many files it has open.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Lowers the number of files it may have open.
    pub(crate) fn limit_files(&self, files: u32) {
        let pid = self.child.id().to_string();
        let limit = format!("--nofile={files}:{files}");
        assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    }

    /// Ends it at once, without a chance to tidy up.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// All it has written so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + END;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                eprintln!("{} does not end and is killed", self.name);
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
