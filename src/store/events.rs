//! Tables `events` and `event_resources`.

use std::borrow::Cow;
use std::collections::HashSet;

use sea_query::{Asterisk, Expr, ExprTrait, Func, Order, Query};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::model::event::{Event, ReceivedEvent, Resource};
use crate::model::event_count::{Countable, EventCount, Spans};
use crate::model::filter::event::{EventFilter, EventOrder};
use crate::model::json;
use crate::store::bulk::{Bulk, Column, json_text};
use crate::store::filter::event::condition;
use crate::store::schema as t;
use crate::store::{Row, StoreError, Tx};

/// An event as the bus carries it, for the database: its payload stays the text that it is.
#[derive(Debug, Deserialize)]
pub struct Carried<'a> {
    #[serde(with = "json::timestamp")]
    occurred: Timestamp,
    #[serde(borrow)]
    event: Cow<'a, str>,
    resource: Resource,
    #[serde(default)]
    related: Vec<Resource>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    id: Uuid,
    #[serde(default)]
    follows: Option<Uuid>,
    #[serde(with = "json::timestamp")]
    received: Timestamp,
}

/// Puts events in the order in which they are to be inserted, each once: by id, so that two writers take row locks in one
/// order; by time before that, so that the indexes that begin with it grow at their end.
pub fn put_in_order(events: &mut Vec<Carried<'_>>) {
    events.sort_by_key(|event| (event.occurred, event.id));
    let mut seen = HashSet::with_capacity(events.len());
    events.retain(|event| seen.insert(event.id));
}

/// Inserts events, [put in order](put_in_order), with the resources that they involve. Events that are there already stay
/// as they are. Gives the number of new ones.
///
/// # Errors
/// [`StoreError::Unique`] where another writer has just added one of them; it is there when this is tried again.
pub async fn insert(tx: &mut Tx, events: &[Carried<'_>], now: Timestamp) -> Result<usize, StoreError> {
    let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
    let there: HashSet<Uuid> = persisted(tx, &ids).await?.into_iter().collect();
    let events: Vec<&Carried<'_>> = events.iter().filter(|event| !there.contains(&event.id)).collect();
    if events.is_empty() {
        return Ok(0);
    }
    let json = |kind, of: fn(&Carried<'_>) -> String| Column::JsonText(kind, events.iter().map(|event| Some(of(event))).collect());
    let at = |of: fn(&Carried<'_>) -> Timestamp| Column::Timestamp(events.iter().map(|event| Some(of(event))).collect());
    let stamped = || Column::Timestamp(vec![Some(now); events.len()]);
    Bulk::new("events")
        .column("id", Column::Uuid(events.iter().map(|event| Some(event.id)).collect()))
        .column("occurred", at(|event| event.occurred))
        .column("event", Column::Text(events.iter().map(|event| Some(event.event.to_string())).collect()))
        .column("resource_id", Column::Text(events.iter().map(|event| Some(event.resource.get(ID).cloned().unwrap_or_default())).collect()))
        .column("resource", json("jsonb", |event| json_text(&event.resource)))
        .column("related_resource_ids", json("jsonb", |event| json_text(&event.related.iter().map(|one| one.get(ID)).collect::<Vec<_>>())))
        .column("related", json("jsonb", |event| json_text(&event.related)))
        .column("payload", json("jsonb", |event| event.payload.map_or("{}", RawValue::get).to_owned()))
        .column("received", at(|event| event.received))
        .column("recorded", stamped())
        .column("follows", Column::Uuid(events.iter().map(|event| event.follows).collect()))
        .column("created", stamped())
        .column("updated", stamped())
        .append(tx)
        .await?;
    let (mut ids, mut occurred, mut resource_ids, mut roles, mut labels) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for event in &events {
        let primary = std::iter::once((&event.resource, ""));
        let related = event.related.iter().map(|resource| (resource, resource.get(ROLE).map_or("", String::as_str)));
        for (resource, role) in primary.chain(related) {
            ids.push(Some(event.id));
            occurred.push(Some(event.occurred));
            resource_ids.push(resource.get(ID).cloned());
            roles.push(Some(role.to_owned()));
            labels.push(Some(json_text(&WithoutIdAndRole(resource))));
        }
    }
    if !ids.is_empty() {
        let rows = ids.len();
        Bulk::new("event_resources")
            // Nobody sees them: ordered by time, they fill their index from one end.
            .column("id", Column::Uuid((0..rows).map(|_| Some(crate::id::v7())).collect()))
            .column("event_id", Column::Uuid(ids))
            .column("occurred", Column::Timestamp(occurred))
            .column("resource_id", Column::Text(resource_ids))
            .column("resource_role", Column::Text(roles))
            .column("resource", Column::JsonText("json", labels))
            .column("created", Column::Timestamp(vec![Some(now); rows]))
            .column("updated", Column::Timestamp(vec![Some(now); rows]))
            .append(tx)
            .await?;
    }
    Ok(events.len())
}

/// Which of these events are in the database.
pub async fn persisted(tx: &mut Tx, events: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
    let mut select = Query::select();
    select.column(t::Events::Id).from(t::Events::Table).and_where(tx.dialect().any_id(Expr::col(t::Events::Id), events));
    tx.fetch_all(&select).await?.iter().map(|row| row.get("id")).collect()
}

const ID: &str = "prefect.resource.id";
const ROLE: &str = "prefect.resource.role";

/// Labels as `event_resources` keeps them: the id and the role have columns of their own.
struct WithoutIdAndRole<'a>(&'a Resource);

impl Serialize for WithoutIdAndRole<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().filter(|(label, _)| !matches!(label.as_str(), ID | ROLE)))
    }
}

const COLUMNS: [t::Events; 9] = [
    t::Events::Occurred,
    t::Events::Event,
    t::Events::Resource,
    t::Events::Related,
    t::Events::Payload,
    t::Events::Id,
    t::Events::Follows,
    t::Events::Received,
    t::Events::ResourceId,
];

fn decode(row: &Row) -> Result<ReceivedEvent, StoreError> {
    let event = Event {
        occurred: row.get("occurred")?,
        event: row.get("event")?,
        resource: row.json("resource")?,
        related: row.json("related")?,
        payload: row.json("payload")?,
        id: row.get("id")?,
        follows: row.get("follows")?,
    };
    Ok(ReceivedEvent { event, received: row.get("received")? })
}

/// Lists events in the filter's order of `occurred`. The filter's range must be filled in.
pub async fn list(tx: &mut Tx, filter: &EventFilter, limit: u64, offset: u64) -> Result<Vec<ReceivedEvent>, StoreError> {
    let order = if filter.order == EventOrder::Asc { Order::Asc } else { Order::Desc };
    let mut select = Query::select();
    select.columns(COLUMNS.map(|column| (t::Events::Table, column))).from(t::Events::Table).cond_where(condition(filter, tx.dialect()));
    if is_distinct(filter) {
        let number = Expr::cust(match filter.order {
            EventOrder::Asc => "ROW_NUMBER() OVER (PARTITION BY resource_id ORDER BY occurred ASC, id ASC)",
            EventOrder::Desc => "ROW_NUMBER() OVER (PARTITION BY resource_id ORDER BY occurred DESC, id DESC)",
        });
        select.expr_as(number, "number");
        let numbered = std::mem::take(&mut select);
        select.columns(COLUMNS).from_subquery(numbered, "numbered").and_where(Expr::col("number").eq(1));
        select.order_by(t::Events::Occurred, order.clone()).order_by(t::Events::Id, order);
    } else {
        select.order_by((t::Events::Table, t::Events::Occurred), order.clone()).order_by((t::Events::Table, t::Events::Id), order);
    }
    tx.fetch_all(select.limit(limit).offset(offset)).await?.iter().map(decode).collect()
}

/// Counts events (or their resources, where the filter asks for distinct ones).
pub async fn count(tx: &mut Tx, filter: &EventFilter) -> Result<i64, StoreError> {
    let mut select = Query::select();
    let counted =
        if is_distinct(filter) { Func::count_distinct(Expr::col(t::Events::ResourceId)) } else { Func::count(Expr::col(Asterisk)) };
    select.expr_as(counted, "count").from(t::Events::Table).cond_where(condition(filter, tx.dialect()));
    tx.fetch_one(&select).await?.get("count")
}

fn is_distinct(filter: &EventFilter) -> bool {
    filter.resource.as_ref().is_some_and(|resource| resource.distinct)
}

/// Events of each span that has some, by the span's number.
pub async fn count_by_span(tx: &mut Tx, filter: &EventFilter, spans: &Spans) -> Result<Vec<(i64, i64)>, StoreError> {
    let dialect = tx.dialect();
    let since_start = dialect.epoch_micros(Expr::col((t::Events::Table, t::Events::Occurred))).sub(spans.start.timestamp_micros());
    let mut select = Query::select();
    select
        .expr_as(since_start.div(spans.micros), "number")
        .expr_as(Func::count(Expr::col(Asterisk)), "count")
        .from(t::Events::Table)
        .cond_where(condition(filter, dialect))
        .group_by_col("number")
        .order_by("number", Order::Asc)
        .limit(u64::try_from(spans.count).unwrap_or_default());
    tx.fetch_all(&select).await?.iter().map(|row| Ok((row.get("number")?, row.get("count")?))).collect()
}

/// Events of each name or resource, the most frequent first; each with its newest label.
pub async fn count_by(tx: &mut Tx, filter: &EventFilter, countable: Countable, limit: u64) -> Result<Vec<EventCount>, StoreError> {
    let dialect = tx.dialect();
    let column = |column| Expr::col((t::Events::Table, column));
    let (value, label) = match countable {
        Countable::Resource => {
            let name = |label: &'static str| dialect.json_label(column(t::Events::Resource), label);
            let names = [name("prefect.resource.name"), name("prefect.name"), column(t::Events::ResourceId)];
            (column(t::Events::ResourceId), Func::coalesce(names).into())
        }
        Countable::Event | Countable::Day | Countable::Time => (column(t::Events::Event), column(t::Events::Event)),
    };
    let mut by_label = Query::select();
    by_label
        .expr_as(value, "value")
        .expr_as(label, "label")
        .expr_as(Func::max(column(t::Events::Occurred)), "latest")
        .expr_as(Func::min(column(t::Events::Occurred)), "oldest")
        .expr_as(Func::count(Expr::col(Asterisk)), "events")
        .from(t::Events::Table)
        .cond_where(condition(filter, dialect))
        .group_by_columns(["value", "label"]);
    let mut newest = Query::select();
    newest
        .columns(["value", "latest", "oldest", "events"])
        .expr_as(Expr::cust("first_value(label) OVER (PARTITION BY value ORDER BY latest DESC, label ASC)"), "label")
        .from_subquery(by_label, "by_label");
    let mut select = Query::select();
    select
        .columns(["value", "label"])
        .expr_as(dialect.integer(Func::sum(Expr::col("events"))), "count")
        .expr_as(Func::min(Expr::col("oldest")), "start_time")
        .expr_as(Func::max(Expr::col("latest")), "end_time")
        .from_subquery(newest, "newest")
        .group_by_columns(["value", "label"])
        .order_by("count", Order::Desc)
        .order_by("label", Order::Asc)
        .order_by("value", Order::Asc)
        .limit(limit);
    let line = |row: &Row| {
        Ok(EventCount {
            value: row.get("value")?,
            label: row.get("label")?,
            count: row.get("count")?,
            start_time: row.get("start_time")?,
            end_time: row.get("end_time")?,
        })
    };
    tx.fetch_all(&select).await?.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use jepsen::database::Kind;
    use sea_query::Values;
    use serde_json::json;

    use super::*;
    use crate::store::fence::tests::store;

    /// As the bus carries them: with more resources than go by a statement, and what is hard to carry.
    #[tokio::test]
    async fn resources_of_few_events_and_of_many_are_the_same_rows() {
        let at = Timestamp::from_timestamp_micros(1_700_000_000_123_456).expect("a moment");
        let texts: Vec<String> = (0..40_u128)
            .map(|number| {
                let labels = json!({"prefect.resource.id": format!("thing.{number}"), "name": "Größe \"7\"\t\\ 漢", "": "no name"});
                let related = [json!({"prefect.resource.id": "flow.1", "prefect.resource.role": "flow", "x": "y"})];
                let event = json!({
                    "id": Uuid::from_u128(number), "occurred": at, "received": at, "event": "tested", "resource": labels, "related": related,
                    "payload": {}, "follows": null,
                });
                event.to_string()
            })
            .collect();
        let events: Vec<Carried<'_>> = texts.iter().map(|text| serde_json::from_str(text).expect("an event")).collect();
        let mut kept = Vec::new();
        for batch in [1, 40] {
            let (store, _database, _directory) = store(Kind::Postgres).await;
            for events in events.chunks(batch) {
                let mut tx = store.begin("test").await.expect("a transaction");
                assert_eq!(insert(&mut tx, events, at).await.expect("they are inserted"), events.len());
                tx.commit().await.expect("it is kept");
            }
            let sql = "SELECT event_id::text || occurred || resource_id || resource_role || resource || created || updated AS row \
                       FROM event_resources ORDER BY 1";
            let rows = store.read("test").await.expect("a connection").fetch_sql(sql.into(), Values(Vec::new())).await.expect("rows");
            kept.push(rows.iter().map(|row| row.get::<String>("row")).collect::<Result<Vec<_>, _>>().expect("texts"));
        }
        assert_eq!(kept[0].len(), 80);
        assert!(kept[0].iter().any(|row| row.contains("Größe") && row.contains("2023-11-14")), "{:?}", kept[0]);
        assert_eq!(kept[0], kept[1], "the one by a statement, the other copied");
    }
}
