//! What is on disk is worth something to the next process, however the last
//! one ended.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use crate::support::digest::noise;
use crate::support::http;
use crate::support::proxy::{Proxy, Setup, eventually};
use crate::support::upstream::{Event, Gate, Request, Upstream};

const SIZE: usize = 8 << 20;

fn start() -> (Upstream, Proxy, String) {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(1, SIZE));
    let proxy = Setup::open(&upstream).start();
    (upstream, proxy, digest)
}

/// Blobs that were asked for, not counting the few bytes that show who may have
/// what is here already.
fn transfers(upstream: &Upstream) -> usize {
    let is_sample = |request: &Request| request.range().is_some_and(|(start, end)| end - start < 10_000);
    let is_blob = |request: &Request| request.method == "GET" && request.target.contains("/blobs/");
    upstream.requests().iter().filter(|request| is_blob(request) && !is_sample(request)).count()
}

#[test]
fn a_restart_keeps_blobs_and_manifests() {
    let (upstream, mut proxy, digest) = start();
    let manifest = upstream.image("app", "1", &[b"a layer"]);
    let by_digest = format!("/v2/app/manifests/{}", crate::support::digest::sha256(&manifest));
    assert_eq!(proxy.get("/v2/app/manifests/1").status, 200);
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
    proxy.restart();
    upstream.forget();
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
    assert_eq!(proxy.get(&by_digest).body, manifest);
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn f01_a_transfer_that_was_killed_in_the_middle_is_continued_by_the_next_process() {
    let (upstream, mut proxy, digest) = start();
    let gate = Gate::new();
    let closed = gate.clone();
    let at = SIZE * 3 / 4;
    upstream.first(1, "GET", "/blobs/", move |_, answer| answer.at(at, Event::Wait(closed.clone())));
    let mut client = http::open(proxy.address(), "GET", &format!("/v2/app/blobs/{digest}"), &[]);
    client.read(at);
    proxy.kill();
    gate.open();
    assert!(!client.finish().complete);
    proxy.restart();
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
    let resumed = upstream.requests().last().unwrap().range_start().unwrap_or(0);
    assert!(at - resumed <= 1 << 20, "{resumed} of {at}");
    proxy.wait_for_blobs(1);
    proxy.assert_cache_is_sound();
}

#[test]
fn f01_killed_at_random_points_nothing_on_disk_is_ever_wrong() {
    let (upstream, mut proxy, digest) = start();
    let target = format!("/v2/app/blobs/{digest}");
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..5 {
        let mut client = http::open(proxy.address(), "GET", &target, &[]);
        client.read(random.usize(0..SIZE));
        proxy.kill();
        proxy.assert_cache_is_sound();
        proxy.restart();
    }
    proxy.get(&target).assert_content(&digest);
    assert!(transfers(&upstream) <= 6);
}

#[test]
fn f48_what_a_killed_transfer_left_is_not_believed() {
    for has_log in [true, false] {
        what_a_killed_transfer_left_is_not_believed(has_log);
    }
}

/// `has_log`: the checksums of what came are there.
fn what_a_killed_transfer_left_is_not_believed(has_log: bool) {
    let (upstream, mut proxy, digest) = start();
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.first(1, "GET", "/blobs/", move |_, answer| answer.at(SIZE / 2, Event::Wait(closed.clone())));
    let mut client = http::open(proxy.address(), "GET", &format!("/v2/app/blobs/{digest}"), &[]);
    client.read(SIZE / 2);
    proxy.kill();
    gate.open();
    let partial = proxy.partials().pop().unwrap();
    let mut bytes = std::fs::read(&partial).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&partial, &bytes).unwrap();
    if !has_log {
        std::fs::remove_dir_all(proxy.cache().join("sums")).unwrap();
    }
    proxy.restart();
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
    proxy.assert_cache_is_sound();
}

#[test]
fn f48_a_partial_longer_than_the_content_is_thrown_away() {
    let (upstream, mut proxy, _) = start();
    let digest = upstream.blob("app", &noise(3, 100_000));
    let name = digest.replace(':', "-");
    proxy.stop();
    std::fs::write(proxy.cache().join("partial").join(name), noise(4, 3 << 20)).unwrap();
    proxy.restart();
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
}

#[test]
fn f13_a_file_that_is_gone_is_fetched_again() {
    let (upstream, mut proxy, digest) = start();
    let target = format!("/v2/app/blobs/{digest}");
    proxy.get(&target).assert_content(&digest);
    proxy.wait_for_blobs(1);
    proxy.stop();
    std::fs::remove_file(proxy.blobs().pop().unwrap()).unwrap();
    proxy.restart();
    proxy.get(&target).assert_content(&digest);
    assert_eq!(upstream.count("GET", "/blobs/"), 2);
}

#[test]
fn f14_without_its_index_the_cache_asks_upstream_and_serves() {
    for garbage in [None, Some(&b"not a database"[..])] {
        let (upstream, mut proxy, digest) = start();
        let target = format!("/v2/app/blobs/{digest}");
        proxy.get(&target).assert_content(&digest);
        proxy.wait_for_blobs(1);
        proxy.stop();
        let index = proxy.cache().join("links.redb");
        std::fs::remove_file(&index).unwrap();
        if let Some(bytes) = garbage {
            std::fs::write(&index, bytes).unwrap();
        }
        proxy.restart();
        upstream.forget();
        proxy.get(&target).assert_content(&digest);
        assert_eq!(transfers(&upstream), 0, "possession is shown again, and the bytes stay where they are");
        assert!(upstream.count("GET", "/blobs/") >= 2);
    }
}

#[test]
fn f35_a_second_process_on_the_same_directory_passes_through_and_writes_nothing() {
    let (upstream, proxy, digest) = start();
    let second = Setup::open(&upstream).environment("TRANSSHIP_CACHE_DIR", proxy.cache().to_str().unwrap()).start();
    let target = format!("/v2/app/blobs/{digest}");
    second.get(&target).assert_content(&digest);
    assert_eq!(proxy.blobs().len(), 0);
    assert!(second.log().contains("another process"), "{}", second.log());
    proxy.get(&target).assert_content(&digest);
    proxy.wait_for_blobs(1);
    upstream.forget();
    second.get(&target).assert_content(&digest);
    assert_eq!(transfers(&upstream), 0, "what the first has cached, the second reads");
}

#[test]
fn a_cache_directory_that_is_deleted_is_made_again_and_used_again() {
    let (upstream, mut proxy, digest) = start();
    let target = format!("/v2/app/blobs/{digest}");
    proxy.get(&target).assert_content(&digest);
    proxy.wait_for_blobs(1);
    // Nothing can be made where a file is in the way: pulls go on.
    let cache = proxy.cache();
    std::fs::remove_dir_all(&cache).unwrap();
    std::fs::write(&cache, "in the way").unwrap();
    assert!(eventually(|| proxy.metric("transship_cache_writable") == 0.0));
    let ready = http::get(proxy.admin(), "/readyz");
    let said = String::from_utf8_lossy(&ready.body);
    assert_eq!((ready.status, said.lines().count()), (200, 2), "{said}");
    let other = upstream.blob("app", &noise(2, SIZE));
    let other_target = format!("/v2/app/blobs/{other}");
    proxy.get(&other_target).assert_content(&other);
    proxy.get(&target).assert_content(&digest);
    std::fs::remove_file(&cache).unwrap();
    assert!(eventually(|| proxy.metric("transship_cache_writable") == 1.0));
    assert_eq!(proxy.log().matches("the cache directory is gone").count(), 1, "{}", proxy.log());
    proxy.get(&target).assert_content(&digest);
    proxy.get(&other_target).assert_content(&other);
    proxy.wait_for_blobs(2);
    upstream.forget();
    proxy.get(&target).assert_content(&digest);
    assert_eq!(upstream.requests().len(), 0);
    // What is remembered of upstream is in the new directory too.
    proxy.stop();
    proxy.restart();
    proxy.get(&target).assert_content(&digest);
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn f36_a_stop_lets_running_transfers_finish() {
    let (upstream, mut proxy, digest) = start();
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.on("GET", "/blobs/", move |_, answer| answer.at(SIZE / 2, Event::Wait(closed.clone())));
    let client = http::open(proxy.address(), "GET", &format!("/v2/app/blobs/{digest}"), &[]);
    gate.wait_until_reached();
    let (admin, finished) = (proxy.admin(), std::thread::spawn(move || client.finish()));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(300));
            gate.open();
        });
        let stopping = scope.spawn(|| proxy.stop());
        std::thread::sleep(std::time::Duration::from_millis(150));
        assert_eq!(http::get(admin, "/readyz").status, 503);
        stopping.join().unwrap();
    });
    finished.join().unwrap().assert_content(&digest);
    assert_eq!(proxy.blobs().len(), 1);
}

#[test]
fn a_stop_ends_when_the_drain_time_is_over_and_what_has_come_is_kept() {
    for followed in [true, false] {
        let upstream = Upstream::start();
        let digest = upstream.blob("app", &noise(1, SIZE));
        let mut proxy = Setup::open(&upstream).sections("[limits]\ndrain_timeout = \"500ms\"\n").start();
        let gate = Gate::new();
        let closed = gate.clone();
        upstream.first(1, "GET", "/blobs/", move |_, answer| answer.at(SIZE / 2, Event::Wait(closed.clone())));
        let target = format!("/v2/app/blobs/{digest}");
        let mut client = http::open(proxy.address(), "GET", &target, &[]);
        client.read(SIZE / 2);
        let client = followed.then_some(client);
        let pid = rustix::process::Pid::from_raw(proxy.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(proxy.ends_by_itself(), "the transfer is stopped");
        gate.open();
        drop(client);
        proxy.restart();
        upstream.forget();
        proxy.get(&target).assert_content(&digest);
        assert!(upstream.requests()[0].range_start().is_some(), "it goes on where it was stopped");
    }
}

#[test]
fn a_first_start_that_was_killed_while_it_wrote_the_version_is_no_obstacle() {
    let (_upstream, mut proxy, digest) = start();
    proxy.stop();
    std::fs::write(proxy.cache().join("VERSION"), "").unwrap();
    proxy.restart();
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(&digest);
}

#[test]
fn a_process_that_starts_beside_another_takes_its_directory_over() {
    let (upstream, old, digest) = start();
    let target = format!("/v2/app/blobs/{digest}");
    old.get(&target).assert_content(&digest);
    old.wait_for_blobs(1);
    let cache = old.cache().display().to_string();
    let new = Setup::open(&upstream).environment("TRANSSHIP_CACHE_DIR", &cache).start();
    new.get(&target).assert_content(&digest);
    let later = upstream.blob("app", &noise(2, SIZE));
    let later_target = format!("/v2/app/blobs/{later}");
    // The directory itself stays when the old one is gone.
    let mut old = old;
    old.stop();
    assert!(eventually(|| new.log().contains("keeps the cache directory from now on")));
    upstream.forget();
    new.get(&later_target).assert_content(&later);
    assert!(eventually(|| new.metric("transship_cache_blobs") >= 2.0), "it has taken stock, and adds to it");
    new.get(&later_target).assert_content(&later);
    assert_eq!(upstream.count("GET", "/blobs/"), 1);
}

#[test]
fn whoever_comes_while_transfers_drain_is_answered() {
    let (upstream, mut proxy, digest) = start();
    let manifest = upstream.image("app", "1", &[]);
    assert_eq!(proxy.get("/v2/app/manifests/1").body, manifest);
    let gate = Gate::new();
    let closed = gate.clone();
    upstream.on("GET", "/blobs/", move |_, answer| answer.at(SIZE / 2, Event::Wait(closed.clone())));
    let target = format!("/v2/app/blobs/{digest}");
    let mut running = http::open(proxy.address(), "GET", &target, &[]);
    running.read(SIZE / 4);
    let pid = rustix::process::Pid::from_raw(proxy.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(eventually(|| http::get(proxy.admin(), "/readyz").status == 503));
    for _ in 0..5 {
        assert_eq!(proxy.get("/v2/app/manifests/1").body, manifest);
    }
    // One that stays without asking for anything holds up nobody.
    let idle = http::connect(proxy.address());
    gate.open();
    running.finish();
    assert!(proxy.ends_by_itself());
    drop(idle);
}

/// A process that finds `listener` as a service manager would hand it over.
fn activated(upstream: &Upstream, listener: &TcpListener) -> Proxy {
    let handed_over = format!(
        "export LISTEN_PID=$$ LISTEN_FDS=1; exec 3<&{}; exec \"$0\" \"$@\"",
        std::os::fd::AsRawFd::as_raw_fd(listener)
    );
    let address = listener.local_addr().unwrap();
    Setup::open(upstream)
        .sections(&format!("[server]\nmirror_listen = [\"{address}\"]\n"))
        .under(&["bash", "-c", &handed_over])
        .start()
}

#[test]
fn f25_who_comes_between_two_processes_waits_where_a_service_manager_holds_the_listener() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(1, 100_000));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Else it would be closed where another program begins.
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    let address = listener.local_addr().unwrap();
    let target = format!("/v2/app/blobs/{digest}");
    let mut proxy = activated(&upstream, &listener);
    http::get(address, &target).assert_content(&digest);
    proxy.stop();
    // Nobody is there, and nobody is refused.
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let mut client = http::connect(address);
            client.write_all(request.as_bytes()).unwrap();
            client
        })
        .collect();
    proxy.restart();
    for mut client in clients {
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(&noise(1, 100_000)));
    }
}
