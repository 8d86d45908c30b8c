//! Table `dead_letter` of ours: entries that a consumer gave up on, kept until someone replays or deletes them.

use sea_query::{OnConflict, Query};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::store::{StoreError, Tx};

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
