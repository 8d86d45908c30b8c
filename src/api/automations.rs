//! `/automations`: what deployments need of them.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::delete;
use serde_json::Value;

use crate::api::error::ApiError;
use crate::api::extract::{Json, Path};
use crate::app::App;
use crate::store::automations as store;

/// The routes of this file.
pub fn router() -> Router<App> {
    Router::new().route("/automations/owned-by/{resource_id}", delete(delete_owned))
}

/// Delete the automations that a resource owns; a client does so before it gives a deployment its triggers anew.
async fn delete_owned(State(app): State<App>, Path(resource_id): Path<String>) -> Result<(StatusCode, Json<Value>), ApiError> {
    let mut tx = app.begin("automations.delete_owned").await?;
    store::delete_owned(&mut tx, &resource_id, app.now()).await?;
    tx.commit().await?;
    Ok((StatusCode::ACCEPTED, Json(Value::Null)))
}
