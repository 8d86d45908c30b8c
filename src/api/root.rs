//! Health, readiness, versions: the first things a client asks.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::extract::Json;
use crate::api::openapi::describe::{Answer, Operation};
use crate::api::openapi::{Routes, Schemas, get};
use crate::app::App;

/// The API version that the reference answers; stock clients compare its major number.
pub const API_VERSION: &str = "0.8.4";

/// The Prefect version whose server this is a replacement of.
pub const PREFECT_VERSION: &str = "3.8.4";

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Root")
        .route("/health", get(health))
        .route("/version", get(version))
        .route("/hello", get(hello))
        .route("/ready", get(ready))
        .merge(Routes::tagged("Admin").route("/admin/version", get(prefect_version)))
}

/// Say that the server runs.
async fn health() -> Json<bool> {
    Json(true)
}

/// Read the version of the API.
async fn version() -> Json<&'static str> {
    Json(API_VERSION)
}

/// Read the version of Prefect.
async fn prefect_version() -> Json<&'static str> {
    Json(PREFECT_VERSION)
}

/// Greet.
async fn hello() -> Json<&'static str> {
    Json("👋")
}

/// Whether the database answers.
#[derive(Debug)]
struct Ready(bool);

/// What [`Ready`] says.
#[derive(Debug, Serialize, JsonSchema)]
struct ReadyMessage {
    message: &'static str,
}

impl Ready {
    const YES: StatusCode = StatusCode::OK;
    const NO: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
}

impl IntoResponse for Ready {
    fn into_response(self) -> Response {
        let (status, message) = if self.0 { (Self::YES, "OK") } else { (Self::NO, "Database is not available") };
        (status, Json(ReadyMessage { message })).into_response()
    }
}

impl Answer for Ready {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        for status in [Self::YES, Self::NO] {
            operation.json_answer(status, schemas.output::<ReadyMessage>());
        }
    }
}

/// Say whether the database answers.
async fn ready(State(app): State<App>) -> Ready {
    let select = sea_query::Query::select().expr(sea_query::Expr::val(1)).to_owned();
    let answer = async { app.read("ready").await?.fetch_one(&select).await };
    match answer.await {
        Ok(_) => Ready(true),
        Err(error) => {
            tracing::warn!(error = %crate::api::error::chain(&error), "the database does not answer");
            Ready(false)
        }
    }
}
