//! `/logs`

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde::Deserialize;

use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json};
use crate::api::page;
use crate::app::App;
use crate::id::LogId;
use crate::model::filter::log::LogFilter;
use crate::model::log::{Log, LogCreate, LogSort};
use crate::store::logs as store;

/// The routes of this file.
pub fn router() -> Router<App> {
    Router::new().route("/logs/", post(create)).route("/logs/filter", post(filter))
}

/// Add log lines.
async fn create(State(app): State<App>, Json(body): Json<Vec<LogCreate>>) -> Result<StatusCode, ApiError> {
    let logs: Vec<Log> = body.into_iter().map(|line| line.into_log(LogId::fresh())).collect();
    let mut tx = app.begin("logs.create").await?;
    store::insert_many(&mut tx, &logs, app.now()).await?;
    tx.commit().await?;
    if app.settings().events.logs_stream_publishing_enabled {
        app.logs().publish(logs);
    }
    Ok(StatusCode::CREATED)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FilterBody {
    logs: Option<LogFilter>,
    sort: LogSort,
    limit: Option<i64>,
    offset: Option<i64>,
}

/// List log lines.
async fn filter(State(app): State<App>, Embedded(body): Embedded<FilterBody>) -> Result<Json<Vec<Log>>, ApiError> {
    let (limit, offset) = (page::limit(body.limit)?, page::offset(body.offset)?);
    let filter = body.logs.unwrap_or_default();
    Ok(Json(store::list(&mut app.read("logs.filter").await?, &filter, body.sort, limit, offset).await?))
}
