//! Deletes what has had its time: events, flow runs, and what belonged to runs that are gone. A batch is a transaction; a
//! tick is bounded and goes on where the last one ended.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;
use parking_lot::Mutex;

use super::{Done, Lead, ServiceError, Tick};
use crate::clock::Timestamp;
use crate::config::VacuumSettings;
use crate::id::FlowRunId;
use crate::limits;
use crate::store::old::{self, Orphans};
use crate::store::{StoreError, Tx, logs};

/// The reference's `schedule_event_vacuum_tasks`: old events, some names of them earlier than the rest.
pub struct EventVacuum {
    period: Duration,
    batch: u64,
    /// From event name to age; never above `retention`.
    overrides: BTreeMap<String, TimeDelta>,
    retention: TimeDelta,
}

/// The reference's `schedule_vacuum_tasks`: old flow runs, and what belonged to runs that are gone.
pub struct RunVacuum {
    period: Duration,
    batch: u64,
    retention: TimeDelta,
    /// How far the search for log lines and artifacts without a run has come; `None` where it begins anew.
    progress: Mutex<Option<Progress>>,
}

#[derive(Debug, Clone, Copy)]
struct Progress {
    of: Orphans,
    after: Option<FlowRunId>,
}

/// Deletes the log lines of runs that were deleted. The reference does so in its task queue, which forgets.
pub struct RunLogs {
    /// From the end of one tick to the next.
    pub period: Duration,
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

fn before(now: Timestamp, age: TimeDelta) -> Timestamp {
    now.checked_sub_signed(age).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// What is left of a tick.
struct Budget {
    batches: u64,
    items: u64,
}

impl Budget {
    fn new() -> Self {
        Self { batches: limits::VACUUM_BATCHES, items: 0 }
    }

    fn is_spent(&self) -> bool {
        self.batches == 0
    }

    /// Deletes batch after batch, a transaction each, until one is not full or the tick has had its share.
    async fn run(&mut self, lead: &Lead, what: What<'_>, batch: u64) -> Result<(), ServiceError> {
        while self.batches > 0 {
            self.batches -= 1;
            let mut tx = lead.begin(what.name()).await?;
            let deleted = what.delete(&mut tx, batch).await?;
            tx.commit().await?;
            self.items += deleted;
            if deleted < batch {
                break;
            }
        }
        Ok(())
    }
}

/// What a batch deletes.
#[derive(Debug, Clone, Copy)]
enum What<'a> {
    /// Events of one name from before a moment.
    Named(&'a str, Timestamp),
    Events(Timestamp),
    EventResources(Timestamp),
    FlowRuns {
        before: Timestamp,
        now: Timestamp,
    },
    /// Rows of a run that is gone.
    Orphans(Orphans, FlowRunId),
    Collections,
}

impl What<'_> {
    /// Of the transaction.
    fn name(self) -> &'static str {
        match self {
            Self::Named(..) => "vacuum.named_events",
            Self::Events(_) => "vacuum.events",
            Self::EventResources(_) => "vacuum.event_resources",
            Self::FlowRuns { .. } => "vacuum.flow_runs",
            Self::Orphans(Orphans::Logs, _) => "vacuum.logs",
            Self::Orphans(Orphans::Artifacts, _) => "vacuum.artifacts",
            Self::Collections => "vacuum.collections",
        }
    }

    async fn delete(self, tx: &mut Tx, batch: u64) -> Result<u64, StoreError> {
        match self {
            Self::Named(name, before) => old::delete_events(tx, Some(name), before, batch).await,
            Self::Events(before) => old::delete_events(tx, None, before, batch).await,
            Self::EventResources(before) => old::delete_event_resources(tx, before, batch).await,
            Self::FlowRuns { before, now } => old::delete_flow_runs(tx, before, now, batch).await,
            Self::Orphans(Orphans::Logs, run) => logs::delete(tx, logs::Of::FlowRun(run), batch).await,
            Self::Orphans(Orphans::Artifacts, run) => old::delete_artifacts(tx, run, batch).await,
            Self::Collections => old::mend_collections(tx, batch).await,
        }
    }
}

impl EventVacuum {
    /// With the vacuum's settings and the age of events in general.
    pub fn new(settings: &VacuumSettings, retention: Duration) -> Self {
        let retention = delta(retention);
        let overrides = settings.event_retention_overrides.iter().map(|(name, age)| (name.clone(), delta(*age).min(retention)));
        Self { period: settings.period, batch: settings.batch_size, overrides: overrides.collect(), retention }
    }
}

#[async_trait]
impl Tick for EventVacuum {
    fn name(&self) -> &'static str {
        "event_vacuum"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn tick(&self, lead: &Lead) -> Result<Done, ServiceError> {
        let (now, batch) = (lead.app.now(), self.batch);
        let mut budget = Budget::new();
        for (name, age) in &self.overrides {
            budget.run(lead, What::Named(name, before(now, *age)), batch).await?;
        }
        let oldest = before(now, self.retention);
        budget.run(lead, What::Events(oldest), batch).await?;
        budget.run(lead, What::EventResources(oldest), batch).await?;
        Ok(Done { items: budget.items, more: budget.is_spent() })
    }
}

impl RunVacuum {
    /// With the vacuum's settings.
    pub fn new(settings: &VacuumSettings) -> Self {
        Self {
            period: settings.period,
            batch: settings.batch_size,
            retention: delta(settings.retention_period),
            progress: Mutex::new(None),
        }
    }

    /// Deletes rows of runs that are gone, from where the last tick ended.
    async fn orphans(&self, lead: &Lead, budget: &mut Budget) -> Result<(), ServiceError> {
        let mut at = self.progress.lock().take().unwrap_or(Progress { of: Orphans::Logs, after: None });
        while !budget.is_spent() {
            budget.batches -= 1;
            let found = old::owners(&mut lead.app.read("vacuum.owners").await?, at.of, at.after, limits::VACUUM_OWNERS).await?;
            for run in found.gone {
                budget.run(lead, What::Orphans(at.of, run), self.batch).await?;
                if budget.is_spent() {
                    // This run may have rows left: look at it again.
                    *self.progress.lock() = Some(at);
                    return Ok(());
                }
                at.after = Some(run);
            }
            match (found.next, at.of) {
                (Some(next), _) => at.after = Some(next),
                (None, Orphans::Logs) => at = Progress { of: Orphans::Artifacts, after: None },
                (None, Orphans::Artifacts) => return Ok(()),
            }
        }
        *self.progress.lock() = Some(at);
        Ok(())
    }
}

#[async_trait]
impl Tick for RunVacuum {
    fn name(&self) -> &'static str {
        "run_vacuum"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn tick(&self, lead: &Lead) -> Result<Done, ServiceError> {
        let (now, batch) = (lead.app.now(), self.batch);
        let mut budget = Budget::new();
        budget.run(lead, What::FlowRuns { before: before(now, self.retention), now }, batch).await?;
        self.orphans(lead, &mut budget).await?;
        budget.run(lead, What::Collections, batch).await?;
        Ok(Done { items: budget.items, more: budget.is_spent() })
    }
}

#[async_trait]
impl Tick for RunLogs {
    fn name(&self) -> &'static str {
        "run_logs"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn tick(&self, lead: &Lead) -> Result<Done, ServiceError> {
        let mut items = 0;
        for _ in 0..limits::VACUUM_BATCHES {
            let mut tx = lead.begin("run_logs.delete").await?;
            let deleted = old::delete_logs(&mut tx, limits::RUN_LOGS_BATCH).await?;
            tx.commit().await?;
            match deleted {
                Some(deleted) => items += deleted,
                None => return Ok(Done { items, more: false }),
            }
        }
        Ok(Done { items, more: true })
    }
}
