//! What an automation may do (`prefect/server/events/actions.py`): the fields alone; how it is done is the matter of
//! `crate::automations`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::model::json;
use crate::model::state::StateType;

/// Any action, in the reference's order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Action {
    DoNothing,
    RunDeployment(RunDeployment),
    PauseDeployment(OnDeployment),
    ResumeDeployment(OnDeployment),
    CancelFlowRun,
    DeleteFlowRun,
    ChangeFlowRunState(ChangeFlowRunState),
    PauseWorkQueue(OnWorkQueue),
    ResumeWorkQueue(OnWorkQueue),
    SendNotification(SendNotification),
    CallWebhook(CallWebhook),
    PauseAutomation(OnAutomation),
    ResumeAutomation(OnAutomation),
    SuspendFlowRun,
    ResumeFlowRun,
    PauseWorkPool(OnWorkPool),
    ResumeWorkPool(OnWorkPool),
}

impl Action {
    /// The word of its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::DoNothing => "do-nothing",
            Self::RunDeployment(_) => "run-deployment",
            Self::PauseDeployment(_) => "pause-deployment",
            Self::ResumeDeployment(_) => "resume-deployment",
            Self::CancelFlowRun => "cancel-flow-run",
            Self::DeleteFlowRun => "delete-flow-run",
            Self::ChangeFlowRunState(_) => "change-flow-run-state",
            Self::PauseWorkQueue(_) => "pause-work-queue",
            Self::ResumeWorkQueue(_) => "resume-work-queue",
            Self::SendNotification(_) => "send-notification",
            Self::CallWebhook(_) => "call-webhook",
            Self::PauseAutomation(_) => "pause-automation",
            Self::ResumeAutomation(_) => "resume-automation",
            Self::SuspendFlowRun => "suspend-flow-run",
            Self::ResumeFlowRun => "resume-flow-run",
            Self::PauseWorkPool(_) => "pause-work-pool",
            Self::ResumeWorkPool(_) => "resume-work-pool",
        }
    }
}

/// Whether an action names what it acts on, or takes it from the triggering event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    #[default]
    Selected,
    Inferred,
}

/// Acts on a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OnDeployment {
    #[serde(default)]
    pub source: Source,
    /// There exactly where the source is `selected`; so with the ids below.
    #[serde(default)]
    pub deployment_id: Option<Uuid>,
}

/// Acts on a work pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OnWorkPool {
    #[serde(default)]
    pub source: Source,
    #[serde(default)]
    pub work_pool_id: Option<Uuid>,
}

/// Acts on a work queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OnWorkQueue {
    #[serde(default)]
    pub source: Source,
    #[serde(default)]
    pub work_queue_id: Option<Uuid>,
}

/// Acts on an automation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OnAutomation {
    #[serde(default)]
    pub source: Source,
    #[serde(default)]
    pub automation_id: Option<Uuid>,
}

/// Makes a flow run of a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunDeployment {
    #[serde(default)]
    pub source: Source,
    #[serde(default)]
    pub deployment_id: Option<Uuid>,
    /// Templates and values taken at run time, see `crate::parameters`; `None` for the deployment's own.
    #[serde(default)]
    pub parameters: Option<Map<String, Value>>,
    /// `None` for the deployment's own.
    #[serde(default)]
    pub job_variables: Option<Map<String, Value>>,
    /// Seconds from the action to the run's scheduled time.
    #[serde(default, with = "json::seconds")]
    pub schedule_after: f64,
}

/// Gives the flow run a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeFlowRunState {
    #[serde(default)]
    pub name: Option<String>,
    pub state: StateType,
    #[serde(default)]
    pub message: Option<String>,
    /// Past the rules of orchestration.
    #[serde(default)]
    pub force: bool,
}

/// Sends a text by a notification block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SendNotification {
    pub block_document_id: Uuid,
    /// A template.
    #[serde(default = "default_subject")]
    pub subject: String,
    /// A template.
    pub body: String,
}

/// The subject of a notification that has none of its own.
pub fn default_subject() -> String {
    "Prefect automated notification".to_owned()
}

/// Calls a webhook block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CallWebhook {
    pub block_document_id: Uuid,
    /// A template.
    #[serde(default, deserialize_with = "payload")]
    pub payload: String,
}

/// Rows of old servers hold a payload as an object; it is its JSON text.
fn payload<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Value::deserialize(deserializer).map(|value| payload_text(&value).unwrap_or_default())
}

/// The template of a payload that was given as any JSON; `None` for null.
pub fn payload_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => serde_json::to_string_pretty(other).ok(),
    }
}
