//! Task runs and their states as the recorder writes them: many at a time, the newest state wins, every state is kept.
//!
//! A task run is known by its natural key (flow run, task key, dynamic key) first and by its id second; what is there
//! under either keeps its id, and the states of a run recorded under another id go to it. Task runs of a flow run that
//! was deleted are left out.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use sea_query::{Expr, Query};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::model::json;
use crate::model::state::{State, StateType};
use crate::store::bulk::{Bulk, Column, Conflict, json_text};
use crate::store::schema as t;
use crate::store::{Row, Seconds, StoreError, Tx};

/// A task run as one of its state changes tells of it.
#[derive(Debug, Clone)]
pub struct Record {
    pub id: Uuid,
    pub flow_run_id: Option<Uuid>,
    /// What the change tells of the run.
    pub told: Told,
    /// The state that it changed to; its id is the event's.
    pub state: State,
}

/// What a state change tells of a task run; what it leaves out stays as it is. Unknown keys are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct Told {
    pub task_key: String,
    pub dynamic_key: String,
    pub name: Option<String>,
    pub cache_key: Option<String>,
    #[serde(default, with = "json::optional_timestamp")]
    pub cache_expiration: Option<Timestamp>,
    pub task_version: Option<String>,
    pub empirical_policy: Option<ObjectText>,
    pub task_inputs: Option<ObjectText>,
    pub tags: Option<Vec<String>>,
    pub labels: Option<ObjectText>,
    pub run_count: Option<i64>,
    pub flow_run_run_count: Option<i64>,
    #[serde(default, with = "json::optional_timestamp")]
    pub expected_start_time: Option<Timestamp>,
    #[serde(default, with = "json::optional_timestamp")]
    pub next_scheduled_start_time: Option<Timestamp>,
    #[serde(default, with = "json::optional_timestamp")]
    pub start_time: Option<Timestamp>,
    #[serde(default, with = "json::optional_timestamp")]
    pub end_time: Option<Timestamp>,
    #[serde(default, with = "json::optional_seconds")]
    pub total_run_time: Option<f64>,
}

/// A JSON object that stays the text that it is.
#[derive(Debug, Clone)]
pub struct ObjectText(Box<RawValue>);

impl<'de> Deserialize<'de> for ObjectText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        if text.get().starts_with('{') { Ok(Self(text)) } else { Err(D::Error::custom("expected an object")) }
    }
}

impl ObjectText {
    fn text(&self) -> String {
        self.0.get().to_owned()
    }
}

/// The columns of `task_run`, its state's aside.
#[derive(Debug, Clone)]
struct Columns {
    flow_run_id: Option<Uuid>,
    told: Told,
    state_timestamp: Option<Timestamp>,
}

impl Columns {
    /// Takes over what a newer change tells.
    fn take(&mut self, flow_run_id: Option<Uuid>, told: Told) {
        let own = &mut self.told;
        self.flow_run_id = flow_run_id;
        own.task_key = told.task_key;
        own.dynamic_key = told.dynamic_key;
        macro_rules! take {
            ($($field:ident),*) => {$( if told.$field.is_some() { own.$field = told.$field; } )*};
        }
        take!(
            name,
            cache_key,
            cache_expiration,
            task_version,
            empirical_policy,
            task_inputs,
            tags,
            labels,
            run_count,
            flow_run_run_count,
            expected_start_time,
            next_scheduled_start_time,
            start_time,
            end_time,
            total_run_time
        );
    }
}

type NaturalKey = (Uuid, String, String);

impl Record {
    fn natural_key(&self) -> Option<NaturalKey> {
        self.flow_run_id.map(|flow_run| (flow_run, self.told.task_key.clone(), self.told.dynamic_key.clone()))
    }
}

/// What upserting a task run does with one that is there.
const NEWEST_WINS: &str = concat!(
    "(id) DO UPDATE SET updated = excluded.updated, flow_run_id = excluded.flow_run_id, name = excluded.name, ",
    "task_key = excluded.task_key, dynamic_key = excluded.dynamic_key, cache_key = excluded.cache_key, ",
    "cache_expiration = excluded.cache_expiration, task_version = excluded.task_version, ",
    "empirical_policy = excluded.empirical_policy, task_inputs = excluded.task_inputs, tags = excluded.tags, ",
    "labels = excluded.labels, run_count = excluded.run_count, flow_run_run_count = excluded.flow_run_run_count, ",
    "expected_start_time = excluded.expected_start_time, ",
    "next_scheduled_start_time = excluded.next_scheduled_start_time, start_time = excluded.start_time, ",
    "end_time = excluded.end_time, total_run_time = excluded.total_run_time, state_id = excluded.state_id, ",
    "state_type = excluded.state_type, state_name = excluded.state_name, state_timestamp = excluded.state_timestamp ",
    "WHERE task_run.state_timestamp IS NULL OR task_run.state_timestamp < excluded.state_timestamp"
);

/// Divides records in two, so that no task run, by its id or by its natural key, is in both; the second half is empty
/// where that cannot be done.
pub fn halves(records: Vec<Record>) -> (Vec<Record>, Vec<Record>) {
    let (mut by_id, mut by_key) = (HashMap::new(), HashMap::new());
    let mut half = Vec::with_capacity(records.len());
    let mut next = false;
    for record in &records {
        let id = by_id.get(&record.id).copied();
        let key = record.flow_run_id.map(|flow_run| (flow_run, record.told.task_key.as_str(), record.told.dynamic_key.as_str()));
        let known = key.and_then(|key| by_key.get(&key).copied());
        if id.is_some() && known.is_some() && id != known {
            return (records, Vec::new());
        }
        let chosen = id.or(known).unwrap_or_else(|| {
            next = !next;
            next
        });
        by_id.insert(record.id, chosen);
        if let Some(key) = key {
            by_key.insert(key, chosen);
        }
        half.push(chosen);
    }
    let mut half = half.into_iter();
    records.into_iter().partition(|_| half.next().expect("one for each"))
}

/// Records state changes. Gives how many were left out because their flow run is gone.
pub async fn record(tx: &mut Tx, mut records: Vec<Record>, now: Timestamp) -> Result<usize, StoreError> {
    let given = records.len();
    let flow_runs = existing_flow_runs(tx, &records).await?;
    records.retain(|record| record.flow_run_id.is_none_or(|id| flow_runs.contains(&id)));
    let left_out = given - records.len();
    if records.is_empty() {
        return Ok(left_out);
    }
    let (by_key, mut existing) = existing_task_runs(tx, &records).await?;
    canonicalize(&mut records, by_key, &existing);
    // In key order, so that two recorders take row locks in one order.
    let mut merged: BTreeMap<Uuid, (Columns, usize)> = BTreeMap::new();
    let mut states = Vec::with_capacity(records.len());
    for (index, Record { id, flow_run_id, told, state }) in records.into_iter().enumerate() {
        match merged.entry(id) {
            Entry::Vacant(new) => {
                let there = existing.remove(&id);
                let columns = match there {
                    // What is older than the row as it stands changes nothing; the upsert sees to it as well.
                    Some(there) if there.state_timestamp.is_some_and(|at| at >= state.timestamp) => there,
                    Some(mut there) => {
                        there.take(flow_run_id, told);
                        there
                    }
                    None => Columns { flow_run_id, told, state_timestamp: None },
                };
                new.insert((columns, index));
            }
            Entry::Occupied(mut run) => {
                let (columns, newest) = run.get_mut();
                if columns.state_timestamp.is_none_or(|at| at < state.timestamp) {
                    columns.take(flow_run_id, told);
                    *newest = index;
                }
            }
        }
        states.push((id, state));
    }
    let runs: Vec<_> = merged.into_iter().map(|(id, (columns, newest))| (id, columns, &states[newest].1)).collect();
    upsert_runs(tx, &runs, now).await?;
    insert_states(tx, &states, now).await?;
    Ok(left_out)
}

/// Locks the flow runs of the records against deletion and gives those that there are.
async fn existing_flow_runs(tx: &mut Tx, records: &[Record]) -> Result<HashSet<Uuid>, StoreError> {
    let mut ids: Vec<Uuid> = records.iter().filter_map(|record| record.flow_run_id).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let dialect = tx.dialect();
    let mut select = Query::select();
    select.column(t::FlowRun::Id).from(t::FlowRun::Table).and_where(dialect.any_id(Expr::col(t::FlowRun::Id), &ids));
    select.order_by(t::FlowRun::Id, sea_query::Order::Asc);
    dialect.for_key_share(&mut select);
    tx.fetch_all(&select).await?.iter().map(|row| row.get("id")).collect()
}

/// The task runs that are there: ids by natural key, and columns by id.
async fn existing_task_runs(tx: &mut Tx, records: &[Record]) -> Result<(HashMap<NaturalKey, Uuid>, HashMap<Uuid, Columns>), StoreError> {
    let dialect = tx.dialect();
    let keys: Vec<NaturalKey> = records.iter().filter_map(Record::natural_key).collect::<HashSet<_>>().into_iter().collect();
    let ids: Vec<Uuid> = records.iter().map(|record| record.id).collect::<HashSet<_>>().into_iter().collect();
    let mut select = Query::select();
    select.columns(super::task_runs::COLUMNS).from(t::TaskRun::Table).and_where(dialect.any_id(Expr::col(t::TaskRun::Id), &ids));
    let mut rows = tx.fetch_all(&select).await?;
    if !keys.is_empty() {
        let mut select = Query::select();
        select.columns(super::task_runs::COLUMNS).from(t::TaskRun::Table).and_where(dialect.is_task_run_key(&keys));
        rows.extend(tx.fetch_all(&select).await?);
    }
    let (mut by_key, mut existing) = (HashMap::new(), HashMap::new());
    for row in &rows {
        let (id, columns) = (row.get("id")?, decode(row)?);
        if let Some(flow_run) = columns.flow_run_id {
            by_key.insert((flow_run, columns.told.task_key.clone(), columns.told.dynamic_key.clone()), id);
        }
        existing.insert(id, columns);
    }
    Ok((by_key, existing))
}

fn decode(row: &Row) -> Result<Columns, StoreError> {
    let told = Told {
        task_key: row.get("task_key")?,
        dynamic_key: row.get("dynamic_key")?,
        name: row.get("name")?,
        cache_key: row.get("cache_key")?,
        cache_expiration: row.get("cache_expiration")?,
        task_version: row.get("task_version")?,
        empirical_policy: row.json("empirical_policy")?,
        task_inputs: row.json("task_inputs")?,
        tags: row.json("tags")?,
        labels: row.json("labels")?,
        run_count: row.get("run_count")?,
        flow_run_run_count: row.get("flow_run_run_count")?,
        expected_start_time: row.get("expected_start_time")?,
        next_scheduled_start_time: row.get("next_scheduled_start_time")?,
        start_time: row.get("start_time")?,
        end_time: row.get("end_time")?,
        total_run_time: Some(row.get::<Seconds>("total_run_time")?.0),
    };
    Ok(Columns { flow_run_id: row.get("flow_run_id")?, told, state_timestamp: row.get("state_timestamp")? })
}

/// Sorts by time and gives records of one task run one id: that of the row with its natural key, else its own.
fn canonicalize(records: &mut [Record], mut by_key: HashMap<NaturalKey, Uuid>, existing: &HashMap<Uuid, Columns>) {
    records.sort_by_key(|record| record.state.timestamp);
    // Ids that turned out to be another run's by the natural key of a record in this batch.
    let mut alias: HashMap<Uuid, Uuid> = HashMap::new();
    for record in records.iter_mut() {
        let id = record.id;
        let known = record.natural_key().and_then(|key| {
            // A row with this id but another key keeps its id; otherwise the first record of a key names the run.
            let keeps = existing.contains_key(&id) && !by_key.contains_key(&key);
            if keeps { None } else { Some(*by_key.entry(key).or_insert(id)) }
        });
        let canonical = known.or_else(|| alias.get(&id).copied()).unwrap_or(id);
        if canonical != id {
            alias.insert(id, canonical);
        }
        record.id = canonical;
        record.state.state_details.task_run_id = Some(canonical.into());
    }
}

async fn upsert_runs(tx: &mut Tx, runs: &[(Uuid, Columns, &State)], now: Timestamp) -> Result<(), StoreError> {
    macro_rules! told {
        ($kind:ident, $of:expr) => {
            Column::$kind(runs.iter().map(|(_, columns, _)| &columns.told).map($of).collect())
        };
    }
    macro_rules! object {
        ($of:expr) => {
            Column::JsonText("jsonb", runs.iter().map(|(_, columns, _)| &columns.told).map($of).collect())
        };
    }
    let states = || runs.iter().map(|(_, _, newest)| newest);
    let or_empty = |given: &Option<ObjectText>| Some(given.as_ref().map_or_else(|| "{}".to_owned(), ObjectText::text));
    Bulk::new("task_run")
        .column("id", Column::Uuid(runs.iter().map(|(id, ..)| Some(*id)).collect()))
        .column("created", Column::Timestamp(vec![Some(now); runs.len()]))
        .column("updated", Column::Timestamp(vec![Some(now); runs.len()]))
        .column("flow_run_id", Column::Uuid(runs.iter().map(|(_, columns, _)| columns.flow_run_id).collect()))
        .column("name", told!(Text, |told| Some(told.name.clone().unwrap_or_else(crate::model::run::generated_name))))
        .column("task_key", told!(Text, |told| Some(told.task_key.clone())))
        .column("dynamic_key", told!(Text, |told| Some(told.dynamic_key.clone())))
        .column("cache_key", told!(Text, |told| told.cache_key.clone()))
        .column("cache_expiration", told!(Timestamp, |told| told.cache_expiration))
        .column("task_version", told!(Text, |told| told.task_version.clone()))
        .column("empirical_policy", object!(|told| or_empty(&told.empirical_policy)))
        .column("task_inputs", object!(|told| or_empty(&told.task_inputs)))
        .column("tags", object!(|told| Some(json_text(&told.tags.as_deref().unwrap_or_default()))))
        .column("labels", object!(|told| told.labels.as_ref().map(ObjectText::text)))
        .column("run_count", told!(Integer, |told| Some(told.run_count.unwrap_or(0))))
        .column("flow_run_run_count", told!(Integer, |told| Some(told.flow_run_run_count.unwrap_or(0))))
        .column("expected_start_time", told!(Timestamp, |told| told.expected_start_time))
        .column("next_scheduled_start_time", told!(Timestamp, |told| told.next_scheduled_start_time))
        .column("start_time", told!(Timestamp, |told| told.start_time))
        .column("end_time", told!(Timestamp, |told| told.end_time))
        .column("total_run_time", told!(Seconds, |told| told.total_run_time.unwrap_or(0.0)))
        .column("state_id", Column::Uuid(states().map(|state| Some(state.id.0)).collect()))
        .column("state_type", Column::Enum("state_type", states().map(|state| Some(state.kind.to_string())).collect()))
        .column("state_name", Column::Text(states().map(|state| Some(state.name.clone())).collect()))
        .column("state_timestamp", Column::Timestamp(states().map(|state| Some(state.timestamp)).collect()))
        .insert(tx, Conflict::Clause(NEWEST_WINS), "")
        .await
        .map(drop)
}

/// A state that is there already, by its id or by its run and timestamp, stays as it is.
async fn insert_states(tx: &mut Tx, states: &[(Uuid, State)], now: Timestamp) -> Result<(), StoreError> {
    let all = || states.iter().map(|(_, state)| state);
    Bulk::new("task_run_state")
        .column("id", Column::Uuid(all().map(|state| Some(state.id.0)).collect()))
        .column("created", Column::Timestamp(vec![Some(now); states.len()]))
        .column("updated", Column::Timestamp(vec![Some(now); states.len()]))
        .column("type", Column::Enum("state_type", all().map(|state| Some(StateType::as_str(state.kind).to_owned())).collect()))
        .column("timestamp", Column::Timestamp(all().map(|state| Some(state.timestamp)).collect()))
        .column("name", Column::Text(all().map(|state| Some(state.name.clone())).collect()))
        .column("message", Column::Text(all().map(|state| state.message.clone()).collect()))
        .column("state_details", Column::JsonText("jsonb", all().map(|state| Some(json_text(&state.state_details))).collect()))
        .column("data", Column::Json(all().map(|state| state.data.clone()).collect()))
        .column("task_run_id", Column::Uuid(states.iter().map(|(task_run, _)| Some(*task_run)).collect()))
        .insert(tx, Conflict::Nothing, "")
        .await
        .map(drop)
}
