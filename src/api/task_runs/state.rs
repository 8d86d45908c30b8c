//! Set states of task runs.

use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path};
use crate::api::flow_runs::state::status;
use crate::api::openapi::{Routes, post};
use crate::api::task_queue;
use crate::app::App;
use crate::id::TaskRunId;
use crate::model::state::{OrchestrationResult, StateCreate};
use crate::orchestration::{Context, TaskPolicy, set_task_run_state};
use crate::store::task_deliveries::Rank;
use crate::store::task_runs as store;

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Task Runs").route("/task_runs/{id}/set_state", post(set_state))
}

#[derive(Debug, Deserialize, JsonSchema)]
struct SetStateBody {
    state: StateCreate,
    #[serde(default)]
    force: bool,
}

/// Propose a state for a task run. No rule over task runs looks at the client's versions.
async fn set_state(
    State(app): State<App>,
    Path(id): Path<TaskRunId>,
    Embedded(body): Embedded<SetStateBody>,
) -> Result<(StatusCode, Json<OrchestrationResult>), ApiError> {
    if body.state.is_for_task_worker() {
        let run = store::read(&mut app.read("task_runs.read").await?, id).await?;
        let rank = if body.state.name.as_deref() == Some("AwaitingRetry") { Rank::Retry } else { Rank::New };
        if let Some(run) = run {
            task_queue::room(&app, &run.task_key, rank).await?;
        }
    }
    let now = app.now();
    let context = Context::server(now, &app.settings().orchestration);
    let mut tx = app.begin("task_runs.set_state").await?;
    let result = set_task_run_state(&mut tx, &context, id, body.state.at(now), TaskPolicy::of_request(body.force)).await?;
    tx.commit().await?;
    Ok((status(&result, now), Json(result)))
}
