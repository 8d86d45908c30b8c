//! The actions that change the database, each in the caller's transaction.

use std::str::FromStr;

use chrono::TimeDelta;
use serde_json::Map;
use uuid::Uuid;

use super::{Failure, Report, fail, inputs, refused};
use crate::api::{automations, deployments, flow_runs, work_pools};
use crate::id::{AutomationId, DeploymentId, FlowRunId, WorkPoolId, WorkQueueId};
use crate::model::Patch;
use crate::model::automation::{Action, RunDeployment, Source, TriggeredAction};
use crate::model::deployment::DeploymentFlowRunCreate;
use crate::model::flow_run::CreatedBy;
use crate::model::state::{StateCreate, StateDetails, StateResponseDetails, StateType};
use crate::model::work_pool::WorkPoolUpdate;
use crate::model::work_queue::WorkQueueUpdate;
use crate::orchestration::{Context, FlowPolicy, OrchestrationError, set_flow_run_state};
use crate::services::Lead;
use crate::store::{Tx, work_pools as pool_store, work_queues as queue_store};

/// How long a run that an automation suspends waits to be resumed, as the reference.
const SUSPENDED: TimeDelta = TimeDelta::hours(1);

/// Does an action.
pub(super) async fn act(lead: &Lead, tx: &mut Tx, action: &TriggeredAction, report: &mut Report) -> Result<(), Failure> {
    let kind = action.action.kind();
    let now = lead.app.now();
    let automation = action.automation.id;
    match &action.action {
        Action::DoNothing => Ok(()),
        Action::RunDeployment(run) => run_deployment(lead, tx, action, run, report).await,
        Action::PauseDeployment(on) | Action::ResumeDeployment(on) => {
            let id = DeploymentId::from(target(action, "deployment", on.source, on.deployment_id)?);
            report.relate(format!("prefect.deployment.{id}"), "target", None);
            let paused = matches!(action.action, Action::PauseDeployment(_));
            deployments::schedules::set_paused(tx, id, paused, now).await.map_err(|error| refused(kind, error, report))?;
            done(report, 200);
            Ok(())
        }
        Action::CancelFlowRun => {
            let message = format!("Cancelled by Automation {automation}");
            set_state(lead, tx, action, state(StateType::Cancelling, None, message), false, report).await
        }
        Action::SuspendFlowRun => {
            let mut suspended = state(StateType::Paused, Some("Suspended".into()), format!("Suspended by Automation {automation}"));
            suspended.state_details.pause_timeout = Some(now + SUSPENDED);
            suspended.state_details.pause_reschedule = true;
            set_state(lead, tx, action, suspended, false, report).await
        }
        Action::ChangeFlowRunState(change) => {
            let message = change.message.clone().filter(|message| !message.is_empty());
            let message = message.unwrap_or_else(|| format!("State changed by Automation {automation}"));
            set_state(lead, tx, action, state(change.state, change.name.clone(), message), change.force, report).await
        }
        Action::DeleteFlowRun => {
            let id = flow_run(action, report)?;
            flow_runs::crud::delete_in(&lead.app, tx, id).await.map_err(|error| refused(kind, error, report))?;
            done(report, 204);
            Ok(())
        }
        Action::ResumeFlowRun => {
            let id = flow_run(action, report)?;
            let context = Context::server(now, &lead.app.settings().orchestration);
            let resumed = flow_runs::resume::resume_in(tx, &context, id, Map::new()).await.map_err(|error| refused(kind, error, report))?;
            match reason(resumed.details) {
                None => Ok(()),
                Some(reason) => fail(format!("Failed to resume flow run: {reason}")),
            }
        }
        Action::PauseWorkQueue(on) | Action::ResumeWorkQueue(on) => {
            let id = WorkQueueId::from(target(action, "work-queue", on.source, on.work_queue_id)?);
            report.relate(format!("prefect.work-queue.{id}"), "target", None);
            let update = WorkQueueUpdate {
                is_paused: Patch::Value(matches!(action.action, Action::PauseWorkQueue(_))),
                ..WorkQueueUpdate::default()
            };
            let changed = match queue_store::read(tx, id).await? {
                Some(before) => work_pools::queues::change(tx, &before, now, &update, false).await?,
                None => false,
            };
            if !changed {
                return not_found(kind, report);
            }
            done(report, 204);
            Ok(())
        }
        Action::PauseWorkPool(on) | Action::ResumeWorkPool(on) => {
            let id = WorkPoolId::from(target(action, "work-pool", on.source, on.work_pool_id)?);
            let Some(before) = pool_store::read(tx, &pool_store::Key::Id(id)).await? else {
                return fail(format!("Work pool {id} not found"));
            };
            report.relate(format!("prefect.work-pool.{id}"), "target", Some(&before.name));
            let update =
                WorkPoolUpdate { is_paused: Patch::Value(matches!(action.action, Action::PauseWorkPool(_))), ..WorkPoolUpdate::default() };
            work_pools::pools::change(tx, &before, now, &update, None).await?;
            done(report, 204);
            Ok(())
        }
        Action::PauseAutomation(on) | Action::ResumeAutomation(on) => {
            let id = AutomationId::from(target(action, "automation", on.source, on.automation_id)?);
            report.relate(format!("prefect.automation.{id}"), "target", None);
            let enabled = matches!(action.action, Action::ResumeAutomation(_));
            automations::set_enabled_in(tx, id, enabled, now).await.map_err(|error| refused(kind, error, report))?;
            done(report, 204);
            Ok(())
        }
        Action::SendNotification(_) | Action::CallWebhook(_) => unreachable!("calls are made after the commit"),
    }
}

fn done(report: &mut Report, status: u16) {
    report.details.insert("status_code".to_owned(), status.into());
}

fn not_found(kind: &str, report: &mut Report) -> Result<(), Failure> {
    report.details.insert("status_code".to_owned(), 404.into());
    fail(format!("Unexpected status from '{kind}' action: 404"))
}

/// What an action acts on: what it names, or the first resource of the kind that the event is about.
fn target(action: &TriggeredAction, kind: &str, source: Source, selected: Option<Uuid>) -> Result<Uuid, Failure> {
    if source == Source::Selected {
        return selected.ok_or_else(|| Failure::Expected(format!("No {} was selected", kind.replace('-', " "))));
    }
    let what = kind.replace('-', " ");
    if action.triggering_event.is_none() {
        return fail(format!("No event to infer the {what}"));
    }
    inferred(action, kind).ok_or_else(|| Failure::Expected(format!("No {what} could be inferred")))
}

/// The id of the first resource of a kind that the event is about.
fn inferred(action: &TriggeredAction, kind: &str) -> Option<Uuid> {
    let resource = inputs::first_of_kind(action, kind)?;
    id_of(resource.get("prefect.resource.id")?, kind)
}

fn id_of(resource_id: &str, kind: &str) -> Option<Uuid> {
    let id = resource_id.strip_prefix("prefect.")?.strip_prefix(kind)?.strip_prefix('.')?;
    Uuid::from_str(id).ok()
}

/// The flow run that the firing is about; a proactive trigger knows it by its labels.
fn flow_run(action: &TriggeredAction, report: &mut Report) -> Result<FlowRunId, Failure> {
    let by_label = action.triggering_labels.get("prefect.resource.id").and_then(|id| id_of(id, "flow-run"));
    let Some(id) = by_label.or_else(|| inferred(action, "flow-run")) else { return fail("No flow run could be inferred") };
    report.relate(format!("prefect.flow-run.{id}"), "target", None);
    Ok(id.into())
}

fn state(kind: StateType, name: Option<String>, message: String) -> StateCreate {
    StateCreate { kind, name, message: Some(message), data: None, state_details: StateDetails::default() }
}

async fn set_state(
    lead: &Lead,
    tx: &mut Tx,
    action: &TriggeredAction,
    proposed: StateCreate,
    force: bool,
    report: &mut Report,
) -> Result<(), Failure> {
    let id = flow_run(action, report)?;
    let now = lead.app.now();
    let context = Context::server(now, &lead.app.settings().orchestration);
    let result = match set_flow_run_state(tx, &context, id, proposed.at(now), FlowPolicy::of_request(force)).await {
        Ok(result) => result,
        Err(OrchestrationError::NotFound(_)) => return not_found(action.action.kind(), report),
        Err(error) => return Err(Failure::Service(error.into())),
    };
    let made = result.state.as_ref().is_some_and(|state| state.timestamp >= now);
    report.details.insert("status_code".to_owned(), if made { 201 } else { 200 }.into());
    match reason(result.details) {
        None => Ok(()),
        Some(reason) => fail(format!("Failed to set state: {reason}")),
    }
}

/// Why a state was not taken.
fn reason(details: StateResponseDetails) -> Option<String> {
    match details {
        StateResponseDetails::Accept {} => None,
        StateResponseDetails::Wait { reason, .. } | StateResponseDetails::Reject { reason } | StateResponseDetails::Abort { reason } => {
            Some(reason.unwrap_or_else(|| "None".to_owned()))
        }
    }
}

async fn run_deployment(
    lead: &Lead,
    tx: &mut Tx,
    action: &TriggeredAction,
    run: &RunDeployment,
    report: &mut Report,
) -> Result<(), Failure> {
    let id = DeploymentId::from(target(action, "deployment", run.source, run.deployment_id)?);
    report.relate(format!("prefect.deployment.{id}"), "target", None);
    let parameters = inputs::parameters(lead, tx, action, run.parameters.as_ref()).await?;
    let now = lead.app.now();
    let scheduled = now + TimeDelta::microseconds((run.schedule_after * 1e6) as i64);
    let wanted = serde_json::json!({
        "state": {"type": "SCHEDULED", "state_details": {"scheduled_time": crate::model::json::write_timestamp(&scheduled)}},
        "parameters": parameters,
        "idempotency_key": action.idempotency_key(),
        "job_variables": run.job_variables,
    });
    let given: DeploymentFlowRunCreate = match serde_json::from_value(wanted) {
        Ok(given) => given,
        Err(error) => return fail(format!("Unable to create flow run from deployment: {}", error.to_string().replace('\u{1}', " "))),
    };
    let by = CreatedBy {
        id: Some(action.automation.id.into()),
        kind: Some("AUTOMATION".into()),
        display_value: Some(action.automation.core.name.clone()),
    };
    let context = Context::server(now, &lead.app.settings().orchestration);
    match deployments::runs::create_in(&lead.app, tx, &context, id, given, Some(by)).await {
        Ok((run, made)) => {
            report.relate(format!("prefect.flow-run.{}", run.id), "flow-run", Some(&run.name));
            done(report, if made { 201 } else { 200 });
            Ok(())
        }
        Err(error) => {
            if let crate::api::ApiError::Detail { status, detail } = &error
                && status.as_u16() == 409
            {
                report.details.insert("validation_error".to_owned(), detail.clone());
            }
            Err(refused(action.action.kind(), error, report))
        }
    }
}
