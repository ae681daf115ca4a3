//! The disk: its bounds are kept, its faults make pulls slower and never
//! wrong, and what it damages is taken out of service.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::digest::noise;
use crate::support::http;
use crate::support::proxy::{Proxy, Setup, eventually};
use crate::support::upstream::{Event, Gate, Upstream};

const MIB: usize = 1 << 20;

fn pull(proxy: &Proxy, digest: &str) {
    proxy.get(&format!("/v2/app/blobs/{digest}")).assert_content(digest);
}

fn stored(proxy: &Proxy) -> u64 {
    proxy.blobs().iter().filter_map(|path| std::fs::metadata(path).ok()).map(|metadata| metadata.len()).sum()
}

#[test]
fn the_cache_stays_within_its_size_and_keeps_what_is_used_again() {
    let upstream = Upstream::start();
    let manifest = upstream.image("app", "1", &[]);
    let proxy = Setup::open(&upstream).sections("[cache]\nmax_size = \"200MiB\"\npolicy = \"lru\"\n").start();
    assert_eq!(proxy.get("/v2/app/manifests/1").body, manifest);
    let digests: Vec<_> = (0..20).map(|n| upstream.blob("app", &noise(n, 16 * MIB))).collect();
    for digest in &digests {
        pull(&proxy, digest);
        // Always in use.
        pull(&proxy, &digests[0]);
    }
    assert!(eventually(|| stored(&proxy) <= 200 * MIB as u64), "{}", stored(&proxy));
    assert!(stored(&proxy) > 50 * MIB as u64, "no more goes than must");
    upstream.forget();
    pull(&proxy, &digests[0]);
    let by_digest = format!("/v2/app/manifests/{}", crate::support::digest::sha256(&manifest));
    assert_eq!(proxy.get(&by_digest).body, manifest);
    assert_eq!(upstream.connections(), 0, "layers push no manifest out");
    // What went is fetched again.
    pull(&proxy, &digests[1]);
    proxy.assert_cache_is_sound();
}

#[test]
fn f33_whoever_reads_a_blob_that_is_evicted_reads_it_to_the_end() {
    let upstream = Upstream::start();
    let proxy = Setup::open(&upstream).sections("[cache]\nmax_size = \"160MiB\"\npolicy = \"lru\"\n").start();
    let victim = upstream.blob("app", &noise(100, 64 * MIB));
    pull(&proxy, &victim);
    proxy.wait_for_blobs(1);
    let mut readers: Vec<_> =
        (0..20).map(|_| http::open(proxy.address(), "GET", &format!("/v2/app/blobs/{victim}"), &[])).collect();
    for reader in &mut readers {
        reader.read(1000);
    }
    let file = proxy.blobs().pop().unwrap();
    for n in 0..6 {
        pull(&proxy, &upstream.blob("app", &noise(n, 32 * MIB)));
    }
    assert!(eventually(|| !file.exists()), "it was evicted");
    for reader in readers {
        let rest = reader.finish();
        assert!(rest.complete && rest.body.len() == 64 * MIB - 1000);
    }
}

#[test]
fn what_earlier_processes_stored_counts_too() {
    let upstream = Upstream::start();
    let mut proxy = Setup::open(&upstream).sections("[cache]\nmax_size = \"200MiB\"\n").start();
    for n in 0..5 {
        pull(&proxy, &upstream.blob("app", &noise(n, 16 * MIB)));
    }
    proxy.wait_for_blobs(5);
    proxy.restart();
    for n in 5..15 {
        pull(&proxy, &upstream.blob("app", &noise(n, 16 * MIB)));
    }
    assert!(eventually(|| stored(&proxy) <= 200 * MIB as u64), "{}", stored(&proxy));
}

#[test]
fn f12_what_the_disk_damaged_is_found_moved_aside_and_fetched_again() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(1, 3 * MIB));
    let mut proxy = Setup::open(&upstream).sections("[cache]\nscrub_rate = \"1GiB\"\n").start();
    pull(&proxy, &digest);
    proxy.wait_for_blobs(1);
    let path = proxy.blobs().pop().unwrap();
    proxy.stop();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[MIB] ^= 1;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::fs::write(&path, bytes).unwrap();
    proxy.restart();
    assert!(eventually(|| !path.exists()), "{}", proxy.log());
    assert_eq!(std::fs::read_dir(proxy.cache().join("quarantine")).unwrap().count(), 1);
    pull(&proxy, &digest);
}

#[test]
fn f13_a_file_that_lost_bytes_is_fetched_again() {
    let upstream = Upstream::start();
    for len in [0, 1, 3 * MIB as u64 - 1] {
        let digest = upstream.blob("app", &noise(2, 3 * MIB));
        let mut proxy = Setup::open(&upstream).sections("[cache]\nscrub_rate = \"0\"\n").start();
        pull(&proxy, &digest);
        proxy.wait_for_blobs(1);
        proxy.stop();
        let path = proxy.blobs().pop().unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
        proxy.restart();
        pull(&proxy, &digest);
    }
}

/// Flips one bit of each stored blob, in a proxy that does not run.
fn flip_a_bit_in_each(proxy: &Proxy) {
    for path in proxy.blobs() {
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn a_flipped_bit_reaches_nobody_however_many_pull_at_once_and_whatever_the_size() {
    let upstream = Upstream::start();
    let manifest = upstream.image("app", "1", &[]);
    let mut proxy = Setup::open(&upstream).sections("[cache]\nscrub_rate = \"0\"\n").start();
    let digests: Vec<_> =
        [100, 60_000, 70_000, 3 * MIB, 40 * MIB].iter().map(|size| upstream.blob("app", &noise(1, *size))).collect();
    digests.iter().for_each(|digest| pull(&proxy, digest));
    assert_eq!(proxy.get("/v2/app/manifests/1").body, manifest);
    proxy.wait_for_blobs(digests.len() + 1);
    proxy.stop();
    flip_a_bit_in_each(&proxy);
    proxy.restart();
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| digests.iter().for_each(|digest| pull(&proxy, digest)));
            scope.spawn(|| assert_eq!(proxy.get("/v2/app/manifests/1").body, manifest));
        }
    });
    assert_eq!(std::fs::read_dir(proxy.cache().join("quarantine")).unwrap().count(), digests.len() + 1);
    proxy.wait_for_blobs(digests.len() + 1);
    proxy.assert_cache_is_sound();
}

#[test]
fn a_part_of_a_damaged_blob_is_right_wherever_it_lies() {
    let upstream = Upstream::start();
    let bytes = noise(1, 3 * MIB);
    let digest = upstream.blob("app", &bytes);
    for (start, end) in [(0, 9), (3 * MIB / 2, 3 * MIB / 2), (MIB, 2 * MIB), (3 * MIB / 2 - 70_000, 3 * MIB - 1)] {
        let mut proxy = Setup::open(&upstream).sections("[cache]\nscrub_rate = \"0\"\n").start();
        pull(&proxy, &digest);
        proxy.wait_for_blobs(1);
        proxy.stop();
        flip_a_bit_in_each(&proxy);
        proxy.restart();
        let range = format!("bytes={start}-{end}");
        let part = proxy.get_with(&format!("/v2/app/blobs/{digest}"), &[("range", &range)]);
        assert_eq!((part.status, part.complete), (206, true), "{range}");
        assert!(part.body == bytes[start..=end], "{range}");
        pull(&proxy, &digest);
    }
}

#[test]
fn a_blob_without_checksums_gets_them_from_the_scrub() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(1, 3 * MIB));
    let mut proxy = Setup::open(&upstream).sections("[cache]\nscrub_rate = \"1GiB\"\n").start();
    pull(&proxy, &digest);
    proxy.wait_for_blobs(1);
    let blob = proxy.blobs().pop().unwrap();
    let sums = proxy.cache().join("sums").join(blob.strip_prefix(proxy.cache().join("blobs")).unwrap());
    let table = std::fs::read(&sums).unwrap();
    for left in [None, Some(&table[..table.len() - 1])] {
        proxy.stop();
        match left {
            Some(left) => std::fs::write(&sums, left).unwrap(),
            None => std::fs::remove_file(&sums).unwrap(),
        }
        proxy.restart();
        pull(&proxy, &digest);
        assert!(eventually(|| std::fs::read(&sums).is_ok_and(|again| again == table)));
    }
    assert_eq!(upstream.count("GET", "/blobs/"), 1);
}

#[test]
fn a_lazy_cache_is_not_believed_after_an_unclean_end() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(3, 3 * MIB));
    let mut proxy = Setup::open(&upstream).sections("[cache]\ndurability = \"lazy\"\nscrub_rate = \"0\"\n").start();
    pull(&proxy, &digest);
    proxy.wait_for_blobs(1);
    proxy.kill();
    let path = proxy.blobs().pop().unwrap();
    // Pages that never reached the disk are read back as zeros.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[MIB..MIB + 4096].fill(0);
    std::fs::write(&path, bytes).unwrap();
    proxy.restart();
    pull(&proxy, &digest);
    assert_eq!(upstream.count("GET", "/blobs/"), 2);
}

/// A small file system in memory, for as long as the value lives; `None`
/// without the right to mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(at).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "SKIPPED a disk of {options}: mounting needs root");
        None
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A proxy whose cache is on such a disk.
fn on_small_disk(upstream: &Upstream, options: &str, keys: &str) -> Option<(SmallDisk, Proxy)> {
    let dir = tempfile::tempdir().unwrap().keep();
    let disk = SmallDisk::mount(&dir.join("disk"), options)?;
    let proxy = Setup::open(upstream)
        .sections(&format!("[cache]\nmin_free = \"0\"\n{keys}"))
        .environment("TRANSSHIP_CACHE_DIR", dir.join("disk/cache").to_str().unwrap())
        .start();
    Some((disk, proxy))
}

#[test]
fn f04_f06_a_blob_larger_than_the_disk_passes_through_and_smaller_ones_are_cached() {
    let upstream = Upstream::start();
    let Some((_disk, proxy)) = on_small_disk(&upstream, "size=24m", "") else { return };
    let (large, small) = (upstream.blob("app", &noise(1, 64 * MIB)), upstream.blob("app", &noise(2, 8 * MIB)));
    pull(&proxy, &large);
    assert_eq!(upstream.count("GET", &large), 2, "the fill that found no room, and the one that passed through");
    pull(&proxy, &small);
    assert!(eventually(|| {
        upstream.forget();
        pull(&proxy, &small);
        upstream.connections() == 0
    }));
}

#[test]
fn f04_on_a_full_disk_others_go_for_what_is_asked_now() {
    let upstream = Upstream::start();
    let Some((_disk, proxy)) = on_small_disk(&upstream, "size=64m", "") else { return };
    for n in 0..10 {
        let digest = upstream.blob("app", &noise(n, 16 * MIB));
        pull(&proxy, &digest);
        pull(&proxy, &digest);
        assert_eq!(upstream.count("GET", &digest), 1, "blob {n} is cached");
    }
}

#[test]
fn f05_a_disk_that_fills_up_in_the_middle_gives_nobody_wrong_bytes() {
    let upstream = Upstream::start();
    let Some((disk, proxy)) = on_small_disk(&upstream, "size=64m", "") else { return };
    let digest = upstream.blob("app", &noise(1, 32 * MIB));
    let gate = Gate::new();
    let closed = gate.clone();
    // Without a length no room can be reserved.
    upstream.first(1, "GET", "/blobs/", move |_, mut answer| {
        answer.length = crate::support::upstream::Length::Untold;
        answer.at(16 * MIB, Event::Wait(closed.clone()))
    });
    let target = format!("/v2/app/blobs/{digest}");
    let clients: Vec<_> = (0..10).map(|_| http::open(proxy.address(), "GET", &target, &[])).collect();
    gate.wait_until_reached();
    disk.remount("size=20m");
    gate.open();
    let whole = noise(1, 32 * MIB);
    for client in clients {
        let answer = client.finish();
        assert!(!answer.complete || answer.body == whole);
        assert_eq!(answer.body, whole[..answer.body.len()]);
    }
    pull(&proxy, &digest);
}

#[test]
fn f08_without_inodes_pulls_pass_through() {
    let upstream = Upstream::start();
    let Some((_disk, proxy)) = on_small_disk(&upstream, "size=200m,nr_inodes=24", "") else { return };
    for n in 0..30 {
        pull(&proxy, &upstream.blob("app", &noise(n, 100_000)));
    }
}

#[test]
fn f09_a_disk_that_turns_read_only_serves_what_it_has_and_the_rest_passes_through() {
    let upstream = Upstream::start();
    let Some((disk, proxy)) = on_small_disk(&upstream, "size=200m", "") else { return };
    let (cached, new) = (upstream.blob("app", &noise(1, 4 * MIB)), upstream.blob("app", &noise(2, 4 * MIB)));
    pull(&proxy, &cached);
    // The index is written to a moment later.
    std::thread::sleep(std::time::Duration::from_secs(1));
    if Command::new("mount").args(["-o", "remount,ro"]).arg(&disk.0).status().is_ok_and(|status| !status.success()) {
        // The index keeps a file open for writing: remounting the file system
        // itself is refused, so only the view of it is made read-only.
        let bound = Command::new("mount").args(["--bind"]).arg(&disk.0).arg(&disk.0).status().unwrap();
        assert!(bound.success());
        disk.remount("ro,bind");
    }
    upstream.forget();
    pull(&proxy, &cached);
    assert_eq!(upstream.connections(), 0);
    pull(&proxy, &new);
    pull(&proxy, &new);
    disk.remount("rw");
    let _ = Command::new("mount").args(["-o", "remount,rw,bind"]).arg(&disk.0).status();
    pull(&proxy, &new);
    assert!(eventually(|| {
        upstream.forget();
        pull(&proxy, &new);
        upstream.connections() == 0
    }));
}

#[test]
fn f10_a_blob_that_could_not_be_synced_is_served_and_not_kept() {
    if !crate::support::real::available() {
        return;
    }
    // Counted for each thread: some fail, and then no more.
    for call in ["fdatasync:error=EIO:when=1", "renameat2:error=EIO:when=1"] {
        let upstream = Upstream::start();
        let digest = upstream.blob("app", &noise(1, 3 * MIB));
        let inject = format!("inject={call}");
        // `-D`: the proxy itself is the child that the harness ends.
        let trace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
        let proxy = Setup::open(&upstream).under(&trace).start();
        pull(&proxy, &digest);
        pull(&proxy, &digest);
        proxy.assert_cache_is_sound();
        assert!(eventually(|| {
            upstream.forget();
            pull(&proxy, &digest);
            upstream.connections() == 0
        }));
        assert!(proxy.log().contains("Input/output error"), "{}", proxy.log());
    }
}

#[test]
fn h3_a_link_planted_among_the_growing_files_is_not_written_through() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(1, MIB));
    let proxy = Setup::open(&upstream).start();
    let elsewhere = proxy.cache().parent().unwrap().join("elsewhere");
    std::fs::write(&elsewhere, b"precious").unwrap();
    let planted = proxy.cache().join("partial").join(digest.replace(':', "-"));
    std::os::unix::fs::symlink(&elsewhere, &planted).unwrap();
    pull(&proxy, &digest);
    assert_eq!(std::fs::read(&elsewhere).unwrap(), b"precious");
    assert!(proxy.log().contains("the cache cannot be"), "somebody should know: {}", proxy.log());
    proxy.assert_cache_is_sound();
}

#[test]
fn f16_without_file_handles_it_refuses_some_and_recovers() {
    let upstream = Upstream::start();
    let digest = upstream.blob("app", &noise(1, MIB));
    let proxy = Setup::open(&upstream).start();
    pull(&proxy, &digest);
    proxy.limit_files(48);
    let mut idle: Vec<_> = (0..64).map(|_| http::connect(proxy.address())).collect();
    std::thread::sleep(std::time::Duration::from_millis(300));
    idle.clear();
    assert!(eventually(|| {
        let answer = http::raw(proxy.address(), b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        answer.starts_with(b"HTTP/1.1 200")
    }));
    pull(&proxy, &digest);
    for n in 0..5 {
        pull(&proxy, &upstream.blob("app", &noise(10 + n, MIB)));
    }
}

#[test]
fn a_registry_keeps_to_its_quota_and_takes_nothing_from_others() {
    let upstream = Upstream::start();
    let proxy = Setup::new()
        .registry("small", &upstream, "default = true\nquota = \"40MiB\"")
        .registry("large", &upstream, "")
        .start();
    let (shared, own) = (upstream.blob("app", &noise(50, 8 * MIB)), upstream.blob("app", &noise(51, 8 * MIB)));
    for digest in [&shared, &own] {
        proxy.get(&format!("/v2/large/app/blobs/{digest}")).assert_content(digest);
    }
    pull(&proxy, &shared);
    for n in 0..6 {
        pull(&proxy, &upstream.blob("app", &noise(n, 8 * MIB)));
    }
    // 56 MiB are the small one's, 8 of them the large one's too.
    assert!(eventually(|| stored(&proxy) <= 56 * MIB as u64), "{}", stored(&proxy));
    upstream.forget();
    for digest in [&shared, &own] {
        proxy.get(&format!("/v2/large/app/blobs/{digest}")).assert_content(digest);
    }
    assert_eq!(upstream.connections(), 0);
    proxy.assert_cache_is_sound();
}

#[test]
fn what_transfers_take_together_keeps_to_the_quota_of_their_registry() {
    let upstream = Upstream::start();
    upstream
        .rule(|request, answer| if request.path().contains("/blobs/") { answer.throttled(4 * MIB) } else { answer });
    let proxy = Setup::new()
        .sections("[limits]\nmax_segments = 1\n")
        .registry("small", &upstream, "default = true\nquota = \"24MiB\"")
        .start();
    let digests: Vec<_> = (0..4).map(|n| upstream.blob("app", &noise(60 + n, 12 * MIB))).collect();
    let too_large = upstream.blob("app", &noise(70, 25 * MIB));
    std::thread::scope(|scope| {
        let pulls: Vec<_> =
            digests.iter().chain([&too_large]).map(|digest| scope.spawn(|| pull(&proxy, digest))).collect();
        // All of them run at a time, and what they have taken stays below.
        let partial = proxy.cache().join("partial");
        let mut most = 0;
        while !pulls.iter().all(|pull| pull.is_finished()) {
            let now: u64 = std::fs::read_dir(&partial)
                .map(|all| all.flatten().filter_map(|entry| Some(entry.metadata().ok()?.blocks() * 512)).sum())
                .unwrap_or_default();
            most = most.max(now);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        // What is given up counts until its file is removed.
        assert!(most <= 36 * MIB as u64, "{most}");
    });
    assert!(stored(&proxy) <= 24 * MIB as u64);
    proxy.assert_cache_is_sound();
}

#[test]
fn f50_a_bound_on_the_size_of_files_makes_large_blobs_pass_through() {
    let upstream = Upstream::start();
    let (large, small) = (upstream.blob("app", &noise(1, 24 * MIB)), upstream.blob("app", &noise(2, MIB)));
    let proxy = Setup::open(&upstream).under(&["prlimit", "--fsize=8388608"]).start();
    for _ in 0..2 {
        pull(&proxy, &large);
        pull(&proxy, &small);
    }
    assert_eq!(upstream.count("GET", &small), 1);
    proxy.assert_cache_is_sound();
}
