//! `/automations`

use std::collections::HashSet;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::NoContent;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::answer::{Accepted, Created};
use crate::api::error::{ApiError, Issue};
use crate::api::extract::{Embedded, Json, Path, Shaped};
use crate::api::openapi::{Routes, delete, get, post};
use crate::api::{job_variables, page};
use crate::app::App;
use crate::automations::ABOVE;
use crate::events::lifecycle::{self, Action as Happened};
use crate::id::{AutomationId, DeploymentId};
use crate::limits;
use crate::model::automation::{
    Action, Automation, AutomationCore, AutomationCreate, AutomationPartialUpdate, AutomationSort, AutomationUpdate, check,
};
use crate::model::filter::automation::AutomationFilter;
use crate::store::automations as store;
use crate::store::{Tx, deployments};

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Automations")
        .route("/automations/", post(create))
        .route("/automations/filter", post(filter))
        .route("/automations/count", post(count))
        .route("/automations/{id}", get(read).put(update).patch(patch).delete(delete_one))
        .route("/automations/related-to/{resource_id}", get(related_to))
        .route("/automations/owned-by/{resource_id}", delete(delete_owned))
}

fn missing() -> ApiError {
    ApiError::ObjectNotFound("Automation not found".into())
}

fn invalid(issues: Vec<Issue>, body: Value) -> ApiError {
    ApiError::Invalid { issues, body }
}

/// Create an automation.
async fn create(
    State(app): State<App>,
    Json(Shaped { value: mut body, .. }): Json<Shaped<AutomationCreate>>,
) -> Result<Created<Automation>, ApiError> {
    let create = check::create(&mut body, ABOVE).map_err(|issues| invalid(issues, body))?;
    let mut core = create.core;
    core.trigger.reset_ids();
    let now = app.now();
    let mut tx = app.begin("automations.create").await?;
    check_job_variables(&app, &mut tx, &core, true).await?;
    let created = store::insert(&mut tx, AutomationId::fresh(), now, core).await?;
    if let Some(owner) = create.owner_resource.filter(|owner| !owner.is_empty()) {
        store::relate(&mut tx, created.id, &owner, true, now).await?;
    }
    tx.emit(lifecycle::automation(Happened::Created, &created, now));
    tx.commit().await?;
    Ok(Created(created))
}

/// Replace an automation. Its triggers are new ones afterwards.
async fn update(
    State(app): State<App>,
    Path(id): Path<AutomationId>,
    Json(Shaped { value: mut body, .. }): Json<Shaped<AutomationUpdate>>,
) -> Result<NoContent, ApiError> {
    // What is not given stays as it is.
    let given: HashSet<String> = body.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default();
    let mut core = check::update(&mut body, ABOVE).map_err(|issues| invalid(issues, body))?.core;
    core.trigger.reset_ids();
    let now = app.now();
    let mut tx = app.begin("automations.update").await?;
    check_job_variables(&app, &mut tx, &core, false).await?;
    if !store::update(&mut tx, id, now, &core, |field| given.contains(field)).await? {
        return Err(missing());
    }
    emit_updated(&mut tx, id, now).await?;
    tx.commit().await?;
    Ok(NoContent)
}

/// Enable or disable an automation.
async fn patch(
    State(app): State<App>,
    Path(id): Path<AutomationId>,
    Json(Shaped { value: body, .. }): Json<Shaped<AutomationPartialUpdate>>,
) -> Result<NoContent, ApiError> {
    let patch = check::partial_update(&body).map_err(|issues| invalid(issues, body))?;
    let now = app.now();
    let mut tx = app.begin("automations.patch").await?;
    let mut after = store::read(&mut tx, id).await?.ok_or_else(missing)?;
    // Absent counts as true here, as the reference has it, though it changes nothing.
    after.core.enabled = patch.enabled.unwrap_or(true);
    check::whole(&after.core, &json!(after)).map_err(|issues| invalid(issues, json!({"enabled": after.core.enabled})))?;
    store::set_enabled(&mut tx, id, now, patch.enabled).await?;
    emit_updated(&mut tx, id, now).await?;
    tx.commit().await?;
    Ok(NoContent)
}

/// Enables or disables an automation in a transaction of the caller's.
///
/// # Errors
/// 404 where there is none.
pub(crate) async fn set_enabled_in(tx: &mut Tx, id: AutomationId, enabled: bool, now: crate::clock::Timestamp) -> Result<(), ApiError> {
    store::read(tx, id).await?.ok_or_else(missing)?;
    store::set_enabled(tx, id, now, Some(enabled)).await?;
    emit_updated(tx, id, now).await
}

async fn emit_updated(tx: &mut Tx, id: AutomationId, now: crate::clock::Timestamp) -> Result<(), ApiError> {
    let after = store::read(tx, id).await?.ok_or_else(missing)?;
    tx.emit(lifecycle::automation(Happened::Updated, &after, now));
    Ok(())
}

/// Checks the job variables of the deployments that it runs against their pools' templates.
async fn check_job_variables(app: &App, tx: &mut Tx, core: &AutomationCore, unless_empty: bool) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    for action in &core.actions {
        let Action::RunDeployment(run) = action else { continue };
        let (Some(id), Some(variables)) = (run.deployment_id, &run.job_variables) else { continue };
        if unless_empty && variables.is_empty() {
            continue;
        }
        let deployment = deployments::read(tx, &deployments::Key::Id(DeploymentId(id)))
            .await?
            .ok_or_else(|| ApiError::not_found("Deployment not found."))?;
        if let Some(error) = job_variables::check_action(app, tx, &deployment, variables).await? {
            errors.push(error.to_string());
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::detail(StatusCode::UNPROCESSABLE_ENTITY, format!("Error creating automation: {}", errors.join(" "))))
}

/// Delete an automation.
async fn delete_one(State(app): State<App>, Path(id): Path<AutomationId>) -> Result<NoContent, ApiError> {
    let mut tx = app.begin("automations.delete").await?;
    let automation = store::read(&mut tx, id).await?.ok_or_else(missing)?;
    store::delete(&mut tx, id).await?;
    tx.emit(lifecycle::automation(Happened::Deleted, &automation, app.now()));
    tx.commit().await?;
    Ok(NoContent)
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct FilterBody {
    sort: AutomationSort,
    limit: Option<i64>,
    offset: Option<i64>,
    automations: Option<AutomationFilter>,
}

/// List automations.
async fn filter(State(app): State<App>, Embedded(body): Embedded<FilterBody>) -> Result<Json<Vec<Automation>>, ApiError> {
    let (limit, offset) = (page::limit(body.limit)?, page::offset(body.offset)?);
    let filter = body.automations.unwrap_or_default();
    Ok(Json(store::list(&mut app.read("automations.filter").await?, &filter, body.sort, limit, offset).await?))
}

/// Count all automations; the body does not matter.
async fn count(State(app): State<App>) -> Result<Json<i64>, ApiError> {
    Ok(Json(store::count(&mut app.read("automations.count").await?).await?))
}

/// Read an automation.
async fn read(State(app): State<App>, Path(id): Path<AutomationId>) -> Result<Json<Automation>, ApiError> {
    store::read(&mut app.read("automations.read").await?, id).await?.map(Json).ok_or_else(missing)
}

/// Read the automations that have to do with a resource.
async fn related_to(State(app): State<App>, Path(resource_id): Path<String>) -> Result<Json<Vec<Automation>>, ApiError> {
    let mut tx = app.read("automations.related_to").await?;
    Ok(Json(store::related_to(&mut tx, &resource_id, limits::AUTOMATIONS_OF_RESOURCE).await?))
}

/// Delete the automations that a resource owns; a client does so before it gives a deployment its triggers anew.
async fn delete_owned(State(app): State<App>, Path(resource_id): Path<String>) -> Result<Accepted<()>, ApiError> {
    let mut tx = app.begin("automations.delete_owned").await?;
    store::delete_owned(&mut tx, &resource_id, app.now()).await?;
    tx.commit().await?;
    Ok(Accepted(()))
}
