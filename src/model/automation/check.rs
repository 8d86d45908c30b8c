//! What clients may send as an automation, with every finding that pydantic would tell, below the names that it gives to
//! the members of its unions.

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::action::{
    CallWebhook, ChangeFlowRunState, OnAutomation, OnDeployment, OnWorkPool, OnWorkQueue, SendNotification, default_subject, payload_text,
};
use super::specification::Patterns;
use super::trigger::RelatedSpecification;
use super::{
    Action, AutomationCore, AutomationCreate, AutomationPartialUpdate, AutomationUpdate, CompoundTrigger, EventTrigger, Posture, Require,
    ResourceSpecification, RunDeployment, SequenceTrigger, Source, Trigger,
};
use crate::id;
use crate::model::check::{
    self, Checker, Fields, Issue, boolean, enumeration, integer, list, one_of, optional, seconds, string, string_set, uuid,
};
use crate::model::json::{is_truthy, parse_seconds};

/// Checks that lie above this layer.
#[derive(Clone, Copy)]
pub struct Above {
    /// What is wrong with a template.
    pub template: fn(&str) -> Result<(), String>,
    /// What is wrong with a deployment's parameters, each with the path of its field (`a.b`, empty for the whole).
    pub parameters: ParameterCheck,
}

/// Finds what is wrong with parameters: the path of a field, and what.
pub type ParameterCheck = fn(&Map<String, Value>) -> Vec<(String, String)>;

/// Least seconds of a proactive trigger, and what it gets where it says nothing.
const PROACTIVE_SECONDS_MIN: f64 = 10.0;

const CORE: [&str; 8] = ["name", "description", "enabled", "tags", "trigger", "actions", "actions_on_trigger", "actions_on_resolve"];

/// Reads a body of `POST /automations/`. The value is changed as the reference changes it before it tells its findings.
///
/// # Errors
/// The findings.
pub fn create(value: &mut Value, above: Above) -> Result<AutomationCreate, Vec<Issue>> {
    normalize(value);
    read(value, |checker, fields| {
        let core = core_fields(checker, fields, above);
        let owner_resource = fields.or(checker, "owner_resource", None, optional(string));
        let known: Vec<&str> = CORE.into_iter().chain(["owner_resource"]).collect();
        let extra = fields.forbid_others(checker, &known);
        let create = AutomationCreate { core: core?, owner_resource: owner_resource? };
        extra?;
        no_endless_runs(checker, &create.core, fields.whole)?;
        Some(create)
    })
}

/// Reads a body of `PUT /automations/{id}`.
///
/// # Errors
/// The findings.
pub fn update(value: &mut Value, above: Above) -> Result<AutomationUpdate, Vec<Issue>> {
    normalize(value);
    read(value, |checker, fields| {
        let core = core_fields(checker, fields, above);
        let extra = fields.forbid_others(checker, &CORE);
        let update = AutomationUpdate { core: core? };
        extra?;
        no_endless_runs(checker, &update.core, fields.whole)?;
        Some(update)
    })
}

/// Reads a body of `PATCH /automations/{id}`.
///
/// # Errors
/// The findings.
pub fn partial_update(value: &Value) -> Result<AutomationPartialUpdate, Vec<Issue>> {
    read(value, |checker, fields| {
        let enabled = fields.or(checker, "enabled", None, |checker, value| boolean(checker, value).map(Some));
        let extra = fields.forbid_others(checker, &["enabled"]);
        extra?;
        Some(AutomationPartialUpdate { enabled: enabled? })
    })
}

/// Checks an automation as a whole, as it would be after a partial update.
///
/// # Errors
/// The finding, which is about the whole `document`.
pub fn whole(core: &AutomationCore, document: &Value) -> Result<(), Vec<Issue>> {
    let mut checker = Checker::below(Vec::new());
    let checked = no_endless_runs(&mut checker, core, document);
    checker.finish(checked)
}

fn read<T>(value: &Value, fields: impl FnOnce(&mut Checker, &Fields<'_>) -> Option<T>) -> Result<T, Vec<Issue>> {
    let mut checker = Checker::below(vec!["body".into()]);
    let read = checker.object(value).and_then(|given| fields(&mut checker, &given));
    checker.finish(read)
}

fn core_fields(checker: &mut Checker, fields: &Fields<'_>, above: Above) -> Option<AutomationCore> {
    let actions = |checker: &mut Checker, value: &Value| list(|checker, value| action(checker, value, above))(checker, value);
    let name = fields.required(checker, "name", string);
    let description = fields.or(checker, "description", String::new(), string);
    let enabled = fields.or(checker, "enabled", true, boolean);
    let tags = fields.or(checker, "tags", Vec::new(), list(string));
    let trigger = fields.required(checker, "trigger", |checker, value| trigger(checker, value, false));
    let plain = fields.required(checker, "actions", actions);
    let on_trigger = fields.or(checker, "actions_on_trigger", Vec::new(), actions);
    let on_resolve = fields.or(checker, "actions_on_resolve", Vec::new(), actions);
    Some(AutomationCore {
        name: name?,
        description: description?,
        enabled: enabled?,
        tags: tags?,
        trigger: trigger?,
        actions: plain?,
        actions_on_trigger: on_trigger?,
        actions_on_resolve: on_resolve?,
    })
}

/// Turns the spans of triggers into float seconds, and gives proactive ones theirs: the reference does so while it looks
/// whether an object is a trigger by events, and its findings then show it.
fn normalize(body: &mut Value) {
    let mut left: Vec<&mut Value> = body.get_mut("trigger").into_iter().collect();
    while let Some(trigger) = left.pop() {
        let Value::Object(fields) = trigger else { continue };
        let within = match fields.get("within") {
            Some(Value::Number(number)) => number.as_f64().map(Value::from),
            Some(Value::Bool(value)) => Some(Value::from(f64::from(u8::from(*value)))),
            _ => None,
        };
        let is_null = fields.get("within").is_some_and(Value::is_null);
        if let Some(within) = within {
            fields.insert("within".into(), within);
        }
        let is_proactive = fields.get("posture").and_then(Value::as_str) == Some("Proactive");
        if is_proactive && !is_null && !fields.get("within").is_some_and(is_truthy) {
            fields.insert("within".into(), PROACTIVE_SECONDS_MIN.into());
        }
        left.extend(fields.get_mut("triggers").and_then(Value::as_array_mut).into_iter().flatten());
    }
}

/// `below_compound`: the name of a compound trigger inside another one is shorter.
fn trigger(checker: &mut Checker, value: &Value, below_compound: bool) -> Option<Trigger> {
    const EVENT: &str = "EventTrigger";
    const SEQUENCE: &str = "SequenceTrigger";
    let compound = if below_compound {
        "function-after[validate_require(), CompoundTrigger]"
    } else {
        "function-after[validate_require(), function-after[validate_require(), CompoundTrigger]]"
    };
    if checker.is_full() || !checker.may_nest() {
        return checker.refuse("the triggers are nested too deeply", value);
    }
    // A trigger that names its kind can be no other one, and whoever reads them all doubles its work at each level.
    if let Some(kind) = value.get("type").and_then(Value::as_str) {
        let told = checker.mark();
        let named = match kind {
            "event" => checker.at(EVENT, |checker| event_trigger(checker, value).map(Trigger::Event)),
            "compound" => checker.at(compound, |checker| compound_trigger(checker, value).map(Trigger::Compound)),
            "sequence" => checker.at(SEQUENCE, |checker| sequence_trigger(checker, value, below_compound).map(Trigger::Sequence)),
            _ => None,
        };
        if named.is_some() {
            return named;
        }
        checker.forget(told);
    }
    checker.union(&[
        (EVENT, &|checker| event_trigger(checker, value).map(Trigger::Event)),
        (compound, &|checker| compound_trigger(checker, value).map(Trigger::Compound)),
        (SEQUENCE, &|checker| sequence_trigger(checker, value, below_compound).map(Trigger::Sequence)),
    ])
}

fn event_trigger(checker: &mut Checker, value: &Value) -> Option<EventTrigger> {
    let is_proactive = value.get("posture").and_then(Value::as_str) == Some("Proactive");
    match value.get("within") {
        Some(Value::Null) => return checker.refuse("`within` should be a valid timedelta", value),
        Some(within) if is_proactive => {
            let short = parse_seconds(within).is_some_and(|seconds| seconds < PROACTIVE_SECONDS_MIN);
            if short {
                return checker.refuse("`within` for Proactive triggers must be greater than or equal to 10 seconds", value);
            }
        }
        _ => {}
    }
    let fields = checker.object(value)?;
    let kind = fields.literal(checker, "type", "event");
    let id = fields.or(checker, "id", id::v4(), uuid);
    let matched = fields.or(checker, "match", ResourceSpecification::default(), specification);
    let related = fields.or(checker, "match_related", RelatedSpecification::default(), related_specification);
    let after = fields.or(checker, "after", Default::default(), string_set);
    let expect = fields.or(checker, "expect", Default::default(), string_set);
    let for_each = fields.or(checker, "for_each", Default::default(), string_set);
    let posture = fields.required(checker, "posture", posture);
    let threshold = fields.or(checker, "threshold", 1, integer);
    let within = fields.or(checker, "within", 0.0, |checker, value| {
        let given = seconds(checker, value)?;
        if given < 0.0 {
            let ctx = serde_json::json!({"ge": "0 seconds"});
            return checker.find("greater_than_equal", "Input should be greater than or equal to 0 seconds", value, Some(ctx));
        }
        Some(given)
    });
    kind?;
    Some(EventTrigger {
        id: id?,
        r#match: matched?,
        match_related: related?,
        after: after?,
        expect: expect?,
        for_each: for_each?,
        posture: posture?,
        threshold: threshold?,
        within: within?,
    })
}

fn posture(checker: &mut Checker, value: &Value) -> Option<Posture> {
    match value.as_str() {
        Some("Reactive") => Some(Posture::Reactive),
        Some("Proactive") => Some(Posture::Proactive),
        _ => check::literal_error(checker, value, "Posture.Reactive or Posture.Proactive"),
    }
}

/// The fields that both kinds of triggers over others have: id, triggers, span.
fn composite(checker: &mut Checker, fields: &Fields<'_>, kind: &str, in_compound: bool) -> Option<(uuid::Uuid, Vec<Trigger>, Option<f64>)> {
    let kind = fields.literal(checker, "type", kind);
    let id = fields.or(checker, "id", id::v4(), uuid);
    let triggers = fields.required(checker, "triggers", list(|checker, value| trigger(checker, value, in_compound)));
    let within = fields.required(checker, "within", optional(seconds));
    kind?;
    Some((id?, triggers?, within?))
}

fn compound_trigger(checker: &mut Checker, value: &Value) -> Option<CompoundTrigger> {
    let fields = checker.object(value)?;
    let composite = composite(checker, &fields, "compound", true);
    let require = fields.required(checker, "require", require);
    let ((id, triggers, within), require) = composite.zip(require)?;
    if let Require::Number(number) = require {
        if number < 1 {
            return checker.refuse("require must be at least 1", value);
        }
        if number > triggers.len() as i64 {
            return checker.refuse("require must be less than or equal to the number of triggers", value);
        }
    }
    Some(CompoundTrigger { id, triggers, within, require })
}

fn require(checker: &mut Checker, value: &Value) -> Option<Require> {
    match value.as_str() {
        Some("any") => Some(Require::Any),
        Some("all") => Some(Require::All),
        _ => checker.union(&[
            ("int", &|checker| integer(checker, value).map(Require::Number)),
            ("literal['any','all']", &|checker| one_of(checker, value, &[("any", Require::Any), ("all", Require::All)])),
        ]),
    }
}

fn sequence_trigger(checker: &mut Checker, value: &Value, in_compound: bool) -> Option<SequenceTrigger> {
    let fields = checker.object(value)?;
    let (id, triggers, within) = composite(checker, &fields, "sequence", in_compound)?;
    Some(SequenceTrigger { id, triggers, within })
}

/// An object of labels, whose findings are told without a union's names.
fn labels(checker: &mut Checker, value: &Map<String, Value>) -> Option<ResourceSpecification> {
    let mut all = Some(IndexMap::with_capacity(value.len()));
    for (label, expected) in value {
        let patterns = checker.at(label.as_str(), |checker| {
            checker.union(&[
                ("str", &|checker| string(checker, expected).map(Patterns::One)),
                ("list[str]", &|checker| list(string)(checker, expected).map(Patterns::Any)),
            ])
        });
        all = all.zip(patterns).map(|(mut all, patterns)| {
            all.insert(label.clone(), patterns);
            all
        });
    }
    all.map(ResourceSpecification)
}

/// Tells of something that is no object where one of labels is wanted.
fn no_labels(checker: &mut Checker, value: &Value) {
    for label in ["ResourceSpecification", "dict[str,union[str,list[str]]]"] {
        checker.at(label, |checker| checker.find::<()>("dict_type", "Input should be a valid dictionary", value, None));
    }
}

pub(crate) fn specification(checker: &mut Checker, value: &Value) -> Option<ResourceSpecification> {
    if let Value::Object(fields) = value {
        labels(checker, fields)
    } else {
        no_labels(checker, value);
        None
    }
}

fn related_specification(checker: &mut Checker, value: &Value) -> Option<RelatedSpecification> {
    const LIST: &str = "list[union[ResourceSpecification,dict[str,union[str,list[str]]]]]";
    match value {
        Value::Object(fields) => labels(checker, fields).map(RelatedSpecification::One),
        Value::Array(items) => {
            // The objects come first, one by one; then whatever else is there is told.
            let objects: Vec<&Map<String, Value>> = items.iter().filter_map(Value::as_object).collect();
            let all: Vec<ResourceSpecification> = objects.into_iter().map(|item| labels(checker, item)).collect::<Option<_>>()?;
            if all.len() == items.len() {
                return Some(RelatedSpecification::All(all));
            }
            no_labels(checker, value);
            checker.at(LIST, |checker| {
                for (index, item) in items.iter().enumerate().filter(|(_, item)| !item.is_object()) {
                    checker.at(index, |checker| {
                        no_labels(checker, item);
                        None::<()>
                    });
                }
                None
            })
        }
        _ => {
            no_labels(checker, value);
            checker.at(LIST, |checker| checker.find("list_type", "Input should be a valid list", value, None))
        }
    }
}

fn source(checker: &mut Checker, value: &Value) -> Option<Source> {
    one_of(checker, value, &[("selected", Source::Selected), ("inferred", Source::Inferred)])
}

/// Type, source and the id that goes with it.
fn target(checker: &mut Checker, fields: &Fields<'_>, kind: &str, id: &str) -> Option<(Source, Option<uuid::Uuid>)> {
    let kind = fields.literal(checker, "type", kind);
    let source = fields.or(checker, "source", Source::Selected, source);
    let id = fields.or(checker, id, None, optional(uuid));
    kind?;
    source.zip(id)
}

/// An id has to be there exactly where the source is `selected`.
fn coherent(checker: &mut Checker, fields: &Fields<'_>, id: &str, source: Source, given: Option<uuid::Uuid>) -> Option<()> {
    match (source, given) {
        (Source::Selected, Some(_)) | (Source::Inferred, None) => Some(()),
        (Source::Selected, None) => checker.refuse(format_args!("{id} is required"), fields.whole),
        (Source::Inferred, Some(_)) => checker.refuse(format_args!("{id} is not allowed"), fields.whole),
    }
}

fn on(checker: &mut Checker, value: &Value, kind: &str, id: &str) -> Option<(Source, Option<uuid::Uuid>)> {
    let fields = checker.object(value)?;
    let (source, given) = target(checker, &fields, kind, id)?;
    coherent(checker, &fields, id, source, given)?;
    Some((source, given))
}

fn plain(checker: &mut Checker, value: &Value, action: Action) -> Option<Action> {
    let fields = checker.object(value)?;
    fields.literal(checker, "type", action.kind())?;
    Some(action)
}

fn run_deployment(checker: &mut Checker, value: &Value, above: Above) -> Option<Action> {
    let fields = checker.object(value)?;
    let target = target(checker, &fields, "run-deployment", "deployment_id");
    let parameters = fields.or(checker, "parameters", None, |checker, value| {
        let given = optional(check::object)(checker, value)?;
        let problems = given.as_ref().map(above.parameters).unwrap_or_default();
        if problems.is_empty() {
            return Some(given);
        }
        let told: Vec<String> = problems
            .iter()
            .map(|(path, problem)| if path.is_empty() { format!(" {problem}") } else { format!("{path}: {problem}") })
            .collect();
        checker.refuse(format_args!("Invalid parameters: \n{}", told.join("\n  ")), value)
    });
    let job_variables = fields.or(checker, "job_variables", None, optional(check::object));
    let schedule_after = fields.or(checker, "schedule_after", 0.0, |checker, value| {
        let given = seconds(checker, value)?;
        if given < 0.0 { checker.refuse("schedule_after must be non-negative", value) } else { Some(given) }
    });
    let (source, deployment_id) = target?;
    let run =
        RunDeployment { source, deployment_id, parameters: parameters?, job_variables: job_variables?, schedule_after: schedule_after? };
    coherent(checker, &fields, "deployment_id", source, deployment_id)?;
    Some(Action::RunDeployment(run))
}

fn change_flow_run_state(checker: &mut Checker, value: &Value) -> Option<Action> {
    const TYPES: [&str; 9] = ["SCHEDULED", "PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "CRASHED", "PAUSED", "CANCELLING"];
    let fields = checker.object(value)?;
    let kind = fields.literal(checker, "type", "change-flow-run-state");
    let name = fields.or(checker, "name", None, optional(string));
    let state = fields.required(checker, "state", |checker, value| enumeration(checker, value, &TYPES));
    let message = fields.or(checker, "message", None, optional(string));
    let force = fields.or(checker, "force", false, boolean);
    kind?;
    Some(Action::ChangeFlowRunState(ChangeFlowRunState { name: name?, state: state?, message: message?, force: force? }))
}

fn template(checker: &mut Checker, text: String, field: &str, input: &Value, above: Above) -> Option<String> {
    match (above.template)(&text) {
        Ok(()) => Some(text),
        Err(error) => checker.refuse(format_args!("'{field}' is not a valid template: {error}"), input),
    }
}

fn send_notification(checker: &mut Checker, value: &Value, above: Above) -> Option<Action> {
    let fields = checker.object(value)?;
    let valid = |field: &'static str| {
        move |checker: &mut Checker, value: &Value| {
            let text = string(checker, value)?;
            template(checker, text, field, value, above)
        }
    };
    let kind = fields.literal(checker, "type", "send-notification");
    let block_document_id = fields.required(checker, "block_document_id", uuid);
    let subject = fields.or(checker, "subject", default_subject(), valid("subject"));
    let body = fields.required(checker, "body", valid("body"));
    kind?;
    Some(Action::SendNotification(SendNotification { block_document_id: block_document_id?, subject: subject?, body: body? }))
}

fn call_webhook(checker: &mut Checker, value: &Value, above: Above) -> Option<Action> {
    let fields = checker.object(value)?;
    let kind = fields.literal(checker, "type", "call-webhook");
    let block_document_id = fields.required(checker, "block_document_id", uuid);
    let payload = fields.or(checker, "payload", String::new(), |checker, value| match payload_text(value) {
        Some(text) => template(checker, text, "payload", value, above),
        None => string(checker, value),
    });
    kind?;
    Some(Action::CallWebhook(CallWebhook { block_document_id: block_document_id?, payload: payload? }))
}

fn action(checker: &mut Checker, value: &Value, above: Above) -> Option<Action> {
    let deployment = |checker: &mut Checker, kind| {
        on(checker, value, kind, "deployment_id").map(|(source, deployment_id)| OnDeployment { source, deployment_id })
    };
    let queue = |checker: &mut Checker, kind| {
        on(checker, value, kind, "work_queue_id").map(|(source, work_queue_id)| OnWorkQueue { source, work_queue_id })
    };
    let pool = |checker: &mut Checker, kind| {
        on(checker, value, kind, "work_pool_id").map(|(source, work_pool_id)| OnWorkPool { source, work_pool_id })
    };
    let automation = |checker: &mut Checker, kind| {
        on(checker, value, kind, "automation_id").map(|(source, automation_id)| OnAutomation { source, automation_id })
    };
    checker.union(&[
        ("DoNothing", &|checker| plain(checker, value, Action::DoNothing)),
        ("function-after[selected_deployment_requires_id(), RunDeployment]", &|checker| run_deployment(checker, value, above)),
        ("function-after[selected_deployment_requires_id(), PauseDeployment]", &|checker| {
            deployment(checker, "pause-deployment").map(Action::PauseDeployment)
        }),
        ("function-after[selected_deployment_requires_id(), ResumeDeployment]", &|checker| {
            deployment(checker, "resume-deployment").map(Action::ResumeDeployment)
        }),
        ("CancelFlowRun", &|checker| plain(checker, value, Action::CancelFlowRun)),
        ("DeleteFlowRun", &|checker| plain(checker, value, Action::DeleteFlowRun)),
        ("ChangeFlowRunState", &|checker| change_flow_run_state(checker, value)),
        ("function-after[selected_work_queue_requires_id(), PauseWorkQueue]", &|checker| {
            queue(checker, "pause-work-queue").map(Action::PauseWorkQueue)
        }),
        ("function-after[selected_work_queue_requires_id(), ResumeWorkQueue]", &|checker| {
            queue(checker, "resume-work-queue").map(Action::ResumeWorkQueue)
        }),
        ("SendNotification", &|checker| send_notification(checker, value, above)),
        ("CallWebhook", &|checker| call_webhook(checker, value, above)),
        ("function-after[selected_automation_requires_id(), PauseAutomation]", &|checker| {
            automation(checker, "pause-automation").map(Action::PauseAutomation)
        }),
        ("function-after[selected_automation_requires_id(), ResumeAutomation]", &|checker| {
            automation(checker, "resume-automation").map(Action::ResumeAutomation)
        }),
        ("SuspendFlowRun", &|checker| plain(checker, value, Action::SuspendFlowRun)),
        ("ResumeFlowRun", &|checker| plain(checker, value, Action::ResumeFlowRun)),
        ("function-after[selected_work_pool_requires_id(), PauseWorkPool]", &|checker| {
            pool(checker, "pause-work-pool").map(Action::PauseWorkPool)
        }),
        ("function-after[selected_work_pool_requires_id(), ResumeWorkPool]", &|checker| {
            pool(checker, "resume-work-pool").map(Action::ResumeWorkPool)
        }),
    ])
}

/// Refuses an automation whose runs would trigger it again for ever, as far as that can be told from its fields: it runs
/// a deployment whenever some flow run starts.
fn no_endless_runs(checker: &mut Checker, core: &AutomationCore, whole: &Value) -> Option<()> {
    const STARTS: [&str; 4] = ["prefect.flow-run.Scheduled", "prefect.flow-run.Pending", "prefect.flow-run.Running", "prefect.flow-run.*"];
    const FLOW_RUN: &str = "prefect.flow-run";
    let Trigger::Event(trigger) = &core.trigger else { return Some(()) };
    let by_starts = trigger.expect.iter().any(|event| STARTS.contains(&event.as_str()));
    if !core.enabled || trigger.posture != Posture::Reactive || !by_starts {
        return Some(());
    }
    let sources = core.actions.iter().filter_map(|action| match action {
        Action::RunDeployment(run) => Some(run.source),
        _ => None,
    });
    for source in sources {
        match source {
            Source::Inferred => {
                return checker.refuse(
                    "Running an inferred deployment from a flow run state change event will lead to an infinite loop of flow runs.  \
                     Please choose a specific deployment and add additional filtering labels to the match or match_related for \
                     this automation's trigger.",
                    whole,
                );
            }
            Source::Selected => {
                let unfiltered = trigger.r#match.matches_every_resource_of_kind(FLOW_RUN)
                    && trigger.match_related.as_slice().iter().any(|related| related.matches_every_resource_of_kind(FLOW_RUN));
                if unfiltered {
                    return checker.refuse(
                        "Running a selected deployment from a flow run state change event may lead to an infinite loop of flow runs.  \
                         Please include additional filtering labels on either match or match_related to narrow down which flow runs \
                         will trigger this automation to exclude flow runs from the deployment you've selected.",
                        whole,
                    );
                }
            }
        }
    }
    Some(())
}
