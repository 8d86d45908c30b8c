//! Table `action_call` of ours: calls to the world outside that automations caused and whose outcome is not known yet.

use sea_query::{Expr, ExprTrait, OnConflict, Order, Query};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::model::automation::TriggeredAction;
use crate::store::{Row, StoreError, Tx};

/// A call that is to be made.
#[derive(Debug, Clone)]
pub struct ActionCall {
    /// The invocation.
    pub id: Uuid,
    /// The block that is called.
    pub block_document_id: Uuid,
    /// What asks for it.
    pub action: TriggeredAction,
}

/// Keeps a call; a second one of the same invocation is the same.
pub async fn insert(tx: &mut Tx, action: &TriggeredAction, block_document_id: Uuid, now: Timestamp) -> Result<(), StoreError> {
    let body = serde_json::to_value(action).map_err(|error| StoreError::Decode { column: "action".into(), reason: error.to_string() })?;
    let mut insert = Query::insert();
    insert
        .into_table(tx.dialect().own_table("action_call"))
        .columns(["id", "block_document_id", "action", "created"])
        .values_panic([action.id.into(), block_document_id.into(), body.into(), now.into()])
        .on_conflict(OnConflict::column("id").do_nothing().to_owned());
    tx.execute(&insert).await.map(drop)
}

/// The oldest calls, without those that are being made and those of blocks that are busy.
pub async fn list(tx: &mut Tx, under_way: &[Uuid], busy: &[Uuid], limit: u64) -> Result<Vec<ActionCall>, StoreError> {
    let dialect = tx.dialect();
    let mut select = Query::select();
    select
        .columns(["id", "block_document_id", "action"])
        .from(dialect.own_table("action_call"))
        .and_where(dialect.any_id(Expr::col("id"), under_way).not())
        .and_where(dialect.any_id(Expr::col("block_document_id"), busy).not())
        .order_by("created", Order::Asc)
        .order_by("id", Order::Asc)
        .limit(limit);
    let read =
        |row: &Row| Ok(ActionCall { id: row.get("id")?, block_document_id: row.get("block_document_id")?, action: row.json("action")? });
    tx.fetch_all(&select).await?.iter().map(read).collect()
}

/// Forgets a call whose outcome is told. False where it is gone already.
pub async fn delete(tx: &mut Tx, id: Uuid) -> Result<bool, StoreError> {
    let mut delete = Query::delete();
    delete.from_table(tx.dialect().own_table("action_call")).and_where(Expr::col("id").eq(id));
    Ok(tx.execute(&delete).await? == 1)
}
