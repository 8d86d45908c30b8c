//! Moves sealed segments from memory to files beside the work that goes on, so that `apply` waits for a slow disk only when the
//! disk is behind by a whole queue.
//!
//! A plain thread, not a task: it blocks. It belongs to the `BusState` and ends with it. Nobody can tell whether a segment has been
//! moved yet; an error comes out at the next batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::segment::Segment;
use super::state::StateError;

/// Segments that may wait for the disk; with more the writer of the state waits.
const QUEUE_SEGMENTS: usize = 4;

enum Work {
    Spill(Arc<Segment>),
    /// Everything before is done when the sender inside is dropped.
    Drain(SyncSender<()>),
}

#[derive(Debug, Default)]
struct Progress {
    queued_bytes: AtomicU64,
    failure: Mutex<Option<StateError>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Spiller {
    queue: Option<SyncSender<Work>>,
    thread: Option<JoinHandle<()>>,
    progress: Arc<Progress>,
}

impl Spiller {
    /// Starts the thread.
    pub fn start() -> Result<Spiller, StateError> {
        let (queue, work) = sync_channel(QUEUE_SEGMENTS);
        let progress = Arc::new(Progress::default());
        let thread = {
            let progress = progress.clone();
            std::thread::Builder::new().name("bus-spill".into()).spawn(move || run(&work, &progress))
        };
        let thread = thread.map_err(|source| StateError::Io { what: "start", path: "the thread bus-spill".into(), source })?;
        Ok(Spiller { queue: Some(queue), thread: Some(thread), progress })
    }

    /// Bytes of segments that are on their way.
    pub fn queued_bytes(&self) -> u64 {
        self.progress.queued_bytes.load(Ordering::Relaxed)
    }

    /// Hands a segment over; waits while the queue is full.
    pub fn push(&self, segment: Arc<Segment>) -> Result<(), StateError> {
        self.progress.queued_bytes.fetch_add(segment.bytes, Ordering::Relaxed);
        self.send(Work::Spill(segment))
    }

    /// Waits until everything handed over is in its file.
    pub fn drain(&self) -> Result<(), StateError> {
        let (done, wait) = sync_channel(1);
        self.send(Work::Drain(done))?;
        // Nothing is ever sent: the receiver learns of the drop.
        let _ = wait.recv();
        self.check()
    }

    /// What went wrong since the last look.
    pub fn check(&self) -> Result<(), StateError> {
        self.progress.failure.lock().take().map_or(Ok(()), Err)
    }

    fn send(&self, work: Work) -> Result<(), StateError> {
        let sent = self.queue.as_ref().is_some_and(|queue| queue.send(work).is_ok());
        if sent { Ok(()) } else { self.check().and(Err(StateError::Halted)) }
    }
}

impl Drop for Spiller {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that moves bus segments to files panicked");
        }
    }
}

fn run(work: &Receiver<Work>, progress: &Progress) {
    while let Ok(work) = work.recv() {
        let segment = match work {
            Work::Spill(segment) => segment,
            Work::Drain(done) => {
                drop(done);
                continue;
            }
        };
        // One that only the queue still holds was trimmed meanwhile.
        let spilled = if Arc::strong_count(&segment) == 1 { Ok(()) } else { segment.spill() };
        progress.queued_bytes.fetch_sub(segment.bytes, Ordering::Relaxed);
        if let Err(error) = spilled {
            // The end: the queue closes, and `apply` finds the reason.
            *progress.failure.lock() = Some(error);
            return;
        }
    }
}
