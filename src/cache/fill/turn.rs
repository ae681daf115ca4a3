//! The turn to write on a thread of the runtime, and what keeps the others
//! going while the disk holds that thread.
//!
//! One writes at a time in the whole process, so a disk that hangs holds one
//! thread. That one may be the thread that waited for sockets, and the others
//! may sleep: nothing would tell them. So somebody outside of the runtime wakes
//! one of them when a write takes long; it takes the sockets over.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

/// A piece that takes longer than this has waited for the disk.
pub(super) const SLOW: Duration = Duration::from_millis(10);
/// How often somebody looks while there are writes.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Looks without a write after which nobody looks until the next one.
const QUIET: u32 = 200;

/// The turn of the process.
static TURNS: LazyLock<Turns> = LazyLock::new(Turns::new);

/// Who has the turn, and who watches.
struct Turns {
    begun: Instant,
    /// Since when somebody writes on a thread of the runtime, in nanoseconds
    /// since the beginning; 0 while nobody does.
    writing_since: AtomicU64,
    is_watched: AtomicBool,
    /// Who is woken.
    runtime: Mutex<Option<Handle>>,
    watcher: OnceLock<Option<Thread>>,
}

/// The turn to write on a thread of the runtime.
pub(super) struct Turn(&'static Turns);

impl Turn {
    /// Takes the turn; `None` when whoever has it waits for the disk.
    pub(super) async fn take() -> Option<Turn> {
        TURNS.take().await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.writing_since.store(0, Ordering::Release);
    }
}

impl Turns {
    fn new() -> Turns {
        Turns {
            begun: Instant::now(),
            writing_since: AtomicU64::new(0),
            is_watched: AtomicBool::new(false),
            runtime: Mutex::default(),
            watcher: OnceLock::new(),
        }
    }

    async fn take(&'static self) -> Option<Turn> {
        loop {
            match self.writing_since.compare_exchange(0, self.now(), Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    if !self.is_watched.load(Ordering::Relaxed) {
                        self.watch();
                    }
                    return Some(Turn(self));
                }
                Err(since) if self.is_slow(since) => return None,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    fn is_slow(&self, since: u64) -> bool {
        since != 0 && Duration::from_nanos(self.now().saturating_sub(since)) > SLOW
    }

    /// Watches the writes on the threads of this runtime from now on.
    fn watch(&'static self) {
        *self.runtime.lock().unwrap_or_else(PoisonError::into_inner) = Handle::try_current().ok();
        self.is_watched.store(true, Ordering::Release);
        // If the system gives no more threads, nobody watches.
        let watcher = self.watcher.get_or_init(|| {
            let spawned = std::thread::Builder::new().name("disk watch".into()).spawn(move || self.look());
            spawned.ok().map(|thread| thread.thread().clone())
        });
        if let Some(watcher) = watcher {
            watcher.unpark();
        }
    }

    fn look(&self) {
        loop {
            while !self.is_watched.load(Ordering::Acquire) {
                std::thread::park();
            }
            let mut quiet = 0;
            while quiet < QUIET {
                std::thread::sleep(LOOK_EVERY);
                match self.writing_since.load(Ordering::Relaxed) {
                    0 => quiet += 1,
                    since => {
                        quiet = 0;
                        if self.is_slow(since) {
                            self.wake();
                        }
                    }
                }
            }
            self.is_watched.store(false, Ordering::Release);
        }
    }

    /// Wakes a thread that sleeps.
    fn wake(&self) {
        if let Some(runtime) = &*self.runtime.lock().unwrap_or_else(PoisonError::into_inner) {
            runtime.spawn(async {});
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    /// The thread that waits for sockets is held by a write, the other one
    /// sleeps; a connection is answered all the same.
    #[test]
    fn a_runtime_whose_thread_is_held_by_a_write_goes_on_answering() {
        // Other tests of this process have turns of their own.
        let turns: &'static Turns = Box::leak(Box::new(Turns::new()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (thaw, frozen) = std::sync::mpsc::channel::<()>();
        let (held, is_held) = std::sync::mpsc::channel();
        let address = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move {
                loop {
                    let (mut client, _) = listener.accept().await.unwrap();
                    tokio::spawn(async move {
                        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                        let byte = client.read_u8().await.unwrap();
                        client.write_u8(byte).await.unwrap();
                    });
                }
            });
            let writer = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let trigger = writer.local_addr().unwrap();
            tokio::spawn(async move {
                let _client = writer.accept().await.unwrap();
                let _turn = turns.take().await.unwrap();
                held.send(()).unwrap();
                // A test's disk: it hangs until it is told to go on.
                let _ = frozen.recv();
            });
            tokio::task::spawn_blocking(move || std::net::TcpStream::connect(trigger).unwrap()).await.unwrap();
            address
        });
        is_held.recv().unwrap();
        for byte in 0..20 {
            let mut client = std::net::TcpStream::connect(address).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            client.write_all(&[byte]).unwrap();
            let mut answer = [255];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer[0], byte);
        }
        drop(thaw);
    }
}
