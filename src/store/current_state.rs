//! A run's current state, joined to a query on `flow_run` or `task_run`, so that a list needs one statement.
//!
//! `data` is the state's own (rows of old servers) or that of its result artifact.

use sea_query::{Alias, Expr, ExprTrait, IntoColumnRef, SelectStatement};
use serde_json::Value;

use crate::model::json;
use crate::model::state::{State, StateType};
use crate::store::schema as t;
use crate::store::{Row, StoreError};

/// Joins the state of a flow run.
pub fn join_flow_run(select: &mut SelectStatement) {
    select.join_as(
        sea_query::JoinType::LeftJoin,
        t::FlowRunState::Table,
        Alias::new("current"),
        Expr::col(("current", t::FlowRunState::Id)).equals((t::FlowRun::Table, t::FlowRun::StateId)),
    );
    add(select);
}

/// Joins the state of a task run.
pub fn join_task_run(select: &mut SelectStatement) {
    select.join_as(
        sea_query::JoinType::LeftJoin,
        t::TaskRunState::Table,
        Alias::new("current"),
        Expr::col(("current", t::TaskRunState::Id)).equals((t::TaskRun::Table, t::TaskRun::StateId)),
    );
    add(select);
}

// The two state tables have these columns in common.
fn add(select: &mut SelectStatement) {
    select.join_as(
        sea_query::JoinType::LeftJoin,
        t::Artifact::Table,
        Alias::new("result"),
        Expr::col(("result", t::Artifact::Id)).equals(("current", t::FlowRunState::ResultArtifactId)),
    );
    let columns = [
        (t::FlowRunState::Id, "current_id"),
        (t::FlowRunState::Type, "current_type"),
        (t::FlowRunState::Name, "current_name"),
        (t::FlowRunState::Timestamp, "current_timestamp_"),
        (t::FlowRunState::Message, "current_message"),
        (t::FlowRunState::Data, "current_data"),
        (t::FlowRunState::StateDetails, "current_details"),
    ];
    for (column, alias) in columns {
        select.expr_as(Expr::col(("current", column).into_column_ref()), Alias::new(alias));
    }
    select.expr_as(Expr::col(("result", t::Artifact::Data)), Alias::new("current_result"));
}

/// Reads the joined state; `None` where the run has none.
pub fn decode(row: &Row) -> Result<Option<State>, StoreError> {
    let Some(id) = row.get("current_id")? else { return Ok(None) };
    let own: Option<Value> = row.get::<Option<Value>>("current_data")?.filter(json::is_truthy);
    let data = match own {
        Some(own) => Some(own),
        None => row.get::<Option<Value>>("current_result")?.filter(|data| !data.is_null()),
    };
    let mut state = State {
        id,
        kind: row.get("current_type")?,
        name: row.get("current_name")?,
        timestamp: row.get("current_timestamp_")?,
        message: row.get("current_message")?,
        data,
        state_details: row.json("current_details")?,
    };
    if state.kind == StateType::Scheduled {
        state.state_details.scheduled_time.get_or_insert(state.timestamp);
    }
    Ok(Some(state))
}
