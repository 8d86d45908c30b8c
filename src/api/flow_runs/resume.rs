//! Resume paused flow runs, with the input that they wait for.

use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::missing;
use super::state::status;
use crate::api::caller::Caller;
use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path};
use crate::api::openapi::{Routes, post};
use crate::app::App;
use crate::clock::Timestamp;
use crate::id::{FlowRunId, FlowRunInputId};
use crate::limits;
use crate::model::filter::variable::VariableFilter;
use crate::model::flow_run::FlowRunInput;
use crate::model::state::{self, OrchestrationResult, SetStateStatus, StateResponseDetails, StateType};
use crate::model::variable::VariableSort;
use crate::orchestration::{Context, FlowPolicy, set_flow_run_state};
use crate::parameters::{Invalid, Options, hydrate, validate};
use crate::store::{StoreError, Tx, flow_run_inputs, transitions, variables};

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Flow Runs").route("/flow_runs/{id}/resume", post(resume))
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct ResumeBody {
    run_input: Option<Map<String, Value>>,
}

/// Resume a paused flow run: it runs on, or is scheduled where it has left its process. Input that it waits for is
/// checked first and kept with the new state.
async fn resume(
    State(app): State<App>,
    Path(id): Path<FlowRunId>,
    caller: Caller,
    Embedded(body): Embedded<ResumeBody>,
) -> Result<(StatusCode, Json<OrchestrationResult>), ApiError> {
    let now = app.now();
    let context = caller.context(&app, now);
    let mut tx = app.begin("flow_runs.resume").await?;
    let result = resume_in(&mut tx, &context, id, body.run_input.unwrap_or_default()).await?;
    tx.commit().await?;
    Ok((status(&result, now), Json(result)))
}

/// Resumes a flow run in a transaction of the caller's.
///
/// # Errors
/// 404 where there is none, and the store's.
pub(crate) async fn resume_in(
    tx: &mut Tx,
    context: &Context<'_>,
    id: FlowRunId,
    input: Map<String, Value>,
) -> Result<OrchestrationResult, ApiError> {
    let now = context.now;
    let (_, state) = transitions::lock_flow_run(tx, id).await?.ok_or_else(missing)?;
    let Some(state) = state.filter(|state| state.kind == StateType::Paused) else {
        let reason = "Cannot resume a flow run that is not paused.".to_owned();
        return Ok(refused(SetStateStatus::Abort, None, reason));
    };
    let keyset = state.state_details.run_input_keyset.clone().filter(|keys| !keys.is_empty());
    let input = match &keyset {
        Some(keys) => match checked(tx, id, keys.get("schema").map_or("", String::as_str), input).await? {
            Ok(input) => Some(input).filter(|input| !input.is_empty()),
            Err(reason) => return Ok(refused(SetStateStatus::Reject, Some(state), reason)),
        },
        None => None,
    };
    let resumed = if state.state_details.pause_reschedule {
        state::State::scheduled(now, now).named("Resuming")
    } else {
        state::State::new(StateType::Running, now)
    };
    let result = set_flow_run_state(tx, context, id, resumed, FlowPolicy::Core).await?;
    if let (Some(keys), Some(input), SetStateStatus::Accept) = (keyset, input, result.status) {
        keep(tx, id, keys.get("response").map_or("", String::as_str), input, now).await?;
    }
    Ok(result)
}

fn refused(status: SetStateStatus, state: Option<state::State>, reason: String) -> OrchestrationResult {
    OrchestrationResult { state, status, details: StateResponseDetails::Abort { reason: Some(reason) } }
}

/// The input with its values filled in, where it fits the schema that the run has left under `key`; else why not.
async fn checked(
    tx: &mut Tx,
    id: FlowRunId,
    key: &str,
    input: Map<String, Value>,
) -> Result<Result<Map<String, Value>, String>, StoreError> {
    let all = variables::list(tx, &VariableFilter::default(), VariableSort::default(), limits::HYDRATION_VARIABLES, 0).await?;
    let all = all.into_iter().map(|variable| (variable.name, variable.value)).collect();
    let input = match hydrate(&input, &all) {
        Ok(input) => input,
        Err(error) => return Ok(Err(format!("Error hydrating run input: {error}"))),
    };
    let Some(schema) = flow_run_inputs::read(tx, id, key).await? else { return Ok(Err("Run input schema not found.".into())) };
    let Ok(schema) = serde_json::from_str::<Value>(&schema.value) else {
        return Ok(Err("Run input schema is not valid JSON.".into()));
    };
    Ok(match validate(&Value::Object(input.clone()), &schema, Options::default()) {
        Ok(()) => Ok(input),
        Err(error @ Invalid::Circular) => Err(error.to_string()),
        Err(error) => Err(format!("Reason: {error}")),
    })
}

async fn keep(tx: &mut Tx, id: FlowRunId, key: &str, input: Map<String, Value>, now: Timestamp) -> Result<(), StoreError> {
    let input = FlowRunInput {
        id: FlowRunInputId::fresh(),
        created: now,
        updated: now,
        flow_run_id: id,
        key: key.to_owned(),
        value: Value::Object(input).to_string(),
        sender: None,
    };
    flow_run_inputs::insert(tx, &input).await
}
