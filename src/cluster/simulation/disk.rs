//! A disk for the Raft log of one node. What is written is there for the node at once and on disk later, in the order in which it
//! was written; a crash keeps what is on disk, and of the rest a beginning of any length: the records that a torn tail still
//! holds, as the real log finds them by their checksums.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use async_trait::async_trait;
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::oneshot;

use super::{Bug, laws, planted};
use crate::cluster::log_store::Log;
use crate::cluster::types::{Entry, EntryPayload, LogId, TypeConfig, Vote};

/// A node's disk; it outlives the node.
#[derive(Clone)]
pub(super) struct Disk(Arc<Mutex<Inner>>);

struct Inner {
    node: u64,
    now: u64,
    rng: StdRng,
    /// Milliseconds that a flush takes, at least and at most.
    flush: (u64, u64),
    /// Until then nothing gets to the disk.
    stalled_until: u64,
    /// As the running node sees it.
    seen: Content,
    /// What a crash leaves.
    durable: Content,
    /// On the way, oldest first.
    pending: VecDeque<Pending>,
    appended_bytes: u64,
}

#[derive(Clone, Default)]
struct Content {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

struct Pending {
    due: u64,
    record: Record,
    done: Option<Done>,
}

#[derive(Clone)]
enum Record {
    Entry(Entry),
    Vote(Vote),
    Committed(LogId),
    /// From this index on.
    Truncate(u64),
    Purge(LogId),
    Nothing,
}

enum Done {
    Raft(IOFlushed<TypeConfig>),
    Waiting(oneshot::Sender<()>),
}

impl Done {
    fn tell(self) {
        match self {
            Done::Raft(callback) => callback.io_completed(Ok(())),
            // The waiter may be gone.
            Done::Waiting(sender) => drop(sender.send(())),
        }
    }
}

impl Content {
    fn last(&self) -> Option<LogId> {
        self.entries.values().next_back().map(|entry| entry.log_id).max(self.purged)
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Entry(entry) => drop(self.entries.insert(entry.log_id.index, entry)),
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Committed(id) => self.committed = Some(id),
            Record::Truncate(from) => drop(self.entries.split_off(&from)),
            Record::Purge(id) => {
                self.entries = self.entries.split_off(&(id.index + 1));
                self.purged = self.purged.max(Some(id));
            }
            Record::Nothing => {}
        }
    }
}

impl Disk {
    pub(super) fn new(node: u64, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let flush = [(1, 1), (1, 4), (3, 20)][rng.random_range(0..3)];
        Self(Arc::new(Mutex::new(Inner {
            node,
            now: 0,
            rng,
            flush,
            stalled_until: 0,
            seen: Content::default(),
            durable: Content::default(),
            pending: VecDeque::new(),
            appended_bytes: 0,
        })))
    }

    /// Brings to the disk what is due at `now`.
    pub(super) fn pass(&self, now: u64) {
        let mut inner = self.0.lock();
        inner.now = now;
        if now < inner.stalled_until {
            return;
        }
        let mut done = Vec::new();
        while inner.pending.front().is_some_and(|pending| pending.due <= now) {
            let Some(pending) = inner.pending.pop_front() else { break };
            inner.durable.take(pending.record);
            done.extend(pending.done);
        }
        drop(inner);
        done.into_iter().for_each(Done::tell);
    }

    /// Nothing gets to the disk for so many milliseconds.
    pub(super) fn stall(&self, milliseconds: u64) {
        let mut inner = self.0.lock();
        inner.stalled_until = inner.now + milliseconds;
    }

    /// The node is gone: what was on the way is lost, but for a beginning.
    pub(super) fn crash(&self) {
        let mut inner = self.0.lock();
        let pending = std::mem::take(&mut inner.pending);
        let kept = if inner.rng.random_bool(0.5) { 0 } else { inner.rng.random_range(0..=pending.len()) };
        for pending in pending.into_iter().take(kept) {
            inner.durable.take(pending.record);
        }
        inner.seen = inner.durable.clone();
        inner.stalled_until = 0;
    }

    /// The id of the entry at `index` as the node sees it: `None` where there is none, or it was purged.
    pub(super) fn log_id(&self, index: u64) -> Option<LogId> {
        self.0.lock().seen.entries.get(&index).map(|entry| entry.log_id)
    }

    /// Index up to which entries were purged.
    pub(super) fn purged(&self) -> Option<u64> {
        self.0.lock().seen.purged.map(|id| id.index)
    }

    fn write(&self, record: Record, done: Option<Done>) {
        let mut inner = self.0.lock();
        inner.seen.take(record.clone());
        inner.push(record, done);
    }
}

impl Inner {
    fn push(&mut self, record: Record, done: Option<Done>) {
        let early = matches!(
            (&record, planted()),
            (Record::Entry(_), Some(Bug::AcknowledgesBeforeFlush)) | (Record::Vote(_), Some(Bug::ForgetsVotes))
        );
        let takes = if early { 400 } else { self.rng.random_range(self.flush.0..=self.flush.1) };
        let last = self.pending.back().map_or(0, |pending| pending.due);
        let due = (self.now + takes).max(last);
        let done = if early { done.map(Done::tell).and(None) } else { done };
        self.pending.push_back(Pending { due, record, done });
    }
}

#[async_trait]
impl Log for Disk {
    fn is_pristine(&self) -> bool {
        let inner = self.0.lock();
        inner.seen.vote.is_none() && inner.seen.last().is_none()
    }

    fn appended_bytes(&self) -> u64 {
        self.0.lock().appended_bytes
    }

    fn index_beyond(&self, _: u64) -> Option<u64> {
        None
    }

    async fn flush(&self) -> io::Result<()> {
        self.flushed(Record::Nothing).await
    }
}

impl Disk {
    async fn flushed(&self, record: Record) -> io::Result<()> {
        let (sender, done) = oneshot::channel();
        self.write(record, Some(Done::Waiting(sender)));
        done.await.map_err(|_| io::Error::other("the disk is gone"))
    }

    fn read(&self, start: u64, end: u64, max_bytes: usize) -> Vec<Entry> {
        let inner = self.0.lock();
        let mut bytes = 0;
        let mut entries = Vec::new();
        for (_, entry) in inner.seen.entries.range(start..end) {
            if let EntryPayload::Normal(proposal) = &entry.payload {
                bytes += proposal.0.len();
            }
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        entries
    }
}

impl RaftLogReader<TypeConfig> for Disk {
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
        Ok(if start < end { self.read(start, end, usize::MAX) } else { Vec::new() })
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        // Small, so that a follower far behind needs several appends.
        let entries = self.read(start, end, 4 << 10);
        // As the real log does.
        Ok(if entries.first().is_some_and(|first| first.log_id.index == start) { entries } else { Vec::new() })
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.0.lock().seen.vote)
    }
}

impl RaftLogStorage<TypeConfig> for Disk {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let inner = self.0.lock();
        Ok(LogState { last_purged_log_id: inner.seen.purged, last_log_id: inner.seen.last() })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.flushed(Record::Vote(*vote)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let news = {
            let inner = self.0.lock();
            committed.filter(|committed| Some(*committed) <= inner.seen.last() && Some(*committed) > inner.seen.committed)
        };
        if let Some(committed) = news {
            self.write(Record::Committed(committed), None);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.0.lock().seen.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut inner = self.0.lock();
        let mut callback = Some(callback);
        let mut entries = entries.into_iter().peekable();
        if entries.peek().is_none() {
            inner.push(Record::Nothing, callback.take().map(Done::Raft));
        }
        while let Some(entry) = entries.next() {
            laws::appended(inner.node, inner.seen.last(), &entry);
            if let EntryPayload::Normal(proposal) = &entry.payload {
                inner.appended_bytes += proposal.0.len() as u64;
            }
            inner.seen.take(Record::Entry(entry.clone()));
            let done = if entries.peek().is_none() { callback.take().map(Done::Raft) } else { None };
            inner.push(Record::Entry(entry), done);
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        let gone: Vec<LogId> = {
            let inner = self.0.lock();
            inner.seen.entries.range(from..).map(|(_, entry)| entry.log_id).collect()
        };
        if !gone.is_empty() {
            laws::truncated(self.0.lock().node, &gone);
            self.write(Record::Truncate(from), None);
        }
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.write(Record::Purge(log_id), None);
        Ok(())
    }
}
