//! Table `configuration`: a few values of the whole installation, by key.

use sea_query::{Expr, ExprTrait, OnConflict, Query};
use serde_json::Value;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::store::schema as t;
use crate::store::{StoreError, Tx};

/// The value of a key.
pub async fn read(tx: &mut Tx, key: &str) -> Result<Option<Value>, StoreError> {
    let select = Query::select()
        .column(t::Configuration::Value)
        .from(t::Configuration::Table)
        .and_where(Expr::col(t::Configuration::Key).eq(key))
        .take();
    tx.fetch_optional(&select).await?.map(|row| row.get("value")).transpose()
}

fn insert(id: Uuid, now: Timestamp, key: &str, value: &Value) -> sea_query::InsertStatement {
    Query::insert()
        .into_table(t::Configuration::Table)
        .columns([
            t::Configuration::Id,
            t::Configuration::Created,
            t::Configuration::Updated,
            t::Configuration::Key,
            t::Configuration::Value,
        ])
        .values_panic([id.into(), now.into(), now.into(), key.into(), value.clone().into()])
        .to_owned()
}

/// Sets a key that is not set yet; true where it was not. (Waits for another transaction that is setting it.)
pub async fn write_once(tx: &mut Tx, id: Uuid, now: Timestamp, key: &str, value: &Value) -> Result<bool, StoreError> {
    let mut insert = insert(id, now, key, value);
    insert.on_conflict(OnConflict::column(t::Configuration::Key).do_nothing().to_owned());
    Ok(tx.execute(&insert).await? > 0)
}

/// Sets a key.
pub async fn write(tx: &mut Tx, id: Uuid, now: Timestamp, key: &str, value: &Value) -> Result<(), StoreError> {
    let mut insert = insert(id, now, key, value);
    insert.on_conflict(
        OnConflict::column(t::Configuration::Key).update_columns([t::Configuration::Value, t::Configuration::Updated]).to_owned(),
    );
    tx.execute(&insert).await?;
    Ok(())
}

/// Clears a key; true where it was set.
pub async fn delete(tx: &mut Tx, key: &str) -> Result<bool, StoreError> {
    Ok(tx.execute(Query::delete().from_table(t::Configuration::Table).and_where(Expr::col(t::Configuration::Key).eq(key))).await? > 0)
}
