//! `/cluster/members` and `/cluster/transfer-leader`: what operators change of the group, through any node.

use std::sync::Weak;

use axum::http::StatusCode;
use axum::routing::{delete, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::extract;
use crate::app::App;
use crate::cluster::{Cluster, ClusterError};

/// The routes, below the API's base path.
pub(super) fn router(cluster: Weak<Cluster>) -> Router<App> {
    Router::new()
        .route("/cluster/members", post(add))
        .route("/cluster/members/{id}", delete(remove))
        .route("/cluster/transfer-leader", post(transfer_leader))
        .layer(Extension(cluster))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddBody {
    id: u64,
    /// `host:port` of the node's listener for the others.
    address: String,
}

/// Answers once the node votes.
async fn add(Extension(cluster): Extension<Weak<Cluster>>, extract::Json(body): extract::Json<AddBody>) -> Result<Json<Value>, ApiError> {
    running(&cluster)?.add_member(body.id, body.address.clone()).await.map_err(refusal)?;
    Ok(Json(json!({"id": body.id, "address": body.address})))
}

/// Answers once the node is struck off.
async fn remove(Extension(cluster): Extension<Weak<Cluster>>, extract::Path(id): extract::Path<u64>) -> Result<StatusCode, ApiError> {
    running(&cluster)?.remove_member(id).await.map_err(refusal)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TransferBody {
    /// Absent: whoever's log is the most complete.
    to: Option<u64>,
}

/// Answers once another node leads.
async fn transfer_leader(
    Extension(cluster): Extension<Weak<Cluster>>,
    extract::Json(body): extract::Json<TransferBody>,
) -> Result<StatusCode, ApiError> {
    running(&cluster)?.transfer_leader(body.to).await.map_err(refusal)?;
    Ok(StatusCode::NO_CONTENT)
}

fn running(cluster: &Weak<Cluster>) -> Result<std::sync::Arc<Cluster>, ApiError> {
    cluster.upgrade().ok_or_else(|| ApiError::Unavailable("this node is shutting down".into()))
}

fn refusal(error: ClusterError) -> ApiError {
    match error {
        ClusterError::Config(reason) => ApiError::detail(StatusCode::UNPROCESSABLE_ENTITY, reason),
        ClusterError::Refused(reason) => ApiError::conflict(reason),
        other => ApiError::Unavailable(other.to_string()),
    }
}
