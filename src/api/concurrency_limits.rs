//! `/concurrency_limits`: the old API of limits on tags, over the limits named `tag:<tag>`; limits of the old table are
//! still served.

use std::collections::HashSet;

use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;
use uuid::Uuid;

use crate::api::concurrency_limits_v2::waits;
use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path};
use crate::api::openapi::{Routes, get, post};
use crate::api::page;
use crate::app::App;
use crate::clock::Timestamp;
use crate::events::lifecycle::{self, Action};
use crate::id::ConcurrencyLimitId;
use crate::model::Patch;
use crate::model::concurrency::{
    ConcurrencyLimit, ConcurrencyLimitCreate, ConcurrencyLimitV2, ConcurrencyLimitV2Create, ConcurrencyLimitV2Update, HolderType,
    LeaseHolder, MinimalConcurrencyLimit, TAG_PREFIX,
};
use crate::store::concurrency_limits::{self as store, Key, v1};
use crate::store::leases::{self, FOREVER, Lease, Occupancy};
use crate::store::{StoreError, Tx, slots};

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Concurrency Limits")
        .route("/concurrency_limits/", post(create))
        .route("/concurrency_limits/filter", post(filter))
        .route("/concurrency_limits/increment", post(increment))
        .route("/concurrency_limits/decrement", post(decrement))
        .route("/concurrency_limits/tag/{tag}", get(read_by_tag).delete(delete_by_tag))
        .route("/concurrency_limits/tag/{tag}/reset", post(reset))
        .route("/concurrency_limits/{id}", get(read).delete(delete))
}

fn missing() -> ApiError {
    ApiError::not_found("Concurrency limit not found")
}

fn name(tag: &str) -> String {
    format!("{TAG_PREFIX}{tag}")
}

/// A limit by name as the old API shows it: with the task runs that hold its slots.
fn old_form(limit: ConcurrencyLimitV2, leases: &[Lease], now: Timestamp) -> ConcurrencyLimit {
    let holders =
        leases.iter().filter(|lease| lease.expires > now && lease.limits.contains(&limit.id)).filter_map(|lease| lease.holder.as_ref());
    ConcurrencyLimit {
        id: limit.id,
        created: limit.created,
        updated: limit.updated,
        tag: limit.tag().unwrap_or(&limit.name).to_owned(),
        concurrency_limit: limit.limit,
        active_slots: holders.filter(|holder| holder.kind == HolderType::TaskRun).map(|holder| holder.id).collect(),
    }
}

async fn in_old_form(tx: &mut Tx, limit: ConcurrencyLimitV2, now: Timestamp) -> Result<ConcurrencyLimit, StoreError> {
    let leases = leases::list_on(tx, &[limit.id]).await?;
    Ok(old_form(limit, &leases, now))
}

/// Create a limit on a tag, or change the one that there is.
async fn create(
    State(app): State<App>,
    Json(body): Json<ConcurrencyLimitCreate>,
) -> Result<(StatusCode, Json<ConcurrencyLimit>), ApiError> {
    let now = app.now();
    let mut tx = app.begin("concurrency_limits.create").await?;
    let name = name(&body.tag);
    let (status, limit) = if let Some(existing) = store::read(&mut tx, &Key::Name(name.clone())).await? {
        let change = ConcurrencyLimitV2Update { limit: Patch::Value(body.concurrency_limit), ..ConcurrencyLimitV2Update::default() };
        store::update(&mut tx, &Key::Id(existing.id), now, &change).await?;
        let limit = ConcurrencyLimitV2 { limit: body.concurrency_limit, updated: now, ..existing };
        tx.emit(lifecycle::concurrency_limit_v2(Action::Updated, &limit, now));
        (StatusCode::OK, limit)
    } else {
        let create = ConcurrencyLimitV2Create {
            active: true,
            name,
            limit: body.concurrency_limit,
            active_slots: 0,
            denied_slots: 0,
            slot_decay_per_second: 0.0,
        };
        let limit = store::insert(&mut tx, now, &create).await?;
        tx.emit(lifecycle::concurrency_limit_v2(Action::Created, &limit, now));
        (StatusCode::CREATED, limit)
    };
    let answer = in_old_form(&mut tx, limit, now).await?;
    tx.commit().await?;
    Ok((status, Json(answer)))
}

/// Read a limit by id.
async fn read(State(app): State<App>, Path(id): Path<ConcurrencyLimitId>) -> Result<Json<ConcurrencyLimit>, ApiError> {
    let mut tx = app.read("concurrency_limits.read").await?;
    match store::read(&mut tx, &Key::Id(id)).await?.filter(|limit| limit.tag().is_some()) {
        Some(limit) => Ok(Json(in_old_form(&mut tx, limit, app.now()).await?)),
        None => v1::read(&mut tx, &v1::Key::Id(id)).await?.map(Json).ok_or_else(missing),
    }
}

/// Read a limit by tag.
async fn read_by_tag(State(app): State<App>, Path(tag): Path<String>) -> Result<Json<ConcurrencyLimit>, ApiError> {
    let mut tx = app.read("concurrency_limits.read_by_tag").await?;
    match store::read(&mut tx, &Key::Name(name(&tag))).await? {
        Some(limit) => Ok(Json(in_old_form(&mut tx, limit, app.now()).await?)),
        None => v1::read(&mut tx, &v1::Key::Tag(tag)).await?.map(Json).ok_or_else(missing),
    }
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct FilterBody {
    limit: Option<i64>,
    #[serde(deserialize_with = "crate::model::bounds::non_negative")]
    offset: Option<i64>,
}

/// List limits on tags; one by name hides an old one on the same tag.
async fn filter(State(app): State<App>, Embedded(body): Embedded<FilterBody>) -> Result<Json<Vec<ConcurrencyLimit>>, ApiError> {
    let (limit, offset) = (page::limit(body.limit)?, page::offset(body.offset)?);
    let mut tx = app.read("concurrency_limits.filter").await?;
    let old = v1::list(&mut tx, limit + offset).await?;
    let limits = store::list(&mut tx, limit + offset, 0).await?;
    let limits: Vec<_> = limits.into_iter().filter(|limit| limit.tag().is_some()).collect();
    let ids: Vec<_> = limits.iter().map(|limit| limit.id).collect();
    let (leases, now) = (leases::list_on(&mut tx, &ids).await?, app.now());
    let mut all: Vec<_> = limits.into_iter().map(|limit| old_form(limit, &leases, now)).collect();
    let tags: HashSet<String> = all.iter().map(|limit| limit.tag.clone()).collect();
    all.extend(old.into_iter().filter(|limit| !tags.contains(&limit.tag)));
    Ok(Json(all.into_iter().skip(offset as usize).take(limit as usize).collect()))
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct ResetBody {
    slot_override: Option<Vec<Uuid>>,
}

/// Forget who holds slots of a limit, and put down the given task runs instead.
async fn reset(State(app): State<App>, Path(tag): Path<String>, Embedded(body): Embedded<ResetBody>) -> Result<Json<()>, ApiError> {
    let now = app.now();
    let holders = body.slot_override.unwrap_or_default();
    let mut tx = app.begin("concurrency_limits.reset").await?;
    if let Some(limit) = store::read(&mut tx, &Key::Name(name(&tag))).await? {
        slots::detach(&mut tx, limit.id, now).await?;
        let count = ConcurrencyLimitV2Update { active_slots: Patch::Value(holders.len() as i64), ..ConcurrencyLimitV2Update::default() };
        store::update(&mut tx, &Key::Id(limit.id), now, &count).await?;
        for id in holders {
            let holder = LeaseHolder { kind: HolderType::TaskRun, id };
            leases::insert(&mut tx, &[limit.id], 1, FOREVER, Some(holder), now).await?;
        }
    } else {
        let limit = v1::read(&mut tx, &v1::Key::Tag(tag)).await?.ok_or_else(missing)?;
        v1::set_active_slots(&mut tx, limit.id, &holders, now).await?;
    }
    tx.commit().await?;
    Ok(Json(()))
}

async fn delete_either(app: &App, key: &Key, old: &v1::Key) -> Result<Json<()>, ApiError> {
    let now = app.now();
    let mut tx = app.begin("concurrency_limits.delete").await?;
    if let Some(limit) = store::read(&mut tx, key).await? {
        slots::detach(&mut tx, limit.id, now).await?;
        store::delete(&mut tx, key).await?;
        tx.emit(lifecycle::concurrency_limit_v2(Action::Deleted, &limit, now));
    } else {
        let limit = v1::read(&mut tx, old).await?.ok_or_else(missing)?;
        v1::delete(&mut tx, old).await?;
        tx.emit(lifecycle::concurrency_limit(Action::Deleted, &limit, now));
    }
    tx.commit().await?;
    Ok(Json(()))
}

/// Delete a limit by id.
async fn delete(State(app): State<App>, Path(id): Path<ConcurrencyLimitId>) -> Result<Json<()>, ApiError> {
    delete_either(&app, &Key::Id(id), &v1::Key::Id(id)).await
}

/// Delete a limit by tag.
async fn delete_by_tag(State(app): State<App>, Path(tag): Path<String>) -> Result<Json<()>, ApiError> {
    delete_either(&app, &Key::Name(name(&tag)), &v1::Key::Tag(tag)).await
}

#[derive(Debug, Deserialize, JsonSchema)]
struct SlotsBody {
    names: Vec<String>,
    task_run_id: Uuid,
}

/// The tags, each once, in the order given.
fn distinct(names: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    names.into_iter().filter(|name| seen.insert(name.clone())).collect()
}

fn full(tag: &str, retry_after: f64) -> ApiError {
    ApiError::Locked { detail: format!("Concurrency limit for the {tag} tag has been reached"), retry_after }
}

/// Take a slot of the limits on tags for a task run; all of them or none.
async fn increment(State(app): State<App>, Embedded(body): Embedded<SlotsBody>) -> Result<Json<Vec<MinimalConcurrencyLimit>>, ApiError> {
    let now = app.now();
    let waits = waits(&app, now);
    let tags = distinct(body.names);
    let mut tx = app.begin("concurrency_limits.increment").await?;
    let old = v1::lock_tagged(&mut tx, &tags).await?;
    let limits = store::read_named(&mut tx, &tags.iter().map(|tag| name(tag)).collect::<Vec<_>>()).await?;
    let limit_on = |tag: &str| limits.iter().find(|limit| limit.tag() == Some(tag));
    let old_on = |tag: &str| old.iter().find(|limit| limit.tag == tag);
    for tag in &tags {
        let none = limit_on(tag).is_some_and(|limit| limit.limit == 0) || old_on(tag).is_some_and(|limit| limit.concurrency_limit == 0);
        if none {
            let detail = format!("The concurrency limit on tag \"{tag}\" is 0 and will deadlock if the task tries to run again.");
            return Err(ApiError::detail(StatusCode::LOCKED, detail));
        }
    }
    let (mut taken, mut taken_old) = (Vec::new(), Vec::new());
    for tag in &tags {
        match (limit_on(tag).filter(|limit| limit.active), old_on(tag)) {
            (Some(limit), _) => taken.push(limit),
            (None, Some(old)) if old.active_slots.len() as i64 >= old.concurrency_limit => return Err(full(tag, waits.tag_seconds)),
            (None, Some(old)) => taken_old.push(old),
            (None, None) => {}
        }
    }
    let mut results = Vec::with_capacity(tags.len());
    if let Some(first) = taken.first() {
        let ids: Vec<_> = taken.iter().map(|limit| limit.id).collect();
        let holder = LeaseHolder { kind: HolderType::TaskRun, id: body.task_run_id };
        if leases::take(&mut tx, &ids, 1, FOREVER, Some(holder), now, waits).await?.is_none() {
            return Err(full(first.tag().unwrap_or_default(), waits.tag_seconds));
        }
        let minimal = |limit: &&ConcurrencyLimitV2| MinimalConcurrencyLimit {
            id: limit.id,
            name: limit.tag().unwrap_or_default().to_owned(),
            limit: limit.limit,
        };
        results.extend(taken.iter().map(minimal));
    }
    for limit in taken_old {
        let mut slots = limit.active_slots.clone();
        if !slots.contains(&body.task_run_id) {
            slots.push(body.task_run_id);
            v1::set_active_slots(&mut tx, limit.id, &slots, now).await?;
        }
        results.push(MinimalConcurrencyLimit { id: limit.id, name: limit.tag.clone(), limit: limit.concurrency_limit });
    }
    tx.commit().await?;
    Ok(Json(results))
}

/// Give the slots back that a task run holds of the limits on tags.
async fn decrement(State(app): State<App>, Embedded(body): Embedded<SlotsBody>) -> Result<Json<Vec<MinimalConcurrencyLimit>>, ApiError> {
    let now = app.now();
    let waits = waits(&app, now);
    let tags = distinct(body.names);
    let mut tx = app.begin("concurrency_limits.decrement").await?;
    let limits = store::read_named(&mut tx, &tags.iter().map(|tag| name(tag)).collect::<Vec<_>>()).await?;
    let ids: Vec<_> = limits.iter().map(|limit| limit.id).collect();
    for lease in leases::list_held(&mut tx, &ids, body.task_run_id).await? {
        leases::give_back(&mut tx, lease, Occupancy::Ignored, now, waits).await?;
    }
    let by_name: HashSet<String> = limits.iter().filter_map(|limit| limit.tag().map(str::to_owned)).collect();
    let mut results: Vec<_> =
        limits.into_iter().map(|limit| MinimalConcurrencyLimit { id: limit.id, name: limit.name, limit: limit.limit }).collect();
    for old in v1::lock_tagged(&mut tx, &tags).await? {
        if !by_name.contains(&old.tag) && old.active_slots.contains(&body.task_run_id) {
            let slots: Vec<_> = old.active_slots.iter().copied().filter(|id| *id != body.task_run_id).collect();
            v1::set_active_slots(&mut tx, old.id, &slots, now).await?;
            results.push(MinimalConcurrencyLimit { id: old.id, name: old.tag, limit: old.concurrency_limit });
        }
    }
    tx.commit().await?;
    Ok(Json(results))
}
