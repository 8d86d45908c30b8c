//! Table `flow_run_input`.

use sea_query::{Expr, ExprTrait, Order, Query, SelectStatement};

use crate::id::FlowRunId;
use crate::model::flow_run::FlowRunInput;
use crate::store::schema as t;
use crate::store::{Row, StoreError, Tx};

const COLUMNS: [t::FlowRunInput; 7] = [
    t::FlowRunInput::Id,
    t::FlowRunInput::Created,
    t::FlowRunInput::Updated,
    t::FlowRunInput::FlowRunId,
    t::FlowRunInput::Key,
    t::FlowRunInput::Value,
    t::FlowRunInput::Sender,
];

fn select() -> SelectStatement {
    Query::select().columns(COLUMNS).from(t::FlowRunInput::Table).take()
}

fn decode(row: &Row) -> Result<FlowRunInput, StoreError> {
    Ok(FlowRunInput {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        flow_run_id: row.get("flow_run_id")?,
        key: row.get("key")?,
        value: row.get("value")?,
        sender: row.get("sender")?,
    })
}

fn is(run: FlowRunId, key: &str) -> Expr {
    Expr::col(t::FlowRunInput::FlowRunId).eq(run).and(Expr::col(t::FlowRunInput::Key).eq(key))
}

/// Inserts an input.
///
/// # Errors
/// [`StoreError::Unique`] where the run has an input of this key, [`StoreError::Integrity`] where there is no such run.
pub async fn insert(tx: &mut Tx, input: &FlowRunInput) -> Result<(), StoreError> {
    let mut insert = Query::insert();
    insert.into_table(t::FlowRunInput::Table).columns(COLUMNS).values_panic([
        input.id.into(),
        input.created.into(),
        input.updated.into(),
        input.flow_run_id.into(),
        input.key.as_str().into(),
        input.value.as_str().into(),
        input.sender.clone().into(),
    ]);
    tx.execute(&insert).await.map(drop)
}

/// Lists inputs of a run whose key begins with `prefix` (in which `%` and `_` are wildcards), oldest first.
pub async fn list(tx: &mut Tx, run: FlowRunId, prefix: &str, exclude: &[String], limit: u64) -> Result<Vec<FlowRunInput>, StoreError> {
    let mut select = select();
    select
        .and_where(Expr::col(t::FlowRunInput::FlowRunId).eq(run))
        .and_where(Expr::col(t::FlowRunInput::Key).like(format!("{prefix}%")))
        .order_by(t::FlowRunInput::Created, Order::Asc)
        .order_by(t::FlowRunInput::Id, Order::Asc)
        .limit(limit);
    if !exclude.is_empty() {
        select.and_where(Expr::col(t::FlowRunInput::Key).is_not_in(exclude));
    }
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Reads an input.
pub async fn read(tx: &mut Tx, run: FlowRunId, key: &str) -> Result<Option<FlowRunInput>, StoreError> {
    tx.fetch_optional(select().and_where(is(run, key))).await?.as_ref().map(decode).transpose()
}

/// Deletes an input; true where there was one.
pub async fn delete(tx: &mut Tx, run: FlowRunId, key: &str) -> Result<bool, StoreError> {
    Ok(tx.execute(Query::delete().from_table(t::FlowRunInput::Table).and_where(is(run, key))).await? > 0)
}
