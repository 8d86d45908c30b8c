//! Tables `automation_bucket`, `composite_trigger_child_firing` and `automation_event_follower`: what the evaluation of
//! triggers remembers, read and written for many events at a time.

use std::sync::Arc;

use sea_query::{Expr, ExprTrait, Order, Query, SelectStatement};
use serde_json::json;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::AutomationId;
use crate::limits::STATEMENT_VALUES;
use crate::model::automation::{Bucket, BucketKey, ChildFiring};
use crate::model::event::ReceivedEvent;
use crate::store::bulk::{Bulk, Column, Conflict};
use crate::store::schema as t;
use crate::store::{Row, StoreError, Tx};

/// The reference's name of what waits for events in order.
const SCOPE: &str = "triggers";

/// Keys of one statement.
const KEYS: usize = STATEMENT_VALUES / 10;

fn select_buckets() -> SelectStatement {
    use t::AutomationBucket as B;
    let columns = [B::AutomationId, B::TriggerId, B::BucketingKey, B::Start, B::End, B::Count, B::LastEvent];
    Query::select().columns(columns).from(B::Table).to_owned()
}

fn decode_bucket(row: &Row) -> Result<(BucketKey, Bucket), StoreError> {
    let key =
        BucketKey { automation_id: row.get("automation_id")?, trigger_id: row.get("trigger_id")?, values: row.json("bucketing_key")? };
    let bucket = Bucket {
        start: row.get("start")?,
        end: row.get("end")?,
        count: row.get("count")?,
        last_event: row.json::<Option<ReceivedEvent>>("last_event")?.map(Arc::new),
        last_operation: "",
    };
    Ok((key, bucket))
}

/// The buckets of these keys that there are.
pub async fn buckets(tx: &mut Tx, keys: &[&BucketKey]) -> Result<Vec<(BucketKey, Bucket)>, StoreError> {
    let mut found = Vec::new();
    for chunk in keys.chunks(KEYS) {
        let mut select = select_buckets();
        select.and_where(tx.dialect().is_bucket_key(chunk));
        for row in tx.fetch_all(&select).await? {
            found.push(decode_bucket(&row)?);
        }
    }
    Ok(found)
}

fn of_trigger(automation: AutomationId, trigger: Uuid) -> Expr {
    Expr::col(t::AutomationBucket::AutomationId).eq(automation).and(Expr::col(t::AutomationBucket::TriggerId).eq(trigger))
}

/// Buckets of a trigger whose span is over, the oldest first.
pub async fn due_buckets(
    tx: &mut Tx,
    automation: AutomationId,
    trigger: Uuid,
    as_of: Timestamp,
    limit: u64,
) -> Result<Vec<(BucketKey, Bucket)>, StoreError> {
    let mut select = select_buckets();
    select
        .and_where(of_trigger(automation, trigger))
        .and_where(Expr::col(t::AutomationBucket::End).lte(as_of))
        .order_by(t::AutomationBucket::Start, Order::Asc)
        .order_by(t::AutomationBucket::Id, Order::Asc)
        .limit(limit);
    tx.fetch_all(&select).await?.iter().map(decode_bucket).collect()
}

/// When the next bucket of a trigger ends after `as_of`.
pub async fn next_end(tx: &mut Tx, automation: AutomationId, trigger: Uuid, as_of: Timestamp) -> Result<Option<Timestamp>, StoreError> {
    let mut select = Query::select();
    select
        .column(t::AutomationBucket::End)
        .from(t::AutomationBucket::Table)
        .and_where(of_trigger(automation, trigger))
        .and_where(Expr::col(t::AutomationBucket::End).gt(as_of))
        .order_by(t::AutomationBucket::End, Order::Asc)
        .limit(1);
    tx.fetch_optional(&select).await?.map(|row| row.get("end")).transpose()
}

/// Deletes the buckets of a proactive trigger that saw what was expected.
pub async fn delete_satisfied(tx: &mut Tx, automation: AutomationId, trigger: Uuid, threshold: i64) -> Result<u64, StoreError> {
    let mut delete = Query::delete();
    delete
        .from_table(t::AutomationBucket::Table)
        .and_where(of_trigger(automation, trigger))
        .and_where(Expr::col(t::AutomationBucket::Count).gte(threshold));
    tx.execute(&delete).await
}

/// Deletes buckets whose span was over at `before`.
pub async fn sweep(tx: &mut Tx, before: Timestamp) -> Result<u64, StoreError> {
    tx.execute(Query::delete().from_table(t::AutomationBucket::Table).and_where(Expr::col(t::AutomationBucket::End).lte(before))).await
}

/// Writes buckets, be they new or not, in the order of their keys.
pub async fn write_buckets(tx: &mut Tx, mut changed: Vec<(&BucketKey, &Bucket)>, now: Timestamp) -> Result<(), StoreError> {
    const CLAUSE: &str = "(automation_id, trigger_id, bucketing_key) DO UPDATE SET start = excluded.start, \"end\" = excluded.\"end\", \
                          count = excluded.count, last_event = excluded.last_event, last_operation = excluded.last_operation, \
                          triggered_at = NULL, updated = excluded.updated";
    changed.sort_by_key(|(key, _)| *key);
    for chunk in changed.chunks(KEYS) {
        let rows = chunk.len();
        let at = |of: fn(&Bucket) -> Timestamp| Column::Timestamp(chunk.iter().map(|(_, bucket)| Some(of(bucket))).collect());
        Bulk::new("automation_bucket")
            .column("id", Column::Uuid((0..rows).map(|_| Some(crate::id::v4())).collect()))
            .column("created", Column::Timestamp(vec![Some(now); rows]))
            .column("updated", Column::Timestamp(vec![Some(now); rows]))
            .column("automation_id", Column::Uuid(chunk.iter().map(|(key, _)| Some(key.automation_id.into())).collect()))
            .column("trigger_id", Column::Uuid(chunk.iter().map(|(key, _)| Some(key.trigger_id)).collect()))
            .column("bucketing_key", Column::Json(chunk.iter().map(|(key, _)| Some(json!(key.values))).collect()))
            .column("start", at(|bucket| bucket.start))
            .column("end", at(|bucket| bucket.end))
            .column("count", Column::Integer(chunk.iter().map(|(_, bucket)| Some(bucket.count)).collect()))
            .column(
                "last_event",
                Column::Json(chunk.iter().map(|(_, bucket)| bucket.last_event.as_ref().map(|event| json!(**event))).collect()),
            )
            .column("last_operation", Column::Text(chunk.iter().map(|(_, bucket)| Some(bucket.last_operation.to_owned())).collect()))
            .insert(tx, Conflict::Clause(CLAUSE), "")
            .await?;
    }
    Ok(())
}

/// Deletes the buckets of these keys.
pub async fn delete_buckets(tx: &mut Tx, keys: &[&BucketKey]) -> Result<(), StoreError> {
    for chunk in keys.chunks(KEYS) {
        let which = tx.dialect().is_bucket_key(chunk);
        tx.execute(Query::delete().from_table(t::AutomationBucket::Table).and_where(which)).await?;
    }
    Ok(())
}

/// The firings that triggers over others wait with, of these automations.
pub async fn child_firings(tx: &mut Tx, automations: &[AutomationId]) -> Result<Vec<ChildFiring>, StoreError> {
    use t::CompositeTriggerChildFiring as C;
    let mut select = Query::select();
    select
        .columns([C::AutomationId, C::ParentTriggerId, C::ChildFiring])
        .from(C::Table)
        .and_where(tx.dialect().any_id(Expr::col(C::AutomationId), automations))
        .order_by(C::ChildFiredAt, Order::Asc);
    let decode = |row: &Row| {
        Ok(ChildFiring {
            automation_id: row.get("automation_id")?,
            parent_trigger_id: row.get("parent_trigger_id")?,
            firing: row.json("child_firing")?,
        })
    };
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Writes firings: the newest of each child is kept.
pub async fn write_child_firings(tx: &mut Tx, firings: &[ChildFiring], now: Timestamp) -> Result<(), StoreError> {
    const CLAUSE: &str = "(automation_id, parent_trigger_id, child_trigger_id) DO UPDATE SET child_firing_id = excluded.child_firing_id, \
                          child_fired_at = excluded.child_fired_at, child_firing = excluded.child_firing, updated = excluded.updated";
    for chunk in firings.chunks(KEYS) {
        let rows = chunk.len();
        let id = |of: fn(&ChildFiring) -> Uuid| Column::Uuid(chunk.iter().map(|child| Some(of(child))).collect());
        Bulk::new("composite_trigger_child_firing")
            .column("id", Column::Uuid((0..rows).map(|_| Some(crate::id::v4())).collect()))
            .column("created", Column::Timestamp(vec![Some(now); rows]))
            .column("updated", Column::Timestamp(vec![Some(now); rows]))
            .column("automation_id", id(|child| child.automation_id.into()))
            .column("parent_trigger_id", id(|child| child.parent_trigger_id))
            .column("child_trigger_id", id(|child| child.firing.trigger.id()))
            .column("child_firing_id", id(|child| child.firing.id))
            .column("child_fired_at", Column::Timestamp(chunk.iter().map(|child| Some(child.firing.triggered)).collect()))
            .column("child_firing", Column::Json(chunk.iter().map(|child| Some(json!(child.firing))).collect()))
            .insert(tx, Conflict::Clause(CLAUSE), "")
            .await?;
    }
    Ok(())
}

/// Deletes the firings of these ids.
pub async fn delete_child_firings(tx: &mut Tx, firings: &[Uuid]) -> Result<(), StoreError> {
    use t::CompositeTriggerChildFiring as C;
    let which = tx.dialect().any_id(Expr::col(C::ChildFiringId), firings);
    tx.execute(Query::delete().from_table(C::Table).and_where(which)).await.map(drop)
}

fn in_scope() -> Expr {
    Expr::col(t::AutomationEventFollower::Scope).eq(SCOPE)
}

/// The events that others wait for.
pub async fn awaited(tx: &mut Tx) -> Result<Vec<Uuid>, StoreError> {
    use t::AutomationEventFollower as F;
    let mut select = Query::select();
    select.distinct().column(F::LeaderEventId).from(F::Table).and_where(in_scope());
    tx.fetch_all(&select).await?.iter().map(|row| row.get("leader_event_id")).collect()
}

/// The events that wait for one of these.
pub async fn followers(tx: &mut Tx, leaders: &[Uuid]) -> Result<Vec<ReceivedEvent>, StoreError> {
    use t::AutomationEventFollower as F;
    let mut select = Query::select();
    let which = tx.dialect().any_id(Expr::col(F::LeaderEventId), leaders);
    select.column(F::Follower).from(F::Table).and_where(in_scope()).and_where(which);
    tx.fetch_all(&select).await?.iter().map(|row| row.json("follower")).collect()
}

/// Keeps events that wait for the one that they follow.
pub async fn keep_followers(tx: &mut Tx, events: &[Arc<ReceivedEvent>], now: Timestamp) -> Result<(), StoreError> {
    let rows = events.len();
    Bulk::new("automation_event_follower")
        .column("id", Column::Uuid((0..rows).map(|_| Some(crate::id::v4())).collect()))
        .column("created", Column::Timestamp(vec![Some(now); rows]))
        .column("updated", Column::Timestamp(vec![Some(now); rows]))
        .column("scope", Column::Text(vec![Some(SCOPE.to_owned()); rows]))
        .column("leader_event_id", Column::Uuid(events.iter().map(|event| event.event.follows).collect()))
        .column("follower_event_id", Column::Uuid(events.iter().map(|event| Some(event.event.id)).collect()))
        .column("received", Column::Timestamp(events.iter().map(|event| Some(event.received)).collect()))
        .column("follower", Column::Json(events.iter().map(|event| Some(json!(**event))).collect()))
        .insert(tx, Conflict::Nothing, "")
        .await
        .map(drop)
}

/// Forgets events that need not wait any more.
pub async fn forget_followers(tx: &mut Tx, events: &[Uuid]) -> Result<(), StoreError> {
    use t::AutomationEventFollower as F;
    let which = tx.dialect().any_id(Expr::col(F::FollowerEventId), events);
    tx.execute(Query::delete().from_table(F::Table).and_where(in_scope()).and_where(which)).await.map(drop)
}

/// Events received before `before` that still wait, the oldest first.
pub async fn lost_followers(tx: &mut Tx, before: Timestamp, limit: u64) -> Result<Vec<ReceivedEvent>, StoreError> {
    use t::AutomationEventFollower as F;
    let mut select = Query::select();
    select
        .column(F::Follower)
        .from(F::Table)
        .and_where(in_scope())
        .and_where(Expr::col(F::Received).lte(before))
        .order_by(F::Received, Order::Asc)
        .order_by(F::Id, Order::Asc)
        .limit(limit);
    tx.fetch_all(&select).await?.iter().map(|row| row.json("follower")).collect()
}

/// Those of these events that wait for another one.
pub async fn waiting(tx: &mut Tx, events: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
    use t::AutomationEventFollower as F;
    let mut select = Query::select();
    let which = tx.dialect().any_id(Expr::col(F::FollowerEventId), events);
    select.column(F::FollowerEventId).from(F::Table).and_where(in_scope()).and_where(which);
    tx.fetch_all(&select).await?.iter().map(|row| row.get("follower_event_id")).collect()
}
