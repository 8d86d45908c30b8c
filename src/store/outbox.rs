//! Table `outbox` of ours: events and actions that a transaction made and that are not yet known to be on the bus.
//!
//! A row is written with the transaction, deleted once the bus has committed its message, and published again by the
//! services leader's sweeper where its node died in between (the bus drops duplicates by the message's id).

use sea_query::{Expr, ExprTrait, Order, Query};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::limits::STATEMENT_VALUES;
use crate::model::automation::TriggeredAction;
use crate::model::event::Event;
use crate::store::{StoreError, Tx};

/// What a transaction has to say to the bus.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "almost all are events: a box for each would cost more than it saves")]
pub enum Outgoing {
    /// For the stream `events`.
    Event(Event),
    /// For the stream `actions`.
    Action(Box<TriggeredAction>),
}

const EVENTS: &str = "events";
const ACTIONS: &str = "actions";

impl Outgoing {
    /// The id by which the bus knows it.
    pub fn id(&self) -> Uuid {
        match self {
            Self::Event(event) => event.id,
            Self::Action(action) => action.id,
        }
    }

    fn row(&self) -> Result<[sea_query::Expr; 4], serde_json::Error> {
        let (stream, created, body) = match self {
            Self::Event(event) => (EVENTS, event.occurred, serde_json::to_value(event)?),
            Self::Action(action) => (ACTIONS, action.triggered, serde_json::to_value(action)?),
        };
        Ok([self.id().into(), created.into(), stream.into(), body.into()])
    }
}

/// Writes what a transaction has to say, in few statements.
pub(crate) async fn insert(tx: &mut Tx, outgoing: &[Outgoing]) -> Result<(), StoreError> {
    for chunk in outgoing.chunks(STATEMENT_VALUES / 4) {
        let mut insert = Query::insert();
        insert.into_table(tx.dialect().own_table("outbox")).columns(["id", "created", "stream", "event"]);
        for one in chunk {
            let row = one.row().map_err(|error| StoreError::Decode { column: "event".into(), reason: error.to_string() })?;
            insert.values_panic(row);
        }
        tx.execute(&insert).await?;
    }
    Ok(())
}

/// The oldest that were made before `before`, at most `limit`.
pub async fn list(tx: &mut Tx, before: Timestamp, limit: u64) -> Result<Vec<Outgoing>, StoreError> {
    let mut select = Query::select();
    select
        .columns(["stream", "event"])
        .from(tx.dialect().own_table("outbox"))
        .and_where(Expr::col("created").lt(before))
        .order_by("created", Order::Asc)
        .limit(limit);
    let read = |row: &crate::store::Row| match row.get::<String>("stream")?.as_str() {
        ACTIONS => row.json("event").map(Box::new).map(Outgoing::Action),
        _ => row.json("event").map(Outgoing::Event),
    };
    tx.fetch_all(&select).await?.iter().map(read).collect()
}

/// Forgets what is on the bus.
pub async fn delete(tx: &mut Tx, ids: &[Uuid]) -> Result<u64, StoreError> {
    let dialect = tx.dialect();
    tx.execute(Query::delete().from_table(dialect.own_table("outbox")).and_where(dialect.any_id(Expr::col("id"), ids))).await
}
