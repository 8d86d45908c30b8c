//! Background services: what they are, and the table of all of them.
//!
//! They run on one node, the services leader, which the group elects; [`driver`] starts and stops them. Each is either a
//! [`Tick`]: idempotent, without input, looks at the store, does at most N items, or a [`Consume`]r of a bus stream,
//! whose effect and cursor move in one transaction. Every transaction begins with [`Lead::begin`], which holds the fence
//! of the epoch: a leader that was paused and wakes up after its successor took over can write nothing.

pub mod actions;
pub mod background_tasks;
pub mod cancellation_cleanup;
pub mod cleanup_reconciler;
pub mod consumer;
pub mod driver;
pub mod event_persister;
pub mod foreman;
pub mod late_runs;
pub mod outbox_sweeper;
pub mod pause_expirations;
pub mod repossessor;
pub mod scheduler;
mod sharing;
pub mod status;
pub mod task_run_recorder;
pub mod triggers;
pub mod vacuum;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;

use crate::app::{App, OutboxError};
use crate::bus::{BusError, Entry, Topic};
use crate::config::{Failpoint, Planted};
use crate::orchestration::OrchestrationError;
use crate::store::{StoreError, Tx, fence};

/// Why a service did not do its work this time. The next tick is the retry.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The outbox.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The rules over a run's states.
    #[error(transparent)]
    Orchestration(#[from] OrchestrationError),
    /// It took longer than it may.
    #[error("not done after {0:?}")]
    TimedOut(Duration),
    /// The input cannot be processed, now or later.
    #[error("{0}")]
    Poison(String),
    /// It panicked; its transaction is rolled back.
    #[error("panicked: {0}")]
    Panicked(String),
}

impl ServiceError {
    /// True where the same input may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable() || matches!(error, StoreError::Fenced { .. }),
            Self::Bus(_) | Self::Outbox(_) | Self::TimedOut(_) => true,
            Self::Orchestration(OrchestrationError::Store(error)) => error.is_retryable(),
            Self::Orchestration(_) | Self::Poison(_) | Self::Panicked(_) => false,
        }
    }
}

/// The work of a service, in which a panic is an error as any other.
async fn unpanicked<T>(work: impl Future<Output = Result<T, ServiceError>>) -> Result<T, ServiceError> {
    let panicked = |panic: Box<dyn std::any::Any + Send>| ServiceError::Panicked(crate::task::panic_message(panic.as_ref()).to_owned());
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| Err(panicked(panic)))
}

/// The right to act as the services leader in one epoch.
#[derive(Clone)]
pub struct Lead {
    /// Store, bus, clock, settings.
    pub app: App,
    /// The log index of the election.
    pub epoch: u64,
}

impl Lead {
    /// A transaction that commits only in this epoch.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where another node leads by now.
    pub async fn begin(&self, name: &'static str) -> Result<Tx, StoreError> {
        let mut tx = self.app.begin(name).await?;
        Failpoint::ServicesBeforeFence.reached(self.app.settings().failpoint);
        if Planted::NoFence.is_here() {
            return Ok(tx);
        }
        fence::hold(&mut tx, fence::SERVICES, self.app.cluster_id(), self.epoch).await?;
        Ok(tx)
    }
}

/// What a tick did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Items dealt with.
    pub items: u64,
    /// True where the limit per tick was reached: the next tick follows at once.
    pub more: bool,
}

/// A service that runs by the clock.
#[async_trait]
pub trait Tick: Send + Sync + 'static {
    /// The reference's name, in snake case.
    fn name(&self) -> &'static str;

    /// From the end of one tick to the next.
    fn period(&self) -> Duration;

    /// Does at most a bounded number of items.
    async fn tick(&self, lead: &Lead) -> Result<Done, ServiceError>;
}

/// A service that reads a stream of the bus.
#[async_trait]
pub trait Consume: Send + Sync + 'static {
    /// The consumer group, and the name of the service.
    fn name(&self) -> &'static str;

    /// The stream.
    fn topic(&self) -> Topic;

    /// Entries of one transaction, at most.
    fn batch_entries(&self) -> usize;

    /// Has the effect of the entries, in the transaction that also moves the cursor. Must bear a repetition. An effect that
    /// is the same when repeated may be had in part in a transaction of its own, begun by [`Lead::begin`].
    async fn consume(&self, lead: &Lead, tx: &mut Tx, entries: &[Entry]) -> Result<(), ServiceError>;

    /// The consumer of the same stream that comes first when both have much to do, since both use one database.
    fn gives_way_to(&self) -> Option<&'static str> {
        None
    }

    /// From one [`Self::look`] to the next; `None` where there is nothing to look for.
    fn pace(&self) -> Option<Duration> {
        None
    }

    /// Does what is due by the clock, between two batches and in transactions of its own.
    async fn look(&self, _: &Lead) -> Result<(), ServiceError> {
        Ok(())
    }
}

/// A row of the table of services.
pub enum Service {
    /// By the clock.
    Tick(Box<dyn Tick>),
    /// By the bus.
    Consume(Box<dyn Consume>),
}

impl Service {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tick(tick) => tick.name(),
            Self::Consume(consume) => consume.name(),
        }
    }
}

/// All services that the settings enable.
pub fn table(app: &App) -> Vec<Service> {
    let settings = &app.settings().services;
    let mut all = Vec::new();
    if settings.event_persister.enabled {
        all.push(Service::Consume(Box::<event_persister::EventPersister>::default()));
    }
    if settings.task_run_recorder.enabled {
        all.push(Service::Consume(Box::<task_run_recorder::TaskRunRecorder>::default()));
    }
    if settings.triggers_enabled {
        all.push(Service::Consume(Box::new(triggers::Triggers::default())));
    }
    if settings.scheduler.all.enabled {
        all.push(Service::Tick(Box::new(scheduler::Scheduler::new(settings.scheduler.clone()))));
        all.push(Service::Tick(Box::new(scheduler::RecentScheduler::new(settings.scheduler.clone()))));
    }
    if settings.late_runs.enabled {
        all.push(Service::Tick(Box::new(late_runs::LateRuns { period: settings.late_runs.period, after: settings.late_after })));
    }
    if settings.background_tasks.enabled {
        all.push(Service::Tick(Box::new(background_tasks::BackgroundTasks { period: settings.background_tasks.period })));
    }
    if settings.cleanup_reconciler.enabled {
        let (period, batch_size) = (settings.cleanup_reconciler.period, settings.cleanup_reconciler_batch_size);
        all.push(Service::Tick(Box::new(cleanup_reconciler::CleanupReconciler { period, batch_size })));
    }
    if settings.triggers_enabled {
        all.push(Service::Consume(Box::new(actions::Actions)));
        all.push(Service::Tick(Box::new(actions::calls::ActionCalls::new())));
    }
    if settings.outbox_sweeper.enabled {
        all.push(Service::Tick(Box::new(outbox_sweeper::OutboxSweeper { period: settings.outbox_sweeper.period })));
    }
    if settings.pause_expirations.enabled {
        all.push(Service::Tick(Box::new(pause_expirations::PauseExpirations { period: settings.pause_expirations.period })));
    }
    if settings.cancellation_cleanup.enabled {
        let (period, timeout) = (settings.cancellation_cleanup.period, settings.cancelling_timeout);
        all.push(Service::Tick(Box::new(cancellation_cleanup::CancelledTasks { period })));
        all.push(Service::Tick(Box::new(cancellation_cleanup::CancelledSubflows { period })));
        all.push(Service::Tick(Box::new(cancellation_cleanup::CancellingTimeouts { period, timeout })));
    }
    if settings.foreman.tick.enabled {
        all.push(Service::Tick(Box::new(foreman::Foreman::new(settings.foreman.clone()))));
    }
    if settings.repossessor.enabled {
        let (period, grace) = (settings.repossessor.period, settings.repossessor_grace);
        all.push(Service::Tick(Box::new(repossessor::Repossessor::new(period, grace))));
    }
    // Without the event persister nobody wants events kept, or deleted.
    if settings.vacuum.events && settings.event_persister.enabled {
        let retention = app.settings().events.retention_period;
        all.push(Service::Tick(Box::new(vacuum::EventVacuum::new(&settings.vacuum, retention))));
    }
    if settings.vacuum.flow_runs {
        all.push(Service::Tick(Box::new(vacuum::RunVacuum::new(&settings.vacuum))));
    }
    all.push(Service::Tick(Box::new(vacuum::RunLogs { period: settings.run_logs_period })));
    all
}

#[cfg(test)]
mod tests;
