//! A `Bus` straight over one `BusState`, without a group: for tests of what stands on the bus, and to try the conformance suite.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::command::{Batch, Command, KeyCondition, Reply};
use super::rules::{GROUP_IDLE_MS_MAX, Limits};
use super::state::{BusReader, BusState};
use super::{Bus, BusError, Entry, Key, Message, Position, Published, ReadLimit, Start, Topic, conformance};

/// See the module. Its clock stands still.
#[derive(Debug)]
pub struct DirectBus {
    state: Mutex<BusState>,
    reader: BusReader,
    _directory: tempfile::TempDir,
}

impl DirectBus {
    /// An empty bus in a temporary directory.
    pub fn new(limits: Limits) -> DirectBus {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (state, reader) = BusState::open(directory.path(), limits).expect("an empty bus opens");
        DirectBus { state: Mutex::new(state), reader, _directory: directory }
    }

    /// Applies one command.
    pub fn apply(&self, command: Command) -> Result<Reply, BusError> {
        let mut state = self.state.lock();
        let index = state.applied() + 1;
        let replies = state.apply(index, &Batch { at_ms: 1_700_000_000_000, commands: vec![command] });
        let reply = replies.map_err(|error| BusError::Damaged(error.to_string()))?.remove(0);
        match reply {
            Reply::Refused(reason) => Err(BusError::Refused(reason)),
            Reply::Full { bytes, bytes_max } => Err(BusError::Full { bytes, bytes_max }),
            Reply::NoSuchStream => Err(BusError::NoSuchStream),
            Reply::NoSuchGroup => Err(BusError::NoSuchGroup),
            reply => Ok(reply),
        }
    }
}

#[async_trait]
impl Bus for DirectBus {
    async fn publish(&self, stream: Topic, messages: Vec<Message>) -> Result<Published, BusError> {
        match self.apply(Command::Publish { stream, messages })? {
            Reply::Published(published) => Ok(published),
            other => unreachable!("{other:?}"),
        }
    }

    async fn read(&self, topic: &Topic, after: Position, limit: ReadLimit) -> Result<Vec<Entry>, BusError> {
        self.reader.read(topic, after, limit).await
    }

    fn last(&self, topic: &Topic) -> Position {
        self.reader.last(topic)
    }

    fn first(&self, topic: &Topic) -> Position {
        self.reader.first(topic)
    }

    async fn wait_past(&self, topic: &Topic, after: Position) -> Result<Position, BusError> {
        self.reader.wait_past(topic, after).await
    }

    async fn ensure_group(&self, stream: Topic, group: &str, start: Start) -> Result<Position, BusError> {
        match self.apply(Command::EnsureGroup { stream, group: group.into(), start, idle_ms_max: Some(GROUP_IDLE_MS_MAX) })? {
            Reply::GroupAt(position) => Ok(position),
            other => unreachable!("{other:?}"),
        }
    }

    async fn advance_group(&self, stream: Topic, group: &str, position: Position) -> Result<(), BusError> {
        self.apply(Command::AdvanceGroup { stream, group: group.into(), position }).map(|_| ())
    }

    async fn set_key(&self, key: Bytes, value: Bytes, lasts: Duration) -> Result<(), BusError> {
        self.apply(Command::SetKey { key, value, expires_after_ms: Some(lasts.as_millis() as u64), condition: KeyCondition::Always })
            .map(|_| ())
    }

    async fn delete_key(&self, key: Bytes) -> Result<(), BusError> {
        self.apply(Command::DeleteKey { key, if_version: None }).map(|_| ())
    }

    fn keys(&self, prefix: &[u8], limit: usize) -> Vec<Key> {
        self.reader.keys(prefix, limit)
    }
}

#[tokio::test]
async fn the_state_machine_conforms_in_memory_and_on_disk() {
    conformance::all(Arc::new(DirectBus::new(Limits::default())), "hot").await;
    let bus = DirectBus::new(Limits { hot_bytes_max: 0, cache_bytes_max: 1_000 });
    let rules = super::rules::Rules { segment_entries_max: 3, segment_bytes_max: 1_000, ..super::rules::Rules::GENESIS };
    bus.apply(Command::SetRules(rules)).expect("set");
    conformance::all(Arc::new(bus), "cold").await;
}
