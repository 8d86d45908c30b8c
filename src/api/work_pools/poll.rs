//! `POST /work_pools/{name}/get_scheduled_flow_runs`: a worker asks what to start. What is due is answered from one
//! transaction; that the queues were polled, and their deployments can run, is noted in another one.

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{pools, queues};
use crate::api::error::{ApiError, chain};
use crate::api::extract::{Embedded, Json, Path};
use crate::api::page;
use crate::app::App;
use crate::clock::Timestamp;
use crate::events::{deployment as deployment_events, work_pool as events};
use crate::id::{DeploymentId, WorkPoolId, WorkQueueId};
use crate::model::flow_run::PolledFlowRun;
use crate::model::json;
use crate::model::status::DeploymentStatus;
use crate::store::scheduled_runs::{PoolPoll, of_pool};
use crate::store::work_queues::{self, WorkQueueOrder};
use crate::store::{StoreError, deployments};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct PollBody {
    work_queue_names: Option<Vec<String>>,
    #[serde(with = "json::optional_timestamp")]
    scheduled_before: Option<Timestamp>,
    #[serde(with = "json::optional_timestamp")]
    scheduled_after: Option<Timestamp>,
    limit: Option<i64>,
}

/// One run to start.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct WorkerFlowRun {
    work_pool_id: WorkPoolId,
    work_queue_id: WorkQueueId,
    flow_run: PolledFlowRun,
}

/// Get the runs that a worker may start.
pub(super) async fn get_scheduled_flow_runs(
    State(app): State<App>,
    Path(name): Path<String>,
    Embedded(body): Embedded<PollBody>,
) -> Result<Json<Vec<WorkerFlowRun>>, ApiError> {
    let limit = page::limit(body.limit)?;
    let now = app.now();
    let mut tx = app.begin("work_pools.get_scheduled_flow_runs").await?;
    let pool = pools::by_name(&mut tx, &name).await?;
    let names = body.work_queue_names.filter(|names| !names.is_empty());
    let mut polled = Vec::new();
    match &names {
        None => {
            let all = work_queues::list(&mut tx, Some(pool.id), sea_query::Cond::all(), WorkQueueOrder::Priority, None, 0).await?;
            polled.extend(all.into_iter().map(|queue| queue.id));
        }
        Some(names) => {
            for queue in names {
                polled.push(queues::by_name(&mut tx, &name, queue).await?.id);
            }
        }
    }
    let poll = PoolPoll {
        pool: pool.id,
        queues: names.is_some().then_some(polled.as_slice()),
        before: body.scheduled_before,
        after: body.scheduled_after,
        limit,
    };
    let runs = of_pool(&mut tx, &poll).await?;
    tx.commit().await?;
    note(&app, &polled, &[]).await;
    let answer =
        runs.into_iter().map(|(queue, run)| WorkerFlowRun { work_pool_id: pool.id, work_queue_id: queue, flow_run: run.at(now).polled() });
    Ok(Json(answer.collect()))
}

/// Notes that queues, or the runs of deployments, were polled: those and the deployments of those queues are ready from
/// now on. The poll has its answer whatever comes of this; the next poll notes it again.
pub(crate) async fn note(app: &App, queues: &[WorkQueueId], deployments: &[DeploymentId]) {
    if let Err(error) = try_note(app, queues, deployments).await {
        tracing::warn!(error = %chain(&error), "a poll could not be noted");
    }
}

async fn try_note(app: &App, queues: &[WorkQueueId], ids: &[DeploymentId]) -> Result<(), StoreError> {
    let now = app.now();
    let mut tx = app.begin("polls.note").await?;
    for queue in work_queues::mark_polled(&mut tx, queues, now).await? {
        if let Some(event) = events::queue_status(&queue, now) {
            tx.emit(event);
        }
    }
    for deployment in deployments::mark(&mut tx, ids, queues, DeploymentStatus::Ready, now).await? {
        tx.emit(deployment_events::status(&deployment, DeploymentStatus::Ready, now));
    }
    tx.commit().await
}
