//! Marks runs that did not start in time as late, under a policy that lets only scheduled runs become so, once.

use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;

use super::{Done, Lead, ServiceError, Tick};
use crate::config::Failpoint;
use crate::limits;
use crate::model::state::{State, StateType};
use crate::orchestration::{Context, FlowPolicy, OrchestrationError, set_flow_run_state};
use crate::store::scheduled_runs;

/// The reference's `monitor_late_runs`.
pub struct LateRuns {
    /// From the end of one tick to the next.
    pub period: Duration,
    /// How much past its time a run is late.
    pub after: Duration,
}

#[async_trait]
impl Tick for LateRuns {
    fn name(&self) -> &'static str {
        "late_runs"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn tick(&self, lead: &Lead) -> Result<Done, ServiceError> {
        if lead.app.settings().failpoint == Some(Failpoint::ServiceHangs) {
            std::future::pending::<()>().await;
        }
        let before = lead.app.now() - TimeDelta::from_std(self.after).unwrap_or(TimeDelta::MAX);
        let overdue = scheduled_runs::overdue(&mut lead.app.read("late_runs").await?, before, limits::LATE_RUNS).await?;
        let mut marked = 0;
        // Few at a time, so that no lock is held for long.
        for some in overdue.chunks(limits::LATE_RUNS_TRANSACTION) {
            let mut tx = lead.begin("late_runs.mark").await?;
            for (id, scheduled_time) in some {
                let now = lead.app.now();
                let mut late = State::scheduled(*scheduled_time, now);
                "Late".clone_into(&mut late.name);
                let context = Context::server(now, &lead.app.settings().orchestration);
                match set_flow_run_state(&mut tx, &context, *id, late, FlowPolicy::MarkLateRuns).await {
                    // Late, or cancelled where its deployment says so.
                    Ok(result) => marked += u64::from(result.state.is_some_and(|state| state.name != StateType::Scheduled.default_name())),
                    // Deleted since it was looked up.
                    Err(OrchestrationError::NotFound(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            tx.commit().await?;
        }
        // Runs that the rules refuse would be found again at once.
        Ok(Done { items: marked, more: marked == limits::LATE_RUNS })
    }
}
