//! [`Bus`] over the group: commands go through the [`Batcher`] to the log, reads come from what is applied here.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::batcher::{Batcher, OVERHEAD_BYTES};
use super::limits;
use crate::bus::command::{Command, KeyCondition, Reply};
use crate::bus::rules::GROUP_IDLE_MS_MAX;
use crate::bus::state::BusReader;
use crate::bus::{Bus, BusError, Entry, Key, Message, Position, Published, ReadLimit, Start, Topic};
use crate::telemetry::metrics as telemetry;

/// The bus of this node.
pub(super) struct ReplicatedBus {
    batcher: Batcher,
    reader: BusReader,
}

impl ReplicatedBus {
    pub(super) fn new(batcher: Batcher, reader: BusReader) -> Self {
        Self { batcher, reader }
    }
}

#[async_trait]
impl Bus for ReplicatedBus {
    async fn publish(&self, topic: Topic, messages: Vec<Message>) -> Result<Published, BusError> {
        let began = Instant::now();
        let count = messages.len() as u64;
        let parts = split(messages).into_iter().map(|messages| {
            let command = Command::Publish { stream: topic.clone(), messages };
            self.batcher.submit(command, limits::COMMAND_DEADLINE)
        });
        let mut sum: Option<Published> = None;
        for reply in futures_util::future::join_all(parts).await {
            let part = match reply? {
                Reply::Published(published) => published,
                other => return Err(unexpected(other)),
            };
            sum = Some(match sum {
                None => part,
                Some(sum) => Published {
                    first: sum.first.min(part.first),
                    last: sum.last.max(part.last),
                    duplicates: sum.duplicates + part.duplicates,
                },
            });
        }
        let published = sum.ok_or_else(|| BusError::Refused("there is nothing to publish".into()))?;
        telemetry::bus_published(label(&topic).unwrap_or("other"), count, began.elapsed());
        Ok(published)
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
        tokio::select! {
            biased;
            position = self.reader.wait_past(topic, after) => position,
            () = self.batcher.closed() => Err(BusError::Closed),
        }
    }

    async fn ensure_group(&self, topic: Topic, group: &str, start: Start) -> Result<Position, BusError> {
        let command = Command::EnsureGroup { stream: topic, group: group.to_owned(), start, idle_ms_max: Some(GROUP_IDLE_MS_MAX) };
        match self.batcher.submit(command, limits::COMMAND_DEADLINE).await? {
            Reply::GroupAt(position) => Ok(position),
            other => Err(unexpected(other)),
        }
    }

    async fn advance_group(&self, topic: Topic, group: &str, position: Position) -> Result<(), BusError> {
        let command = Command::AdvanceGroup { stream: topic, group: group.to_owned(), position };
        match self.batcher.submit(command, limits::COMMAND_DEADLINE).await? {
            Reply::GroupAt(_) => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    async fn set_key(&self, key: Bytes, value: Bytes, lasts: Duration) -> Result<(), BusError> {
        let expires_after_ms = Some(lasts.as_millis() as u64);
        let command = Command::SetKey { key, value, expires_after_ms, condition: KeyCondition::Always };
        match self.batcher.submit(command, limits::COMMAND_DEADLINE).await? {
            Reply::KeyAt(_) => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    async fn delete_key(&self, key: Bytes) -> Result<(), BusError> {
        match self.batcher.submit(Command::DeleteKey { key, if_version: None }, limits::COMMAND_DEADLINE).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    fn keys(&self, prefix: &[u8], limit: usize) -> Vec<Key> {
        self.reader.keys(prefix, limit)
    }
}

/// The name of a stream as a metric's label, which must come from a closed set.
pub(super) fn label(topic: &Topic) -> Option<&'static str> {
    match topic {
        Topic::Events => Some("events"),
        Topic::Actions => Some("actions"),
        Topic::TaskRuns => Some("task-runs"),
        Topic::WorkPoolSnapshots => Some("work-pool-snapshots"),
        Topic::Other(_) => None,
    }
}

fn unexpected(reply: Reply) -> BusError {
    match reply {
        Reply::Refused(reason) => BusError::Refused(reason),
        Reply::Full { bytes, bytes_max } => BusError::Full { bytes, bytes_max },
        Reply::NoSuchStream => BusError::NoSuchStream,
        Reply::NoSuchGroup => BusError::NoSuchGroup,
        other => BusError::Unknown(format!("an answer to another question: {other:?}")),
    }
}

/// Cuts what is too large for one proposal. Messages keep their order; one that is too large by itself travels alone.
fn split(messages: Vec<Message>) -> Vec<Vec<Message>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut bytes = 0;
    for message in messages {
        let cost = message.payload.len() + OVERHEAD_BYTES;
        if bytes + cost > limits::PROPOSAL_BYTES && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += cost;
        part.push(message);
    }
    if !part.is_empty() || parts.is_empty() {
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Message {
        Message { id: uuid::Uuid::from_u128(bytes as u128), payload: vec![0; bytes].into() }
    }

    #[test]
    fn large_publishes_are_cut_and_keep_their_order() {
        let sizes = [1, 200 << 10, 100 << 10, 300 << 10, 2, 3];
        let parts = split(sizes.iter().map(|size| message(*size)).collect());
        let flat: Vec<usize> = parts.iter().flatten().map(|message| message.payload.len()).collect();
        assert_eq!(flat, sizes);
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1, 2]);
    }

    #[test]
    fn nothing_is_one_empty_part_for_the_bus_to_refuse() {
        assert_eq!(split(Vec::new()), vec![Vec::new()]);
    }
}
