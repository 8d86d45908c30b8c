//! Table `flow`.

use sea_query::{Asterisk, Expr, ExprTrait, Func, OnConflict, Order, Query, SelectStatement};

use crate::clock::Timestamp;
use crate::id::FlowId;
use crate::model::filter::Filters;
use crate::model::flow::{Flow, FlowCreate, FlowSort, FlowUpdate};
use crate::model::labels::Labels;
use crate::store::filter::related;
use crate::store::schema as t;
use crate::store::{Row, StoreError, Tx};

const COLUMNS: [t::Flow; 6] = [t::Flow::Id, t::Flow::Created, t::Flow::Updated, t::Flow::Name, t::Flow::Tags, t::Flow::Labels];

fn select() -> SelectStatement {
    Query::select().columns(COLUMNS.map(|column| (t::Flow::Table, column))).from(t::Flow::Table).take()
}

fn decode(row: &Row) -> Result<Flow, StoreError> {
    Ok(Flow {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        name: row.get("name")?,
        tags: row.json("tags")?,
        labels: row.json("labels")?,
    })
}

/// Names a flow by its id or its name.
#[derive(Debug, Clone)]
pub enum Key {
    Id(FlowId),
    Name(String),
}

fn key_is(key: &Key) -> Expr {
    match key {
        Key::Id(id) => Expr::col((t::Flow::Table, t::Flow::Id)).eq(*id),
        Key::Name(name) => Expr::col((t::Flow::Table, t::Flow::Name)).eq(name.as_str()),
    }
}

/// Inserts a flow unless one of this name exists; true where it was inserted.
pub async fn insert(tx: &mut Tx, id: FlowId, now: Timestamp, create: &FlowCreate) -> Result<bool, StoreError> {
    let mut insert = Query::insert();
    insert
        .into_table(t::Flow::Table)
        .columns(COLUMNS)
        .values_panic([
            id.into(),
            now.into(),
            now.into(),
            create.name.as_str().into(),
            serde_json::json!(create.tags).into(),
            serde_json::json!(create.labels).into(),
        ])
        .on_conflict(OnConflict::column(t::Flow::Name).do_nothing().to_owned());
    Ok(tx.execute(&insert).await? > 0)
}

/// Reads one flow.
pub async fn read(tx: &mut Tx, key: &Key) -> Result<Option<Flow>, StoreError> {
    tx.fetch_optional(select().and_where(key_is(key))).await?.as_ref().map(decode).transpose()
}

/// The labels of a flow, none where there is no such flow.
pub async fn labels(tx: &mut Tx, id: FlowId) -> Result<Labels, StoreError> {
    let select = Query::select().column(t::Flow::Labels).from(t::Flow::Table).and_where(key_is(&Key::Id(id))).take();
    let row = tx.fetch_optional(&select).await?;
    Ok(row.map(|row| row.json::<Option<Labels>>("labels")).transpose()?.flatten().unwrap_or_default())
}

/// Lists flows; the work queue filter does not apply.
pub async fn list(tx: &mut Tx, filters: &Filters, sort: FlowSort, limit: u64, offset: u64) -> Result<Vec<Flow>, StoreError> {
    let (column, order) = match sort {
        FlowSort::CreatedDesc => (t::Flow::Created, Order::Desc),
        FlowSort::UpdatedDesc => (t::Flow::Updated, Order::Desc),
        FlowSort::NameAsc => (t::Flow::Name, Order::Asc),
        FlowSort::NameDesc => (t::Flow::Name, Order::Desc),
    };
    let mut select = select();
    select
        .cond_where(related::flows(filters, tx.dialect()))
        .order_by((t::Flow::Table, column), order)
        .order_by((t::Flow::Table, t::Flow::Id), Order::Asc)
        .limit(limit)
        .offset(offset);
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Counts flows.
pub async fn count(tx: &mut Tx, filters: &Filters) -> Result<u64, StoreError> {
    let mut select = Query::select();
    select.expr_as(Func::count(Expr::col(Asterisk)), "count").from(t::Flow::Table).cond_where(related::flows(filters, tx.dialect()));
    Ok(tx.fetch_one(&select).await?.get::<i64>("count")? as u64)
}

/// Changes a flow; true where there was one.
pub async fn update(tx: &mut Tx, id: FlowId, now: Timestamp, update: &FlowUpdate) -> Result<bool, StoreError> {
    let mut statement = Query::update();
    statement.table(t::Flow::Table).value(t::Flow::Updated, now).and_where(Expr::col(t::Flow::Id).eq(id));
    if let Some(tags) = update.tags.as_value() {
        statement.value(t::Flow::Tags, serde_json::json!(tags));
    }
    Ok(tx.execute(&statement).await? > 0)
}

/// Deletes flows with their runs (by the database) and their deployments.
pub async fn delete(tx: &mut Tx, ids: &[FlowId]) -> Result<u64, StoreError> {
    let dialect = tx.dialect();
    let deployments = dialect.any_id(Expr::col(t::Deployment::FlowId), ids);
    tx.execute(Query::delete().from_table(t::Deployment::Table).and_where(deployments)).await?;
    tx.execute(Query::delete().from_table(t::Flow::Table).and_where(dialect.any_id(Expr::col(t::Flow::Id), ids))).await
}
