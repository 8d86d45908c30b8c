//! Fails runs that were paused and not resumed in time.

use std::time::Duration;

use async_trait::async_trait;

use super::{Done, Lead, ServiceError, Tick};
use crate::limits;
use crate::model::state::{State, StateType};
use crate::orchestration::{Context, FlowPolicy, set_flow_run_state};
use crate::store::{overdue, transitions};

/// The reference's `monitor_expired_pauses`. It looks at 200 paused runs in no order, so that others may wait for ever;
/// here those whose time is up are found.
pub struct PauseExpirations {
    /// From the end of one tick to the next.
    pub period: Duration,
}

#[async_trait]
impl Tick for PauseExpirations {
    fn name(&self) -> &'static str {
        "pause_expirations"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn tick(&self, lead: &Lead) -> Result<Done, ServiceError> {
        let expired = overdue::pauses(&mut lead.app.read("pause_expirations").await?, lead.app.now(), limits::SERVICE_RUNS).await?;
        let mut failed = 0;
        for some in expired.chunks(limits::SERVICE_RUNS_TRANSACTION) {
            let mut tx = lead.begin("pause_expirations.fail").await?;
            for id in some {
                let now = lead.app.now();
                // Resumed, or paused anew, since it was looked up?
                let Some((_, Some(state))) = transitions::lock_flow_run(&mut tx, *id).await? else { continue };
                if state.kind != StateType::Paused || state.state_details.pause_timeout.is_none_or(|timeout| timeout >= now) {
                    continue;
                }
                let proposed = State::new(StateType::Failed, now).with_message("The flow was paused and never resumed.");
                let context = Context::server(now, &lead.app.settings().orchestration);
                set_flow_run_state(&mut tx, &context, *id, proposed, FlowPolicy::Minimal).await?;
                failed += 1;
            }
            tx.commit().await?;
        }
        Ok(Done { items: failed, more: failed == limits::SERVICE_RUNS })
    }
}
