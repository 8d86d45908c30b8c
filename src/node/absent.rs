//! The bus of a node that has no group yet: every call says so. It goes away with the group's arrival.

use async_trait::async_trait;

use crate::bus::{Bus, BusError, Entry, Message, Position, Published, ReadLimit, Start, Topic};

pub(super) struct AbsentBus;

#[async_trait]
impl Bus for AbsentBus {
    async fn publish(&self, _: Topic, _: Vec<Message>) -> Result<Published, BusError> {
        Err(BusError::Closed)
    }

    async fn read(&self, _: &Topic, _: Position, _: ReadLimit) -> Result<Vec<Entry>, BusError> {
        Err(BusError::Closed)
    }

    fn last(&self, _: &Topic) -> Position {
        0
    }

    fn first(&self, _: &Topic) -> Position {
        1
    }

    async fn wait_past(&self, _: &Topic, _: Position) -> Result<Position, BusError> {
        Err(BusError::Closed)
    }

    async fn ensure_group(&self, _: Topic, _: &str, _: Start) -> Result<Position, BusError> {
        Err(BusError::Closed)
    }

    async fn advance_group(&self, _: Topic, _: &str, _: Position) -> Result<(), BusError> {
        Err(BusError::Closed)
    }
}
