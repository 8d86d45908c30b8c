//! Create (or replace), read, list and delete deployments.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::NoContent;
use schemars::JsonSchema;
use sea_query::{Cond, Expr, ExprTrait};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{body, missing};
use crate::api::error::ApiError;
use crate::api::extract::{self, Embedded, Json, Path, Shaped};
use crate::api::filters::of_queued::{CountBody, ListBody, PageBody};
use crate::api::filters::{bulk_items, bulk_limit};
use crate::api::openapi::{Routes, get, post};
use crate::api::page::Page;
use crate::api::work_pools::{pools, queues};
use crate::api::{job_variables, work_queues};
use crate::app::App;
use crate::clock::Timestamp;
use crate::events::deployment as events;
use crate::id::{ConcurrencyLimitId, DeploymentId, WorkQueueId};
use crate::model::Patch;
use crate::model::concurrency::{ConcurrencyLimitV2Create, ConcurrencyLimitV2Update};
use crate::model::deployment::{Deployment, DeploymentChange, DeploymentCreate, DeploymentScheduleCreate, DeploymentSort};
use crate::model::filter::Filters;
use crate::model::filter::deployment::DeploymentFilter;
use crate::model::labels::merge;
use crate::model::work_pool::DEFAULT_AGENT_POOL;
use crate::model::work_queue::BareWorkQueue;
use crate::store::deployments::{self as store, Key};
use crate::store::scheduled_runs::Which;
use crate::store::work_queues::WorkQueueOrder;
use crate::store::{StoreError, Tx, concurrency_limits, deployment_schedules, flows, scheduled_runs, slots};

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Deployments")
        .route("/deployments/", post(create))
        .route("/deployments/filter", post(filter))
        .route("/deployments/paginate", post(paginate))
        .route("/deployments/count", post(count))
        .route("/deployments/bulk_delete", post(bulk_delete))
        .route("/deployments/name/{flow_name}/{deployment_name}", get(read_by_name))
        .route("/deployments/{id}", get(read).delete(delete))
        .route("/deployments/{id}/work_queue_check", get(work_queue_check))
}

/// The queue that a deployment is to use, made where missing: of a pool, the pool's default, or one without a pool.
pub(super) async fn queue_for(
    tx: &mut Tx,
    pool: Option<&str>,
    queue: Option<&str>,
    now: Timestamp,
) -> Result<Option<WorkQueueId>, ApiError> {
    let filled = |name: &&str| !name.is_empty();
    match (pool.filter(filled), queue.filter(filled)) {
        (Some(pool), Some(queue)) => Ok(Some(queues::ensure(tx, pool, queue, now).await?.id)),
        (Some(pool), None) => Ok(pools::by_name(tx, pool).await?.default_queue_id),
        (None, Some(queue)) => Ok(Some(work_queues::ensure(tx, queue, now).await?.id)),
        (None, None) => Ok(None),
    }
}

/// Refuses a concurrency limit that is not there.
pub(super) async fn require_limit(tx: &mut Tx, id: Option<&ConcurrencyLimitId>) -> Result<(), ApiError> {
    let Some(id) = id else { return Ok(()) };
    let found = concurrency_limits::read(tx, &concurrency_limits::Key::Id(*id)).await?;
    found.map(drop).ok_or_else(|| ApiError::not_found("Concurrency limit not found"))
}

/// Sets, changes or takes away a deployment's own limit, `deployment:<id>`.
pub(super) async fn limit_to(tx: &mut Tx, id: DeploymentId, limit: Option<i64>, now: Timestamp) -> Result<(), ApiError> {
    let Some(deployment) = store::read(tx, &Key::Id(id)).await? else { return Ok(()) };
    let current = deployment.global_concurrency_limit.as_ref();
    if current.map(|current| current.limit) == limit {
        return Ok(());
    }
    store::set_old_concurrency_limit(tx, id, limit).await?;
    match (current, limit) {
        (None, None) => {}
        (Some(current), None) => {
            slots::detach(tx, current.id, now).await?;
            concurrency_limits::delete(tx, &concurrency_limits::Key::Id(current.id)).await?;
        }
        (Some(current), Some(limit)) => {
            let update = ConcurrencyLimitV2Update { limit: Patch::Value(limit), ..ConcurrencyLimitV2Update::default() };
            concurrency_limits::update(tx, &concurrency_limits::Key::Id(current.id), now, &update).await?;
        }
        (None, Some(limit)) => {
            let create = ConcurrencyLimitV2Create {
                active: true,
                name: format!("deployment:{id}"),
                limit,
                active_slots: 0,
                denied_slots: 0,
                slot_decay_per_second: 0.0,
            };
            let made = concurrency_limits::insert(tx, now, &create).await?;
            let change = DeploymentChange { concurrency_limit_id: Patch::Value(made.id), ..DeploymentChange::default() };
            store::update(tx, id, now, &change).await?;
        }
    }
    Ok(())
}

/// Replaces all schedules of a deployment.
pub(super) async fn replace_schedules(
    tx: &mut Tx,
    id: DeploymentId,
    schedules: Vec<DeploymentScheduleCreate>,
    now: Timestamp,
) -> Result<(), StoreError> {
    deployment_schedules::delete_all(tx, id).await?;
    // The reference does not keep how many runs a schedule may have when it comes with its deployment.
    let schedules: Vec<DeploymentScheduleCreate> =
        schedules.into_iter().map(|schedule| DeploymentScheduleCreate { max_scheduled_runs: None, ..schedule }).collect();
    deployment_schedules::insert(tx, id, now, &schedules).await.map(drop)
}

/// Create a deployment, or change the one that its flow has by that name.
async fn create(State(app): State<App>, Json(given): Json<Shaped<DeploymentCreate>>) -> Result<(StatusCode, Json<Deployment>), ApiError> {
    let mut create = body::create(extract::bounds(&app), given.value)?;
    let now = app.now();
    let mut tx = app.begin("deployments.create").await?;
    let pool = create.work_pool_name.as_value().filter(|name| !name.is_empty()).cloned();
    if let Some(name) = pool.as_deref().filter(|name| *name != DEFAULT_AGENT_POOL) {
        let pool = pools::by_name(&mut tx, name).await?;
        job_variables::check_deployment(&app, &mut tx, &pool, &create.job_variables).await?;
    }
    require_limit(&mut tx, create.global_concurrency_limit_id.as_value()).await?;
    let queue = queue_for(&mut tx, pool.as_deref(), create.work_queue_name.as_value().map(String::as_str), now).await?;
    for (document, what) in [(&create.infrastructure_document_id, "infrastructure"), (&create.storage_document_id, "storage")] {
        if let Some(id) = document.as_value()
            && !job_variables::block_exists(&mut tx, *id).await?
        {
            return Err(ApiError::conflict(format!(
                "Error creating deployment. Could not find {what} block with id: {id}. This usually occurs when applying a deployment \
                 specification that was built against a different Prefect database / workspace."
            )));
        }
    }
    let system = serde_json::Map::from_iter([("prefect.flow.id".to_owned(), json!(create.flow_id))]);
    create.labels = merge([flows::labels(&mut tx, create.flow_id).await?, system, create.labels]);

    let (flow, name, limit) = (create.flow_id, create.name.clone(), create.concurrency_limit.clone());
    let schedules = std::mem::take(&mut create.schedules);
    let mut change = DeploymentChange::from(create);
    change.work_queue_id = queue.map_or(Patch::Absent, Patch::Value);

    let key = Key::OfFlow(flow, name.clone());
    let mut before = store::read_for_update(&mut tx, &key).await?;
    let mut id = before.as_ref().map_or_else(DeploymentId::fresh, |before| before.id);
    if before.is_none() && !store::insert(&mut tx, id, flow, &name, now, &change).await? {
        // Somebody made it meanwhile.
        before = store::read_for_update(&mut tx, &key).await?;
        id = before.as_ref().ok_or_else(|| ApiError::Unavailable("a deployment came and went".into()))?.id;
    }
    if before.is_some() {
        store::update(&mut tx, id, now, &change).await?;
        scheduled_runs::delete(&mut tx, &[id], Which::AutomaticAfter(now)).await?;
    }
    replace_schedules(&mut tx, id, schedules, now).await?;
    if let Some(limit) = limit.into_option() {
        limit_to(&mut tx, id, limit, now).await?;
    }
    let after = store::read(&mut tx, &Key::Id(id)).await?.ok_or_else(missing)?;
    match &before {
        None => tx.emit(events::created(&after, now)),
        Some(before) => {
            let changes = store::changes(before, &after);
            if !changes.is_empty() {
                tx.emit(events::updated(&after, changes, now));
            }
        }
    }
    tx.commit().await?;
    Ok((if before.is_none() { StatusCode::CREATED } else { StatusCode::OK }, Json(after)))
}

/// Read a deployment by id.
async fn read(State(app): State<App>, Path(id): Path<DeploymentId>) -> Result<Json<Deployment>, ApiError> {
    store::read(&mut app.read("deployments.read").await?, &Key::Id(id)).await?.map(Json).ok_or_else(missing)
}

/// Read a deployment by the name of its flow and its own.
async fn read_by_name(State(app): State<App>, Path((flow, deployment)): Path<(String, String)>) -> Result<Json<Deployment>, ApiError> {
    let key = Key::Names { flow, deployment };
    store::read(&mut app.read("deployments.read_by_name").await?, &key).await?.map(Json).ok_or_else(missing)
}

/// List deployments.
async fn filter(State(app): State<App>, Embedded(body): Embedded<ListBody<DeploymentSort>>) -> Result<Json<Vec<Deployment>>, ApiError> {
    let (limit, offset) = body.window()?;
    let (filters, sort) = body.into_filters();
    Ok(Json(store::list(&mut app.read("deployments.filter").await?, &filters, sort, limit, offset).await?))
}

/// List deployments page by page.
async fn paginate(State(app): State<App>, Embedded(body): Embedded<PageBody<DeploymentSort>>) -> Result<Json<Page<Deployment>>, ApiError> {
    let (limit, page, offset) = body.paged()?;
    let (filters, sort) = body.into_filters();
    let mut tx = app.read("deployments.paginate").await?;
    let deployments = store::list(&mut tx, &filters, sort, limit, offset).await?;
    let count = store::count(&mut tx, &filters).await?;
    Ok(Json(Page::new(deployments, count, limit, page)))
}

/// Count deployments.
async fn count(State(app): State<App>, Embedded(body): Embedded<CountBody>) -> Result<Json<u64>, ApiError> {
    let filters = body.into_filters();
    Ok(Json(store::count(&mut app.read("deployments.count").await?, &filters).await?))
}

async fn remove(tx: &mut Tx, deployments: &[Deployment], now: Timestamp) -> Result<Vec<DeploymentId>, StoreError> {
    let ids: Vec<DeploymentId> = deployments.iter().map(|deployment| deployment.id).collect();
    store::lock(tx, &ids, store::Lock::Change).await?;
    store::delete(tx, &ids).await?;
    for deployment in deployments {
        tx.emit(events::deleted(deployment, now));
    }
    Ok(ids)
}

/// Delete a deployment with its schedules and the runs that wait for their time.
async fn delete(State(app): State<App>, Path(id): Path<DeploymentId>) -> Result<NoContent, ApiError> {
    let mut tx = app.begin("deployments.delete").await?;
    let deployment = store::read(&mut tx, &Key::Id(id)).await?.ok_or_else(missing)?;
    remove(&mut tx, &[deployment], app.now()).await?;
    tx.commit().await?;
    Ok(NoContent)
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct BulkDeleteBody {
    deployments: Option<DeploymentFilter>,
    #[serde(deserialize_with = "bulk_items")]
    limit: Option<i64>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeploymentBulkDeleteResponse")]
struct BulkDeleted {
    deleted: Vec<DeploymentId>,
}

/// Delete deployments that match.
async fn bulk_delete(State(app): State<App>, Embedded(body): Embedded<BulkDeleteBody>) -> Result<Json<BulkDeleted>, ApiError> {
    let limit = bulk_limit(body.limit);
    let filters = Filters { deployments: body.deployments, ..Filters::default() };
    let mut tx = app.begin("deployments.bulk_delete").await?;
    let deployments = store::list(&mut tx, &filters, DeploymentSort::default(), limit, 0).await?;
    let deleted = remove(&mut tx, &deployments, app.now()).await?;
    tx.commit().await?;
    Ok(Json(BulkDeleted { deleted }))
}

/// List the old queues whose filter picks runs of a deployment.
async fn work_queue_check(State(app): State<App>, Path(id): Path<DeploymentId>) -> Result<Json<Vec<BareWorkQueue>>, ApiError> {
    let mut tx = app.read("deployments.work_queue_check").await?;
    let deployment = store::read(&mut tx, &Key::Id(id)).await?.ok_or_else(missing)?;
    let with_filter =
        Cond::all().add(Expr::col((crate::store::schema::WorkQueue::Table, crate::store::schema::WorkQueue::Filter)).is_not_null());
    let queues = crate::store::work_queues::list(&mut tx, None, with_filter, WorkQueueOrder::Name, None, 0).await?;
    let picks = queues.into_iter().filter(|queue| {
        let Some(filter) = &queue.filter else { return false };
        let tags = filter.tags.as_deref().unwrap_or_default();
        let ids = filter.deployment_ids.as_deref().unwrap_or_default();
        tags.iter().all(|tag| deployment.tags.contains(tag)) && (ids.is_empty() || ids.contains(&id))
    });
    Ok(Json(picks.map(BareWorkQueue::from).collect()))
}
