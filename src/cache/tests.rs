//! The cache against a scripted source.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::*;
use crate::oci::{ByteRange, Digest};

/// What one opening of the source does.
#[derive(Clone, Copy)]
enum Act {
    /// Gives so many bytes from the offset, then breaks.
    BreakAfter(usize),
    /// Gives everything from the offset.
    Whole,
    /// Starts at zero whatever is asked.
    FromZero,
    /// Flips a bit of the byte at this place.
    Flip(usize),
    /// Fails at once.
    Fail(Retry),
    /// One byte more than announced.
    TooLong,
    /// Has a mistake of its own.
    Panic,
}

struct Script {
    content: Vec<u8>,
    announce: bool,
    acts: Mutex<VecDeque<Act>>,
    opened: AtomicUsize,
    given: AtomicUsize,
}

#[derive(Debug, thiserror::Error)]
#[error("scripted failure")]
struct Scripted;

impl Script {
    fn new(content: &[u8], acts: impl IntoIterator<Item = Act>) -> Arc<Script> {
        Arc::new(Script {
            content: content.to_vec(),
            announce: true,
            acts: Mutex::new(acts.into_iter().collect()),
            opened: AtomicUsize::new(0),
            given: AtomicUsize::new(0),
        })
    }
}

impl Source for Script {
    fn open(
        &self,
        offset: u64,
        until: Option<u64>,
        _turn: Turn,
    ) -> Pin<Box<dyn Future<Output = Result<Opened, SourceError>> + Send + '_>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let act = self.acts.lock().unwrap().pop_front().unwrap_or(Act::Whole);
        let start = if matches!(act, Act::FromZero) { 0 } else { usize::try_from(offset).unwrap() };
        let end = until.filter(|_| start > 0).map_or(self.content.len(), |until| usize::try_from(until).unwrap());
        let mut bytes = self.content[start..end].to_vec();
        let mut breaks = false;
        match act {
            Act::Fail(retry) => return Box::pin(std::future::ready(Err(SourceError::new(Scripted, retry)))),
            Act::BreakAfter(n) => {
                bytes.truncate(n);
                breaks = true;
            }
            Act::Flip(at) => bytes[at - start] ^= 1,
            Act::TooLong => bytes.push(0),
            Act::Panic => panic!("scripted"),
            Act::Whole | Act::FromZero => {}
        }
        self.given.fetch_add(bytes.len(), Ordering::Relaxed);
        let mut frames: Vec<Result<Bytes, SourceError>> =
            bytes.chunks(10_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        if breaks {
            frames.push(Err(SourceError::new(Scripted, Retry::After(Duration::ZERO))));
        }
        let total = self.announce.then_some(self.content.len() as u64);
        let opened = Opened { total, start: start as u64, body: Box::pin(stream::iter(frames)) };
        Box::pin(std::future::ready(Ok(opened)))
    }
}

fn cache_at(dir: &tempfile::TempDir) -> Cache {
    Cache::open(settings(dir)).unwrap()
}

pub(super) fn settings(dir: &tempfile::TempDir) -> CacheSettings {
    CacheSettings {
        dir: dir.path().join("cache"),
        max_size: 1 << 30,
        min_free: MinFree::Bytes(0),
        policy: eviction::PolicyKind::S3Fifo,
        scrub_rate: 0,
        durability: Durability::Sync,
        max_fills: 8,
        max_fills_per_client: 8,
        max_segments: 12,
        segments: Segments::default(),
        max_blob_size: 1 << 30,
        outage_patience: Duration::from_secs(3),
        idle_timeout: Duration::from_secs(5),
    }
}

fn content(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(len as u64);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

async fn read_all(mut reader: Reader) -> Result<Vec<u8>, ReadError> {
    let mut all = Vec::new();
    while let Some(window) = reader.next_window().await {
        all.extend_from_slice(&window?);
    }
    Ok(all)
}

async fn pull(cache: &Cache, digest: &Digest, source: &Arc<Script>) -> Result<Vec<u8>, ReadError> {
    let source: Arc<dyn Source> = source.clone();
    match cache.join(digest, || source).await.unwrap() {
        Entry::Blob(blob) => {
            let range = ByteRange { start: 0, end: blob.len() };
            read_all(cache.read(&blob, range, Method::Mapped)).await
        }
        Entry::Fill { mut follower, .. } => {
            follower.started().await.map_err(ReadError::Fill)?;
            read_all(follower.reader(None, Method::Mapped).unwrap()).await
        }
    }
}

/// Every content size at which something changes: empty, held back whole, one
/// mapped window, several.
const SIZES: [usize; 6] = [0, 1, 65_536, 65_537, 300_000, 9_000_000];

#[tokio::test]
async fn a_blob_is_filled_once_and_then_found() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_at(&dir);
    for size in SIZES {
        let bytes = content(size);
        let digest = Digest::sha256_of(&bytes);
        let source = Script::new(&bytes, []);
        assert_eq!(pull(&cache, &digest, &source).await.unwrap(), bytes);
        cache.wait_idle().await;
        assert_eq!(pull(&cache, &digest, &source).await.unwrap(), bytes);
        assert_eq!(source.opened.load(Ordering::Relaxed), 1, "{size}");
    }
}

#[tokio::test]
async fn a_restart_keeps_what_was_filled() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(300_000);
    let digest = Digest::sha256_of(&bytes);
    let cache = cache_at(&dir);
    pull(&cache, &digest, &Script::new(&bytes, [])).await.unwrap();
    cache.close(tokio::time::Instant::now() + Duration::from_secs(60)).await;
    drop(cache);
    let unused = Script::new(&bytes, []);
    assert_eq!(pull(&cache_at(&dir), &digest, &unused).await.unwrap(), bytes);
    assert_eq!(unused.opened.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn many_followers_of_one_fill_each_get_all_bytes_and_the_source_gives_them_once() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_at(&dir);
    let bytes = content(3_000_000);
    let digest = Digest::sha256_of(&bytes);
    let source = Script::new(&bytes, []);
    let pulls = (0..50).map(|_| {
        let (cache, source) = (cache.clone(), source.clone());
        tokio::spawn(async move { pull(&cache, &digest, &source).await.unwrap() })
    });
    for pulled in pulls.collect::<Vec<_>>() {
        assert_eq!(pulled.await.unwrap(), bytes);
    }
    assert_eq!(source.given.load(Ordering::Relaxed), bytes.len());
}

#[tokio::test]
async fn no_client_ever_completes_a_wrong_blob() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_at(&dir);
    let bytes = content(300_000);
    let digest = Digest::sha256_of(&bytes);
    for at in [0, 150_000, 299_999] {
        let source = Script::new(&bytes, [Act::Flip(at)]);
        let error = pull(&cache, &digest, &source).await.unwrap_err();
        assert!(matches!(error, ReadError::Fill(FillError::WrongDigest)), "{error}");
        cache.wait_idle().await;
        assert!(cache.get(&digest).await.unwrap().is_none());
    }
    assert_eq!(pull(&cache, &digest, &Script::new(&bytes, [])).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_broken_transfer_goes_on_at_the_byte_it_broke_at() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_at(&dir);
    let bytes = content(300_000);
    let digest = Digest::sha256_of(&bytes);
    let acts = [0, 1, 100_000, 50_000].map(Act::BreakAfter);
    let source = Script::new(&bytes, acts.into_iter().chain([Act::FromZero]));
    assert_eq!(pull(&cache, &digest, &source).await.unwrap(), bytes);
    assert_eq!(source.opened.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn a_source_that_never_gives_a_byte_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_at(&dir);
    let digest = Digest::sha256_of(b"x");
    let source = Script::new(b"x", [Act::Fail(Retry::After(Duration::ZERO)); 100]);
    assert!(matches!(pull(&cache, &digest, &source).await, Err(ReadError::Fill(FillError::Source(_)))));
    let source = Script::new(b"x", [Act::Fail(Retry::Never)]);
    cache.wait_idle().await;
    assert!(matches!(pull(&cache, &digest, &source).await, Err(ReadError::Fill(FillError::Source(_)))));
    assert_eq!(source.opened.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn content_longer_than_announced_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_at(&dir);
    let bytes = content(100_000);
    let source = Script::new(&bytes, [Act::TooLong]);
    let error = pull(&cache, &Digest::sha256_of(&bytes), &source).await.unwrap_err();
    assert!(matches!(error, ReadError::Fill(FillError::TooLarge { .. })), "{error}");
}

#[tokio::test]
async fn content_of_unannounced_length_is_served_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_at(&dir);
    let bytes = content(300_000);
    let digest = Digest::sha256_of(&bytes);
    let mut source = Arc::into_inner(Script::new(&bytes, [])).unwrap();
    source.announce = false;
    let source = Arc::new(source);
    assert_eq!(pull(&cache, &digest, &source).await.unwrap(), bytes);
    cache.wait_idle().await;
    assert_eq!(cache.get(&digest).await.unwrap().unwrap().len(), 300_000);
}

#[tokio::test]
async fn ranges_of_blobs_and_fills_are_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_at(&dir);
    let bytes = content(300_000);
    let digest = Digest::sha256_of(&bytes);
    let range = ByteRange { start: 70_000, end: 170_001 };
    let source: Arc<dyn Source> = Script::new(&bytes, []);
    let Entry::Fill { mut follower, .. } = cache.join(&digest, || source).await.unwrap() else { panic!("a fill") };
    follower.started().await.unwrap();
    let part = read_all(follower.reader(Some(range), Method::Read).unwrap()).await.unwrap();
    assert_eq!(part, &bytes[70_000..170_001]);
    cache.wait_idle().await;
    let blob = cache.get(&digest).await.unwrap().unwrap();
    for method in [Method::Mapped, Method::Read] {
        assert_eq!(read_all(cache.read(&blob, range, method)).await.unwrap(), part);
    }
}

/// A partial file as a process that was killed leaves it: `bytes`, and a log of
/// `owner` that vouches for what was `written`.
fn leave_partial(dir: &tempfile::TempDir, bytes: &[u8], written: &[u8], owner: Owner, digest: &Digest) {
    let name = digest.to_string().replace(':', "-");
    std::fs::write(dir.path().join("cache/partial").join(&name), bytes).unwrap();
    let mut log = owner.0.to_vec();
    for (unit, part) in written.chunks_exact(sums::UNIT as usize).enumerate() {
        log.extend((unit as u32).to_le_bytes());
        log.extend(crc32c::crc32c(part).to_le_bytes());
    }
    std::fs::write(dir.path().join("cache/sums/partial").join(&name), log).unwrap();
}

#[tokio::test]
async fn what_a_crash_left_is_continued_by_its_owner_as_far_as_it_is_what_was_written() {
    let bytes = content(5_000_000);
    let digest = Digest::sha256_of(&bytes);
    let units = |len: usize| len / sums::UNIT as usize * sums::UNIT as usize;
    let mut rotten = bytes[..3_500_000].to_vec();
    rotten[1_000_000] ^= 1;
    for (left, owner, kept) in [
        (&bytes[..3_500_000], Owner::default(), units(3_500_000)),
        // All but the unit that rotted, which is asked for by itself.
        (&rotten[..], Owner::default(), units(3_500_000) - sums::UNIT as usize),
        (&bytes[..3_500_000], Owner::of("somebody else"), 0),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache_at(&dir);
        leave_partial(&dir, left, &bytes[..3_500_000], owner, &digest);
        let source = Script::new(&bytes, []);
        assert_eq!(pull(&cache, &digest, &source).await.unwrap(), bytes);
        let given = source.given.load(Ordering::Relaxed);
        // A source may have more on its way than is taken of it.
        assert!(given >= bytes.len() - kept && given <= bytes.len() - kept + 300_000, "{given}, {kept} kept");
    }
}

#[tokio::test]
async fn what_nobody_vouches_for_is_not_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_at(&dir);
    let bytes = content(5_000_000);
    let digest = Digest::sha256_of(&bytes);
    let partial = dir.path().join("cache/partial").join(digest.to_string().replace(':', "-"));
    std::fs::write(&partial, &bytes[..3_500_000]).unwrap();
    let source = Script::new(&bytes, []);
    assert_eq!(pull(&cache, &digest, &source).await.unwrap(), bytes);
    assert_eq!(source.given.load(Ordering::Relaxed), bytes.len());
}

impl Cache {
    /// Waits until no fill runs.
    async fn wait_idle(&self) {
        while self.fills() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn f32_a_fill_that_dies_tells_its_followers_and_the_next_one_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_at(&dir);
    let content = content(300_000);
    let digest = Digest::sha256_of(&content);
    let source = Script::new(&content, [Act::Panic]);
    let own: Arc<dyn Source> = source.clone();
    let Entry::Fill { mut follower, .. } = cache.join(&digest, || own).await.unwrap() else { panic!("a fill") };
    assert!(matches!(follower.started().await, Err(FillError::Stopped)));
    assert_eq!(pull(&cache, &digest, &source).await.unwrap(), content);
}

#[tokio::test(flavor = "multi_thread")]
async fn f34_a_blob_that_is_removed_at_any_moment_is_found_or_filled_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_at(&dir);
    let content = Arc::new(content(200_000));
    let digest = Digest::sha256_of(&content);
    let source = Script::new(&content, []);
    let stop = tokio_util::sync::CancellationToken::new();
    let evictor = tokio::spawn({
        let (cache, stop) = (cache.clone(), stop.clone());
        async move {
            while !stop.is_cancelled() {
                cache.remove(&digest).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    let pulls = (0..8).map(|_| {
        let (cache, source, content) = (cache.clone(), Arc::clone(&source), Arc::clone(&content));
        tokio::spawn(async move {
            for _ in 0..50 {
                assert_eq!(pull(&cache, &digest, &source).await.unwrap(), *content);
            }
        })
    });
    for pull in pulls.collect::<Vec<_>>() {
        pull.await.unwrap();
    }
    stop.cancel();
    evictor.await.unwrap();
}

#[tokio::test]
async fn what_could_be_read_of_a_failing_blob_is_not_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_at(&dir);
    let content = content(5 << 20);
    let digest = Digest::sha256_of(&content);
    let source = Script::new(&content, []);
    pull(&cache, &digest, &source).await.unwrap();
    // The fill is still on the list for a moment after its last byte was read.
    cache.wait_idle().await;
    let blob = cache.get(&digest).await.unwrap().unwrap();
    let (file, before) = (Arc::clone(blob.content.file().unwrap()), source.given.load(Ordering::Relaxed));
    let from: Arc<dyn Source> = source.clone();
    let Entry::Fill { mut follower, own: true } = cache.replace(&digest, &file, 3 << 20, || from).await.unwrap() else {
        panic!("a fill")
    };
    follower.verified().await.unwrap();
    assert_eq!(source.given.load(Ordering::Relaxed) - before, 2 << 20);
    // Whoever failed on the old file later finds the new one in its place.
    let from: Arc<dyn Source> = source.clone();
    while !matches!(cache.replace(&digest, &file, 0, || Arc::clone(&from)).await.unwrap(), Entry::Blob(_)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(cache.counts().all().2, 1);
}

/// A source of another registry.
struct Other(Arc<Script>);

impl Source for Other {
    fn open(
        &self,
        offset: u64,
        until: Option<u64>,
        turn: Turn,
    ) -> Pin<Box<dyn Future<Output = Result<Opened, SourceError>> + Send + '_>> {
        self.0.open(offset, until, turn)
    }

    fn owner(&self) -> Owner {
        Owner::of("somebody else")
    }
}

/// A source that breaks when it is told to.
struct Patient(Arc<Script>, Arc<tokio::sync::Notify>);

impl Source for Patient {
    fn open(
        &self,
        offset: u64,
        until: Option<u64>,
        turn: Turn,
    ) -> Pin<Box<dyn Future<Output = Result<Opened, SourceError>> + Send + '_>> {
        Box::pin(async move {
            let opened = self.0.open(offset, until, turn).await?;
            let told = Arc::clone(&self.1);
            let body = opened.body.then(move |piece| {
                let told = Arc::clone(&told);
                async move {
                    if piece.is_err() {
                        told.notified().await;
                    }
                    piece
                }
            });
            Ok(Opened { body: Box::pin(body), ..opened })
        })
    }
}

#[tokio::test]
async fn what_has_been_handed_out_of_a_fill_that_failed_stays_as_it_is() {
    let bytes = content(5_000_000);
    let digest = Digest::sha256_of(&bytes);
    let kept = 4_000_000 / sums::UNIT as usize * sums::UNIT as usize;
    for (is_other, kept) in [(false, kept), (true, 0)] {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache_at(&dir);
        let breaking =
            Script::new(&bytes, [Act::BreakAfter(4_000_000), Act::Fail(Retry::Never), Act::Fail(Retry::Never)]);
        let may_break = Arc::new(tokio::sync::Notify::new());
        let breaking = Arc::new(Patient(breaking, Arc::clone(&may_break)));
        let Entry::Fill { mut follower, .. } = cache.join(&digest, || breaking).await.unwrap() else {
            panic!("a fill")
        };
        follower.started().await.unwrap();
        let mut reader = follower.reader(None, Method::Mapped).unwrap();
        let mut held = Vec::new();
        while held.iter().map(Bytes::len).sum::<usize>() < 4_000_000 {
            held.push(reader.next_window().await.unwrap().unwrap());
        }
        may_break.notify_one();
        cache.wait_idle().await;
        drop(reader);
        let next = Script::new(&bytes, [Act::Whole, Act::Flip(4_999_999)]);
        let lying = Script::new(&bytes, [Act::Flip(1_000), Act::Flip(1_000), Act::Flip(1_000)]);
        if is_other {
            let lying = Arc::new(Other(lying));
            let Entry::Fill { mut follower, .. } = cache.join(&digest, || lying).await.unwrap() else {
                panic!("a fill")
            };
            follower.started().await.unwrap();
            assert!(read_all(follower.reader(None, Method::Mapped).unwrap()).await.is_err());
            cache.wait_idle().await;
        }
        let held = held.concat();
        assert!(held.len() >= kept && held == bytes[..held.len()], "what was handed out has changed");
        assert_eq!(pull(&cache, &digest, &next).await.unwrap(), bytes);
        let given = next.given.load(Ordering::Relaxed);
        assert!(given <= bytes.len() - kept + 300_000, "{given} given, {kept} kept");
    }
}
