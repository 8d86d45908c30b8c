//! Table `dead_letter` of ours: entries that a consumer gave up on, kept until someone replays or deletes them.

use sea_query::{Asterisk, Cond, Condition, Expr, ExprTrait, Func, OnConflict, Order, Query};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::store::{Row, StoreError, Tx};

/// An entry that a consumer gave up on.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Id of the message.
    pub id: Uuid,
    /// Stream, with its cluster.
    pub stream: String,
    /// The consumer.
    pub group: &'static str,
    /// Where it stood in the stream.
    pub position: u64,
    /// The message.
    pub payload: Vec<u8>,
    /// The last failure, with its causes.
    pub error: String,
    /// Times it was tried.
    pub attempts: u32,
}

/// Keeps an entry; a second one of the same message and group is the same.
pub async fn insert(tx: &mut Tx, letter: &DeadLetter, now: Timestamp) -> Result<(), StoreError> {
    let mut insert = Query::insert();
    insert
        .into_table(tx.dialect().own_table("dead_letter"))
        .columns(["id", "stream", "consumer_group", "position", "payload", "error", "attempts", "created"])
        .values_panic([
            letter.id.into(),
            letter.stream.as_str().into(),
            letter.group.into(),
            i64::try_from(letter.position).unwrap_or(i64::MAX).into(),
            letter.payload.clone().into(),
            letter.error.replace('\0', "").into(),
            i64::from(letter.attempts).into(),
            now.into(),
        ])
        .on_conflict(OnConflict::columns(["id", "consumer_group"]).do_nothing().to_owned());
    tx.execute(&insert).await.map(drop)
}

/// A dead letter as it is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Id of the message.
    pub id: Uuid,
    /// Stream, with its cluster.
    pub stream: String,
    /// The consumer.
    pub group: String,
    /// Where it stood in the stream.
    pub position: u64,
    /// The message; empty in lists.
    pub payload: Vec<u8>,
    /// Bytes of the message.
    pub bytes: i64,
    /// The last failure, with its causes.
    pub error: String,
    /// Times it was tried.
    pub attempts: i64,
    /// When it was given up first.
    pub created: Timestamp,
    /// When someone asked for it to be replayed.
    pub replay: Option<Timestamp>,
}

/// Which dead letters.
#[derive(Debug, Clone, Default)]
pub struct Which {
    /// Only these messages.
    pub ids: Option<Vec<Uuid>>,
    /// Only of this consumer.
    pub group: Option<String>,
}

impl Which {
    fn condition(&self, tx: &Tx) -> Condition {
        let dialect = tx.dialect();
        Cond::all()
            .add_option(self.ids.as_ref().map(|ids| dialect.any_id(Expr::col("id"), ids)))
            .add_option(self.group.as_ref().map(|group| Expr::col("consumer_group").eq(group.as_str())))
    }
}

const COLUMNS: [&str; 8] = ["id", "stream", "consumer_group", "position", "error", "attempts", "created", "replay"];

fn decode(row: &Row, with_payload: bool) -> Result<Kept, StoreError> {
    Ok(Kept {
        id: row.get("id")?,
        stream: row.get("stream")?,
        group: row.get("consumer_group")?,
        position: row.get::<i64>("position")?.unsigned_abs(),
        payload: if with_payload { row.get("payload")? } else { Vec::new() },
        bytes: row.get("bytes")?,
        error: row.get("error")?,
        attempts: row.get("attempts")?,
        created: row.get("created")?,
        replay: row.get("replay")?,
    })
}

/// Dead letters without their messages, the newest first, and how many there are altogether.
pub async fn list(tx: &mut Tx, which: &Which, limit: u64, offset: u64) -> Result<(Vec<Kept>, i64), StoreError> {
    let condition = which.condition(tx);
    let table = tx.dialect().own_table("dead_letter");
    let mut count = Query::select();
    count.expr_as(Func::count(Expr::col(Asterisk)), "count").from(table.clone()).cond_where(condition.clone());
    let total = tx.fetch_one(&count).await?.get("count")?;
    let mut select = Query::select();
    select
        .columns(COLUMNS)
        .expr_as(tx.dialect().integer(Expr::cust("length(payload)")), "bytes")
        .from(table)
        .cond_where(condition)
        .order_by("created", Order::Desc)
        .order_by("id", Order::Desc)
        .order_by("consumer_group", Order::Asc)
        .limit(limit)
        .offset(offset);
    let letters = tx.fetch_all(&select).await?.iter().map(|row| decode(row, false)).collect::<Result<_, _>>()?;
    Ok((letters, total))
}

/// The letters of one message, with it: one for each consumer that gave it up.
pub async fn read(tx: &mut Tx, id: Uuid) -> Result<Vec<Kept>, StoreError> {
    with_message(tx, Cond::all().add(Expr::col("id").eq(id)), 100).await
}

/// Letters of a group that someone asked to be replayed, in the order of their stream.
pub async fn asked_for(tx: &mut Tx, group: &str, limit: u64) -> Result<Vec<Kept>, StoreError> {
    with_message(tx, Cond::all().add(Expr::col("consumer_group").eq(group)).add(Expr::col("replay").is_not_null()), limit).await
}

async fn with_message(tx: &mut Tx, condition: Condition, limit: u64) -> Result<Vec<Kept>, StoreError> {
    let mut select = Query::select();
    select
        .columns(COLUMNS)
        .column("payload")
        .expr_as(tx.dialect().integer(Expr::cust("length(payload)")), "bytes")
        .from(tx.dialect().own_table("dead_letter"))
        .cond_where(condition)
        .order_by("position", Order::Asc)
        .order_by("id", Order::Asc)
        .order_by("consumer_group", Order::Asc)
        .limit(limit);
    tx.fetch_all(&select).await?.iter().map(|row| decode(row, true)).collect()
}

/// How many are kept, and how many of them are to be replayed.
pub async fn count(tx: &mut Tx, group: Option<&str>) -> Result<(i64, i64), StoreError> {
    let mut select = Query::select();
    select
        .expr_as(Func::count(Expr::col(Asterisk)), "kept")
        .expr_as(Func::count(Expr::col("replay")), "asked")
        .from(tx.dialect().own_table("dead_letter"))
        .cond_where(Cond::all().add_option(group.map(|group| Expr::col("consumer_group").eq(group))));
    let row = tx.fetch_one(&select).await?;
    Ok((row.get("kept")?, row.get("asked")?))
}

/// Asks for letters to be replayed; gives how many are. A letter that is waiting for it already counts.
pub async fn ask_for_replay(tx: &mut Tx, which: &Which, now: Timestamp) -> Result<u64, StoreError> {
    let condition = which.condition(tx);
    let mut update = Query::update();
    update.table(tx.dialect().own_table("dead_letter")).value("replay", now).cond_where(condition);
    tx.execute(&update).await
}

/// Deletes letters; gives how many.
pub async fn delete(tx: &mut Tx, which: &Which) -> Result<u64, StoreError> {
    let condition = which.condition(tx);
    tx.execute(Query::delete().from_table(tx.dialect().own_table("dead_letter")).cond_where(condition)).await
}

/// Removes a letter that is to be replayed. False where it is gone, or nobody asks any more.
pub async fn take(tx: &mut Tx, id: Uuid, group: &str) -> Result<bool, StoreError> {
    let mut delete = Query::delete();
    delete
        .from_table(tx.dialect().own_table("dead_letter"))
        .and_where(Expr::col("id").eq(id))
        .and_where(Expr::col("consumer_group").eq(group))
        .and_where(Expr::col("replay").is_not_null());
    Ok(tx.execute(&delete).await? == 1)
}

/// Keeps a letter whose replay failed, until someone asks again.
pub async fn failed_again(tx: &mut Tx, id: Uuid, group: &str, error: &str) -> Result<(), StoreError> {
    let mut update = Query::update();
    update
        .table(tx.dialect().own_table("dead_letter"))
        .value("replay", Option::<Timestamp>::None)
        .value("error", error.replace('\0', ""))
        .value("attempts", Expr::col("attempts").add(1))
        .and_where(Expr::col("id").eq(id))
        .and_where(Expr::col("consumer_group").eq(group));
    tx.execute(&update).await.map(drop)
}
