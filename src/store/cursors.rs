//! Table `cursor` of ours: how far a consumer group has come in a stream. Moved in the transaction of the effect.
//!
//! The stream's name carries the id of the cluster whose bus it is (`<cluster>/events`): positions of another cluster's
//! bus (a wiped data directory, a second cluster) mean nothing here.

use sea_query::{Expr, ExprTrait, OnConflict, Query};

use crate::clock::Timestamp;
use crate::store::{StoreError, Tx};

/// The position of the last entry whose effect is in the database; 0 for none.
pub async fn read(tx: &mut Tx, group: &str, stream: &str) -> Result<u64, StoreError> {
    let mut select = Query::select();
    select
        .column("position")
        .from(tx.dialect().own_table("cursor"))
        .and_where(Expr::col("consumer_group").eq(group))
        .and_where(Expr::col("stream").eq(stream));
    let position = tx.fetch_optional(&select).await?.map(|row| row.get::<i64>("position")).transpose()?;
    Ok(position.unwrap_or(0) as u64)
}

/// Moves the cursor from where the caller believes it to be. False where it is elsewhere: another consumer of the group
/// has moved it, and the transaction must not be committed.
pub async fn advance(tx: &mut Tx, group: &str, stream: &str, from: u64, to: u64, now: Timestamp) -> Result<bool, StoreError> {
    let table = tx.dialect().own_table("cursor");
    if from == 0 {
        let mut insert = Query::insert();
        insert
            .into_table(table.clone())
            .columns(["consumer_group", "stream", "position", "updated"])
            .values_panic([group.into(), stream.into(), 0_i64.into(), now.into()])
            .on_conflict(OnConflict::columns(["consumer_group", "stream"]).do_nothing().to_owned());
        tx.execute(&insert).await?;
    }
    let mut update = Query::update();
    update
        .table(table)
        .value("position", i64::try_from(to).unwrap_or(i64::MAX))
        .value("updated", now)
        .and_where(Expr::col("consumer_group").eq(group))
        .and_where(Expr::col("stream").eq(stream))
        .and_where(Expr::col("position").eq(i64::try_from(from).unwrap_or(i64::MAX)));
    Ok(tx.execute(&update).await? == 1)
}
