//! Reads what transactions on any node told those who wait ([`crate::store::Hint`]).

use std::collections::HashSet;

use crate::app::App;
use crate::bus::{BusError, Position, ReadLimit, Topic};

/// What hints told of.
pub struct Hinted {
    /// Where they end.
    pub position: Position,
    /// Their bodies.
    pub bodies: HashSet<String>,
    /// Some were missed: look at everything.
    pub all: bool,
}

/// Waits for hints behind `position` and reads them. Waits for ever where the node stops.
pub async fn wait(app: &App, topic: &Topic, position: Position) -> Hinted {
    let bus = app.bus();
    let Ok(last) = bus.wait_past(topic, position).await else {
        // The bus is closed.
        return std::future::pending().await;
    };
    match bus.read(topic, position, ReadLimit::default()).await {
        Ok(entries) => Hinted {
            position: entries.last().map_or(position, |entry| entry.position),
            bodies: entries.iter().map(|entry| String::from_utf8_lossy(&entry.payload).into_owned()).collect(),
            all: false,
        },
        Err(BusError::Trimmed { first }) => Hinted { position: last.max(first.saturating_sub(1)), bodies: HashSet::new(), all: true },
        Err(error) => {
            tracing::info!(stream = topic.name(), error = %error, "hints could not be read");
            Hinted { position: last, bodies: HashSet::new(), all: true }
        }
    }
}
