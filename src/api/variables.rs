//! `/variables`

use axum::extract::State;
use axum::response::NoContent;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::api::answer::Created;
use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path};
use crate::api::openapi::{Routes, get, post};
use crate::api::page;
use crate::app::App;
use crate::config::planted;
use crate::events::lifecycle::{self, Action};
use crate::id::VariableId;
use crate::model::filter::variable::VariableFilter;
use crate::model::variable::{Variable, VariableCreate, VariableSort, VariableUpdate};
use crate::store::StoreError;
use crate::store::variables::{self as store, Key};

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Variables")
        .route("/variables/", post(create))
        .route("/variables/filter", post(filter))
        .route("/variables/count", post(count))
        .route("/variables/{id}", get(read_by_id).patch(update_by_id).delete(delete_by_id))
        .route("/variables/name/{name}", get(read_by_name).patch(update_by_name).delete(delete_by_name))
}

fn missing() -> ApiError {
    ApiError::not_found("Variable not found.")
}

/// Create a variable.
async fn create(State(app): State<App>, Json(body): Json<VariableCreate>) -> Result<Created<Variable>, ApiError> {
    let now = app.now();
    let mut tx = app.begin("variables.create").await?;
    let created = store::insert(&mut tx, VariableId::fresh(), now, &body).await.map_err(|error| match error {
        StoreError::Unique { .. } => ApiError::conflict(format!("A variable with the name '{}' already exists.", body.name)),
        other => other.into(),
    })?;
    tx.emit(lifecycle::variable(Action::Created, &created, now));
    tx.commit().await?;
    Ok(Created(created))
}

async fn read(app: &App, key: &Key) -> Result<Json<Variable>, ApiError> {
    let read = store::read(&mut app.read("variables.read").await?, key).await?;
    planted::stale(|| format!("variables {key:?}"), read).map(Json).ok_or_else(missing)
}

/// Read a variable by id.
async fn read_by_id(State(app): State<App>, Path(id): Path<VariableId>) -> Result<Json<Variable>, ApiError> {
    read(&app, &Key::Id(id)).await
}

/// Read a variable by name.
async fn read_by_name(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Variable>, ApiError> {
    read(&app, &Key::Name(name)).await
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct FilterBody {
    variables: Option<VariableFilter>,
    sort: VariableSort,
    limit: Option<i64>,
    #[serde(deserialize_with = "crate::model::bounds::non_negative")]
    offset: Option<i64>,
}

/// List variables.
async fn filter(State(app): State<App>, Embedded(body): Embedded<FilterBody>) -> Result<Json<Vec<Variable>>, ApiError> {
    let (limit, offset) = (page::limit(body.limit)?, page::offset(body.offset)?);
    let filter = body.variables.unwrap_or_default();
    Ok(Json(store::list(&mut app.read("variables.filter").await?, &filter, body.sort, limit, offset).await?))
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct CountBody {
    variables: Option<VariableFilter>,
}

/// Count variables.
async fn count(State(app): State<App>, Embedded(body): Embedded<CountBody>) -> Result<Json<i64>, ApiError> {
    let filter = body.variables.unwrap_or_default();
    Ok(Json(store::count(&mut app.read("variables.count").await?, &filter).await?))
}

async fn update(app: &App, key: &Key, body: &VariableUpdate) -> Result<NoContent, ApiError> {
    let now = app.now();
    let mut tx = app.begin("variables.update").await?;
    let before = store::read(&mut tx, key).await?.ok_or_else(missing)?;
    store::update(&mut tx, &Key::Id(before.id), now, body).await?;
    let after = store::read(&mut tx, &Key::Id(before.id)).await?.ok_or_else(missing)?;
    tx.emit(lifecycle::variable(Action::Updated, &after, now));
    tx.commit().await?;
    Ok(NoContent)
}

/// Change a variable by id.
async fn update_by_id(State(app): State<App>, Path(id): Path<VariableId>, Json(body): Json<VariableUpdate>) -> Result<NoContent, ApiError> {
    update(&app, &Key::Id(id), &body).await
}

/// Change a variable by name.
async fn update_by_name(State(app): State<App>, Path(name): Path<String>, Json(body): Json<VariableUpdate>) -> Result<NoContent, ApiError> {
    update(&app, &Key::Name(name), &body).await
}

async fn delete(app: &App, key: &Key) -> Result<NoContent, ApiError> {
    let mut tx = app.begin("variables.delete").await?;
    let variable = store::read(&mut tx, key).await?.ok_or_else(missing)?;
    store::delete(&mut tx, &Key::Id(variable.id)).await?;
    tx.emit(lifecycle::variable(Action::Deleted, &variable, app.now()));
    tx.commit().await?;
    Ok(NoContent)
}

/// Delete a variable by id.
async fn delete_by_id(State(app): State<App>, Path(id): Path<VariableId>) -> Result<NoContent, ApiError> {
    delete(&app, &Key::Id(id)).await
}

/// Delete a variable by name.
async fn delete_by_name(State(app): State<App>, Path(name): Path<String>) -> Result<NoContent, ApiError> {
    delete(&app, &Key::Name(name)).await
}
