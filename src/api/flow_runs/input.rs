//! Values sent to a flow run: `/flow_runs/{id}/input`.

use axum::extract::State;
use axum::response::NoContent;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::missing;
use crate::api::answer::{Created, PlainText};
use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path};
use crate::api::openapi::{Routes, get, post};
use crate::app::App;
use crate::id::{FlowRunId, FlowRunInputId};
use crate::limits;
use crate::model::flow_run::{FlowRunInput, input_key};
use crate::model::json::invalid_with;
use crate::store::StoreError;
use crate::store::flow_run_inputs as store;

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Flow Runs")
        .route("/flow_runs/{id}/input", post(create))
        .route("/flow_runs/{id}/input/filter", post(filter))
        .route("/flow_runs/{id}/input/{key}", get(read).delete(delete))
}

#[derive(Debug, Deserialize, JsonSchema)]
struct CreateBody {
    #[serde(deserialize_with = "input_key")]
    key: String,
    #[serde(deserialize_with = "bytes")]
    value: String,
    #[serde(default)]
    sender: Option<String>,
}

/// The reference keeps the value as bytes, and says so of what is no text.
fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(text),
        _ => Err(invalid_with("bytes_type", "Input should be a valid bytes", &Value::Null)),
    }
}

/// Send a value to a flow run.
async fn create(State(app): State<App>, Path(id): Path<FlowRunId>, Embedded(body): Embedded<CreateBody>) -> Result<Created<()>, ApiError> {
    let now = app.now();
    let CreateBody { key, value, sender } = body;
    let input = FlowRunInput { id: FlowRunInputId::fresh(), created: now, updated: now, flow_run_id: id, key, value, sender };
    let mut tx = app.begin("flow_run_inputs.create").await?;
    store::insert(&mut tx, &input).await.map_err(|error| match error {
        StoreError::Unique { .. } => ApiError::conflict("A flow run input with this key already exists."),
        StoreError::Integrity { .. } => missing(),
        other => other.into(),
    })?;
    tx.commit().await?;
    Ok(Created(()))
}

#[derive(Debug, Deserialize, JsonSchema)]
struct FilterBody {
    prefix: String,
    #[serde(default)]
    limit: Option<i64>,
    #[serde(default)]
    exclude_keys: Vec<String>,
}

/// List values sent to a flow run.
async fn filter(
    State(app): State<App>,
    Path(id): Path<FlowRunId>,
    Embedded(body): Embedded<FilterBody>,
) -> Result<Json<Vec<FlowRunInput>>, ApiError> {
    // The reference has no bound here; ours is that of every list.
    let limit = u64::try_from(body.limit.unwrap_or(1)).unwrap_or(0).min(limits::PAGE_ITEMS);
    let mut tx = app.read("flow_run_inputs.filter").await?;
    Ok(Json(store::list(&mut tx, id, &body.prefix, &body.exclude_keys, limit).await?))
}

fn missing_input() -> ApiError {
    ApiError::not_found("Flow run input not found")
}

/// Read a value sent to a flow run.
async fn read(State(app): State<App>, Path((id, key)): Path<(FlowRunId, String)>) -> Result<PlainText, ApiError> {
    let input = store::read(&mut app.read("flow_run_inputs.read").await?, id, &key).await?.ok_or_else(missing_input)?;
    Ok(PlainText(input.value))
}

/// Delete a value sent to a flow run.
async fn delete(State(app): State<App>, Path((id, key)): Path<(FlowRunId, String)>) -> Result<NoContent, ApiError> {
    let mut tx = app.begin("flow_run_inputs.delete").await?;
    if !store::delete(&mut tx, id, &key).await? {
        return Err(missing_input());
    }
    tx.commit().await?;
    Ok(NoContent)
}
