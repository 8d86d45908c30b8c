//! Table `variable`.

use sea_query::{Asterisk, Expr, ExprTrait, Func, Order, Query, SelectStatement};

use crate::clock::Timestamp;
use crate::id::VariableId;
use crate::model::filter::variable::VariableFilter;
use crate::model::variable::{Variable, VariableCreate, VariableSort, VariableUpdate};
use crate::store::filter::variable::condition;
use crate::store::schema as t;
use crate::store::{Row, StoreError, Tx};

const COLUMNS: [t::Variable; 6] =
    [t::Variable::Id, t::Variable::Created, t::Variable::Updated, t::Variable::Name, t::Variable::Value, t::Variable::Tags];

fn select() -> SelectStatement {
    Query::select().columns(COLUMNS).from(t::Variable::Table).to_owned()
}

fn decode(row: &Row) -> Result<Variable, StoreError> {
    Ok(Variable {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        name: row.get("name")?,
        value: row.json("value")?,
        tags: row.json("tags")?,
    })
}

/// Names a variable by its id or its name.
#[derive(Debug, Clone)]
pub enum Key {
    Id(VariableId),
    Name(String),
}

fn key_is(key: &Key) -> Expr {
    match key {
        Key::Id(id) => Expr::col(t::Variable::Id).eq(*id),
        Key::Name(name) => Expr::col(t::Variable::Name).eq(name.as_str()),
    }
}

/// Inserts a variable.
///
/// # Errors
/// [`StoreError::Unique`] where the name is taken.
pub async fn insert(tx: &mut Tx, id: VariableId, now: Timestamp, create: &VariableCreate) -> Result<Variable, StoreError> {
    let insert = Query::insert()
        .into_table(t::Variable::Table)
        .columns(COLUMNS)
        .values_panic([
            id.into(),
            now.into(),
            now.into(),
            create.name.as_str().into(),
            create.value.clone().into(),
            serde_json::json!(create.tags).into(),
        ])
        .to_owned();
    tx.execute(&insert).await?;
    Ok(Variable { id, created: now, updated: now, name: create.name.clone(), value: create.value.clone(), tags: create.tags.clone() })
}

/// Reads one variable.
pub async fn read(tx: &mut Tx, key: &Key) -> Result<Option<Variable>, StoreError> {
    tx.fetch_optional(select().and_where(key_is(key))).await?.as_ref().map(decode).transpose()
}

/// Lists variables.
pub async fn list(tx: &mut Tx, filter: &VariableFilter, sort: VariableSort, limit: u64, offset: u64) -> Result<Vec<Variable>, StoreError> {
    let (column, order) = match sort {
        VariableSort::CreatedDesc => (t::Variable::Created, Order::Desc),
        VariableSort::UpdatedDesc => (t::Variable::Updated, Order::Desc),
        VariableSort::NameDesc => (t::Variable::Name, Order::Desc),
        VariableSort::NameAsc => (t::Variable::Name, Order::Asc),
    };
    let mut select = select();
    select
        .cond_where(condition(filter, tx.dialect()))
        .order_by(column, order)
        .order_by(t::Variable::Id, Order::Asc)
        .limit(limit)
        .offset(offset);
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Counts variables.
pub async fn count(tx: &mut Tx, filter: &VariableFilter) -> Result<i64, StoreError> {
    let mut select = Query::select();
    select.expr_as(Func::count(Expr::col(Asterisk)), "count").from(t::Variable::Table).cond_where(condition(filter, tx.dialect()));
    tx.fetch_one(&select).await?.get("count")
}

/// Changes a variable; true where there was one.
pub async fn update(tx: &mut Tx, key: &Key, now: Timestamp, update: &VariableUpdate) -> Result<bool, StoreError> {
    let mut statement = Query::update();
    statement.table(t::Variable::Table).value(t::Variable::Updated, now).and_where(key_is(key));
    // Null is written where it was given: the columns do not take it, and the answer is the reference's conflict.
    if let Some(name) = update.name.clone().into_option() {
        statement.value(t::Variable::Name, name);
    }
    if let Some(value) = update.value.as_value() {
        statement.value(t::Variable::Value, value.clone());
    }
    if let Some(tags) = update.tags.clone().into_option() {
        statement.value(t::Variable::Tags, tags.map(|tags| serde_json::json!(tags)));
    }
    Ok(tx.execute(&statement).await? > 0)
}

/// Deletes a variable; true where there was one.
pub async fn delete(tx: &mut Tx, key: &Key) -> Result<bool, StoreError> {
    Ok(tx.execute(Query::delete().from_table(t::Variable::Table).and_where(key_is(key))).await? > 0)
}
