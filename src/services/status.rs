//! How the services are doing: what `/readyz`, `/api/cluster/status` and the metrics tell.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;

use crate::clock::Timestamp;
use crate::limits;
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
    /// From the end of one tick to the next; 0 for a consumer, which is always due.
    pub period_seconds: f64,
    /// How long its next success is overdue, in seconds.
    pub behind_seconds: f64,
}

impl ServiceStatus {
    fn seconds_since(at: Timestamp, now: Timestamp) -> f64 {
        (now - at).num_milliseconds() as f64 / 1000.0
    }

    /// Beside the period with its jitter, a tick takes its time.
    fn behind(&self, now: Timestamp) -> f64 {
        let idle = if self.period_seconds > 0.0 { self.period_seconds * 1.1 + 1.0 } else { limits::CONSUMER_IDLE.as_secs_f64() + 1.0 };
        (Self::seconds_since(self.last_success.unwrap_or(self.since), now) - idle).max(0.0)
    }

    /// No success for longer than its patience; or failing, however rarely it is due, for longer than any service may.
    fn is_stuck(&self, now: Timestamp) -> bool {
        let silent = Self::seconds_since(self.last_success.unwrap_or(self.since), now) > self.patience_seconds;
        let failing = self.error.is_some() && Self::seconds_since(self.since, now) > limits::SERVICE_PATIENCE.as_secs_f64();
        silent || failing
    }
}

/// All services of this node; empty while it does not lead. Clones are the same.
#[derive(Clone, Default)]
pub struct Board {
    services: Arc<Mutex<BTreeMap<&'static str, ServiceStatus>>>,
    lag_told: Arc<Notify>,
}

impl Board {
    /// A service was started.
    pub fn started(&self, name: &'static str, period: Duration, now: Timestamp) {
        let patience = (period * 2).max(limits::SERVICE_PATIENCE);
        let status = ServiceStatus {
            name,
            last_success: None,
            duration_seconds: 0.0,
            lag: None,
            error: None,
            since: now,
            patience_seconds: patience.as_secs_f64(),
            period_seconds: period.as_secs_f64(),
            behind_seconds: 0.0,
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
        self.lag_told.notify_waiters();
    }

    /// Waits until fewer than `entries` wait for the consumer; not at all where it is unknown.
    pub async fn caught_up(&self, name: &'static str, entries: u64) {
        loop {
            let told = self.lag_told.notified();
            let lag = self.services.lock().get(name).and_then(|status| status.lag);
            if lag.is_none_or(|lag| lag < entries) {
                return;
            }
            told.await;
        }
    }

    /// The services were stopped.
    pub fn clear(&self) {
        self.services.lock().clear();
    }

    /// All of them, by name.
    pub fn list(&self, now: Timestamp) -> Vec<ServiceStatus> {
        let with_delay = |status: &ServiceStatus| ServiceStatus { behind_seconds: status.behind(now), ..status.clone() };
        self.services.lock().values().map(with_delay).collect()
    }

    /// Those that cannot work: no success for longer than their patience.
    pub fn stuck(&self, now: Timestamp) -> Vec<&'static str> {
        self.services.lock().values().filter(|status| status.is_stuck(now)).map(|status| status.name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[tokio::test]
    async fn who_waits_for_another_to_catch_up_is_woken_when_it_has() {
        let board = Board::default();
        board.caught_up("unknown", 1).await;
        board.started("recorder", Duration::ZERO, Timestamp::UNIX_EPOCH);
        board.lag("recorder", 5);
        let waiting = board.caught_up("recorder", 5);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending(), "5 are as many as 5");
        board.lag("recorder", 4);
        tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("woken");
    }

    #[test]
    fn a_service_without_success_is_stuck_when_its_patience_ends() {
        let board = Board::default();
        let start = Timestamp::UNIX_EPOCH;
        let at = |seconds| start + TimeDelta::seconds(seconds);
        board.started("late_runs", Duration::from_secs(5), start);
        assert!(board.stuck(at(15)).is_empty());
        assert_eq!(board.stuck(at(16)), ["late_runs"], "it hangs");
        board.failed("late_runs", "no".into(), at(5));
        assert!(board.stuck(at(20)).is_empty());
        assert_eq!(board.stuck(at(21)), ["late_runs"], "it fails again and again");
        board.succeeded("late_runs", Duration::ZERO, at(22));
        assert!(board.stuck(at(37)).is_empty());
        assert_eq!(board.list(at(22))[0].error, None);
    }

    #[test]
    fn a_service_that_is_rarely_due_and_fails_is_stuck_long_before_it_is_due_again() {
        let board = Board::default();
        let at = |seconds| Timestamp::UNIX_EPOCH + TimeDelta::seconds(seconds);
        board.started("vacuum", Duration::from_hours(1), at(0));
        board.succeeded("vacuum", Duration::ZERO, at(1));
        assert!(board.stuck(at(3600)).is_empty());
        assert!(board.list(at(3600))[0].behind_seconds.abs() < f64::EPSILON);
        board.failed("vacuum", "no".into(), at(3602));
        assert!(board.stuck(at(3617)).is_empty());
        assert_eq!(board.stuck(at(3618)), ["vacuum"]);
        assert!((board.list(at(4062))[0].behind_seconds - 100.0).abs() < 1e-6);
    }
}
