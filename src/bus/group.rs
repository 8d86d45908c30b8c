//! A consumer group: a name, how far it has come, and when it counts as gone.

use super::Position;
use super::wire::proto;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// It needs nothing up to here.
    pub position: Position,
    /// It is gone after so many milliseconds without a sign of life; `None`: never.
    pub idle_ms_max: Option<u64>,
    /// Its latest sign of life, on the clock that stands still while the bus does.
    pub active_ms: u64,
}

impl Group {
    /// Whether it counts as gone.
    pub fn is_idle(&self, awake_ms: u64) -> bool {
        self.idle_ms_max.is_some_and(|max| awake_ms.saturating_sub(self.active_ms) > max)
    }

    /// Moves on, never back; a sign of life in any case.
    pub fn advance(&mut self, position: Position, awake_ms: u64) -> Position {
        self.position = self.position.max(position);
        self.active_ms = awake_ms;
        self.position
    }

    /// As a snapshot holds it.
    pub fn save(&self, name: &str) -> proto::GroupState {
        proto::GroupState { name: name.to_owned(), position: self.position, idle_ms_max: self.idle_ms_max, active_ms: self.active_ms }
    }

    /// Reads what [`Group::save`] gave.
    pub fn load(state: &proto::GroupState) -> Group {
        Group { position: state.position, idle_ms_max: state.idle_ms_max, active_ms: state.active_ms }
    }
}
