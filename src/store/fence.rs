//! Table `fence` of ours: who may write as a leader. A leader's transaction takes the row with a share lock and goes on
//! only while the epoch is its own; a new leader advances the epoch before it acts, which waits for the transactions of
//! the old one and stops those that come later.

use sea_query::{Expr, ExprTrait, OnConflict, Query};

use crate::clock::Timestamp;
use crate::store::{StoreError, Tx};

/// The fence of the background services.
pub const SERVICES: &str = "services";

/// Makes `epoch` the current one.
///
/// # Errors
/// [`StoreError::Fenced`] where a later one is current already.
pub async fn advance(tx: &mut Tx, name: &str, epoch: u64, holder: u64, now: Timestamp) -> Result<(), StoreError> {
    let table = tx.dialect().own_table("fence");
    let epoch_number = i64::try_from(epoch).unwrap_or(i64::MAX);
    let mut insert = Query::insert();
    insert
        .into_table(table.clone())
        .columns(["name", "epoch", "holder", "updated"])
        .values_panic([name.into(), epoch_number.into(), i64::try_from(holder).unwrap_or(i64::MAX).into(), now.into()])
        .on_conflict(
            OnConflict::column("name")
                .update_columns(["epoch", "holder", "updated"])
                .action_and_where(Expr::col((table_name(tx), "epoch")).lte(Expr::col(("excluded", "epoch"))))
                .to_owned(),
        );
    if tx.execute(&insert).await? > 0 {
        return Ok(());
    }
    let current = current(tx, name).await?;
    Err(StoreError::Fenced { held: epoch, current })
}

/// The name by which an upsert refers to the existing row.
fn table_name(tx: &Tx) -> &'static str {
    match tx.dialect() {
        crate::store::Dialect::Postgres => "fence",
        crate::store::Dialect::Sqlite => "praetor_fence",
    }
}

async fn current(tx: &mut Tx, name: &str) -> Result<u64, StoreError> {
    let mut select = Query::select();
    select.column("epoch").from(tx.dialect().own_table("fence")).and_where(Expr::col("name").eq(name));
    let epoch = tx.fetch_optional(&select).await?.map(|row| row.get::<i64>("epoch")).transpose()?;
    Ok(epoch.unwrap_or(0) as u64)
}

/// Holds the fence until the end of the transaction, which from now on gives up soon when it is left idle or has to
/// wait for a lock, so that a paused leader does not hold up its successor.
///
/// # Errors
/// [`StoreError::Fenced`] where `epoch` is not the current one.
pub async fn hold(tx: &mut Tx, name: &str, epoch: u64) -> Result<(), StoreError> {
    let (sql, values) = tx.dialect().hold_fence(name);
    let current = tx.fetch_sql(sql, values).await?.first().map(|row| row.get::<Option<i64>>("epoch")).transpose()?.flatten();
    let current = current.unwrap_or(0) as u64;
    if current == epoch { Ok(()) } else { Err(StoreError::Fenced { held: epoch, current }) }
}
