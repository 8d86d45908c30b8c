//! `/logs`

use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::answer::Created;
use crate::api::error::{ApiError, Issue};
use crate::api::extract::{Embedded, Json, Shaped, from_value};
use crate::api::openapi::{Routes, post};
use crate::api::page;
use crate::app::App;
use crate::id::LogId;
use crate::model::filter::log::LogFilter;
use crate::model::log::{Log, LogCreate, LogSort};
use crate::store::logs as store;

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Logs").route("/logs/", post(create)).route("/logs/filter", post(filter))
}

/// Reads the lines of a body. The reference takes any sequence, and has other words for what is none.
fn lines(body: Value) -> Result<Vec<LogCreate>, ApiError> {
    let (kind, message, ctx) = match &body {
        Value::Array(_) => return from_value(body, "body"),
        Value::String(_) => ("sequence_str", "'str' instances are not allowed as a Sequence value", json!({"type_name": "str"})),
        _ => ("is_instance_of", "Input should be an instance of Sequence", json!({"class": "Sequence"})),
    };
    let issue = Issue { kind: kind.into(), loc: vec!["body".into()], msg: message.into(), input: body.clone(), ctx: Some(ctx) };
    Err(ApiError::Invalid { issues: vec![issue], body })
}

/// Add log lines.
async fn create(State(app): State<App>, Json(body): Json<Shaped<Vec<LogCreate>>>) -> Result<Created<()>, ApiError> {
    let body = lines(body.value)?;
    let logs: Vec<Log> = body.into_iter().map(|line| line.into_log(LogId::fresh())).collect();
    let mut tx = app.begin("logs.create").await?;
    store::insert_many(&mut tx, &logs, app.now()).await?;
    tx.commit().await?;
    if app.settings().events.logs_stream_publishing_enabled {
        app.logs().publish(logs);
    }
    Ok(Created(()))
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct FilterBody {
    logs: Option<LogFilter>,
    sort: LogSort,
    limit: Option<i64>,
    #[serde(deserialize_with = "crate::model::bounds::non_negative")]
    offset: Option<i64>,
}

/// List log lines.
async fn filter(State(app): State<App>, Embedded(body): Embedded<FilterBody>) -> Result<Json<Vec<Log>>, ApiError> {
    let (limit, offset) = (page::limit(body.limit)?, page::offset(body.offset)?);
    let filter = body.logs.unwrap_or_default();
    Ok(Json(store::list(&mut app.read("logs.filter").await?, &filter, body.sort, limit, offset).await?))
}
