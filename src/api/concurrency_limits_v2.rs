//! `/v2/concurrency_limits`: limits by name, their slots, and leases on slots.

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::NoContent;
use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::json;
use tokio::time::Instant;

use crate::api::answer::Created;
use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path, PathAndEmbedded};
use crate::api::openapi::{Routes, get, post};
use crate::api::page;
use crate::api::slot_queue::{Place, SlotQueue};
use crate::app::App;
use crate::clock::Timestamp;
use crate::config::Planted;
use crate::events::lifecycle::{self, Action};
use crate::id::LeaseId;
use crate::limits;
use crate::model::concurrency::{
    ConcurrencyLimitV2, ConcurrencyLimitV2Create, ConcurrencyLimitV2Update, ConcurrencyLimitWithLease, GlobalConcurrencyLimit, LeaseHolder,
    MinimalConcurrencyLimit, Waits,
};
use crate::model::json::invalid_with;
use crate::orchestration::{Context, interval};
use crate::store::concurrency_limits::{self as store, Key};
use crate::store::leases::{self, Occupancy};
use crate::store::{Tx, slots as unleased};

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Concurrency Limits V2")
        .route("/v2/concurrency_limits/", post(create))
        .route("/v2/concurrency_limits/filter", post(filter))
        .route("/v2/concurrency_limits/increment", post(increment))
        .route("/v2/concurrency_limits/increment-with-lease", post(increment_with_lease))
        .route("/v2/concurrency_limits/decrement", post(decrement))
        .route("/v2/concurrency_limits/decrement-with-lease", post(decrement_with_lease))
        .route("/v2/concurrency_limits/leases/{lease_id}/renew", post(renew))
        .route("/v2/concurrency_limits/{id_or_name}", get(read).patch(update).delete(delete))
}

fn missing() -> ApiError {
    ApiError::not_found("Concurrency Limit not found")
}

/// The longest waits for slots, out of the settings.
pub fn waits(app: &App, now: Timestamp) -> Waits {
    Context::server(now, &app.settings().orchestration).waits()
}

fn answer(limit: ConcurrencyLimitV2, now: Timestamp) -> GlobalConcurrencyLimit {
    GlobalConcurrencyLimit {
        active_slots: limit.active_slots_at(now),
        id: limit.id,
        created: limit.created,
        updated: limit.updated,
        active: limit.active,
        name: limit.name,
        limit: limit.limit,
        slot_decay_per_second: limit.slot_decay_per_second,
    }
}

fn minimal(limits: Vec<ConcurrencyLimitV2>) -> Vec<MinimalConcurrencyLimit> {
    limits.into_iter().map(|limit| MinimalConcurrencyLimit { id: limit.id, name: limit.name, limit: limit.limit }).collect()
}

/// Create a concurrency limit.
async fn create(State(app): State<App>, Json(body): Json<ConcurrencyLimitV2Create>) -> Result<Created<ConcurrencyLimitV2>, ApiError> {
    let now = app.now();
    let mut tx = app.begin("concurrency_limits_v2.create").await?;
    let created = store::insert(&mut tx, now, &body).await?;
    unleased::set(&mut tx, &created, created.active_slots, now).await?;
    tx.emit(lifecycle::concurrency_limit_v2(Action::Created, &created, now));
    tx.commit().await?;
    Ok(Created(created))
}

/// Read a concurrency limit by id or name.
async fn read(State(app): State<App>, Path(key): Path<String>) -> Result<Json<GlobalConcurrencyLimit>, ApiError> {
    let limit = store::read(&mut app.read("concurrency_limits_v2.read").await?, &Key::of(&key)).await?.ok_or_else(missing)?;
    Ok(Json(answer(limit, app.now())))
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct FilterBody {
    limit: Option<i64>,
    #[serde(deserialize_with = "crate::model::bounds::non_negative")]
    offset: Option<i64>,
}

/// List concurrency limits.
async fn filter(State(app): State<App>, Embedded(body): Embedded<FilterBody>) -> Result<Json<Vec<GlobalConcurrencyLimit>>, ApiError> {
    let (limit, offset) = (page::limit(body.limit)?, page::offset(body.offset)?);
    let limits = store::list(&mut app.read("concurrency_limits_v2.filter").await?, limit, offset).await?;
    let now = app.now();
    Ok(Json(limits.into_iter().map(|limit| answer(limit, now)).collect()))
}

/// Change a concurrency limit by id or name.
async fn update(
    State(app): State<App>,
    Path(key): Path<String>,
    Json(body): Json<ConcurrencyLimitV2Update>,
) -> Result<NoContent, ApiError> {
    let now = app.now();
    let mut tx = app.begin("concurrency_limits_v2.update").await?;
    let before = store::read(&mut tx, &Key::of(&key)).await?.ok_or_else(missing)?;
    let key = Key::Id(before.id);
    if let Some(slots) = body.active_slots.as_value() {
        unleased::set(&mut tx, &before, *slots, now).await?;
    }
    store::update(&mut tx, &key, now, &body).await?;
    let after = store::read(&mut tx, &key).await?.ok_or_else(missing)?;
    tx.emit(lifecycle::concurrency_limit_v2(Action::Updated, &after, now));
    store::hint(&mut tx, &before);
    tx.commit().await?;
    Ok(NoContent)
}

/// Delete a concurrency limit by id or name.
async fn delete(State(app): State<App>, Path(key): Path<String>) -> Result<NoContent, ApiError> {
    let mut tx = app.begin("concurrency_limits_v2.delete").await?;
    let limit = store::read(&mut tx, &Key::of(&key)).await?.ok_or_else(missing)?;
    unleased::detach(&mut tx, limit.id, app.now()).await?;
    store::delete(&mut tx, &Key::Id(limit.id)).await?;
    tx.emit(lifecycle::concurrency_limit_v2(Action::Deleted, &limit, app.now()));
    store::hint(&mut tx, &limit);
    tx.commit().await?;
    Ok(NoContent)
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Concurrency,
    RateLimit,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct IncrementBody {
    #[serde(deserialize_with = "slots")]
    slots: i64,
    // Empty ones pass: the reference declares a bound that its framework does not know.
    names: Vec<String>,
    #[serde(default)]
    mode: Mode,
    /// Deprecated: taken, and without effect.
    #[serde(default)]
    #[expect(dead_code, reason = "clients of before send it")]
    create_if_missing: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct IncrementWithLeaseBody {
    #[serde(deserialize_with = "slots")]
    slots: i64,
    // Empty ones pass: the reference declares a bound that its framework does not know.
    names: Vec<String>,
    #[serde(default)]
    mode: Mode,
    #[serde(default = "five_minutes", deserialize_with = "lease_duration")]
    lease_duration: f64,
    #[serde(default)]
    holder: Option<LeaseHolder>,
}

fn slots<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    match i64::deserialize(deserializer)? {
        slots @ 1.. => Ok(slots),
        _ => Err(invalid_with("greater_than", "Input should be greater than 0", &json!({"gt": 0}))),
    }
}

fn five_minutes() -> f64 {
    300.0
}

fn lease_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    match f64::deserialize(deserializer)? {
        seconds if seconds < 60.0 => {
            Err(invalid_with("greater_than_equal", "Input should be greater than or equal to 60", &json!({"ge": 60.0})))
        }
        seconds if seconds > 86_400.0 => {
            Err(invalid_with("less_than_equal", "Input should be less than or equal to 86400", &json!({"le": 86_400.0})))
        }
        seconds => Ok(seconds),
    }
}

fn duration(seconds: f64) -> TimeDelta {
    TimeDelta::microseconds((seconds * 1e6).round() as i64)
}

/// The limits of these names, checked to be able to give `slots` at all.
async fn able(tx: &mut Tx, names: &[String], slots: i64, mode: Mode) -> Result<Vec<ConcurrencyLimitV2>, ApiError> {
    let limits = store::read_named(tx, names).await?;
    let active = || limits.iter().filter(|limit| limit.active);
    if active().any(|limit| limit.limit < slots) {
        return Err(ApiError::detail(StatusCode::UNPROCESSABLE_ENTITY, "Slots requested is greater than the limit"));
    }
    let steady: Vec<&str> = active().filter(|limit| limit.slot_decay_per_second == 0.0).map(|limit| limit.name.as_str()).collect();
    if mode == Mode::RateLimit && !steady.is_empty() {
        let detail = format!(
            "Only concurrency limits with slot decay can be used for rate limiting. The following limits do not have a decay configured: '{}'",
            steady.join(",")
        );
        return Err(ApiError::detail(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    Ok(limits)
}

fn active_ids(limits: &[ConcurrencyLimitV2]) -> Vec<crate::id::ConcurrencyLimitId> {
    limits.iter().filter(|limit| limit.active).map(|limit| limit.id).collect()
}

/// What a request wants.
struct Wanted<'a> {
    names: &'a [String],
    slots: i64,
    mode: Mode,
    /// How long, and for whom, where it wants a lease.
    lease: Option<(TimeDelta, Option<LeaseHolder>)>,
}

/// Slots that were taken.
struct Taken {
    lease: Option<LeaseId>,
    limits: Vec<ConcurrencyLimitV2>,
}

/// Takes slots, in turn with the others that wait for the same limits: a request that finds them full waits up to
/// [`limits::SLOT_WAIT`]. It is refused with 423 and the time after which its turn may have come.
async fn in_turn(app: &App, queue: &SlotQueue, name: &'static str, wanted: Wanted<'_>) -> Result<Taken, ApiError> {
    let (slots, deadline) = (wanted.slots, Instant::now() + limits::SLOT_WAIT);
    let mut place: Option<Place> = None;
    let mut refusal = 0.0;
    loop {
        let now = app.now();
        let waits = waits(app, now);
        let mut tx = app.begin(name).await?;
        let all = able(&mut tx, wanted.names, slots, wanted.mode).await?;
        let active: Vec<_> = all.iter().filter(|limit| limit.active).cloned().collect();
        let ids: Vec<_> = active.iter().map(|limit| limit.id).collect();
        if place.is_some() || !queue.is_waited_for(&ids) {
            let taken = match &wanted.lease {
                None => unleased::take(&mut tx, &active, slots, now, waits).await?.then_some(None),
                Some((lasting, holder)) if Planted::NoLimit.is_here() => {
                    Some(Some(leases::insert(&mut tx, &ids, slots, *lasting, holder.clone(), now).await?))
                }
                Some((lasting, holder)) => leases::take(&mut tx, &ids, slots, *lasting, holder.clone(), now, waits).await?.map(Some),
            };
            if let Some(lease) = taken {
                tx.commit().await?;
                return Ok(Taken { lease, limits: all });
            }
        }
        if place.is_none() {
            // The refusal is written down: who comes next is told to wait longer.
            store::deny(&mut tx, &ids, slots, now, waits).await?;
            tx.commit().await?;
            refusal = longest(&active, |limit| blocking(limit, slots, waits));
            // What decays comes free with time, and nobody tells when.
            if active.iter().all(|limit| limit.slot_decay_per_second == 0.0) {
                place = queue.enter(&ids, slots);
            }
        } else {
            drop(tx);
        }
        let Some(place) = &place else { return Err(locked(refusal)) };
        if !place.turn(deadline).await {
            // By the slots that those want who are before it in line: the refusals count who came often more than once.
            let ahead = place.ahead().unwrap_or(0).saturating_add(slots) as f64;
            let turn = longest(&active, |limit| {
                let wanted = ahead / limit.limit.max(1) as f64;
                (wanted, held_for(limit, waits) * wanted)
            });
            return Err(locked(refusal.min(turn.max(limits::SLOT_WAIT.as_secs_f64()))));
        }
    }
}

fn locked(average: f64) -> ApiError {
    ApiError::Locked { detail: "Locked".into(), retry_after: interval::clamped_poisson(average, interval::CLAMPING) }
}

/// The seconds of the limit that blocks most.
fn longest(limits: &[ConcurrencyLimitV2], of: impl Fn(&ConcurrencyLimitV2) -> (f64, f64)) -> f64 {
    limits.iter().map(of).max_by(|(a, _), (b, _)| a.total_cmp(b)).map_or(0.0, |(_, seconds)| seconds)
}

/// How long a slot of the limit is held on average, as far as that counts.
fn held_for(limit: &ConcurrencyLimitV2, waits: Waits) -> f64 {
    limit.avg_slot_occupancy_seconds.min(longest_wait(limit, waits))
}

fn longest_wait(limit: &ConcurrencyLimitV2, waits: Waits) -> f64 {
    if limit.tag().is_some() { waits.tag_seconds } else { waits.other_seconds }
}

/// How many slots are wanted of a limit, per slot that it has, and for how many seconds that blocks on average.
fn blocking(limit: &ConcurrencyLimitV2, slots: i64, waits: Waits) -> (f64, f64) {
    let wanted = (slots + limit.denied_slots) as f64;
    if limit.slot_decay_per_second > 0.0 {
        return (wanted, wanted / limit.slot_decay_per_second);
    }
    let blocking = wanted / limit.limit.max(1) as f64;
    (blocking, (held_for(limit, waits) * blocking).min(longest_wait(limit, waits)))
}

/// Take slots of limits; all of them or none.
async fn increment(
    State(app): State<App>,
    Extension(queue): Extension<SlotQueue>,
    Embedded(body): Embedded<IncrementBody>,
) -> Result<Json<Vec<MinimalConcurrencyLimit>>, ApiError> {
    let wanted = Wanted { names: &body.names, slots: body.slots, mode: body.mode, lease: None };
    let taken = in_turn(&app, &queue, "concurrency_limits_v2.increment", wanted).await?;
    Ok(Json(minimal(taken.limits)))
}

/// Take slots of limits under a lease; all of them or none.
async fn increment_with_lease(
    State(app): State<App>,
    Extension(queue): Extension<SlotQueue>,
    Embedded(body): Embedded<IncrementWithLeaseBody>,
) -> Result<Json<ConcurrencyLimitWithLease>, ApiError> {
    let lease = Some((duration(body.lease_duration), body.holder));
    let wanted = Wanted { names: &body.names, slots: body.slots, mode: body.mode, lease };
    let taken = in_turn(&app, &queue, "concurrency_limits_v2.increment_with_lease", wanted).await?;
    let lease_id = taken.lease.ok_or_else(|| ApiError::Internal("slots were taken without the lease".into()))?;
    Ok(Json(ConcurrencyLimitWithLease { lease_id, limits: minimal(taken.limits) }))
}

#[derive(Debug, Deserialize, JsonSchema)]
struct DecrementBody {
    #[serde(deserialize_with = "slots")]
    slots: i64,
    // Empty ones pass: the reference declares a bound that its framework does not know.
    names: Vec<String>,
    #[serde(default, deserialize_with = "occupancy")]
    occupancy_seconds: Option<f64>,
    /// Deprecated: taken, and without effect.
    #[serde(default)]
    #[expect(dead_code, reason = "clients of before send it")]
    create_if_missing: Option<bool>,
}

fn occupancy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    match Option::<f64>::deserialize(deserializer)? {
        Some(seconds) if seconds <= 0.0 => Err(invalid_with("greater_than", "Input should be greater than 0", &json!({"gt": 0.0}))),
        seconds => Ok(seconds),
    }
}

/// Give slots of limits back.
async fn decrement(
    State(app): State<App>,
    Embedded(body): Embedded<DecrementBody>,
) -> Result<Json<Vec<MinimalConcurrencyLimit>>, ApiError> {
    let now = app.now();
    let mut tx = app.begin("concurrency_limits_v2.decrement").await?;
    let limits = store::read_named(&mut tx, &body.names).await?;
    unleased::give_back(&mut tx, &active_ids(&limits), body.slots, body.occupancy_seconds, now, waits(&app, now)).await?;
    tx.commit().await?;
    Ok(Json(minimal(limits)))
}

#[derive(Debug, Deserialize, JsonSchema)]
struct DecrementWithLeaseBody {
    lease_id: LeaseId,
}

/// Give the slots of a lease back; one that is gone has given them back already.
async fn decrement_with_lease(State(app): State<App>, Embedded(body): Embedded<DecrementWithLeaseBody>) -> Result<NoContent, ApiError> {
    let now = app.now();
    let mut tx = app.begin("concurrency_limits_v2.decrement_with_lease").await?;
    leases::give_back(&mut tx, body.lease_id, Occupancy::Counts, now, waits(&app, now)).await?;
    tx.commit().await?;
    Ok(NoContent)
}

#[derive(Debug, Deserialize, JsonSchema)]
struct RenewBody {
    #[serde(default = "five_minutes", deserialize_with = "lease_duration")]
    lease_duration: f64,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct LeasePath {
    lease_id: LeaseId,
}

/// Let a lease run on. One statement, which needs no transaction.
async fn renew(
    State(app): State<App>,
    PathAndEmbedded(LeasePath { lease_id: id }, body): PathAndEmbedded<LeasePath, RenewBody>,
) -> Result<NoContent, ApiError> {
    let mut connection = app.read("concurrency_limits_v2.renew").await?;
    if !leases::renew(&mut connection, id, duration(body.lease_duration), app.now()).await? {
        return Err(ApiError::detail(StatusCode::GONE, "Lease not found - it may have expired or been revoked"));
    }
    Ok(NoContent)
}
