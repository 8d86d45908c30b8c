//! How the services are doing: what `/readyz`, `/api/cluster/status` and the metrics tell.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use crate::clock::Timestamp;
use crate::model::json;

/// The state of one service on this node.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct ServiceStatus {
    /// Name.
    pub name: &'static str,
    /// When it last did its work without error.
    #[serde(with = "json::optional_timestamp")]
    pub last_success: Option<Timestamp>,
    /// How long that took, in seconds.
    pub duration_seconds: f64,
    /// Entries of the stream that it has not dealt with (consumers).
    pub lag: Option<u64>,
    /// The error of the last attempt, where it failed.
    pub error: Option<String>,
    /// When it was started, or last began to fail.
    #[serde(with = "json::timestamp")]
    pub since: Timestamp,
    /// Seconds without success after which it counts as unable to work.
    pub patience_seconds: f64,
}

/// All services of this node; empty while it does not lead. Clones are the same.
#[derive(Clone, Default)]
pub struct Board {
    services: Arc<Mutex<BTreeMap<&'static str, ServiceStatus>>>,
}

impl Board {
    /// A service was started.
    pub fn started(&self, name: &'static str, patience: Duration, now: Timestamp) {
        let status = ServiceStatus {
            name,
            last_success: None,
            duration_seconds: 0.0,
            lag: None,
            error: None,
            since: now,
            patience_seconds: patience.as_secs_f64(),
        };
        self.services.lock().insert(name, status);
    }

    /// It did its work.
    pub fn succeeded(&self, name: &'static str, elapsed: Duration, now: Timestamp) {
        if let Some(status) = self.services.lock().get_mut(name) {
            status.last_success = Some(now);
            status.duration_seconds = elapsed.as_secs_f64();
            status.error = None;
        }
    }

    /// It failed.
    pub fn failed(&self, name: &'static str, error: String, now: Timestamp) {
        if let Some(status) = self.services.lock().get_mut(name) {
            if status.error.is_none() {
                status.since = now;
            }
            status.error = Some(error);
        }
    }

    /// So many entries are waiting for it.
    pub fn lag(&self, name: &'static str, entries: u64) {
        if let Some(status) = self.services.lock().get_mut(name) {
            status.lag = Some(entries);
        }
    }

    /// The services were stopped.
    pub fn clear(&self) {
        self.services.lock().clear();
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<ServiceStatus> {
        self.services.lock().values().cloned().collect()
    }

    /// Those that cannot work: no success for longer than their patience.
    pub fn stuck(&self, now: Timestamp) -> Vec<&'static str> {
        let services = self.services.lock();
        let is_stuck = |status: &&ServiceStatus| {
            let last = status.last_success.unwrap_or(status.since);
            (now - last).num_milliseconds() as f64 > status.patience_seconds * 1000.0
        };
        services.values().filter(is_stuck).map(|status| status.name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[test]
    fn a_service_without_success_is_stuck_when_its_patience_ends() {
        let board = Board::default();
        let start = Timestamp::UNIX_EPOCH;
        board.started("late_runs", Duration::from_secs(10), start);
        assert!(board.stuck(start + TimeDelta::seconds(10)).is_empty());
        board.failed("late_runs", "no".into(), start + TimeDelta::seconds(5));
        assert_eq!(board.stuck(start + TimeDelta::seconds(16)), ["late_runs"]);
        board.succeeded("late_runs", Duration::ZERO, start + TimeDelta::seconds(16));
        assert!(board.stuck(start + TimeDelta::seconds(26)).is_empty());
        assert_eq!(board.list()[0].error, None);
    }
}
