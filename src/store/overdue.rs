//! What the background services look for in the tables of runs: those with which something is to be done because time
//! has passed or another run has ended. Each look is bounded and served by an index; whoever acts looks again under the
//! lock of the run.

use sea_query::{Alias, Cond, Expr, ExprTrait, Order, Query};

use crate::clock::Timestamp;
use crate::id::{FlowRunId, TaskRunId};
use crate::model::state::StateType;
use crate::store::schema as t;
use crate::store::{StoreError, Tx};

/// Types of states that a run does leave.
const LIVE: [StateType; 5] = [StateType::Scheduled, StateType::Pending, StateType::Running, StateType::Paused, StateType::Cancelling];

/// Paused runs that should have been resumed by `now`, longest paused first.
pub async fn pauses(tx: &mut Tx, now: Timestamp, limit: u64) -> Result<Vec<FlowRunId>, StoreError> {
    let dialect = tx.dialect();
    let timeout = dialect.json_text(Expr::col((t::FlowRunState::Table, t::FlowRunState::StateDetails)), &["pause_timeout"]);
    let mut select = Query::select();
    select
        .column((t::FlowRun::Table, t::FlowRun::Id))
        .from(t::FlowRun::Table)
        .inner_join(
            t::FlowRunState::Table,
            Expr::col((t::FlowRunState::Table, t::FlowRunState::Id)).equals((t::FlowRun::Table, t::FlowRun::StateId)),
        )
        .and_where(Expr::col((t::FlowRun::Table, t::FlowRun::StateType)).eq(StateType::Paused))
        .and_where(dialect.moment_of_text(timeout).lt(now))
        .order_by((t::FlowRun::Table, t::FlowRun::StateTimestamp), Order::Asc)
        .order_by((t::FlowRun::Table, t::FlowRun::Id), Order::Asc)
        .limit(limit);
    tx.fetch_all(&select).await?.iter().map(|row| row.get("id")).collect()
}

/// Runs that have been cancelling since `before` or longer, longest first.
pub async fn cancelling(tx: &mut Tx, before: Timestamp, limit: u64) -> Result<Vec<FlowRunId>, StoreError> {
    let mut select = Query::select();
    select
        .column(t::FlowRun::Id)
        .from(t::FlowRun::Table)
        .and_where(Expr::col(t::FlowRun::StateType).eq(StateType::Cancelling))
        .and_where(Expr::col(t::FlowRun::StateTimestamp).lte(before))
        .order_by(t::FlowRun::StateTimestamp, Order::Asc)
        .order_by(t::FlowRun::Id, Order::Asc)
        .limit(limit);
    tx.fetch_all(&select).await?.iter().map(|row| row.get("id")).collect()
}

/// Task runs that go on although their flow run was cancelled, not before `since`.
pub async fn tasks_of_cancelled(tx: &mut Tx, since: Timestamp, limit: u64) -> Result<Vec<TaskRunId>, StoreError> {
    let mut select = Query::select();
    select
        .column((t::TaskRun::Table, t::TaskRun::Id))
        .from(t::FlowRun::Table)
        .inner_join(t::TaskRun::Table, Expr::col((t::TaskRun::Table, t::TaskRun::FlowRunId)).equals((t::FlowRun::Table, t::FlowRun::Id)))
        .and_where(Expr::col((t::FlowRun::Table, t::FlowRun::StateType)).eq(StateType::Cancelled))
        .and_where(Expr::col((t::FlowRun::Table, t::FlowRun::EndTime)).gte(since))
        .and_where(Expr::col((t::TaskRun::Table, t::TaskRun::StateType)).is_in(LIVE))
        .order_by((t::TaskRun::Table, t::TaskRun::Id), Order::Asc)
        .limit(limit);
    tx.fetch_all(&select).await?.iter().map(|row| row.get("id")).collect()
}

/// A run that goes on although the run that contains it was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subflow {
    pub id: FlowRunId,
    /// Of a deployment, so that a worker has its infrastructure in hand.
    pub is_deployed: bool,
}

/// Runs that go on although the run whose task they are was cancelled. Those whose infrastructure is asked to stop
/// already are left out.
pub async fn subflows_of_cancelled(tx: &mut Tx, limit: u64) -> Result<Vec<Subflow>, StoreError> {
    subflows(tx, None, limit).await
}

/// The same for one run; `None` where it is none of them any more.
pub async fn subflow_of_cancelled(tx: &mut Tx, id: FlowRunId) -> Result<Option<Subflow>, StoreError> {
    Ok(subflows(tx, Some(id), 1).await?.pop())
}

async fn subflows(tx: &mut Tx, only: Option<FlowRunId>, limit: u64) -> Result<Vec<Subflow>, StoreError> {
    let (sub, container) = (Alias::new("sub"), Alias::new("container"));
    let sub = |column: t::FlowRun| Expr::col((sub.clone(), column));
    let is_live = |state| sub(t::FlowRun::StateType).eq(state);
    let told = Cond::all().add(sub(t::FlowRun::DeploymentId).is_not_null()).add(is_live(StateType::Cancelling));
    let mut select = Query::select();
    select
        .column(("sub", t::FlowRun::Id))
        .column(("sub", t::FlowRun::DeploymentId))
        .from_as(t::FlowRun::Table, "sub")
        .inner_join(t::TaskRun::Table, Expr::col((t::TaskRun::Table, t::TaskRun::Id)).equals(("sub", t::FlowRun::ParentTaskRunId)))
        .join_as(
            sea_query::JoinType::InnerJoin,
            t::FlowRun::Table,
            container.clone(),
            Expr::col((container.clone(), t::FlowRun::Id)).equals((t::TaskRun::Table, t::TaskRun::FlowRunId)),
        )
        .and_where(sub(t::FlowRun::StateType).is_in(LIVE))
        .and_where(Expr::col((container, t::FlowRun::StateType)).eq(StateType::Cancelled))
        .cond_where(told.not())
        .order_by(("sub", t::FlowRun::Id), Order::Asc)
        .limit(limit);
    if let Some(only) = only {
        select.and_where(sub(t::FlowRun::Id).eq(only));
    }
    let subflow = |row: &crate::store::Row| {
        let deployment: Option<crate::id::DeploymentId> = row.get("deployment_id")?;
        Ok(Subflow { id: row.get("id")?, is_deployed: deployment.is_some() })
    };
    tx.fetch_all(&select).await?.iter().map(subflow).collect()
}
