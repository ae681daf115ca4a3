//! A server's processes: starting them, waiting until they listen, ending
//! them, and what they used of processor and memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(30);

/// How long it may take to end by itself.
const END: Duration = Duration::from_secs(5);

/// Of `/proc/<pid>/stat`; the same on every Linux that matters here.
const TICKS_PER_SECOND: f64 = 100.0;

/// A running server. It ends when this goes out of scope.
pub(crate) struct Process {
    child: Child,
    name: &'static str,
}

impl Process {
    /// Starts `command`, its output in `<dir>/<name>.log`.
    pub(crate) fn start(name: &'static str, mut command: Command, dir: &Path) -> io::Result<Process> {
        let log = File::create(dir.join(format!("{name}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child =
            command.spawn().map_err(|error| io::Error::new(error.kind(), format!("{name} does not start: {error}")))?;
        Ok(Process { child, name })
    }

    /// Waits until something accepts connections on `port`.
    pub(crate) fn wait_for(&mut self, port: u16) -> io::Result<()> {
        let began = Instant::now();
        while TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("{} ended at once: {status}", self.name)));
            }
            if began.elapsed() > START {
                return Err(io::Error::other(format!("{} does not listen after {START:?}", self.name)));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// The process and those it started.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mut all = vec![self.child.id()];
        let mut next = 0;
        while let Some(&pid) = all.get(next) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            next += 1;
        }
        all
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let began = Instant::now();
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        while began.elapsed() < END {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Processor time of some processes at one moment.
///
/// The scheduler's figure is exact but forgets threads that have ended; the
/// one in `stat` remembers them, in steps of 10 ms. The larger difference of
/// the two is the better one.
#[derive(Debug, Clone)]
pub(crate) struct CpuTime {
    stat: f64,
    threads: BTreeMap<String, u64>,
}

impl CpuTime {
    /// Looks at `pids` now.
    pub(crate) fn of(pids: &[u32]) -> CpuTime {
        let mut time = CpuTime { stat: 0.0, threads: BTreeMap::new() };
        for pid in pids {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The name before it may hold anything, a closing parenthesis too.
            let after_name = stat.rsplit(')').next().unwrap_or_default();
            let ticks: u64 = after_name.split(' ').skip(12).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
            time.stat += ticks as f64 / TICKS_PER_SECOND;
            for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let schedstat = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
                let ran = schedstat.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0);
                time.threads.insert(thread.file_name().to_string_lossy().into_owned(), ran);
            }
        }
        time
    }

    /// Seconds used since `earlier`.
    pub(crate) fn since(&self, earlier: &CpuTime) -> f64 {
        let ran = |(thread, ran): (&String, &u64)| ran - earlier.threads.get(thread).copied().unwrap_or(0).min(*ran);
        let nanoseconds: u64 = self.threads.iter().map(ran).sum();
        (self.stat - earlier.stat).max(nanoseconds as f64 / 1e9)
    }
}

/// Processor time of the calling thread so far, in seconds.
pub(crate) fn thread_cpu() -> f64 {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    schedstat.split(' ').next().and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// Memory of some processes, in bytes: anonymous, and all that is resident
/// (which counts the page cache of mapped files too).
pub(crate) fn memory(pids: &[u32]) -> (u64, u64) {
    let (mut anonymous, mut resident) = (0, 0);
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        anonymous += field("RssAnon:");
        resident += field("VmRSS:");
    }
    (anonymous, resident)
}
