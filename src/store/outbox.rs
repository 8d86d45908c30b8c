//! Table `outbox` of ours: events that a transaction made and that are not yet known to be on the bus.
//!
//! A row is written with the transaction, deleted once the bus has committed the event, and published again by the
//! services leader's sweeper where its node died in between (the bus drops duplicates by event id).

use sea_query::{Expr, ExprTrait, Order, Query};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::limits::STATEMENT_VALUES;
use crate::model::event::Event;
use crate::store::{StoreError, Tx};

/// Writes the events of a transaction, in few statements.
pub(crate) async fn insert(tx: &mut Tx, events: &[Event]) -> Result<(), StoreError> {
    for chunk in events.chunks(STATEMENT_VALUES / 3) {
        let mut insert = Query::insert();
        insert.into_table(tx.dialect().own_table("outbox")).columns(["id", "created", "event"]);
        for event in chunk {
            let body =
                serde_json::to_value(event).map_err(|error| StoreError::Decode { column: "event".into(), reason: error.to_string() })?;
            insert.values_panic([event.id.into(), event.occurred.into(), body.into()]);
        }
        tx.execute(&insert).await?;
    }
    Ok(())
}

/// The oldest events made before `before`, at most `limit`.
pub async fn list(tx: &mut Tx, before: Timestamp, limit: u64) -> Result<Vec<Event>, StoreError> {
    let mut select = Query::select();
    select
        .column("event")
        .from(tx.dialect().own_table("outbox"))
        .and_where(Expr::col("created").lt(before))
        .order_by("created", Order::Asc)
        .limit(limit);
    tx.fetch_all(&select).await?.iter().map(|row| row.json("event")).collect()
}

/// Forgets events that are on the bus.
pub async fn delete(tx: &mut Tx, ids: &[Uuid]) -> Result<u64, StoreError> {
    let dialect = tx.dialect();
    tx.execute(Query::delete().from_table(dialect.own_table("outbox")).and_where(dialect.any_id(Expr::col("id"), ids))).await
}
