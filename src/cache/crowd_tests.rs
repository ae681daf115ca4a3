//! Many fills at once, from a source that serves only so many streams at a
//! time: all of them end, with the right bytes, whatever the source does to
//! those that only help.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use proptest::prelude::*;
use tokio::sync::Semaphore;

use super::*;
use crate::oci::{ByteRange, Digest};

const FRAME: usize = 16 << 10;

/// What a source does when it is asked for a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parts {
    Gives,
    GivesTheWhole,
    Refuses,
    FailsNowAndThen,
    Hangs,
    BreaksOff,
    OtherTotal,
}

#[derive(Debug, Clone)]
struct Upstream {
    places: Arc<Semaphore>,
    parts: Parts,
    /// For each frame.
    pause: Duration,
    asked: Arc<AtomicUsize>,
    most_at_once: Arc<AtomicUsize>,
    places_in_all: usize,
}

struct Streamed {
    upstream: Upstream,
    content: Bytes,
}

#[derive(Debug, thiserror::Error)]
#[error("scripted failure")]
struct Scripted;

impl Source for Streamed {
    fn open(
        &self,
        offset: u64,
        until: Option<u64>,
        turn: Turn,
    ) -> Pin<Box<dyn Future<Output = Result<Opened, SourceError>> + Send + '_>> {
        let failed = |retry| Err(SourceError::new(Scripted, retry));
        Box::pin(async move {
            let upstream = &self.upstream;
            let place = match turn {
                Turn::Wait => Arc::clone(&upstream.places).acquire_owned().await.unwrap(),
                Turn::IfFree => match Arc::clone(&upstream.places).try_acquire_owned() {
                    Ok(place) => place,
                    Err(_) => return failed(Retry::NotNow),
                },
            };
            let held = upstream.places_in_all - upstream.places.available_permits();
            upstream.most_at_once.fetch_max(held, Ordering::Relaxed);
            let nth = upstream.asked.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(upstream.pause).await;
            let (mut start, mut total) = (usize::try_from(offset).unwrap(), self.content.len() as u64);
            let mut end = until.map_or(self.content.len(), |until| usize::try_from(until).unwrap());
            let helps = turn == Turn::IfFree;
            match upstream.parts {
                Parts::GivesTheWhole if offset > 0 => (start, end) = (0, self.content.len()),
                Parts::Refuses if offset > 0 => return failed(Retry::Never),
                Parts::FailsNowAndThen if nth % 3 == 1 => return failed(Retry::After(Duration::ZERO)),
                Parts::Hangs if helps => std::future::pending().await,
                Parts::BreaksOff if helps => end = end.min(start + FRAME),
                Parts::OtherTotal if helps => total += 1,
                _ => {}
            }
            let frames: Vec<Bytes> =
                (start..end).step_by(FRAME).map(|at| self.content.slice(at..(at + FRAME).min(end))).collect();
            let pause = upstream.pause;
            let body = stream::unfold((frames.into_iter(), place), move |(mut frames, place)| async move {
                let frame = frames.next()?;
                tokio::time::sleep(pause).await;
                Some((Ok(frame), (frames, place)))
            });
            Ok(Opened { total: Some(total), start: start as u64, body: Box::pin(body) })
        })
    }
}

fn content(seed: u64, len: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

async fn pull(cache: &Cache, source: Arc<dyn Source>, digest: Digest, followers: usize) -> Vec<Vec<u8>> {
    let one = || async {
        let Entry::Fill { mut follower, .. } = cache.join(&digest, || Arc::clone(&source)).await.unwrap() else {
            let blob = cache.get(&digest).await.unwrap().unwrap();
            let all = ByteRange { start: 0, end: blob.len() };
            return read_all(cache.read(&blob, all, Method::Mapped)).await;
        };
        follower.started().await.unwrap();
        read_all(follower.reader(None, Method::Mapped).unwrap()).await
    };
    futures_util::future::join_all((0..followers).map(|_| one())).await
}

async fn read_all(mut reader: Reader) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(window) = reader.next_window().await {
        all.extend_from_slice(&window.unwrap());
    }
    all
}

fn parts() -> impl Strategy<Value = Parts> {
    prop_oneof![
        3 => Just(Parts::Gives),
        1 => Just(Parts::GivesTheWhole),
        1 => Just(Parts::Refuses),
        1 => Just(Parts::FailsNowAndThen),
        1 => Just(Parts::Hangs),
        1 => Just(Parts::BreaksOff),
        1 => Just(Parts::OtherTotal),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn every_fill_of_a_crowd_ends_and_is_right(
        fills in 1..12_usize,
        followers in 1..3_usize,
        places in 1..6_usize,
        most in 1..6_usize,
        parts in parts(),
        pause in 1..6_u64,
    ) {
        let upstream = Upstream {
            places: Arc::new(Semaphore::new(places)),
            parts,
            pause: Duration::from_millis(pause),
            asked: Arc::default(),
            most_at_once: Arc::default(),
            places_in_all: places,
        };
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let done = runtime.block_on(async {
            let cache = Cache::open(CacheSettings {
                max_segments: most,
                segments: Segments { split_at: 64 << 10, segment: 128 << 10, grain: 32 << 10 },
                ..super::tests::settings(&dir)
            }).unwrap();
            let all = futures_util::future::join_all((0..fills).map(|n| {
                let content = content(n as u64, (1 << 20) + n * 1001);
                let source = Arc::new(Streamed { upstream: upstream.clone(), content: content.clone() });
                let cache = cache.clone();
                async move {
                    let got = pull(&cache, source, Digest::sha256_of(&content), followers).await;
                    got.iter().all(|got| *got == content)
                }
            }));
            // Far longer than it can take, unless something hangs.
            tokio::time::timeout(Duration::from_secs(120), all).await
        });
        runtime.shutdown_background();
        prop_assert!(done.is_ok(), "it hangs");
        prop_assert!(done.unwrap().into_iter().all(|right| right));
        prop_assert!(upstream.most_at_once.load(Ordering::Relaxed) <= places);
    }
}
