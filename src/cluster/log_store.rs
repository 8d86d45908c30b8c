//! The durable Raft log and vote, on `raft-log`.
//!
//! Promises: an append, or a vote, is on disk (`fdatasync`) when it says so; what was read back has passed its
//! checksum; a torn tail, which nobody was told about, is cut off at the next start. After a failed write or
//! flush the `on_failure` hook is called, which in a node ends the process: what the kernel did with the
//! pages of a failed flush cannot be known, so nothing may be acknowledged after it.
//!
//! Group commit needs no timer of ours: while one flush runs, what arrives waits for the next.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::RwLock;
use raft_log::api::raft_log_writer::RaftLogWriter as _;
use raft_log::{Callback, RaftLog};
use tokio::sync::oneshot;

use super::convert;
use super::limits;

use super::log_codec::{LogTypes, StoredLogId, StoredPayload, StoredVote};
use super::log_tail::{self, Cut};
use super::types::{Entry, LogId, TypeConfig, Vote};

/// Called with what failed, when the log cannot be written any more.
pub(super) type OnFailure = Arc<dyn Fn(&str, &io::Error) + Send + Sync>;

/// A cloneable handle on the log of one node.
#[derive(Clone)]
pub(super) struct LogStore {
    log: Arc<RwLock<RaftLog<LogTypes>>>,
    /// Bytes of payload appended since the start of the process.
    appended_bytes: Arc<AtomicU64>,
    on_failure: OnFailure,
}

/// What this module asks of a node's log, beside what Raft does with it.
#[async_trait]
pub(super) trait Log: Send + Sync + 'static {
    /// Whether nothing was ever written: a node with a log or a vote is not pristine.
    fn is_pristine(&self) -> bool;

    /// Bytes of payload appended since the process started, for deciding when to take a snapshot.
    fn appended_bytes(&self) -> u64;

    /// The index up to which the log may be dropped so that about `keep_bytes` of it stay, if there is more.
    fn index_beyond(&self, keep_bytes: u64) -> Option<u64>;

    /// Waits until everything handed over so far is on disk.
    ///
    /// # Errors
    /// When the flush fails.
    async fn flush(&self) -> io::Result<()>;
}

impl LogStore {
    /// Opens the log in `folder`, creating both where they do not exist.
    ///
    /// # Errors
    /// When the folder cannot be used, another process holds it, or a record before the tail is damaged.
    pub(super) fn open(folder: &Path, on_failure: OnFailure) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let name = folder.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the data directory's path is not UTF-8"))?;
        let mut config = raft_log::Config::new(name);
        config.wal.flush_batch_wait = Some(limits::RAFT_FLUSH_GATHER);
        config.wal.chunk_max_size = Some(limits::RAFT_LOG_CHUNK_BYTES);
        config.log_cache_capacity = Some(limits::RAFT_LOG_CACHE_BYTES);
        if let Some(Cut { path, kept, gone }) = log_tail::cut_torn(folder)? {
            tracing::warn!(path = %path.display(), kept, gone, "the log's torn end, which nobody was told about, is cut off");
        }
        let log = RaftLog::open(Arc::new(config))?;
        Ok(Self { log: Arc::new(RwLock::new(log)), appended_bytes: Arc::default(), on_failure })
    }

    /// Runs one write and reports its failure.
    fn write<T>(&self, what: &str, body: impl FnOnce(&mut RaftLog<LogTypes>) -> io::Result<T>) -> io::Result<T> {
        let result = body(&mut self.log.write());
        if let Err(error) = &result {
            (self.on_failure)(what, error);
        }
        result
    }

    /// Entries from `start` (inclusive) to `end` (exclusive), stopping after `max_bytes` but not before the first.
    fn read(&self, start: u64, end: u64, max_bytes: u64) -> io::Result<Vec<Entry>> {
        let log = self.log.read();
        let mut bytes = 0;
        let mut entries = Vec::new();
        for item in log.read(start, end) {
            let (id, payload) = item?;
            bytes += payload.len() as u64;
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(Entry { log_id: id.into(), payload: payload.into_entry()? });
        }
        Ok(entries)
    }
}

#[async_trait]
impl Log for LogStore {
    fn is_pristine(&self) -> bool {
        let log = self.log.read();
        let state = log.log_state();
        state.vote().is_none() && state.last().is_none()
    }

    fn appended_bytes(&self) -> u64 {
        self.appended_bytes.load(Ordering::Relaxed)
    }

    fn index_beyond(&self, keep_bytes: u64) -> Option<u64> {
        let stat = self.log.read().stat();
        let mut bytes = stat.open_chunk.size;
        for chunk in stat.closed_chunks.iter().rev() {
            if bytes >= keep_bytes {
                return chunk.log_state.last().map(|id| id.index);
            }
            bytes += chunk.size;
        }
        None
    }

    async fn flush(&self) -> io::Result<()> {
        let (callback, done) = FlushCallback::waiting(&self.on_failure);
        self.write("flushing the Raft log", |log| log.flush(true, Some(callback)))?;
        done.await.map_err(|_| io::Error::other("the log's writer has stopped"))?
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(&mut self, range: RB) -> io::Result<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        if start >= end {
            return Ok(Vec::new());
        }
        self.read(start, end, u64::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let entries = self.read(start, end, limits::RAFT_APPEND_BYTES)?;
        // Where the first was purged meanwhile, openraft has to find nothing. It would send what comes later as if it came next, and
        // leave a hole in the follower's log.
        Ok(if entries.first().is_some_and(|first| first.log_id.index == start) { entries } else { Vec::new() })
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.read().log_state().vote().map(Vote::from))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let log = self.log.read();
        let state = log.log_state();
        Ok(LogState { last_purged_log_id: state.purged().map(LogId::from), last_log_id: state.last().map(LogId::from) })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (callback, done) = FlushCallback::waiting(&self.on_failure);
        self.write("saving a vote", |log| {
            log.save_vote(StoredVote::from(vote))?;
            log.flush(true, Some(callback))
        })?;
        done.await.map_err(|_| io::Error::other("the log's writer has stopped"))?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed.map(StoredLogId::from) else {
            return Ok(());
        };
        self.write("saving the commit index", |log| {
            let state = log.log_state();
            // What a snapshot covers may lie beyond the log; the snapshot says so itself.
            if Some(&committed) > state.last() || Some(&committed) <= state.committed() {
                return Ok(());
            }
            log.commit(committed)?;
            // Not flushed for its own sake: it goes to disk with the next append, and until then the
            // entries it speaks of are in the log anyway.
            log.flush(false, None)
        })
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.log.read().log_state().committed().map(LogId::from))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut bytes = 0;
        let entries: Vec<_> = entries
            .into_iter()
            .map(|entry| {
                let payload = StoredPayload::from_entry(entry.payload);
                bytes += payload.len() as u64;
                (StoredLogId::from(entry.log_id), payload)
            })
            .collect();
        let callback = FlushCallback { kind: FlushKind::Raft(callback), on_failure: self.on_failure.clone() };
        self.write("appending to the Raft log", |log| {
            log.append(entries)?;
            log.flush(true, Some(callback))
        })?;
        self.appended_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let index = last_log_id.map_or(0, |id| id.index + 1);
        self.write("truncating the Raft log", |log| {
            if log.log_state().last().is_none_or(|last| last.index < index) {
                return Ok(());
            }
            log.truncate(index)?;
            log.flush(true, None)
        })
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.write("purging the Raft log", |log| {
            log.purge(StoredLogId::from(log_id))?;
            log.flush(true, None)
        })
    }
}

enum FlushKind {
    Raft(IOFlushed<TypeConfig>),
    Waiting(oneshot::Sender<io::Result<()>>),
}

/// Runs on the log's writer thread when a write is on disk, or has failed.
pub(super) struct FlushCallback {
    kind: FlushKind,
    on_failure: OnFailure,
}

impl FlushCallback {
    fn waiting(on_failure: &OnFailure) -> (Self, oneshot::Receiver<io::Result<()>>) {
        let (sender, receiver) = oneshot::channel();
        (Self { kind: FlushKind::Waiting(sender), on_failure: on_failure.clone() }, receiver)
    }
}

impl Callback for FlushCallback {
    fn send(self, result: io::Result<()>) {
        if let Err(error) = &result {
            (self.on_failure)("flushing the Raft log", error);
        }
        match self.kind {
            FlushKind::Raft(callback) => callback.io_completed(result),
            FlushKind::Waiting(sender) => {
                // The waiter may be gone; the write happened all the same.
                let _ = sender.send(result);
            }
        }
    }
}

impl StoredPayload {
    fn from_entry(payload: super::types::EntryPayload) -> Self {
        match payload {
            EntryPayload::Blank => Self::Blank,
            EntryPayload::Normal(proposal) => Self::Batch(proposal.0),
            EntryPayload::Membership(membership) => {
                Self::Membership(prost::Message::encode_to_vec(&convert::membership_to_wire(&membership)).into())
            }
        }
    }

    fn into_entry(self) -> io::Result<super::types::EntryPayload> {
        Ok(match self {
            Self::Blank => EntryPayload::Blank,
            Self::Batch(bytes) => EntryPayload::Normal(super::types::Proposal(bytes)),
            Self::Membership(bytes) => {
                let wire = prost::Message::decode(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                let membership = convert::membership_from_wire(wire).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                EntryPayload::Membership(membership)
            }
        })
    }
}
