//! Labels that runs inherit: of the deployment, or the flow, or the flow run above them.

use sea_query::{Expr, ExprTrait, Query};
use serde_json::json;

use crate::id::{DeploymentId, FlowId, FlowRunId};
use crate::model::labels::{Labels, merge};
use crate::store::schema as t;
use crate::store::{StoreError, Tx, flow_runs, flows};

fn system(labels: impl IntoIterator<Item = (&'static str, String)>) -> Labels {
    labels.into_iter().map(|(key, id)| (key.to_owned(), json!(id))).collect()
}

/// Labels of a run of a deployment: the deployment's, the system's, the client's.
pub fn of_deployment_run(deployment: Labels, deployment_id: DeploymentId, flow_id: FlowId, given: Labels) -> Labels {
    let ids = [("prefect.flow.id", flow_id.to_string()), ("prefect.deployment.id", deployment_id.to_string())];
    merge([deployment, system(ids), given])
}

/// Labels of a new flow run: those of its deployment where there is one, else of its flow; the system's; the client's.
pub async fn of_flow_run(tx: &mut Tx, flow: FlowId, deployment: Option<DeploymentId>, given: Labels) -> Result<Labels, StoreError> {
    if let Some(id) = deployment {
        let mut select = Query::select();
        select.columns([t::Deployment::Labels, t::Deployment::FlowId]).from(t::Deployment::Table);
        select.and_where(Expr::col(t::Deployment::Id).eq(id));
        if let Some(row) = tx.fetch_optional(&select).await? {
            let labels = row.json::<Option<Labels>>("labels")?.unwrap_or_default();
            return Ok(of_deployment_run(labels, id, row.get("flow_id")?, given));
        }
    }
    let parent = flows::labels(tx, flow).await?;
    Ok(merge([parent, system([("prefect.flow.id", flow.to_string())]), given]))
}

/// Labels of a new task run: those of its flow run, the system's, the client's.
pub async fn of_task_run(tx: &mut Tx, flow_run: Option<FlowRunId>, given: Labels) -> Result<Labels, StoreError> {
    let Some(id) = flow_run else { return Ok(given) };
    let parent = flow_runs::labels(tx, id).await?.unwrap_or_default();
    Ok(merge([parent, system([("prefect.flow-run.id", id.to_string())]), given]))
}
