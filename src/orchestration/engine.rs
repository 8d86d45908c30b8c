//! Leads a transition through its rules.
//!
//! As the reference (`orchestration/rules.py`): the rules are picked once, by the types of the current and of the first
//! proposed state; a rule that finds another transition on its way in is left out; on the way out, in reverse, it gets
//! its `after`, or its `cleanup` where a later rule has changed the transition. Unlike the reference an error ends the
//! transition at once: all effects are in the caller's transaction, whose end undoes them.

use async_trait::async_trait;
use chrono::TimeDelta;

use crate::clock::Timestamp;
use crate::config::OrchestrationSettings;
use crate::id::{FlowRunId, TaskRunId};
use crate::model::concurrency::Waits;
use crate::model::state::{OrchestrationResult, State, StateType};
use crate::orchestration::policy::{FlowPolicy, GLOBAL_FLOW, GLOBAL_TASK, TaskPolicy};
use crate::orchestration::rule::{Governor, Line, Rule, Transform};
use crate::orchestration::transition::Transition;
use crate::orchestration::version::{ApiVersion, ClientVersion};
use crate::store::states::{self, Owner};
use crate::store::transitions::{self, FlowRun, Progress, TaskRun};
use crate::store::{StoreError, Tx};

/// Why a state could not be set. The caller rolls its transaction back.
#[derive(Debug, thiserror::Error)]
pub enum OrchestrationError {
    /// The run, or one that it depends on, is not there; the text is the reference's.
    #[error("{0}")]
    NotFound(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What rules may know of the request that proposes the state.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// The moment of the request.
    pub now: Timestamp,
    /// The Prefect client that asks, where it is one.
    pub client: Option<ClientVersion>,
    /// The API version that the client asks for.
    pub api: Option<ApiVersion>,
    /// Settings of the server.
    pub settings: &'a OrchestrationSettings,
}

impl<'a> Context<'a> {
    /// The context of the server's own transitions: no client, the newest rules.
    pub fn server(now: Timestamp, settings: &'a OrchestrationSettings) -> Self {
        Self { now, client: None, api: None, settings }
    }

    /// True where the client's API has what came with `version`.
    pub fn has(&self, version: ApiVersion) -> bool {
        self.api.is_none_or(|api| api >= version)
    }

    /// The longest waits for slots.
    pub fn waits(&self) -> Waits {
        Waits {
            tag_seconds: self.settings.tag_concurrency_slot_wait.as_secs_f64(),
            other_seconds: self.settings.maximum_concurrency_slot_wait.as_secs_f64(),
        }
    }

    /// How long the first lease of a run lasts where its deployment says nothing.
    pub fn initial_lease(&self) -> TimeDelta {
        TimeDelta::from_std(self.settings.initial_deployment_lease).unwrap_or(TimeDelta::MAX)
    }
}

/// A run that has states: a flow run or a task run.
#[async_trait]
pub trait Run: Clone + PartialEq + Send + Sync + Sized + 'static {
    /// Whose states these are.
    fn owner(&self) -> Owner;

    /// How far it has come.
    fn progress(&self) -> &Progress;

    /// The same, to be written.
    fn progress_mut(&mut self) -> &mut Progress;

    /// Writes it back.
    async fn write(&self, tx: &mut Tx, now: Timestamp) -> Result<(), StoreError>;
}

#[async_trait]
impl Run for FlowRun {
    fn owner(&self) -> Owner {
        Owner::FlowRun(self.id)
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn progress_mut(&mut self) -> &mut Progress {
        &mut self.progress
    }

    async fn write(&self, tx: &mut Tx, now: Timestamp) -> Result<(), StoreError> {
        transitions::write_flow_run(tx, self, now).await
    }
}

#[async_trait]
impl Run for TaskRun {
    fn owner(&self) -> Owner {
        Owner::TaskRun { id: self.id, flow_run_id: self.flow_run_id }
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn progress_mut(&mut self) -> &mut Progress {
        &mut self.progress
    }

    async fn write(&self, tx: &mut Tx, now: Timestamp) -> Result<(), StoreError> {
        transitions::write_task_run(tx, self, now).await
    }
}

/// Proposes a state for a flow run.
///
/// # Errors
/// [`OrchestrationError::NotFound`] where there is no such run. After any error the transaction is to be rolled back.
pub async fn set_flow_run_state(
    tx: &mut Tx,
    context: &Context<'_>,
    id: FlowRunId,
    state: State,
    policy: FlowPolicy,
) -> Result<OrchestrationResult, OrchestrationError> {
    let (run, initial) = transitions::lock_flow_run(tx, id)
        .await?
        .ok_or_else(|| OrchestrationError::NotFound(format!("Flow run with id {id} not found")))?;
    govern(tx, context, Transition::new(run, initial, state), policy.lines(), GLOBAL_FLOW).await
}

/// Proposes a state for a task run. A state of a background task (`deferred`) is always under [`TaskPolicy::Background`].
///
/// # Errors
/// As [`set_flow_run_state`].
pub async fn set_task_run_state(
    tx: &mut Tx,
    context: &Context<'_>,
    id: TaskRunId,
    state: State,
    policy: TaskPolicy,
) -> Result<OrchestrationResult, OrchestrationError> {
    let (run, initial) = transitions::lock_task_run(tx, id)
        .await?
        .ok_or_else(|| OrchestrationError::NotFound(format!("Task run with id {id} not found")))?;
    let policy = if state.state_details.deferred == Some(true) { TaskPolicy::Background } else { policy };
    govern(tx, context, Transition::new(run, initial, state), policy.lines(), GLOBAL_TASK).await
}

enum Entered<R> {
    Rule {
        rule: Box<dyn Rule<R>>,
        /// The type that the rule left proposed.
        to: Option<StateType>,
    },
    Transform(Box<dyn Transform<R>>),
}

async fn govern<R: Run>(
    tx: &mut Tx,
    context: &Context<'_>,
    mut on: Transition<R>,
    policy: &[Line<R>],
    global: &[Line<R>],
) -> Result<OrchestrationResult, OrchestrationError> {
    let (from, intended) = (on.from(), on.to());
    let before = on.run.clone();
    let mut entered: Vec<Entered<R>> = Vec::with_capacity(policy.len() + global.len());
    for line in policy.iter().chain(global) {
        match line() {
            Governor::Rule(mut rule) => {
                if !rule.from().has(from) || !rule.to().has(intended) || on.to() != intended {
                    continue;
                }
                let rulings = on.rulings;
                rule.before(tx, context, &mut on).await?;
                let to = if on.rulings == rulings { intended } else { on.to() };
                entered.push(Entered::Rule { rule, to });
            }
            Governor::Transform(mut transform) => {
                if on.proposed.is_some() {
                    transform.before(tx, context, &mut on).await?;
                }
                entered.push(Entered::Transform(transform));
            }
        }
    }
    write(tx, context, &mut on).await?;
    for entry in entered.into_iter().rev() {
        match entry {
            // A rule that left a state which it does not govern is done.
            Entered::Rule { rule, to } if !rule.to().has(to) => {}
            Entered::Rule { mut rule, to } if on.to() == to => rule.after(tx, context, &mut on).await?,
            Entered::Rule { mut rule, .. } => rule.cleanup(tx, context, &mut on).await?,
            Entered::Transform(mut transform) if on.proposed.is_some() => transform.after(tx, context, &mut on).await?,
            Entered::Transform(_) => {}
        }
    }
    if on.run != before {
        on.run.write(tx, context.now).await?;
    }
    Ok(on.into_result())
}

/// Writes the proposed state, or leaves the run in the one that it has.
async fn write<R: Run>(tx: &mut Tx, context: &Context<'_>, on: &mut Transition<R>) -> Result<(), StoreError> {
    on.validated = match &on.proposed {
        Some(proposed) => {
            let mut state = proposed.clone();
            states::insert(tx, on.run.owner(), context.now, &mut state).await?;
            on.run.progress_mut().state_id = Some(state.id);
            Some(state)
        }
        None => on.initial.clone(),
    };
    Ok(())
}

#[cfg(test)]
mod tests;
