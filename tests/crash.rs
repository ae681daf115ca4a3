//! Ended at the worst moments, the cache holds nothing wrong, and the next
//! process goes on from what there is.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::digest::noise;
use crate::support::http;
use crate::support::proxy::{Proxy, Setup, eventually};
use crate::support::upstream::Upstream;

/// `strace` on a process that runs already; it ends with this.
struct Tracer(Child);

impl Tracer {
    /// Traces `proxy` from now on.
    #[track_caller]
    fn attach(proxy: &Proxy, arguments: &[&str]) -> Self {
        let pid = proxy.pid();
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-qq", "-p", &pid.to_string()]).args(arguments);
        let tracer = Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let is_traced = |task: std::fs::DirEntry| {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        };
        let tasks = format!("/proc/{pid}/task");
        assert!(eventually(|| std::fs::read_dir(&tasks).is_ok_and(|tasks| tasks.flatten().all(is_traced))));
        tracer
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Where things of `digest` are.
struct Places {
    partial: String,
    fan_out: String,
    links: String,
}

impl Places {
    fn of(cache: &Path, digest: &str) -> Self {
        let (algorithm, hex) = digest.split_once(':').unwrap();
        let at = |place: String| cache.join(place).to_str().unwrap().to_owned();
        Self {
            partial: at(format!("partial/{algorithm}-{hex}")),
            fan_out: at(format!("blobs/{algorithm}/{}", &hex[..2])),
            links: at("links.redb".to_owned()),
        }
    }
}

#[test]
fn f02_killed_at_any_step_of_storing_a_blob_it_leaves_it_whole_or_not_at_all() {
    if !crate::support::real::available() {
        return;
    }
    for (call, place) in [
        ("fallocate", "partial"),
        ("pwrite64", "partial"),
        ("fdatasync", "partial"),
        ("chmod,fchmodat", "partial"),
        ("renameat2", "partial"),
        ("fsync", "fan-out"),
        ("pwrite64", "links"),
        ("fdatasync", "links"),
    ] {
        let upstream = Upstream::start();
        let digest = upstream.blob("app", &noise(1, 3 << 20));
        let target = format!("/v2/app/blobs/{digest}");
        let mut proxy = Setup::open(&upstream).start();
        let places = Places::of(&proxy.cache(), &digest);
        let path = match place {
            "partial" => &places.partial,
            "fan-out" => &places.fan_out,
            _ => &places.links,
        };
        let inject = format!("inject={call}:signal=KILL:when=1");
        let tracer = Tracer::attach(&proxy, &["-o", "/dev/null", "-P", path, "-e", &inject]);
        // The client may have all of it before its proxy ends.
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        http::raw(proxy.address(), request.as_bytes());
        assert!(proxy.ends_by_itself(), "{call} of {place} never came");
        drop(tracer);
        proxy.assert_cache_is_sound();
        proxy.restart();
        proxy.get(&target).assert_content(&digest);
        assert_eq!(proxy.wait_for_blobs(1), 1);
        assert!(eventually(|| proxy.partials().is_empty()), "after {call} of {place}: {:?}", proxy.partials());
        proxy.assert_cache_is_sound();
        // Not counting the few bytes that show who may have what is complete.
        let is_sample = |range: (usize, usize)| range.1 - range.0 < 10_000;
        let asked = upstream.requests().into_iter().filter(|request| {
            request.method == "GET" && request.target.contains("/blobs/") && !request.range().is_some_and(is_sample)
        });
        assert!(asked.count() <= 2);
    }
}

/// The process may end where a power cut would; what a power cut takes besides
/// is what was never synced. So the order of the calls is the guarantee.
#[test]
fn f03_a_blob_gets_its_name_after_its_bytes_are_synced_and_the_name_is_synced_too() {
    if !crate::support::real::available() {
        return;
    }
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(1, 3 << 20));
    let proxy = Setup::open(&upstream).start();
    let Places { partial, fan_out, .. } = Places::of(&proxy.cache(), &digest);
    let log = proxy.cache().parent().unwrap().join("calls");
    let calls = "trace=pwrite64,write,fallocate,ftruncate,fdatasync,fsync,rename,renameat,renameat2";
    let tracer = Tracer::attach(&proxy, &["-o", log.to_str().unwrap(), "-e", calls]);
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    assert!(eventually(|| text().lines().any(|line| line.contains("fsync(") && line.contains(&fan_out))), "{}", text());
    drop(tracer);
    let text = text();
    // Checksums have a file of their own, which may be lost.
    let of_sums = format!("{partial}.");
    let calls = text.lines().filter(|line| line.contains(&partial) || line.contains(&fan_out));
    let calls: Vec<&str> = calls.filter(|line| !line.contains(&of_sums)).collect();
    let all = |what: &[&str], place: &str| -> Vec<usize> {
        let is_it = |call: &&str| what.iter().any(|what| call.contains(what)) && call.contains(place);
        calls.iter().enumerate().filter(|(_, call)| is_it(call)).map(|(at, _)| at).collect()
    };
    let changes = all(&["write", "fallocate", "ftruncate"], &partial);
    let synced = all(&["fdatasync"], &partial);
    let named = all(&["rename"], &partial);
    let kept = all(&["fsync"], &fan_out);
    let (Some(change), [synced], [named], Some(kept)) = (changes.last(), &synced[..], &named[..], kept.last()) else {
        panic!("{calls:#?}");
    };
    assert!(change < synced && synced < named && named < kept, "{calls:#?}");
}

#[test]
fn f15_on_a_slow_disk_followers_get_on_and_memory_stays_bounded() {
    if !crate::support::real::available() {
        return;
    }
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(1, 24 << 20));
    let target = format!("/v2/app/blobs/{digest}");
    let proxy = Setup::open(&upstream).start();
    let Places { partial, .. } = Places::of(&proxy.cache(), &digest);
    let before = proxy.private_memory();
    let _tracer =
        Tracer::attach(&proxy, &["-o", "/dev/null", "-P", &partial, "-e", "inject=pwrite64:delay_enter=100000"]);
    let mut first = http::open(proxy.address(), "GET", &target, &[]);
    assert_eq!(first.read(1000).len(), 1000, "it does not wait for the disk to have it all");
    let others: Vec<_> = (0..8).map(|_| http::open(proxy.address(), "GET", &target, &[])).collect();
    let mut most = 0;
    for mut client in others {
        client.read(12 << 20);
        most = most.max(proxy.private_memory());
        let rest = client.finish();
        assert!(rest.complete && rest.body.len() == 12 << 20);
    }
    assert!(first.finish().complete);
    assert_eq!(upstream.count("GET", "/blobs/"), 1);
    // KiB: less than what passed through.
    assert!(most.saturating_sub(before) < 20 << 10, "from {before} to {most} KiB");
}

#[test]
fn f07_without_room_for_the_index_pulls_go_on() {
    if !crate::support::real::available() {
        return;
    }
    let upstream = Upstream::start();
    let digests: Vec<String> = (0..4).map(|seed| upstream.blob("app", &noise(seed, 300_000))).collect();
    let mut proxy = Setup::open(&upstream).start();
    let Places { links, .. } = Places::of(&proxy.cache(), &digests[0]);
    let tracer = Tracer::attach(
        &proxy,
        &["-o", "/dev/null", "-P", &links, "-e", "inject=pwrite64,ftruncate,fallocate:error=ENOSPC"],
    );
    for _ in 0..2 {
        for digest in &digests {
            proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(digest);
        }
    }
    assert_eq!(proxy.wait_for_blobs(4), 4);
    assert_eq!(upstream.count("GET", "/blobs/"), 4, "what is cached is served by links in memory");
    drop(tracer);
    proxy.restart();
    for digest in &digests {
        proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(digest);
    }
    assert_eq!(upstream.count("GET", "/blobs/"), 4);
}
