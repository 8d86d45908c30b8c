//! Lists, counts, history and lateness of flow runs.

use axum::extract::State;

use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json};
use crate::api::filters::of_queued::{CountBody, ListBody, PageBody};
use crate::api::history::FlowRunHistoryBody;
use crate::api::openapi::{Routes, post};
use crate::api::page::Page;
use crate::app::App;
use crate::model::flow_run::{FlowRunResponse, FlowRunSort};
use crate::model::run::HistoryInterval;
use crate::store::flow_runs as store;
use crate::store::run_history;

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Flow Runs")
        .route("/flow_runs/count", post(count))
        .route("/flow_runs/lateness", post(lateness))
        .route("/flow_runs/history", post(history))
        .route("/flow_runs/filter", post(filter))
        .route("/flow_runs/paginate", post(paginate))
}

/// Count flow runs.
async fn count(State(app): State<App>, Embedded(body): Embedded<CountBody>) -> Result<Json<u64>, ApiError> {
    let filters = body.into_filters();
    Ok(Json(store::count(&mut app.read("flow_runs.count").await?, &filters).await?))
}

/// Average lateness of flow runs in seconds.
async fn lateness(State(app): State<App>, Embedded(body): Embedded<CountBody>) -> Result<Json<Option<f64>>, ApiError> {
    let filters = body.into_filters();
    Ok(Json(run_history::average_lateness(&mut app.read("flow_runs.lateness").await?, &filters, app.now()).await?))
}

/// Flow runs by interval and state.
async fn history(State(app): State<App>, Embedded(body): Embedded<FlowRunHistoryBody>) -> Result<Json<Vec<HistoryInterval>>, ApiError> {
    body.answer(&app).await.map(Json)
}

/// List flow runs.
async fn filter(State(app): State<App>, Embedded(body): Embedded<ListBody<FlowRunSort>>) -> Result<Json<Vec<FlowRunResponse>>, ApiError> {
    let (limit, offset) = body.window()?;
    let (filters, sort) = body.into_filters();
    let runs = store::list(&mut app.read("flow_runs.filter").await?, &filters, sort, limit, offset).await?;
    let now = app.now();
    Ok(Json(runs.into_iter().map(|run| run.at(now)).collect()))
}

/// List a page of flow runs.
async fn paginate(
    State(app): State<App>,
    Embedded(body): Embedded<PageBody<FlowRunSort>>,
) -> Result<Json<Page<FlowRunResponse>>, ApiError> {
    let (limit, page, offset) = body.paged()?;
    let (filters, sort) = body.into_filters();
    let mut tx = app.read("flow_runs.paginate").await?;
    let runs = store::list(&mut tx, &filters, sort, limit, offset).await?;
    let count = store::count(&mut tx, &filters).await?;
    let now = app.now();
    Ok(Json(Page::new(runs.into_iter().map(|run| run.at(now)).collect(), count, limit, page)))
}
