//! Tables `flow_run_state` and `task_run_state`: the history of runs, one row per state, never changed afterwards.
//!
//! The data of a state is a row of `artifact`, as the reference keeps it; old rows have it in the state itself and are
//! read all the same. A result that its client could not persist is not kept.

use std::collections::HashMap;

use sea_query::{Expr, ExprTrait, IntoTableRef, OnConflict, Order, Query, SelectStatement, TableRef};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::id::{ArtifactCollectionId, ArtifactId, FlowRunId, StateId, TaskRunId};
use crate::model::json;
use crate::model::state::{State, StateType};
use crate::store::schema as t;
use crate::store::{Row, StoreError, Tx};

/// Whose states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    FlowRun,
    TaskRun,
}

impl Of {
    fn table(self) -> TableRef {
        match self {
            Self::FlowRun => t::FlowRunState::Table.into_table_ref(),
            Self::TaskRun => t::TaskRunState::Table.into_table_ref(),
        }
    }
}

/// The run that a state belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    FlowRun(FlowRunId),
    TaskRun {
        id: TaskRunId,
        /// The run of its flow; none for a background task.
        flow_run_id: Option<FlowRunId>,
    },
}

impl Owner {
    fn of(self) -> Of {
        match self {
            Self::FlowRun(_) => Of::FlowRun,
            Self::TaskRun { .. } => Of::TaskRun,
        }
    }

    fn is(self) -> Expr {
        match self {
            Self::FlowRun(id) => Expr::col(t::FlowRunState::FlowRunId).eq(id),
            Self::TaskRun { id, .. } => Expr::col(t::TaskRunState::TaskRunId).eq(id),
        }
    }
}

fn select(of: Of) -> SelectStatement {
    use t::FlowRunState as S;
    let column = |column: S| match of {
        Of::FlowRun => Expr::col((S::Table, column)),
        Of::TaskRun => Expr::col((t::TaskRunState::Table, column)),
    };
    let mut select = Query::select();
    for name in [S::Id, S::Type, S::Timestamp, S::Name, S::Message, S::StateDetails, S::Data] {
        select.expr(column(name));
    }
    select
        .expr_as(Expr::col((t::Artifact::Table, t::Artifact::Data)), "result")
        .from(of.table())
        .left_join(t::Artifact::Table, Expr::col((t::Artifact::Table, t::Artifact::Id)).eq(column(S::ResultArtifactId)));
    select
}

fn decode(row: &Row) -> Result<State, StoreError> {
    let own = row.get::<Option<Value>>("data")?.filter(json::is_truthy);
    let data = match own {
        Some(data) => Some(data),
        None => row.get::<Option<Value>>("result")?.filter(|result| !result.is_null()),
    };
    let mut state = State {
        id: row.get("id")?,
        kind: row.get("type")?,
        name: row.get("name")?,
        timestamp: row.get("timestamp")?,
        message: row.get("message")?,
        data,
        state_details: row.json("state_details")?,
    };
    if state.kind == StateType::Scheduled {
        state.state_details.scheduled_time.get_or_insert(state.timestamp);
    }
    Ok(state)
}

/// Reads one state.
pub async fn read(tx: &mut Tx, of: Of, id: StateId) -> Result<Option<State>, StoreError> {
    Ok(read_many(tx, of, &[id]).await?.remove(&id))
}

/// Reads states by their ids; those that are not there are left out.
pub async fn read_many(tx: &mut Tx, of: Of, ids: &[StateId]) -> Result<HashMap<StateId, State>, StoreError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let id = match of {
        Of::FlowRun => Expr::col((t::FlowRunState::Table, t::FlowRunState::Id)),
        Of::TaskRun => Expr::col((t::TaskRunState::Table, t::TaskRunState::Id)),
    };
    let mut select = select(of);
    select.and_where(tx.dialect().any_id(id, ids));
    tx.fetch_all(&select).await?.iter().map(|row| decode(row).map(|state| (state.id, state))).collect()
}

/// The states of a run, oldest first.
pub async fn list(tx: &mut Tx, owner: Owner) -> Result<Vec<State>, StoreError> {
    let (owned, timestamp) = match owner {
        Owner::FlowRun(id) => (
            Expr::col((t::FlowRunState::Table, t::FlowRunState::FlowRunId)).eq(id),
            (t::FlowRunState::Table, t::FlowRunState::Timestamp).into(),
        ),
        Owner::TaskRun { id, .. } => (
            Expr::col((t::TaskRunState::Table, t::TaskRunState::TaskRunId)).eq(id),
            sea_query::ColumnRef::from((t::TaskRunState::Table, t::TaskRunState::Timestamp)),
        ),
    };
    let mut select = select(owner.of());
    select.and_where(owned).order_by(timestamp, Order::Asc);
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// True where the run has a state of exactly this moment.
pub async fn has_at(tx: &mut Tx, owner: Owner, at: Timestamp) -> Result<bool, StoreError> {
    let mut select = Query::select();
    select
        .column(t::FlowRunState::Id)
        .from(owner.of().table())
        .and_where(owner.is())
        .and_where(Expr::col(t::FlowRunState::Timestamp).eq(at))
        .limit(1);
    Ok(tx.fetch_optional(&select).await?.is_some())
}

/// Inserts a state, and its data as an artifact. What the data says about that artifact (`artifact_key`,
/// `artifact_type`, `artifact_description`) is taken out of it, here and in the state.
///
/// # Errors
/// [`StoreError::Unique`] where the run has a state of the same moment.
pub async fn insert(tx: &mut Tx, owner: Owner, now: Timestamp, state: &mut State) -> Result<(), StoreError> {
    use t::FlowRunState as S;
    let artifact = match &mut state.data {
        None => None,
        Some(Value::Object(data)) if data.get("type").and_then(Value::as_str) == Some("unpersisted") => None,
        Some(data) => Some(insert_result(tx, owner, now, data).await?),
    };
    let details = serde_json::to_value(&state.state_details)
        .map_err(|error| StoreError::Decode { column: "state_details".into(), reason: error.to_string() })?;
    let columns = [S::Id, S::Created, S::Updated, S::Type, S::Timestamp, S::Name, S::Message, S::StateDetails, S::ResultArtifactId];
    let mut values: Vec<Expr> = vec![
        state.id.into(),
        now.into(),
        now.into(),
        state.kind.into(),
        state.timestamp.into(),
        state.name.as_str().into(),
        state.message.clone().into(),
        details.into(),
        artifact.into(),
    ];
    let mut insert = Query::insert();
    insert.into_table(owner.of().table());
    match owner {
        Owner::FlowRun(id) => {
            insert.columns(columns.into_iter().chain([S::FlowRunId]));
            values.push(id.into());
        }
        Owner::TaskRun { id, .. } => {
            use sea_query::IntoIden;
            insert.columns(columns.into_iter().map(IntoIden::into_iden).chain([t::TaskRunState::TaskRunId.into_iden()]));
            values.push(id.into());
        }
    }
    insert.values_panic(values);
    tx.execute(&insert).await.map(drop)
}

fn taken(data: &mut Value, key: &str) -> Option<String> {
    match data.as_object_mut()?.shift_remove(key)? {
        Value::String(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

async fn insert_result(tx: &mut Tx, owner: Owner, now: Timestamp, data: &mut Value) -> Result<ArtifactId, StoreError> {
    use t::{Artifact as A, ArtifactCollection as C};
    let id = ArtifactId::fresh();
    let (key, kind, description) = (taken(data, "artifact_key"), taken(data, "artifact_type"), taken(data, "artifact_description"));
    let (flow_run_id, task_run_id) = match owner {
        Owner::FlowRun(id) => (Some(id), None),
        Owner::TaskRun { id, flow_run_id } => (flow_run_id, Some(id)),
    };
    let document = tx.dialect().json_document(data);
    let insert = Query::insert()
        .into_table(A::Table)
        .columns([A::Id, A::Created, A::Updated, A::Key, A::Type, A::Description, A::Data, A::FlowRunId, A::TaskRunId])
        .values_panic([
            id.into(),
            now.into(),
            now.into(),
            key.clone().into(),
            kind.clone().into(),
            description.clone().into(),
            document.clone(),
            flow_run_id.into(),
            task_run_id.into(),
        ])
        .to_owned();
    tx.execute(&insert).await?;
    let Some(key) = key else { return Ok(id) };
    let latest = [C::LatestId, C::Updated, C::Type, C::Description, C::Data, C::FlowRunId, C::TaskRunId];
    let insert = Query::insert()
        .into_table(C::Table)
        .columns([C::Id, C::Created, C::Key].into_iter().chain(latest))
        .values_panic([
            ArtifactCollectionId::fresh().into(),
            now.into(),
            key.into(),
            id.into(),
            now.into(),
            kind.into(),
            description.into(),
            document,
            flow_run_id.into(),
            task_run_id.into(),
        ])
        .on_conflict(OnConflict::column(C::Key).update_columns(latest).to_owned())
        .to_owned();
    tx.execute(&insert).await?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_data_says_of_its_artifact_is_taken_out_of_it() {
        let mut data = json!({"artifact_key": "k", "artifact_type": "", "value": 1});
        assert_eq!(taken(&mut data, "artifact_key"), Some("k".into()));
        assert_eq!(taken(&mut data, "artifact_type"), None);
        assert_eq!(data, json!({"value": 1}));
        assert_eq!(taken(&mut json!([1]), "artifact_key"), None);
    }
}
