//! Health, readiness, versions: the first things a client asks.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use crate::api::extract::Json;
use crate::app::App;

/// The API version that the reference answers; stock clients compare its major number.
pub const API_VERSION: &str = "0.8.4";

/// The Prefect version whose server this is a replacement of.
pub const PREFECT_VERSION: &str = "3.8.4";

/// The routes of this file.
pub fn router() -> Router<App> {
    Router::new()
        .route("/health", get(async || Json(true)))
        .route("/version", get(async || Json(API_VERSION)))
        .route("/admin/version", get(async || Json(PREFECT_VERSION)))
        .route("/hello", get(async || Json("👋")))
        .route("/ready", get(ready))
}

/// 200 where the database answers.
async fn ready(State(app): State<App>) -> Response {
    let select = sea_query::Query::select().expr(sea_query::Expr::val(1)).to_owned();
    let answer = async { app.read("ready").await?.fetch_one(&select).await };
    match answer.await {
        Ok(_) => Json(json!({"message": "OK"})).into_response(),
        Err(error) => {
            tracing::warn!(error = %crate::api::error::chain(&error), "the database does not answer");
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"message": "Database is not available"}))).into_response()
        }
    }
}
