//! Questions under way: one for any number of askers.
//!
//! A question belongs to nobody who asked it: it goes on for a while when its
//! askers leave, and what comes of it serves those who ask later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// Askers can leave faster than upstream answers: more questions than this are
/// not begun.
const MAX_QUESTIONS: usize = 10_000;

/// A question that nobody waits for goes on for one to two times this long.
const PATIENCE: Duration = Duration::from_secs(5);

type Running<V> = HashMap<String, watch::Receiver<Option<V>>>;

/// Questions of one kind, by what they are about.
pub(super) struct Flights<V>(Arc<Mutex<Running<V>>>);

impl<V> Clone for Flights<V> {
    fn clone(&self) -> Self {
        Flights(Arc::clone(&self.0))
    }
}

impl<V> Default for Flights<V> {
    fn default() -> Self {
        Flights(Arc::default())
    }
}

impl<V: Clone + Send + Sync + 'static> Flights<V> {
    /// What comes of the question `key`; where nobody is asking it, it is
    /// `begin` that does. `None` when there are too many, or it came to grief.
    pub(super) async fn join<F>(&self, key: String, begin: impl FnOnce() -> F) -> Option<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut answer = {
            let mut running = self.lock();
            match running.get(&key) {
                Some(answer) => answer.clone(),
                None if running.len() >= MAX_QUESTIONS => return None,
                None => {
                    let (tell, answer) = watch::channel(None);
                    running.insert(key.clone(), answer.clone());
                    let (question, landing) = (begin(), Landing { flights: self.clone(), key });
                    tokio::spawn(async move {
                        let value = tokio::select! {
                            value = question => value,
                            () = left(&tell) => return,
                        };
                        // Whoever asks from here on asks anew.
                        drop(landing);
                        let _ = tell.send(Some(value));
                    });
                    answer
                }
            }
        };
        answer.wait_for(Option::is_some).await.ok()?.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Running<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until nobody has waited for the answer for a while. Whoever comes by
/// in that moment is told that the question came to grief.
async fn left<V>(tell: &watch::Sender<Option<V>>) {
    let mut alone = false;
    loop {
        tokio::time::sleep(PATIENCE).await;
        // The list has one.
        let now = tell.receiver_count() <= 1;
        if alone && now {
            return;
        }
        alone = now;
    }
}

/// Takes a question off the list, however it ends.
struct Landing<V: Clone + Send + Sync + 'static> {
    flights: Flights<V>,
    key: String,
}

impl<V: Clone + Send + Sync + 'static> Drop for Landing<V> {
    fn drop(&mut self) {
        self.flights.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn a_question_is_asked_once_and_outlives_its_askers() {
        let (flights, asked, answered) = (Flights::default(), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let ask = || {
            let (asked, answered) = (Arc::clone(&asked), Arc::clone(&answered));
            flights.join("a".to_owned(), move || async move {
                asked.fetch_add(1, Ordering::SeqCst);
                answered.notified().await;
                7
            })
        };
        for _ in 0..2 {
            assert!(tokio::time::timeout(Duration::from_millis(1), ask()).await.is_err());
        }
        answered.notify_one();
        // Both have left; a third one gets the answer to their question.
        assert_eq!((ask().await, asked.load(Ordering::SeqCst)), (Some(7), 1));
        answered.notify_one();
        assert_eq!((ask().await, asked.load(Ordering::SeqCst)), (Some(7), 2));
    }

    #[tokio::test]
    async fn a_question_that_comes_to_grief_does_not_stay() {
        let flights = Flights::<u8>::default();
        assert_eq!(flights.join("a".to_owned(), || async { panic!("grief") }).await, None);
        assert_eq!(flights.join("a".to_owned(), || async { 1 }).await, Some(1));
    }
}
