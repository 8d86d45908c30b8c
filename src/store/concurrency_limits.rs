//! Tables `concurrency_limit_v2` (limits by name) and `concurrency_limit` (the old limits by tag, from before they became
//! limits named `tag:<tag>`).
//!
//! Slots decay: what a row says was true when it was last written ([`ConcurrencyLimitV2::updated`]), and every write
//! puts down what is left of it. Rows are locked in the order of their ids before they are written, so that two
//! transactions over several limits cannot wait for each other, and all of them are taken or none is.

use std::collections::BTreeMap;

use sea_query::{Expr, ExprTrait, Order, Query, SelectStatement};
use serde_json::json;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::ConcurrencyLimitId;
use crate::model::Patch;
use crate::model::concurrency::{ConcurrencyLimit, ConcurrencyLimitV2, ConcurrencyLimitV2Create, ConcurrencyLimitV2Update, Waits};
use crate::store::schema as t;
use crate::store::{Hint, Row, StoreError, Tx};

/// Of a limit about which nothing is known yet.
const OCCUPANCY_SECONDS_DEFAULT: f64 = 2.0;

const COLUMNS: [t::ConcurrencyLimitV2; 10] = [
    t::ConcurrencyLimitV2::Id,
    t::ConcurrencyLimitV2::Created,
    t::ConcurrencyLimitV2::Updated,
    t::ConcurrencyLimitV2::Active,
    t::ConcurrencyLimitV2::Name,
    t::ConcurrencyLimitV2::Limit,
    t::ConcurrencyLimitV2::ActiveSlots,
    t::ConcurrencyLimitV2::DeniedSlots,
    t::ConcurrencyLimitV2::SlotDecayPerSecond,
    t::ConcurrencyLimitV2::AvgSlotOccupancySeconds,
];

/// Names a limit by its id or its name.
#[derive(Debug, Clone)]
pub enum Key {
    Id(ConcurrencyLimitId),
    Name(String),
}

impl Key {
    /// An id where the text is one, else a name.
    pub fn of(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Id)
    }

    fn is(&self) -> Expr {
        match self {
            Self::Id(id) => Expr::col(t::ConcurrencyLimitV2::Id).eq(*id),
            Self::Name(name) => Expr::col(t::ConcurrencyLimitV2::Name).eq(name.as_str()),
        }
    }
}

fn select() -> SelectStatement {
    Query::select().columns(COLUMNS).from(t::ConcurrencyLimitV2::Table).to_owned()
}

fn decode(row: &Row) -> Result<ConcurrencyLimitV2, StoreError> {
    Ok(ConcurrencyLimitV2 {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        active: row.get("active")?,
        name: row.get("name")?,
        limit: row.get("limit")?,
        active_slots: row.get("active_slots")?,
        denied_slots: row.get("denied_slots")?,
        slot_decay_per_second: row.get("slot_decay_per_second")?,
        avg_slot_occupancy_seconds: row.get("avg_slot_occupancy_seconds")?,
    })
}

/// Inserts a limit.
///
/// # Errors
/// [`StoreError::Unique`] where the name is taken.
pub async fn insert(tx: &mut Tx, now: Timestamp, create: &ConcurrencyLimitV2Create) -> Result<ConcurrencyLimitV2, StoreError> {
    let limit = ConcurrencyLimitV2 {
        id: ConcurrencyLimitId::fresh(),
        created: now,
        updated: now,
        active: create.active,
        name: create.name.clone(),
        limit: create.limit,
        active_slots: create.active_slots,
        denied_slots: create.denied_slots,
        slot_decay_per_second: create.slot_decay_per_second,
        avg_slot_occupancy_seconds: OCCUPANCY_SECONDS_DEFAULT,
    };
    let insert = Query::insert()
        .into_table(t::ConcurrencyLimitV2::Table)
        .columns(COLUMNS)
        .values_panic([
            limit.id.into(),
            now.into(),
            now.into(),
            limit.active.into(),
            limit.name.as_str().into(),
            (limit.limit as i32).into(),
            (limit.active_slots as i32).into(),
            (limit.denied_slots as i32).into(),
            limit.slot_decay_per_second.into(),
            limit.avg_slot_occupancy_seconds.into(),
        ])
        .to_owned();
    tx.execute(&insert).await?;
    Ok(limit)
}

/// Reads one limit.
pub async fn read(tx: &mut Tx, key: &Key) -> Result<Option<ConcurrencyLimitV2>, StoreError> {
    tx.fetch_optional(select().and_where(key.is())).await?.as_ref().map(decode).transpose()
}

/// Reads the limits of these names that there are, by name.
pub async fn read_named(tx: &mut Tx, names: &[String]) -> Result<Vec<ConcurrencyLimitV2>, StoreError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut select = select();
    select
        .and_where(Expr::col(t::ConcurrencyLimitV2::Name).is_in(names.iter().map(String::as_str)))
        .order_by(t::ConcurrencyLimitV2::Name, Order::Asc);
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Lists limits by name.
pub async fn list(tx: &mut Tx, limit: u64, offset: u64) -> Result<Vec<ConcurrencyLimitV2>, StoreError> {
    let mut select = select();
    select.order_by(t::ConcurrencyLimitV2::Name, Order::Asc).limit(limit).offset(offset);
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Null is written where it was given: the columns do not take it, and the answer is the reference's conflict.
fn set<T: Copy>(statement: &mut sea_query::UpdateStatement, column: t::ConcurrencyLimitV2, value: &Patch<T>)
where
    Option<T>: Into<Expr>,
{
    if let Some(value) = value.clone().into_option() {
        statement.value(column, value.into());
    }
}

fn narrow(count: &Patch<i64>) -> Patch<i32> {
    match count {
        Patch::Value(count) => Patch::Value(i32::try_from(*count).unwrap_or(i32::MAX)),
        Patch::Null => Patch::Null,
        Patch::Absent => Patch::Absent,
    }
}

/// Changes a limit; true where there was one.
pub async fn update(tx: &mut Tx, key: &Key, now: Timestamp, update: &ConcurrencyLimitV2Update) -> Result<bool, StoreError> {
    use t::ConcurrencyLimitV2 as C;
    let mut statement = Query::update();
    statement.table(C::Table).value(C::Updated, now).and_where(key.is());
    set(&mut statement, C::Active, &update.active);
    set(&mut statement, C::Limit, &narrow(&update.limit));
    set(&mut statement, C::ActiveSlots, &narrow(&update.active_slots));
    set(&mut statement, C::DeniedSlots, &narrow(&update.denied_slots));
    set(&mut statement, C::SlotDecayPerSecond, &update.slot_decay_per_second);
    if let Some(name) = update.name.clone().into_option() {
        statement.value(C::Name, name);
    }
    Ok(tx.execute(&statement).await? > 0)
}

/// Deletes a limit; true where there was one.
pub async fn delete(tx: &mut Tx, key: &Key) -> Result<bool, StoreError> {
    Ok(tx.execute(Query::delete().from_table(t::ConcurrencyLimitV2::Table).and_where(key.is())).await? > 0)
}

/// Which of some limits to lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Active,
    All,
}

/// Locks these limits, by id.
pub(super) async fn lock(tx: &mut Tx, ids: &[ConcurrencyLimitId], of: Of) -> Result<Vec<ConcurrencyLimitV2>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let dialect = tx.dialect();
    let mut select = select();
    select.and_where(dialect.any_id(Expr::col(t::ConcurrencyLimitV2::Id), ids)).order_by(t::ConcurrencyLimitV2::Id, Order::Asc);
    if of == Of::Active {
        select.and_where(Expr::col(t::ConcurrencyLimitV2::Active).eq(true));
    }
    dialect.for_update(&mut select);
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Puts down what is taken and refused of a limit.
pub(super) async fn write(
    tx: &mut Tx,
    limit: &ConcurrencyLimitV2,
    now: Timestamp,
    active: Option<i64>,
    denied: i64,
    occupancy: f64,
) -> Result<(), StoreError> {
    use t::ConcurrencyLimitV2 as C;
    let mut update = Query::update();
    update
        .table(C::Table)
        .value(C::Updated, now)
        .value(C::DeniedSlots, denied as i32)
        .value(C::AvgSlotOccupancySeconds, occupancy)
        .and_where(Expr::col(C::Id).eq(limit.id));
    if let Some(active) = active {
        update.value(C::ActiveSlots, active as i32);
    }
    tx.execute(&update).await.map(drop)
}

/// Takes `slots` of each of the limits, or none; false where one is full, inactive or gone.
pub async fn take(tx: &mut Tx, ids: &[ConcurrencyLimitId], slots: i64, now: Timestamp, waits: Waits) -> Result<bool, StoreError> {
    let limits = lock(tx, ids, Of::Active).await?;
    if limits.len() != ids.len() || limits.iter().any(|limit| limit.active_slots_at(now) + slots > limit.limit) {
        return Ok(false);
    }
    for limit in &limits {
        let (active, denied) = (limit.active_slots_at(now) + slots, limit.denied_slots_at(now, waits));
        write(tx, limit, now, Some(active), denied, limit.avg_slot_occupancy_seconds).await?;
    }
    Ok(true)
}

/// The stream of hints about slots that came back; the body is the id of their limit.
pub const HINTS: &str = "concurrency-slots";

/// Tells those who wait for slots of a limit, as it was before, that it has some. Where it had some before, nobody does.
pub fn hint(tx: &mut Tx, before: &ConcurrencyLimitV2) {
    if before.slot_decay_per_second <= 0.0 && (before.active_slots >= before.limit || before.denied_slots > 0) {
        tx.hint(Hint { stream: HINTS, body: before.id.to_string() });
    }
}

/// Slots that come back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Returned {
    pub slots: i64,
    /// How long they had been held, where that counts for the average.
    pub occupancy_seconds: Option<f64>,
}

/// Gives slots of limits back. A limit that is gone is passed over; an inactive one is not, or its slots would stay taken.
pub(super) async fn give_back(
    tx: &mut Tx,
    returned: &BTreeMap<ConcurrencyLimitId, Vec<Returned>>,
    now: Timestamp,
    waits: Waits,
) -> Result<(), StoreError> {
    let ids: Vec<_> = returned.keys().copied().collect();
    for mut limit in lock(tx, &ids, Of::All).await? {
        hint(tx, &limit);
        let denied = limit.denied_slots_at(now, waits);
        let mut active = limit.active_slots_at(now);
        for back in &returned[&limit.id] {
            active = Ord::max(active - back.slots, 0);
            if let Some(seconds) = back.occupancy_seconds.filter(|seconds| *seconds > 0.0) {
                limit.avg_slot_occupancy_seconds = limit.occupancy_after(back.slots, seconds);
            }
        }
        write(tx, &limit, now, Some(active), denied, limit.avg_slot_occupancy_seconds).await?;
    }
    Ok(())
}

/// Notes that `slots` of each of the limits were refused.
pub async fn deny(tx: &mut Tx, ids: &[ConcurrencyLimitId], slots: i64, now: Timestamp, waits: Waits) -> Result<(), StoreError> {
    for limit in &lock(tx, ids, Of::Active).await? {
        // `updated` moves, so the active slots of a rate limit are put down as they are now, or they would decay less.
        let active = (limit.slot_decay_per_second > 0.0).then(|| limit.active_slots_at(now));
        let denied = limit.denied_slots_at(now, waits) + slots;
        write(tx, limit, now, active, denied, limit.avg_slot_occupancy_seconds).await?;
    }
    Ok(())
}

/// The old table. Nothing writes new limits there; those of before the change are honoured.
pub mod v1 {
    use super::*;

    const COLUMNS: [t::ConcurrencyLimit; 6] = [
        t::ConcurrencyLimit::Id,
        t::ConcurrencyLimit::Created,
        t::ConcurrencyLimit::Updated,
        t::ConcurrencyLimit::Tag,
        t::ConcurrencyLimit::ConcurrencyLimit,
        t::ConcurrencyLimit::ActiveSlots,
    ];

    /// Names a limit by its id or its tag.
    #[derive(Debug, Clone)]
    pub enum Key {
        Id(ConcurrencyLimitId),
        Tag(String),
    }

    impl Key {
        fn is(&self) -> Expr {
            match self {
                Self::Id(id) => Expr::col(t::ConcurrencyLimit::Id).eq(*id),
                Self::Tag(tag) => Expr::col(t::ConcurrencyLimit::Tag).eq(tag.as_str()),
            }
        }
    }

    fn select() -> SelectStatement {
        Query::select().columns(COLUMNS).from(t::ConcurrencyLimit::Table).order_by(t::ConcurrencyLimit::Tag, Order::Asc).to_owned()
    }

    fn decode(row: &Row) -> Result<ConcurrencyLimit, StoreError> {
        Ok(ConcurrencyLimit {
            id: row.get("id")?,
            created: row.get("created")?,
            updated: row.get("updated")?,
            tag: row.get("tag")?,
            concurrency_limit: row.get("concurrency_limit")?,
            active_slots: row.json("active_slots")?,
        })
    }

    /// Reads one limit.
    pub async fn read(tx: &mut Tx, key: &Key) -> Result<Option<ConcurrencyLimit>, StoreError> {
        tx.fetch_optional(select().and_where(key.is())).await?.as_ref().map(decode).transpose()
    }

    /// Lists limits by tag.
    pub async fn list(tx: &mut Tx, limit: u64) -> Result<Vec<ConcurrencyLimit>, StoreError> {
        tx.fetch_all(select().limit(limit)).await?.iter().map(decode).collect()
    }

    /// Reads and locks the limits on these tags, by tag.
    pub async fn lock_tagged(tx: &mut Tx, tags: &[String]) -> Result<Vec<ConcurrencyLimit>, StoreError> {
        if tags.is_empty() {
            return Ok(Vec::new());
        }
        let mut select = select();
        select.and_where(Expr::col(t::ConcurrencyLimit::Tag).is_in(tags.iter().map(String::as_str)));
        tx.dialect().for_update(&mut select);
        tx.fetch_all(&select).await?.iter().map(decode).collect()
    }

    /// Writes down who holds a slot.
    pub async fn set_active_slots(tx: &mut Tx, id: ConcurrencyLimitId, slots: &[Uuid], now: Timestamp) -> Result<(), StoreError> {
        let mut update = Query::update();
        update
            .table(t::ConcurrencyLimit::Table)
            .value(t::ConcurrencyLimit::Updated, now)
            .value(t::ConcurrencyLimit::ActiveSlots, json!(slots))
            .and_where(Expr::col(t::ConcurrencyLimit::Id).eq(id));
        tx.execute(&update).await.map(drop)
    }

    /// Deletes a limit; true where there was one.
    pub async fn delete(tx: &mut Tx, key: &Key) -> Result<bool, StoreError> {
        Ok(tx.execute(Query::delete().from_table(t::ConcurrencyLimit::Table).and_where(key.is())).await? > 0)
    }
}
