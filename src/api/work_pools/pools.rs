//! `/work_pools`: the pools themselves. Names that begin with `prefect` are reserved.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::NoContent;
use schemars::JsonSchema;
use sea_query::Cond;
use serde::Deserialize;
use serde_json::Value;

use super::queues;
use crate::api::answer::Created;
use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path, Shaped};
use crate::api::socket::worker_channel;
use crate::api::{job_variables, page};
use crate::app::App;
use crate::clock::Timestamp;
use crate::events::work_pool as events;
use crate::id::{WorkPoolId, WorkQueueId};
use crate::model::filter::work_pool::WorkPoolFilter;
use crate::model::status::WorkPoolStatus;
use crate::model::work_pool::{AGENT_POOL_TYPE, WorkPool, WorkPoolConcurrencyStatus, WorkPoolCreate, WorkPoolUpdate, WorkQueueConcurrency};
use crate::model::work_queue::WorkQueueCreate;
use crate::store::filter::work_pool::condition;
use crate::store::work_pools::{self as store, Key, StatusChange};
use crate::store::work_queues::{self, Counting, WorkQueueOrder};
use crate::store::{StoreError, Tx, workers};

/// 404 for a pool that is not there.
pub(crate) fn missing(name: &str) -> ApiError {
    ApiError::not_found(format!("Work pool \"{name}\" not found."))
}

/// Whether the name is kept for the system.
pub(crate) fn is_reserved(name: &str) -> bool {
    name.to_lowercase().starts_with("prefect")
}

fn reserved(detail: &str) -> ApiError {
    ApiError::detail(StatusCode::FORBIDDEN, detail)
}

/// Reads a pool by its name.
pub(crate) async fn by_name(tx: &mut Tx, name: &str) -> Result<WorkPool, ApiError> {
    store::read(tx, &Key::Name(name.to_owned())).await?.ok_or_else(|| missing(name))
}

/// Makes a pool with its default queue.
pub(crate) async fn make(tx: &mut Tx, now: Timestamp, create: &WorkPoolCreate) -> Result<WorkPool, StoreError> {
    let id = WorkPoolId::fresh();
    let status = if create.is_paused && create.kind != AGENT_POOL_TYPE { WorkPoolStatus::Paused } else { WorkPoolStatus::NotReady };
    store::insert(tx, id, now, create, status).await?;
    let queue = WorkQueueCreate { description: Some("The work pool's default queue.".into()), ..WorkQueueCreate::named("default") };
    let queue = queues::make(tx, id, now, &queue).await?;
    store::set_default_queue(tx, id, queue.id).await?;
    let pool = store::read(tx, &Key::Id(id)).await?.ok_or(StoreError::Database(sqlx::Error::RowNotFound))?;
    tx.emit(events::pool_created(&pool, now));
    Ok(pool)
}

/// Changes a pool and tells of what changed. `status` is the one to take; without it pausing and resuming decide.
pub(crate) async fn change(
    tx: &mut Tx,
    before: &WorkPool,
    now: Timestamp,
    update: &WorkPoolUpdate,
    status: Option<WorkPoolStatus>,
) -> Result<(), StoreError> {
    let status = match (status, update.is_paused.as_value()) {
        (Some(status), _) => Some(status),
        (None, Some(true)) if before.kind != AGENT_POOL_TYPE => Some(WorkPoolStatus::Paused),
        (None, Some(false)) if before.kind != AGENT_POOL_TYPE => {
            let online = workers::count_online(tx, before.id).await? > 0;
            Some(if online { WorkPoolStatus::Ready } else { WorkPoolStatus::NotReady })
        }
        _ => None,
    };
    let transition = status.map(|status| StatusChange { status, event_id: crate::id::v7(), at: now });
    store::update(tx, before.id, now, update, transition).await?;
    let Some(after) = store::read(tx, &Key::Id(before.id)).await? else { return Ok(()) };
    let changes = store::changes(before, &after);
    if !changes.is_empty() {
        tx.emit(events::pool_updated(&after, changes, now));
    }
    if let Some(event) = transition.and_then(|change| events::pool_status(change.event_id, Some(before), &after, now)) {
        tx.emit(event);
    }
    Ok(())
}

/// The pools as the client knows them: up to 3.3.7 it fails on a storage block for results.
fn answer<T: serde::Serialize>(headers: &HeaderMap, body: T) -> Result<Shaped<T>, ApiError> {
    let mut body = serde_json::to_value(body).map_err(|error| ApiError::Internal(error.to_string()))?;
    if is_old_client(headers) {
        let pools = match &mut body {
            Value::Array(pools) => pools.iter_mut().collect(),
            pool => vec![pool],
        };
        for pool in pools {
            if let Some(Value::Object(storage)) = pool.get_mut("storage_configuration") {
                storage.remove("default_result_storage_block_id");
            }
        }
    }
    Ok(body.into())
}

fn is_old_client(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some((version, rest)) = agent.strip_prefix("prefect/").and_then(|rest| rest.split_once(' ')) else { return false };
    if !rest.starts_with("(API ") {
        return false;
    }
    let numbers: Vec<u32> = version
        .splitn(3, '.')
        .map_while(|part| part.split(|letter: char| !letter.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()))
        .collect();
    numbers.len() == 3 && numbers.as_slice() <= [3, 3, 7].as_slice()
}

/// Create a work pool.
pub(super) async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    Json(body): Json<WorkPoolCreate>,
) -> Result<Created<Shaped<WorkPool>>, ApiError> {
    if is_reserved(&body.name) {
        return Err(reserved("Work pools starting with 'Prefect' are reserved for internal use."));
    }
    let now = app.now();
    let mut tx = app.begin("work_pools.create").await?;
    job_variables::check_pool_defaults(&app, &mut tx, &body.base_job_template).await?;
    let mut pool = make(&mut tx, now, &body).await.map_err(|error| match error {
        error if error.is_integrity() => ApiError::conflict("A work pool with this name already exists."),
        other => other.into(),
    })?;
    if let Some(event) = events::pool_status(crate::id::v7(), None, &pool, now) {
        tx.emit(event);
    }
    tx.commit().await?;
    pool.active_slots = pool.concurrency_limit.map(|_| 0);
    Ok(Created(answer(&headers, pool.shown())?))
}

/// Read a work pool by name.
pub(super) async fn read(State(app): State<App>, headers: HeaderMap, Path(name): Path<String>) -> Result<Json<Shaped<WorkPool>>, ApiError> {
    let mut tx = app.read("work_pools.read").await?;
    let pool = by_name(&mut tx, &name).await?;
    let pools = store::with_active_slots(&mut tx, vec![pool]).await?;
    let pool = pools.into_iter().next().ok_or_else(|| missing(&name))?;
    Ok(Json(answer(&headers, pool.shown())?))
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct FilterBody {
    work_pools: Option<WorkPoolFilter>,
    limit: Option<i64>,
    #[serde(deserialize_with = "crate::model::bounds::non_negative")]
    offset: Option<i64>,
}

/// List work pools.
pub(super) async fn filter(
    State(app): State<App>,
    headers: HeaderMap,
    Embedded(body): Embedded<FilterBody>,
) -> Result<Json<Shaped<Vec<WorkPool>>>, ApiError> {
    let (limit, offset) = (page::limit(body.limit)?, page::offset(body.offset)?);
    let mut tx = app.read("work_pools.filter").await?;
    let condition = condition(&body.work_pools.unwrap_or_default(), tx.dialect());
    let pools = store::list(&mut tx, condition, limit, offset).await?;
    let pools = store::with_active_slots(&mut tx, pools).await?;
    Ok(Json(answer(&headers, pools.into_iter().map(WorkPool::shown).collect::<Vec<_>>())?))
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct CountBody {
    work_pools: Option<WorkPoolFilter>,
}

/// Count work pools.
pub(super) async fn count(State(app): State<App>, Embedded(body): Embedded<CountBody>) -> Result<Json<i64>, ApiError> {
    let mut tx = app.read("work_pools.count").await?;
    let condition = condition(&body.work_pools.unwrap_or_default(), tx.dialect());
    Ok(Json(store::count(&mut tx, condition).await?))
}

/// Change a work pool.
pub(super) async fn update(
    State(app): State<App>,
    Path(name): Path<String>,
    Json(body): Json<WorkPoolUpdate>,
) -> Result<NoContent, ApiError> {
    let beyond_pausing = !body.description.is_absent() || !body.base_job_template.is_absent() || !body.storage_configuration.is_absent();
    if is_reserved(&name) && beyond_pausing {
        return Err(reserved(
            "Work pools starting with 'Prefect' are reserved for internal use and can only be updated to set concurrency limits or pause.",
        ));
    }
    let now = app.now();
    let mut tx = app.begin("work_pools.update").await?;
    let before = by_name(&mut tx, &name).await?;
    change(&mut tx, &before, now, &body, None).await?;
    let workers_see = !(body.base_job_template.is_absent()
        && body.concurrency_limit.is_absent()
        && body.is_paused.is_absent()
        && body.storage_configuration.is_absent());
    if workers_see {
        tx.hint(worker_channel::changed(before.id));
    }
    tx.commit().await?;
    Ok(NoContent)
}

/// Delete a work pool.
pub(super) async fn delete(State(app): State<App>, Path(name): Path<String>) -> Result<NoContent, ApiError> {
    if is_reserved(&name) {
        return Err(reserved("Work pools starting with 'Prefect' are reserved for internal use and can not be deleted."));
    }
    let now = app.now();
    let mut tx = app.begin("work_pools.delete").await?;
    let pool = by_name(&mut tx, &name).await?;
    for queue in work_queues::list(&mut tx, Some(pool.id), Cond::all(), WorkQueueOrder::Priority, None, 0).await? {
        tx.emit(events::queue_deleted(&queue, now));
    }
    tx.emit(events::pool_deleted(&pool, now));
    store::delete(&mut tx, pool.id).await?;
    tx.hint(worker_channel::changed(pool.id));
    tx.commit().await?;
    Ok(NoContent)
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct ConcurrencyBody {
    #[serde(deserialize_with = "crate::model::bounds::from_one")]
    page: Option<i64>,
    limit: Option<i64>,
    flow_run_limit: Option<i64>,
}

/// Runs shown per queue where the body does not say.
const FLOW_RUNS: i64 = 10;
/// Runs shown per queue at most.
const FLOW_RUNS_MAX: i64 = 200;

/// Read which runs hold the slots of a pool, queue by queue.
pub(super) async fn concurrency_status(
    State(app): State<App>,
    Path(name): Path<String>,
    Embedded(body): Embedded<ConcurrencyBody>,
) -> Result<Json<WorkPoolConcurrencyStatus>, ApiError> {
    let (page, limit) = (page::page(body.page)?, page::limit(body.limit)?);
    let per_queue = body.flow_run_limit.unwrap_or(FLOW_RUNS);
    if !(0..=FLOW_RUNS_MAX).contains(&per_queue) {
        let (kind, word) = if per_queue < 0 {
            ("greater_than_equal", "greater than or equal to 0")
        } else {
            ("less_than_equal", "less than or equal to 200")
        };
        return Err(ApiError::invalid(kind, &["body", "flow_run_limit"], format!("Input should be {word}"), per_queue.into()));
    }
    let now = app.now();
    let mut tx = app.read("work_pools.concurrency_status").await?;
    let pool = store::read(&mut tx, &Key::Name(name.clone())).await?;
    let pool = pool.ok_or_else(|| ApiError::not_found(format!("Work pool '{name}' not found.")))?;
    let queues =
        work_queues::list(&mut tx, Some(pool.id), Cond::all(), WorkQueueOrder::Priority, Some(limit), (page - 1).saturating_mul(limit))
            .await?;
    let count = work_queues::count(&mut tx, pool.id).await?.unsigned_abs();
    let active_slots = store::active_slots(&mut tx, &[pool.id]).await?.get(&pool.id).copied().unwrap_or(0);
    let ids: Vec<WorkQueueId> = queues.iter().map(|queue| queue.id).collect();
    let slots = work_queues::active_slots(&mut tx, &ids, Counting::Workers).await?;
    let mut holders = store::slot_holders(&mut tx, &ids, per_queue.unsigned_abs(), now).await?;
    let queues = queues
        .into_iter()
        .map(|queue| {
            let active = slots.get(&queue.id).copied().unwrap_or(0);
            WorkQueueConcurrency {
                queue_id: queue.id,
                queue_name: queue.name,
                active_slots: active,
                concurrency_limit: queue.concurrency_limit,
                flow_runs: holders.remove(&queue.id).unwrap_or_default(),
                flow_run_count: Some(active),
            }
        })
        .collect();
    let pages = if limit == 0 { 0 } else { count.div_ceil(limit) };
    Ok(Json(WorkPoolConcurrencyStatus { active_slots, concurrency_limit: pool.concurrency_limit, queues, count, limit, pages, page }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clients_up_to_3_3_7_are_old() {
        let old = |agent: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::USER_AGENT, agent.parse().expect("valid"));
            is_old_client(&headers)
        };
        assert!(old("prefect/3.3.7 (API 0.8.4)"));
        assert!(old("prefect/2.20.1 (API 0.8.4)"));
        assert!(old("prefect/3.3.7rc1 (API 0.8.4)"));
        assert!(!old("prefect/3.3.8 (API 0.8.4)"));
        assert!(!old("prefect/3.10.0 (API 0.8.4)"));
        assert!(!old("curl/8.0"));
        assert!(!is_old_client(&HeaderMap::new()));
    }
}
