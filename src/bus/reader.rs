//! What is applied on this node, for everybody who only looks: reads, waits, figures.
//!
//! Readers share the writer's data under locks that are held for the length of a copy. Nothing here asks the group.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::key;
use super::member::ClusterView;
use super::rules::{Limits, Rules};
use super::segment::{Cache, Segment};
use super::stream::{Found, Stream, slice};
use super::{BusError, Entry, Key, Position, ReadLimit, Topic};
use crate::task;

/// What the writer and all readers share.
#[derive(Debug)]
pub(super) struct Shared {
    /// By name.
    pub streams: RwLock<BTreeMap<Topic, Arc<Stream>>>,
    /// Grows when a stream is made.
    pub streams_made: watch::Sender<u32>,
    /// Log index of the newest batch applied.
    pub applied: watch::Sender<u64>,
    /// Members and election.
    pub cluster: watch::Sender<Arc<ClusterView>>,
    /// True once the writer is gone.
    pub closed: watch::Sender<bool>,
    /// In force.
    pub rules: RwLock<Rules>,
    /// By name.
    pub keys: key::Shared,
    /// Cost of sealed segments in memory.
    pub hot_bytes: Arc<AtomicU64>,
    /// Message ids remembered.
    pub seen_ids: AtomicU64,
    /// Segments read back.
    pub cache: Mutex<Cache>,
    /// This node's bounds.
    pub limits: Limits,
}

impl Shared {
    /// Nothing yet.
    pub fn new(limits: Limits) -> Shared {
        Shared {
            streams: RwLock::default(),
            streams_made: watch::Sender::new(0),
            applied: watch::Sender::new(0),
            cluster: watch::Sender::new(Arc::default()),
            closed: watch::Sender::new(false),
            rules: RwLock::new(Rules::GENESIS),
            keys: key::Shared::default(),
            hot_bytes: Arc::default(),
            seen_ids: AtomicU64::new(0),
            cache: Mutex::default(),
            limits,
        }
    }
}

/// Figures of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamView {
    /// Which.
    pub topic: Topic,
    /// Position of the oldest entry kept; one past `last` if there is none.
    pub first: Position,
    /// Position of the newest entry.
    pub last: Position,
    /// Bytes kept (payload and overhead).
    pub bytes: u64,
    /// Name and position, by name.
    pub groups: Vec<(String, Position)>,
}

/// What this node spends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all entries kept, in memory and on disk.
    pub backlog_bytes: u64,
    /// Above which publishing is refused.
    pub backlog_bytes_max: u64,
    /// Bytes of sealed segments in memory.
    pub hot_bytes: u64,
    /// Message ids remembered, to know repetitions by.
    pub seen_ids: u64,
    /// Streams.
    pub streams: usize,
    /// Keys.
    pub keys: usize,
}

/// A handle for reading. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BusReader {
    shared: Arc<Shared>,
}

impl BusReader {
    pub(super) fn new(shared: Arc<Shared>) -> BusReader {
        BusReader { shared }
    }

    /// As [`super::Bus::read`]. Goes to a blocking thread only when a file has to be read. Cancellation safe.
    ///
    /// # Errors
    /// `Trimmed`, `Damaged`, `Closed`.
    pub async fn read(&self, topic: &Topic, after: Position, limit: ReadLimit) -> Result<Vec<Entry>, BusError> {
        if *self.shared.closed.borrow() {
            return Err(BusError::Closed);
        }
        let Some(stream) = self.stream(topic) else { return Ok(Vec::new()) };
        let mut read: Vec<Entry> = Vec::new();
        let mut rest = limit;
        loop {
            let position = read.last().map_or(after, |entry| entry.position);
            let found = stream.log.read().find(position, rest);
            let mut more = match found {
                Ok(Found::End) => return Ok(read),
                Ok(Found::Here(entries)) => entries,
                Ok(Found::Filed(segment)) => match self.load(stream.id, segment).await {
                    Ok(entries) => slice(&entries, position, rest),
                    Err(error) if read.is_empty() => return Err(error),
                    Err(_) => return Ok(read),
                },
                Err(error) if read.is_empty() => return Err(error),
                Err(_) => return Ok(read),
            };
            let bytes: usize = more.iter().map(|entry| entry.payload.len()).sum();
            if !read.is_empty() && bytes > rest.bytes {
                return Ok(read);
            }
            rest = ReadLimit { entries: rest.entries.saturating_sub(more.len()), bytes: rest.bytes.saturating_sub(bytes) };
            read.append(&mut more);
            if rest.entries == 0 || rest.bytes == 0 {
                return Ok(read);
            }
        }
    }

    /// As [`super::Bus::last`].
    pub fn last(&self, topic: &Topic) -> Position {
        self.stream(topic).map_or(0, |stream| stream.log.read().last())
    }

    /// As [`super::Bus::first`].
    pub fn first(&self, topic: &Topic) -> Position {
        self.stream(topic).map_or(1, |stream| stream.log.read().first())
    }

    /// As [`super::Bus::wait_past`]. Cancellation safe.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn wait_past(&self, topic: &Topic, after: Position) -> Result<Position, BusError> {
        let mut closed = self.shared.closed.subscribe();
        let wait = async {
            let mut made = self.shared.streams_made.subscribe();
            let stream = loop {
                made.mark_unchanged();
                match self.stream(topic) {
                    Some(stream) => break stream,
                    None => made.changed().await.map_err(|_| BusError::Closed)?,
                }
            };
            let mut newest = stream.newest.subscribe();
            let last = newest.wait_for(|last| *last > after).await.map_err(|_| BusError::Closed)?;
            Ok(*last)
        };
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Err(BusError::Closed),
            last = wait => last,
        }
    }

    /// Members and the services election, to watch.
    pub fn cluster(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.shared.cluster.subscribe()
    }

    /// Log index of the newest batch applied here, to watch.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    /// Becomes true when the state machine is gone.
    pub fn closed(&self) -> watch::Receiver<bool> {
        self.shared.closed.subscribe()
    }

    /// The bounds in force.
    pub fn rules(&self) -> Rules {
        self.shared.rules.read().clone()
    }

    /// Figures of all streams, by name.
    pub fn streams(&self) -> Vec<StreamView> {
        let streams: Vec<_> = self.shared.streams.read().values().cloned().collect();
        let view = |stream: Arc<Stream>| {
            let log = stream.log.read();
            StreamView {
                topic: stream.topic.clone(),
                first: log.first(),
                last: log.last(),
                bytes: log.bytes,
                groups: log.groups.iter().map(|(name, group)| (name.clone(), group.position)).collect(),
            }
        };
        streams.into_iter().map(view).collect()
    }

    /// What the bus spends on this node.
    pub fn usage(&self) -> Usage {
        let streams: Vec<_> = self.shared.streams.read().values().cloned().collect();
        Usage {
            backlog_bytes: streams.iter().map(|stream| stream.log.read().bytes).sum(),
            backlog_bytes_max: self.shared.rules.read().backlog_bytes_max,
            hot_bytes: self.shared.hot_bytes.load(Ordering::Relaxed),
            seen_ids: self.shared.seen_ids.load(Ordering::Relaxed),
            streams: streams.len(),
            keys: self.shared.keys.read().len(),
        }
    }

    /// The value of a key and its version, as last applied here.
    pub fn key(&self, key: &[u8]) -> Option<(Bytes, u64)> {
        self.shared.keys.read().get(key).map(|value| (value.bytes.clone(), value.version))
    }

    /// As [`super::Bus::keys`].
    pub fn keys(&self, prefix: &[u8], limit: usize) -> Vec<Key> {
        let keys = self.shared.keys.read();
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let found = keys.range::<[u8], _>(from).take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        found.map(|(key, value)| Key { key: key.clone(), value: value.bytes.clone(), expires_at: value.expires_at }).collect()
    }

    fn stream(&self, topic: &Topic) -> Option<Arc<Stream>> {
        self.shared.streams.read().get(topic).cloned()
    }

    /// The entries of a segment that is in a file.
    async fn load(&self, stream: u32, segment: Arc<Segment>) -> Result<Arc<Vec<Entry>>, BusError> {
        if let Some(entries) = self.shared.cache.lock().get(stream, segment.first) {
            return Ok(entries);
        }
        let (first, bytes) = (segment.first, segment.bytes);
        let loaded = task::blocking(move || segment.load()).await.map_err(|_| BusError::Closed)?;
        let entries = loaded.map_err(|error| BusError::Damaged(error.to_string()))?;
        self.shared.cache.lock().put(stream, first, entries.clone(), bytes, self.shared.limits.cache_bytes_max);
        Ok(entries)
    }
}
