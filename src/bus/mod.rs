//! The bus: streams of entries that every node holds, in the same order, at the same positions.
//!
//! What it promises:
//! - **Published means kept.** [`Bus::publish`] resolves once the messages are flushed to disk on a majority and applied on this node.
//! - **One order.** Entries of a stream are numbered 1, 2, 3, ... without gap, the same on every node.
//! - **At least once, effectively once.** A message with an id that the stream has seen within the dedupe window (5 minutes, bounded in
//!   number) is not appended again, so an *unknown* outcome is retried safely. Readers dedupe by id beyond that.
//! - **Bounded.** When retained entries reach the backlog bound, publishing is refused as [`BusError::Full`]; nothing unread by a
//!   group is ever dropped. Entries that no group needs stay for a short window, for tails; under pressure that window goes first.
//!
//! What it does not: a group here is a name and a position, told to the bus *only to trim*. Where a consumer stands is decided by
//! its own cursor, moved in the transaction of its effect.
//!
//! The state machine ([`state::BusState`]) is pure and synchronous: it knows no clock, no chance and no consensus. [`Bus`] is
//! what the rest of the program sees; `conformance` is the suite every implementation passes.

mod backlog;
mod checksum;
pub mod command;
mod dedup;
mod framing;
mod group;
mod key;
mod member;
mod reader;
pub mod rules;
mod segment;
mod snapshot;
mod spill;
pub mod state;
mod stream;
mod wire;

#[cfg(test)]
pub mod conformance;
#[cfg(test)]
pub mod direct;
#[cfg(test)]
mod fault;
#[cfg(test)]
mod model;
#[cfg(test)]
mod script;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

/// Offset of an entry in its stream. The first is 1; 0 stands before the first.
pub type Position = u64;

/// The name of a stream.
///
/// Two topics are the same when their names are: `Topic::from("events") == Topic::Events`.
#[derive(Clone)]
pub enum Topic {
    /// `events`: everything that `/events/in` and the server itself emit.
    Events,
    /// `actions`: what triggers ask to be done.
    Actions,
    /// `task-runs`: task runs submitted for background execution.
    TaskRuns,
    /// `work-pool-snapshots`: changes a worker channel has to hear of.
    WorkPoolSnapshots,
    /// A stream of somebody else.
    Other(Arc<str>),
}

impl Topic {
    /// The name under which the stream is known everywhere.
    pub fn name(&self) -> &str {
        match self {
            Topic::Events => "events",
            Topic::Actions => "actions",
            Topic::TaskRuns => "task-runs",
            Topic::WorkPoolSnapshots => "work-pool-snapshots",
            Topic::Other(name) => name,
        }
    }
}

impl From<&str> for Topic {
    fn from(name: &str) -> Topic {
        match name {
            "events" => Topic::Events,
            "actions" => Topic::Actions,
            "task-runs" => Topic::TaskRuns,
            "work-pool-snapshots" => Topic::WorkPoolSnapshots,
            other => Topic::Other(other.into()),
        }
    }
}

impl PartialEq for Topic {
    fn eq(&self, other: &Topic) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Topic {}

impl PartialOrd for Topic {
    fn partial_cmp(&self, other: &Topic) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Topic {
    fn cmp(&self, other: &Topic) -> std::cmp::Ordering {
        self.name().cmp(other.name())
    }
}

impl std::hash::Hash for Topic {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({:?})", self.name())
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a publisher hands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// By which a repetition is known. The nil id is no id: such a message is never taken for a repetition.
    pub id: Uuid,
    /// At most `payload_bytes_max` of the [`rules::Rules`].
    pub payload: Bytes,
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands in its stream.
    pub position: Position,
    /// When it was appended: milliseconds since the epoch, the leader's stamp, never less than that of the entry before.
    pub at: i64,
    /// The id of its message.
    pub id: Uuid,
    /// The bytes of its message.
    pub payload: Bytes,
}

/// Where published messages ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Lowest position of any of the messages, be it appended now or before.
    pub first: Position,
    /// Highest position of any of the messages, be it appended now or before.
    pub last: Position,
    /// How many of them had been appended before.
    pub duplicates: u32,
}

/// How much one read may return. A read always returns at least one entry if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimit {
    /// Most entries.
    pub entries: usize,
    /// Most bytes of payload.
    pub bytes: usize,
}

impl Default for ReadLimit {
    fn default() -> ReadLimit {
        ReadLimit { entries: 1_000, bytes: 1 << 20 }
    }
}

/// Where a group that does not exist yet begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Before the oldest entry that is still there.
    First,
    /// After the newest entry.
    Latest,
    /// After this position.
    After(Position),
}

/// Why the bus did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Nothing was done and a repetition would fare no better.
    #[error("the bus refused: {0}")]
    Refused(String),
    /// Nothing was appended: the backlog is at its bound. Slow down and try again.
    #[error("the bus is full: {bytes} of {bytes_max} bytes are waiting to be consumed")]
    Full {
        /// Bytes retained.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// It may or may not have happened. To retry with the same ids is safe.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// The entries after the position asked for are gone.
    #[error("the stream begins at position {first}")]
    Trimmed {
        /// Position of the oldest entry that is still there (or of the next one, if there is none).
        first: Position,
    },
    /// No such stream.
    #[error("no such stream")]
    NoSuchStream,
    /// No such group. It may have expired; `ensure_group` makes it again.
    #[error("no such group")]
    NoSuchGroup,
    /// This node is shutting down.
    #[error("the bus is closed")]
    Closed,
    /// What is on this node's disk is not what was written there.
    #[error("damaged data: {0}")]
    Damaged(String),
}

/// The bus as the rest of the program sees it. See the module for what it promises.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Resolves once the messages are flushed on a majority and applied on this node. Dropping the future does not recall them.
    ///
    /// # Errors
    /// `Refused`, `Full`, `Unknown`, `Closed`.
    async fn publish(&self, topic: Topic, messages: Vec<Message>) -> Result<Published, BusError>;

    /// Applied entries after `after`, from this node, bounded by `limit`; empty when there is none yet. A stream that nobody has
    /// published to is empty.
    ///
    /// # Errors
    /// `Trimmed` if the entry after `after` is gone, `Damaged`, `Closed`.
    async fn read(&self, topic: &Topic, after: Position, limit: ReadLimit) -> Result<Vec<Entry>, BusError>;

    /// Position of the newest entry applied here; 0 if there never was one.
    fn last(&self, topic: &Topic) -> Position;

    /// Position of the oldest entry that can be read here; one past [`Bus::last`] if there is none.
    fn first(&self, topic: &Topic) -> Position;

    /// Resolves with the newest position when an entry after `after` is applied here. Cancellation safe.
    ///
    /// # Errors
    /// `Closed`.
    async fn wait_past(&self, topic: &Topic, after: Position) -> Result<Position, BusError>;

    /// Makes sure that a group exists, and says where it stands. Also a sign of life: an idle group expires
    /// ([`rules::GROUP_IDLE_MS_MAX`]).
    ///
    /// # Errors
    /// `Refused`, `Unknown`, `Closed`.
    async fn ensure_group(&self, topic: Topic, group: &str, start: Start) -> Result<Position, BusError>;

    /// Tells that a group needs nothing up to `position` any more. Only to trim: never goes backwards, and a consumer's own
    /// cursor decides. Also a sign of life.
    ///
    /// # Errors
    /// `NoSuchStream`, `NoSuchGroup`, `Refused` (past the end of the stream), `Unknown`, `Closed`.
    async fn advance_group(&self, topic: Topic, group: &str, position: Position) -> Result<(), BusError>;

    /// Gives a key a value on every node, for `lasts`; what it held before is forgotten.
    ///
    /// # Errors
    /// `Refused` (too long, too many), `Unknown`, `Closed`.
    async fn set_key(&self, key: Bytes, value: Bytes, lasts: Duration) -> Result<(), BusError>;

    /// Takes a key away; fine where there is none.
    ///
    /// # Errors
    /// `Refused`, `Unknown`, `Closed`.
    async fn delete_key(&self, key: Bytes) -> Result<(), BusError>;

    /// The keys applied here that begin with `prefix`, in their order, at most `limit`. What has run out may still be
    /// among them while nothing else happens on the bus: look at [`Key::expires_at`].
    fn keys(&self, prefix: &[u8], limit: usize) -> Vec<Key>;
}

/// A key and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub key: Bytes,
    /// What it holds.
    pub value: Bytes,
    /// When it is gone: milliseconds since the epoch, by the leader's clock; `None`: stays.
    pub expires_at: Option<i64>,
}
