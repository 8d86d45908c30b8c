//! The only place that spawns a task. Each has a name, is tracked, and ends in two steps: first it is asked
//! ([`Tasks::stopping`]), then, when the grace is over, it is dropped at its next wait.
//!
//! A task that panics is logged with its name and counted; it never goes unnoticed. One that the node cannot do without
//! is started by [`Tasks::spawn_vital`]: its end before the stop begins the stop of the whole node.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::telemetry::metrics;

/// A handle to the tasks of one node; clones are the same set.
#[derive(Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

struct Inner {
    tracker: TaskTracker,
    /// Asks to end.
    soft: CancellationToken,
    /// Drops what has not ended.
    hard: CancellationToken,
    running: Mutex<BTreeMap<u64, &'static str>>,
    next: AtomicU64,
    /// The first vital task that ended early.
    failed: Mutex<Option<&'static str>>,
}

/// How the tasks ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// All by themselves.
    Cleanly,
    /// These had to be dropped.
    Dropped(Vec<&'static str>),
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                tracker: TaskTracker::new(),
                soft: CancellationToken::new(),
                hard: CancellationToken::new(),
                running: Mutex::new(BTreeMap::new()),
                next: AtomicU64::new(0),
                failed: Mutex::new(None),
            }),
        }
    }

    /// Starts a task. The handle gives `None` when it was dropped or panicked. Dropping the handle does not end it.
    pub fn spawn<F>(&self, name: &'static str, body: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        let number = inner.next.fetch_add(1, Ordering::Relaxed);
        inner.running.lock().insert(number, name);
        let hard = inner.hard.clone();
        self.inner.tracker.spawn(async move {
            let ended = hard.run_until_cancelled(AssertUnwindSafe(body).catch_unwind()).await;
            inner.running.lock().remove(&number);
            match ended {
                Some(Ok(output)) => Some(output),
                Some(Err(panic)) => {
                    metrics::task_failed(name);
                    tracing::error!(task = name, "the task {name} panicked: {}", panic_message(panic.as_ref()));
                    None
                }
                None => None,
            }
        })
    }

    /// Starts a task that must not end before the stop: when it does, the stop begins and [`Tasks::failed`] names it.
    pub fn spawn_vital<F>(&self, name: &'static str, body: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = self.spawn(name, body);
        let inner = Arc::clone(&self.inner);
        self.spawn("task.watch", async move {
            // A join error means that the runtime is going down, which is the stop as well.
            let _ended = task.await;
            if !inner.soft.is_cancelled() {
                tracing::error!(task = name, "the task {name} ended, and the node cannot go on without it");
                inner.failed.lock().get_or_insert(name);
                inner.soft.cancel();
            }
        });
    }

    /// Cancelled when the stop begins. Long waits select on it.
    pub fn stopping(&self) -> CancellationToken {
        self.inner.soft.clone()
    }

    /// Begins the stop without waiting for it.
    pub fn stop(&self) {
        self.inner.soft.cancel();
    }

    /// The vital task whose end began the stop.
    pub fn failed(&self) -> Option<&'static str> {
        *self.inner.failed.lock()
    }

    /// Names of the tasks that run now.
    pub fn running(&self) -> Vec<&'static str> {
        self.inner.running.lock().values().copied().collect()
    }

    /// Ends all tasks: asks, waits for `grace`, then drops what is left.
    pub async fn shutdown(&self, grace: Duration) -> Stopped {
        self.inner.soft.cancel();
        self.inner.tracker.close();
        if tokio::time::timeout(grace, self.inner.tracker.wait()).await.is_ok() {
            return Stopped::Cleanly;
        }
        let mut left = self.running();
        left.retain(|name| *name != "task.watch");
        self.inner.hard.cancel();
        self.inner.tracker.wait().await;
        Stopped::Dropped(left)
    }
}

/// Runs work that blocks, as reading and writing files does, on a thread for such work.
///
/// # Errors
/// When the work panicked, or the runtime is going down.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    #[cfg(test)]
    if INLINE.get() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

#[cfg(test)]
thread_local! {
    /// Whether [`blocking`] runs its work here and now: in a simulation no other thread may take part.
    pub(crate) static INLINE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// What a panic said.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "a value that is no text"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_listens_ends_by_itself() {
        let tasks = Tasks::new();
        let stopping = tasks.stopping();
        tasks.spawn("polite", async move { stopping.cancelled().await });
        assert_eq!(tasks.running(), ["polite"]);
        assert_eq!(tasks.shutdown(Duration::from_secs(5)).await, Stopped::Cleanly);
        assert!(tasks.running().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_listen_is_dropped_after_the_grace() {
        let tasks = Tasks::new();
        let handle = tasks.spawn("deaf", std::future::pending::<()>());
        assert_eq!(tasks.shutdown(Duration::from_secs(5)).await, Stopped::Dropped(vec!["deaf"]));
        assert_eq!(handle.await.expect("joined"), None);
    }

    #[tokio::test]
    async fn the_early_end_of_a_vital_task_begins_the_stop() {
        let tasks = Tasks::new();
        tasks.spawn_vital("heart", async { panic!("stopped beating") });
        tasks.stopping().cancelled().await;
        assert_eq!(tasks.failed(), Some("heart"));
    }

    #[tokio::test]
    async fn a_task_gives_its_value_and_a_panic_gives_none() {
        let tasks = Tasks::new();
        assert_eq!(tasks.spawn("sum", async { 1 + 1 }).await.expect("joined"), Some(2));
        assert_eq!(tasks.spawn("bad", async { panic!("{}", "no") }).await.expect("joined"), None::<()>);
    }
}
