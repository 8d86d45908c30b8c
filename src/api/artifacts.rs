//! `/artifacts`

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
use crate::events::lifecycle::{self, Action};
use crate::id::ArtifactId;
use crate::model::artifact::{Artifact, ArtifactCollection, ArtifactCreate, ArtifactSort, ArtifactUpdate};
use crate::model::filter::Filters;
use crate::model::filter::artifact::{ArtifactCollectionFilter, ArtifactFilter};
use crate::model::filter::deployment::DeploymentFilter;
use crate::model::filter::flow::FlowFilter;
use crate::model::filter::flow_run::FlowRunFilter;
use crate::model::filter::task_run::TaskRunFilter;
use crate::store::artifacts as store;

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Artifacts")
        .route("/artifacts/", post(create))
        .route("/artifacts/filter", post(filter))
        .route("/artifacts/count", post(count))
        .route("/artifacts/latest/filter", post(filter_latest))
        .route("/artifacts/latest/count", post(count_latest))
        .route("/artifacts/{id}", get(read).patch(update).delete(delete))
        .route("/artifacts/{key}/latest", get(read_latest))
}

fn missing() -> ApiError {
    ApiError::not_found("Artifact not found.")
}

/// Create an artifact; with a key it becomes the newest of its key.
async fn create(State(app): State<App>, Json(body): Json<ArtifactCreate>) -> Result<Created<Artifact>, ApiError> {
    let (id, now) = (ArtifactId::fresh(), app.now());
    let mut tx = app.begin("artifacts.create").await?;
    let created = store::insert(&mut tx, id, now, &body).await?;
    if let Some(key) = &body.key {
        let (collection, is_new) = store::make_latest(&mut tx, key, &created).await?;
        let action = if is_new { Action::Created } else { Action::Updated };
        tx.emit(lifecycle::artifact_collection(action, &collection, now));
    }
    tx.commit().await?;
    Ok(Created(created))
}

/// Read an artifact.
async fn read(State(app): State<App>, Path(id): Path<ArtifactId>) -> Result<Json<Artifact>, ApiError> {
    store::read(&mut app.read("artifacts.read").await?, id).await?.map(Json).ok_or_else(missing)
}

/// Read the newest artifact of a key, in the shape of an artifact with the collection's id.
async fn read_latest(State(app): State<App>, Path(key): Path<String>) -> Result<Json<Artifact>, ApiError> {
    let collection = store::read_collection(&mut app.read("artifacts.read_latest").await?, &key).await?.ok_or_else(missing)?;
    let ArtifactCollection { id, created, updated, key, r#type, description, data, metadata_, flow_run_id, task_run_id, .. } = collection;
    let id = ArtifactId(id.0);
    Ok(Json(Artifact { id, created, updated, key: Some(key), r#type, description, data, metadata_, flow_run_id, task_run_id }))
}

#[derive(Debug, Deserialize, JsonSchema)]
struct FilterBody<F> {
    #[serde(default)]
    sort: ArtifactSort,
    #[serde(default)]
    limit: Option<i64>,
    #[serde(default, deserialize_with = "crate::model::bounds::non_negative")]
    offset: Option<i64>,
    #[serde(default = "Option::default")]
    #[schemars(default)]
    artifacts: Option<F>,
    #[serde(default)]
    flow_runs: Option<FlowRunFilter>,
    #[serde(default)]
    task_runs: Option<TaskRunFilter>,
    #[serde(default)]
    flows: Option<FlowFilter>,
    #[serde(default)]
    deployments: Option<DeploymentFilter>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct CountBody<F> {
    #[serde(default = "Option::default")]
    #[schemars(default)]
    artifacts: Option<F>,
    #[serde(default)]
    flow_runs: Option<FlowRunFilter>,
    #[serde(default)]
    task_runs: Option<TaskRunFilter>,
    #[serde(default)]
    flows: Option<FlowFilter>,
    #[serde(default)]
    deployments: Option<DeploymentFilter>,
}

impl<F> FilterBody<F> {
    fn window(&self) -> Result<(u64, u64), ApiError> {
        Ok((page::limit(self.limit)?, page::offset(self.offset)?))
    }

    fn into_filters(self) -> (Option<F>, Filters) {
        let Self { artifacts, flow_runs, task_runs, flows, deployments, .. } = self;
        CountBody { artifacts, flow_runs, task_runs, flows, deployments }.into_filters()
    }
}

impl<F> CountBody<F> {
    fn into_filters(self) -> (Option<F>, Filters) {
        let Self { artifacts, flow_runs, task_runs, flows, deployments } = self;
        (artifacts, Filters { flows, flow_runs, task_runs, deployments, ..Filters::default() })
    }
}

/// List artifacts.
async fn filter(State(app): State<App>, Embedded(body): Embedded<FilterBody<ArtifactFilter>>) -> Result<Json<Vec<Artifact>>, ApiError> {
    let ((limit, offset), sort) = (body.window()?, body.sort);
    let (artifacts, filters) = body.into_filters();
    let mut tx = app.read("artifacts.filter").await?;
    Ok(Json(store::list(&mut tx, artifacts.as_ref(), &filters, sort, limit, offset).await?))
}

/// List the newest artifact of each key.
async fn filter_latest(
    State(app): State<App>,
    Embedded(body): Embedded<FilterBody<ArtifactCollectionFilter>>,
) -> Result<Json<Vec<ArtifactCollection>>, ApiError> {
    let ((limit, offset), sort) = (body.window()?, body.sort);
    let (artifacts, filters) = body.into_filters();
    let mut tx = app.read("artifacts.filter_latest").await?;
    Ok(Json(store::list_collections(&mut tx, artifacts.as_ref(), &filters, sort, limit, offset).await?))
}

/// Count artifacts.
async fn count(State(app): State<App>, Embedded(body): Embedded<CountBody<ArtifactFilter>>) -> Result<Json<i64>, ApiError> {
    let (artifacts, filters) = body.into_filters();
    Ok(Json(store::count(&mut app.read("artifacts.count").await?, artifacts.as_ref(), &filters).await?))
}

/// Count the keys of artifacts.
async fn count_latest(
    State(app): State<App>,
    Embedded(body): Embedded<CountBody<ArtifactCollectionFilter>>,
) -> Result<Json<i64>, ApiError> {
    let (artifacts, filters) = body.into_filters();
    Ok(Json(store::count_collections(&mut app.read("artifacts.count_latest").await?, artifacts.as_ref(), &filters).await?))
}

/// Change an artifact.
async fn update(State(app): State<App>, Path(id): Path<ArtifactId>, Json(body): Json<ArtifactUpdate>) -> Result<NoContent, ApiError> {
    let mut tx = app.begin("artifacts.update").await?;
    if !store::update(&mut tx, id, app.now(), &body).await? {
        return Err(missing());
    }
    tx.commit().await?;
    Ok(NoContent)
}

/// Delete an artifact; where it was the newest of its key the next older takes its place.
async fn delete(State(app): State<App>, Path(id): Path<ArtifactId>) -> Result<NoContent, ApiError> {
    let now = app.now();
    let mut tx = app.begin("artifacts.delete").await?;
    let artifact = store::read(&mut tx, id).await?.ok_or_else(missing)?;
    let collection = match &artifact.key {
        Some(key) => store::lock_collection(&mut tx, key).await?,
        None => None,
    };
    if let Some(mut collection) = collection.filter(|collection| collection.latest_id == id) {
        if let Some(older) = store::newest_but(&mut tx, &collection.key, id).await? {
            store::fall_back(&mut tx, collection.id, &older).await?;
            collection.latest_id = older.id;
            collection.r#type = older.r#type;
            collection.description = older.description;
            collection.data = older.data;
            collection.flow_run_id = older.flow_run_id;
            collection.task_run_id = older.task_run_id;
            tx.emit(lifecycle::artifact_collection(Action::Updated, &collection, now));
        } else {
            tx.emit(lifecycle::artifact_collection(Action::Deleted, &collection, now));
            store::delete_collection(&mut tx, collection.id).await?;
        }
    }
    store::delete(&mut tx, id).await?;
    tx.commit().await?;
    Ok(NoContent)
}
