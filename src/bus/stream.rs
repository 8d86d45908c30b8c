//! One stream: its sealed segments, its open tail, its groups, and what may be trimmed.
//!
//! ```text
//!   trimmed | sealed, on file | sealed, hot | tail, in memory | next
//! ```
//! Trimming goes by whole segments: one goes when no group needs it and it has left the window. Under pressure the window goes too,
//! and consumed entries of the tail with it, so that a full bus is full of entries that somebody still needs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use super::group::Group;
use super::rules::Rules;
use super::segment::{Segment, cost};
use super::{BusError, Entry, Position, ReadLimit, Topic};

/// A stream as the writer and all readers share it.
#[derive(Debug)]
pub(super) struct Stream {
    /// Given when it was made; names its files and its ids in the dedupe window.
    pub id: u32,
    /// Its name.
    pub topic: Topic,
    /// Locked for the length of a copy, never across a disk access.
    pub log: RwLock<Log>,
    /// The newest position, told after each batch.
    pub newest: watch::Sender<Position>,
}

/// What a stream holds.
#[derive(Debug, Clone)]
pub(super) struct Log {
    /// Position of the next entry.
    pub next: Position,
    /// Oldest first.
    pub sealed: VecDeque<Arc<Segment>>,
    /// Entries after the last sealed one.
    pub tail: Vec<Entry>,
    /// Cost of the tail.
    pub tail_bytes: u64,
    /// Cost of all entries.
    pub bytes: u64,
    /// By name.
    pub groups: BTreeMap<String, Group>,
}

/// Where the entries after a position are.
pub(super) enum Found {
    /// In memory; not empty.
    Here(Vec<Entry>),
    /// In a file.
    Filed(Arc<Segment>),
    /// There are none yet.
    End,
}

impl Stream {
    /// An empty one.
    pub fn new(id: u32, topic: Topic) -> Stream {
        Stream { id, topic, log: RwLock::new(Log::new()), newest: watch::Sender::new(0) }
    }

    /// Wakes who waits for entries.
    pub fn tell(&self) {
        let last = self.log.read().last();
        self.newest.send_if_modified(|newest| std::mem::replace(newest, last) != last);
    }
}

impl Log {
    /// Nothing yet.
    pub fn new() -> Log {
        Log { next: 1, sealed: VecDeque::new(), tail: Vec::new(), tail_bytes: 0, bytes: 0, groups: BTreeMap::new() }
    }

    /// Position of the newest entry there ever was.
    pub fn last(&self) -> Position {
        self.next - 1
    }

    /// Position of the oldest entry that is there; `next` if there is none.
    pub fn first(&self) -> Position {
        match (self.sealed.front(), self.tail.first()) {
            (Some(segment), _) => segment.first,
            (None, Some(entry)) => entry.position,
            (None, None) => self.next,
        }
    }

    /// Appends an entry at `next`, and says what it costs.
    pub fn append(&mut self, entry: Entry) -> u64 {
        debug_assert_eq!(entry.position, self.next);
        let bytes = cost(entry.payload.len());
        self.next += 1;
        self.tail_bytes += bytes;
        self.bytes += bytes;
        self.tail.push(entry);
        bytes
    }

    /// Whether the tail has reached the size of a segment.
    pub fn is_ripe(&self, rules: &Rules) -> bool {
        self.tail_bytes >= rules.segment_bytes_max || self.tail.len() as u64 >= rules.segment_entries_max
    }

    /// Takes the entries of the tail, to be sealed, and their cost.
    pub fn take_tail(&mut self) -> (Vec<Entry>, u64) {
        (std::mem::take(&mut self.tail), std::mem::take(&mut self.tail_bytes))
    }

    /// Everything up to here is needed by no group.
    fn done(&self) -> Position {
        self.groups.values().map(|group| group.position).min().unwrap_or(Position::MAX)
    }

    /// Removes segments that no group needs and that have left the window. Says how much went.
    pub fn trim(&mut self, now: i64, rules: &Rules) -> u64 {
        let done = self.done();
        let horizon = now.saturating_sub_unsigned(rules.window_ms_max);
        let mut freed = 0;
        while let Some(oldest) = self.sealed.front() {
            let in_window = oldest.last_at >= horizon && self.bytes <= rules.window_bytes_max;
            if oldest.last() > done || in_window {
                break;
            }
            freed += oldest.bytes;
            self.bytes -= oldest.bytes;
            self.sealed.pop_front();
        }
        freed
    }

    /// Removes all that no group needs, window or not. Says how much went: of all, and of the tail.
    pub fn reclaim(&mut self) -> (u64, u64) {
        let done = self.done();
        let before = self.bytes;
        while let Some(oldest) = self.sealed.front() {
            if oldest.last() > done {
                return (before - self.bytes, 0);
            }
            self.bytes -= oldest.bytes;
            self.sealed.pop_front();
        }
        let consumed = self.tail.partition_point(|entry| entry.position <= done);
        let freed: u64 = self.tail.drain(..consumed).map(|entry| cost(entry.payload.len())).sum();
        self.tail_bytes -= freed;
        self.bytes -= freed;
        (before - self.bytes, freed)
    }

    /// Where to read on after `after`, and at most `limit` entries of it.
    pub fn find(&self, after: Position, limit: ReadLimit) -> Result<Found, BusError> {
        let first = self.first();
        if after >= self.last() {
            return Ok(Found::End);
        }
        if after + 1 < first {
            return Err(BusError::Trimmed { first });
        }
        let index = self.sealed.partition_point(|segment| segment.last() <= after);
        let Some(segment) = self.sealed.get(index) else {
            return Ok(Found::Here(slice(&self.tail, after, limit)));
        };
        Ok(match segment.in_memory() {
            Some(entries) => Found::Here(slice(&entries, after, limit)),
            None => Found::Filed(segment.clone()),
        })
    }
}

/// The entries after `after`, bounded by `limit`; at least one if there is one.
pub(super) fn slice(entries: &[Entry], after: Position, limit: ReadLimit) -> Vec<Entry> {
    let start = entries.partition_point(|entry| entry.position <= after);
    let mut bytes = 0;
    entries[start..]
        .iter()
        .take(limit.entries.max(1))
        .enumerate()
        .take_while(|(index, entry)| {
            bytes += entry.payload.len();
            *index == 0 || bytes <= limit.bytes
        })
        .map(|(_, entry)| entry.clone())
        .collect()
}
