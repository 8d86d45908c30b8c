//! `GET /cluster/status`: the group, its services and its streams, from any node. How the services do is known by the
//! node that leads them, which is asked for it.

use std::sync::Weak;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::app::App;
use crate::ask;
use crate::clock::Timestamp;
use crate::cluster::{Cluster, ClusterStatus};
use crate::services::status::Board;

/// How long the services' leader may take to tell.
const TELL_WITHIN: Duration = Duration::from_millis(500);

/// What the status is made of.
#[derive(Clone)]
pub(super) struct Sources {
    pub(super) cluster: Weak<Cluster>,
    pub(super) board: Board,
    pub(super) app: App,
}

/// The route, below the API's base path.
pub(super) fn router(sources: Sources) -> Router<App> {
    Router::new().route("/cluster/status", get(status).with_state(sources))
}

async fn status(State(sources): State<Sources>, RawQuery(query): RawQuery) -> Response {
    let Some(cluster) = sources.cluster.upgrade() else {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"detail": "this node is shutting down"}))).into_response();
    };
    let status = cluster.status();
    drop(cluster);
    let asked_by_a_node = query.is_some_and(|query| query == "local");
    let services = if asked_by_a_node || status.services_leader == Some(status.node_id) {
        Some(own_services(&sources.board, status.node_id, sources.app.now()))
    } else {
        services_of_leader(&sources.app, &status).await
    };
    let mut body = serde_json::to_value(&status).expect("a status is plain data");
    // Absent where the services' leader could not be asked: not knowing is no empty list.
    body["services"] = services.unwrap_or(Value::Null);
    Json(body).into_response()
}

fn own_services(board: &Board, node_id: u64, now: Timestamp) -> Value {
    let services = board.list(now).into_iter().map(|service| {
        let mut service = serde_json::to_value(service).expect("a status is plain data");
        service["node"] = node_id.into();
        service
    });
    services.collect()
}

async fn services_of_leader(app: &App, status: &ClusterStatus) -> Option<Value> {
    let leader = status.nodes.iter().find(|node| Some(node.id) == status.services_leader && !node.http.is_empty())?;
    let server = &app.settings().server;
    let url = format!("http://{}{}/cluster/status?local", leader.http, server.base_path);
    let auth = server.auth_string.as_ref().map(crate::config::Secret::expose);
    match ask::get(&url, auth, TELL_WITHIN).await {
        Ok(mut answer) => Some(answer["services"].take()),
        Err(error) => {
            tracing::debug!("the services' leader does not tell how they do: {error:#}");
            None
        }
    }
}
