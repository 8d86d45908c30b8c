//! Scheduled times, and what background tasks carry from state to state.

use async_trait::async_trait;
use chrono::TimeDelta;

use crate::model::state::StateType;
use crate::orchestration::engine::{Context, Run};
use crate::orchestration::rule::{Done, Rule, States};
use crate::orchestration::transition::Transition;
use crate::store::Tx;
use crate::store::task_deliveries::{self, Rank};
use crate::store::transitions::TaskRun;

/// SCHEDULED -> PENDING: a pending state without a scheduled time takes over the current one.
#[derive(Default)]
pub struct CopyScheduledTime;

#[async_trait]
impl<R: Run> Rule<R> for CopyScheduledTime {
    fn from(&self) -> States {
        States::of(&[StateType::Scheduled])
    }

    fn to(&self) -> States {
        States::of(&[StateType::Pending])
    }

    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<R>) -> Done {
        if let Some((from, to)) = on.both() {
            to.state_details.scheduled_time = to.state_details.scheduled_time.or(from.state_details.scheduled_time);
        }
        Ok(())
    }
}

/// SCHEDULED, PENDING -> RUNNING: no run starts before its time, by the server's clock.
#[derive(Default)]
pub struct WaitForScheduledTime;

/// Whole seconds to wait, the nearest.
fn whole_seconds(delay: TimeDelta) -> i64 {
    let micros = delay.num_microseconds().unwrap_or(i64::MAX);
    micros.div_euclid(1_000_000) + i64::from(micros.rem_euclid(1_000_000) > 500_000)
}

#[async_trait]
impl<R: Run> Rule<R> for WaitForScheduledTime {
    fn from(&self) -> States {
        States::of(&[StateType::Scheduled, StateType::Pending])
    }

    fn to(&self) -> States {
        States::of(&[StateType::Running])
    }

    async fn before(&mut self, _: &mut Tx, context: &Context<'_>, on: &mut Transition<R>) -> Done {
        let scheduled = on.both().and_then(|(from, _)| from.state_details.scheduled_time);
        if let Some(delay) = scheduled.map(|at| whole_seconds(at - context.now)).filter(|delay| *delay > 0) {
            on.wait(delay, "Scheduled time is in the future");
        }
        Ok(())
    }
}

/// SCHEDULED, PENDING -> PENDING, RUNNING: a background task's parameters are found by an id in its state.
#[derive(Default)]
pub struct CopyTaskParametersID;

#[async_trait]
impl Rule<TaskRun> for CopyTaskParametersID {
    fn from(&self) -> States {
        States::of(&[StateType::Scheduled, StateType::Pending])
    }

    fn to(&self) -> States {
        States::of(&[StateType::Pending, StateType::Running])
    }

    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, on: &mut Transition<TaskRun>) -> Done {
        if let Some((from, to)) = on.both() {
            to.state_details.task_parameters_id = to.state_details.task_parameters_id.or(from.state_details.task_parameters_id);
        }
        Ok(())
    }
}

/// any -> SCHEDULED: a deferred task run waits for a task worker from now on. The queue is in the database, so this is
/// part of the transition.
#[derive(Default)]
pub struct EnqueueScheduledTasks;

#[async_trait]
impl Rule<TaskRun> for EnqueueScheduledTasks {
    fn from(&self) -> States {
        States::ANY
    }

    fn to(&self) -> States {
        States::of(&[StateType::Scheduled])
    }

    async fn before(&mut self, _: &mut Tx, _: &Context<'_>, _: &mut Transition<TaskRun>) -> Done {
        Ok(())
    }

    async fn after(&mut self, tx: &mut Tx, context: &Context<'_>, on: &mut Transition<TaskRun>) -> Done {
        if let Some(state) = on.validated.as_ref().filter(|state| state.state_details.deferred == Some(true)) {
            let rank = if state.name == "AwaitingRetry" { Rank::Retry } else { Rank::New };
            task_deliveries::enqueue(tx, on.run.id, &on.run.task_key, rank, context.now).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_told_in_the_nearest_whole_seconds() {
        let cases = [(-1, 0), (0, 0), (400, 0), (500, 0), (501, 1), (1_000, 1), (59_400, 59), (59_600, 60)];
        for (milliseconds, seconds) in cases {
            assert_eq!(whole_seconds(TimeDelta::milliseconds(milliseconds)).max(0), seconds, "{milliseconds} ms");
        }
    }
}
