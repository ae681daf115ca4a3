//! A stored blob whose file fails while it is being sent: the response goes on
//! from upstream where the file ends, the file is put aside, and what replaces
//! it serves everybody else.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::delivery;
use crate::support::digest::{noise, sha256};
use crate::support::http;
use crate::support::proxy::{Proxy, Setup, eventually};
use crate::support::upstream::Upstream;

const MIB: usize = 1 << 20;
/// On a busy machine the upstream is slow, and requests would be more than one.
const ONE: &str = "[limits]\nmax_segments = 1\n";
/// More than the buffers of a connection hold.
const SIZE: usize = 64 * MIB;
/// Behind everything that can have been sent to a client that waits, and where
/// a window of it may have been handed to the connection already. Where pages
/// end: the rest of a page reads as zeros, and then the connection is cut.
const CUTS: [usize; 2] = [24 * MIB, 1865 * 4096];

fn target(digest: &str) -> String {
    format!("/v2/app/blobs/{digest}")
}

fn cut_short(path: &Path, len: usize) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len as u64).unwrap();
}

/// One request for a part, no more than the file has lost, and nothing after.
#[track_caller]
fn assert_mended(upstream: &Upstream, proxy: &Proxy, digest: &str, from: std::ops::RangeInclusive<usize>) {
    let starts: Vec<_> = upstream.requests().iter().map(|request| request.range_start()).collect();
    assert!(starts.len() == 1 && starts[0].is_some_and(|start| from.contains(&start)), "{starts:?}\n{}", proxy.log());
    assert!(eventually(|| std::fs::read_dir(proxy.cache().join("quarantine")).is_ok_and(|all| all.count() == 1)));
    proxy.wait_for_blobs(1);
    upstream.forget();
    proxy.get(&target(digest)).assert_content(digest);
    assert_eq!(upstream.connections(), 0);
    proxy.assert_cache_is_sound();
}

#[test]
fn f13_a_file_that_is_cut_short_under_its_readers_costs_them_nothing() {
    for (body, cut) in ["splice", "mmap", "read"].into_iter().flat_map(|body| CUTS.map(|cut| (body, cut))) {
        let upstream = Upstream::start();
        let digest = upstream.blob("app", &noise(1, SIZE));
        let proxy = Setup::open(&upstream).sections(&format!("[server]\nbody = \"{body}\"\n{ONE}")).start();
        proxy.get(&target(&digest)).assert_content(&digest);
        proxy.wait_for_blobs(1);
        upstream.forget();
        let mut readers: Vec<_> = (0..3).map(|_| http::open(proxy.address(), "GET", &target(&digest), &[])).collect();
        let part = [("Range", "bytes=1000-60000000")];
        let mut part = http::open(proxy.address(), "GET", &target(&digest), &part);
        let expected = noise(1, SIZE);
        for reader in &mut readers {
            assert_eq!(reader.read(1000), expected[..1000]);
        }
        assert_eq!(part.read(1000), expected[1000..2000]);
        cut_short(&proxy.blobs().pop().unwrap(), cut);
        std::thread::scope(|scope| {
            for reader in readers {
                let expected = &expected;
                scope.spawn(move || {
                    let rest = reader.finish();
                    assert!(rest.complete, "{body}: the body ended after {} bytes", rest.body.len());
                    assert!(rest.body == expected[1000..], "{body}");
                });
            }
            let rest = part.finish();
            assert!(rest.complete && rest.body == expected[2000..=60_000_000], "{body}");
        });
        assert_mended(&upstream, &proxy, &digest, MIB..=cut);
    }
}

#[test]
fn a_file_that_is_cut_short_when_nothing_can_be_stored_is_read_to_its_end_from_upstream() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(1, SIZE));
    let first = Setup::open(&upstream).start();
    first.get(&target(&digest)).assert_content(&digest);
    first.wait_for_blobs(1);
    // A second process on the same directory may not write to it.
    let second = Setup::open(&upstream).environment("TRANSSHIP_CACHE_DIR", first.cache().to_str().unwrap()).start();
    let mut reader = http::open(second.address(), "GET", &target(&digest), &[]);
    reader.read(1000);
    cut_short(&first.blobs().pop().unwrap(), CUTS[0]);
    let rest = reader.finish();
    assert!(rest.complete && rest.body == noise(1, SIZE)[1000..]);
    assert!(!first.cache().join("quarantine").exists());
}

#[test]
fn f11_a_disk_that_fails_in_the_middle_of_a_blob_costs_one_request_for_the_rest() {
    if !crate::support::real::available() {
        return;
    }
    let tls_dir = tempfile::tempdir().unwrap();
    let certificate = delivery::write_certificate(tls_dir.path());
    let tls =
        format!("[server.tls]\ncertificate = \"{0}/server.crt\"\nkey = \"{0}/server.key\"\n", tls_dir.path().display());
    // Calls are counted for each thread.
    let cases = [
        ("", "splice:error=EIO:when=4+"),
        ("", "preadv2:error=EIO:when=3+"),
        ("[server]\nbody = \"read\"\n", "preadv2,pread64:error=EIO:when=20+"),
        (&tls, "preadv2,pread64:error=EIO:when=20+"),
    ];
    for (sections, fault) in cases {
        let upstream = Upstream::start();
        let digest = upstream.blob("app", &noise(1, SIZE));
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        let setup = || Setup::open(&upstream).environment("TRANSSHIP_CACHE_DIR", cache.to_str().unwrap());
        let before = setup().start();
        before.get(&target(&digest)).assert_content(&digest);
        let hex = digest.split_once(':').unwrap().1;
        let stored = cache.join("blobs/sha256").join(&hex[..2]).join(hex);
        assert!(eventually(|| stored.exists()));
        drop(before);
        upstream.forget();
        let inject = format!("inject={fault}");
        let stored = stored.to_str().unwrap();
        let trace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-P", stored, "-e", &inject];
        let proxy = setup().sections(&format!("{sections}{ONE}[cache]\nscrub_rate = \"0\"\n")).under(&trace).start();
        if sections.contains("tls") {
            let (answer, _) =
                delivery::get(proxy.address(), std::slice::from_ref(&certificate), &target(&digest)).unwrap();
            let head = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            assert_eq!(sha256(&answer[head..]), digest, "{fault}, {} bytes", answer.len());
        } else {
            proxy.get(&target(&digest)).assert_content(&digest);
        }
        let starts: Vec<_> = upstream.requests().iter().map(|request| request.range_start()).collect();
        assert!(starts[0].is_some_and(|start| start >= MIB / 2), "{fault}: {starts:?}\n{}", proxy.log());
        // The fault is one of the name: as soon as the new file has it, reading
        // that fails too, and the end comes straight from upstream.
        assert!(matches!(starts[1..], [] | [None]), "{fault}: {starts:?}\n{}", proxy.log());
        assert_eq!(std::fs::read_dir(cache.join("quarantine")).unwrap().count(), 1);
    }
}

#[test]
fn f12_a_damaged_blob_without_checksums_is_given_out_once_and_whoever_comes_back_makes_it_whole() {
    let upstream = Upstream::start();
    // What is small is hashed when it is read, and what has checksums is found
    // damaged before it is sent.
    for size in [MIB, 3 * MIB] {
        let digest = upstream.blob("app", &noise(7, size));
        let proxy = Setup::open(&upstream).sections("[cache]\nscrub_rate = \"0\"\n").start();
        proxy.get(&target(&digest)).assert_content(&digest);
        proxy.wait_for_blobs(1);
        let mut proxy = proxy;
        proxy.stop();
        let path = proxy.blobs().pop().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[size / 2] ^= 1;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::fs::write(&path, bytes).unwrap();
        std::fs::remove_dir_all(proxy.cache().join("sums")).unwrap();
        proxy.restart();
        // Nobody knows yet.
        let first = proxy.get(&target(&digest));
        assert!(first.complete && sha256(&first.body) != digest);
        let second = proxy.get(&target(&digest));
        assert!(!second.complete || sha256(&second.body) == digest);
        proxy.get(&target(&digest)).assert_content(&digest);
        proxy.assert_cache_is_sound();
    }
}

#[test]
fn a_sound_blob_is_checked_once_however_often_it_is_asked_for() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(8, 3 * MIB));
    let proxy = Setup::open(&upstream).sections("[cache]\nscrub_rate = \"0\"\n").start();
    for _ in 0..20 {
        proxy.get(&target(&digest)).assert_content(&digest);
    }
    assert_eq!(upstream.count("GET", "/blobs/"), 1);
    assert_eq!(proxy.log().matches("a stored blob that a client asked for again is checked").count(), 1);
}
