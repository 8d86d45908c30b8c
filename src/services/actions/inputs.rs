//! What the templates of actions see, and the parameters of runs that are made of them.

use std::collections::HashMap;
use std::str::FromStr;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Failure, fail};
use crate::automations::render::{self, Context};
use crate::automations::template::maybe_template;
use crate::limits;
use crate::model::automation::TriggeredAction;
use crate::model::event::Resource;
use crate::model::filter::variable::VariableFilter;
use crate::model::variable::VariableSort;
use crate::services::Lead;
use crate::store::{Tx, concurrency_limits, deployments, flow_runs, flows, task_runs, variables, work_pools, work_queues};

/// The first resource of a kind (such as `flow-run`) that the triggering event is about.
pub(super) fn first_of_kind<'a>(action: &'a TriggeredAction, kind: &str) -> Option<&'a Resource> {
    let event = &action.triggering_event.as_ref()?.event;
    let is_kind = |resource: &&Resource| {
        let id = resource.get("prefect.resource.id").map_or("", String::as_str);
        id.rsplit_once('.').is_some_and(|(of, _)| of.strip_prefix("prefect.") == Some(kind))
    };
    std::iter::once(&event.resource).chain(&event.related).find(is_kind)
}

/// The context of templates; objects are read where a template names them.
pub(super) async fn context(lead: &Lead, tx: &mut Tx, action: &TriggeredAction, templates: &[&str]) -> Result<Context, Failure> {
    let server = &lead.app.settings().server;
    let ui = server.ui_url.clone().unwrap_or_else(|| format!("http://{}:{}", server.host, server.port));
    let now = lead.app.now();
    let mut context = Context::new(&ui, now);
    context.add("automation", "automation", &to_json(&action.automation));
    context.add("event", "event", &to_json(&action.triggering_event));
    context.add_labels("labels", &action.triggering_labels);
    context.add("firing", "firing", &to_json(&action.firing));
    context.add_many("firings", "firing", &action.all_firings().into_iter().map(to_json).collect::<Vec<_>>());
    context.add_many("events", "event", &action.all_events().into_iter().map(to_json).collect::<Vec<_>>());
    if action.triggering_event.is_none() {
        return Ok(context);
    }
    for name in render::names(templates.iter().copied()) {
        let name: &'static str = match NATIVE.iter().find(|known| **known == name) {
            Some(known) => known,
            None => continue,
        };
        if name == "variables" {
            let all = variables::list(tx, &VariableFilter::default(), VariableSort::default(), limits::HYDRATION_VARIABLES, 0).await?;
            let all: Map<String, Value> = all.into_iter().map(|variable| (variable.name, variable.value)).collect();
            context.add_plain(name, &Value::Object(all));
            continue;
        }
        let kind = KINDS.iter().find(|kind| kind.replace('-', "_") == name).copied().unwrap_or_default();
        let resource = first_of_kind(action, kind);
        let id = resource.and_then(|resource| resource.get("prefect.resource.id"));
        let id = id.and_then(|id| Uuid::from_str(id.rsplit('.').next().unwrap_or_default()).ok());
        let mut object = match id {
            Some(id) => read(tx, kind, id, now).await?.unwrap_or_default(),
            None => Value::Null,
        };
        if let (Some(resource), "flow-run" | "task-run") = (resource, kind) {
            state_of_event(&mut object, resource);
        }
        context.add(name, kind, &object);
    }
    Ok(context)
}

const NATIVE: [&str; 8] = ["deployment", "flow", "flow_run", "task_run", "work_pool", "work_queue", "concurrency_limit", "variables"];
const KINDS: [&str; 7] = ["deployment", "flow", "flow-run", "task-run", "work-pool", "work-queue", "concurrency-limit"];

/// A model as its JSON; models always have one.
fn to_json<T: serde::Serialize>(model: &T) -> Value {
    serde_json::to_value(model).unwrap_or_default()
}

/// An object as clients see it.
async fn read(tx: &mut Tx, kind: &str, id: Uuid, now: crate::clock::Timestamp) -> Result<Option<Value>, Failure> {
    Ok(match kind {
        "deployment" => {
            let found = deployments::read(tx, &deployments::Key::Id(id.into())).await?;
            found.map(|found| to_json(&found))
        }
        "flow" => flows::read(tx, &flows::Key::Id(id.into())).await?.map(|found| to_json(&found)),
        "flow-run" => flow_runs::read(tx, id.into()).await?.map(|found| to_json(&found.at(now))),
        "task-run" => task_runs::read(tx, id.into()).await?.map(|found| to_json(&found.at(now))),
        "work-pool" => {
            let found = work_pools::read(tx, &work_pools::Key::Id(id.into())).await?;
            found.map(|found| to_json(&found.shown()))
        }
        "work-queue" => work_queues::read(tx, id.into()).await?.map(|found| to_json(&found)),
        "concurrency-limit" => {
            let found = concurrency_limits::read(tx, &concurrency_limits::Key::Id(id.into())).await?;
            found.map(|found| to_json(&found))
        }
        _ => None,
    })
}

/// The state of the run as the event tells it: by now the run may be in another.
fn state_of_event(run: &mut Value, resource: &Resource) {
    let label = |name: &str| resource.get(&format!("prefect.state-{name}")).cloned();
    if let (Some(message), Some(name), Some(timestamp), Some(kind), Value::Object(fields)) =
        (label("message"), label("name"), label("timestamp"), label("type"), run)
    {
        fields.insert("state".to_owned(), json!({"type": kind, "name": name, "message": message, "timestamp": timestamp}));
    }
}

/// Renders templates with what they name.
pub(super) async fn rendered(
    lead: &Lead,
    tx: &mut Tx,
    action: &TriggeredAction,
    templates: &[&str],
) -> Result<Result<Vec<String>, render::RenderError>, Failure> {
    let context = context(lead, tx, action, templates).await?;
    Ok(templates.iter().map(|template| render::render(template, &context)).collect())
}

/// The parameters of a run, with templates rendered and variables filled in. A text that is nothing but one expression
/// keeps the type of its value.
pub(super) async fn parameters(
    lead: &Lead,
    tx: &mut Tx,
    action: &TriggeredAction,
    given: Option<&Map<String, Value>>,
) -> Result<Map<String, Value>, Failure> {
    let Some(given) = given.filter(|given| !given.is_empty()) else { return Ok(Map::new()) };
    let mut parameters = given.clone();
    upgrade(&mut parameters);
    let mut found = Vec::new();
    templates(&Value::Object(parameters.clone()), &mut found);
    let context = context(lead, tx, action, &found.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let mut failed = None;
    let mut value = Value::Object(parameters);
    render_in_place(&mut value, &context, &mut failed);
    if let Some(error) = failed {
        return fail(format!("Unable to create flow run from deployment: {error}"));
    }
    let Value::Object(parameters) = value else { return Ok(Map::new()) };
    if !crate::parameters::hydrate::needs_hydration(&parameters) {
        return Ok(parameters);
    }
    let all = variables::list(tx, &VariableFilter::default(), VariableSort::default(), limits::HYDRATION_VARIABLES, 0).await?;
    let all: HashMap<String, Value> = all.into_iter().map(|variable| (variable.name, variable.value)).collect();
    crate::parameters::hydrate(&parameters, &all)
        .map_err(|error| Failure::Expected(format!("Unable to create flow run from deployment: {error}")))
}

/// Gives plain texts with templates the form of values that are taken at run time.
fn upgrade(fields: &mut Map<String, Value>) {
    for value in fields.values_mut() {
        upgrade_value(value, true);
    }
}

fn upgrade_value(value: &mut Value, lists: bool) {
    match value {
        Value::Object(fields) if fields.contains_key(KIND) => {}
        Value::Object(fields) => upgrade(fields),
        Value::Array(items) if lists => items.iter_mut().for_each(|item| upgrade_value(item, false)),
        Value::String(text) if maybe_template(text) => *value = wrapped(text),
        _ => {}
    }
}

const KIND: &str = "__prefect_kind";

fn wrapped(template: &str) -> Value {
    let stripped = template.trim();
    if let Some(inner) = stripped.strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"))
        && stripped.matches("{{").count() == 1
    {
        let template = format!("{{{{ {} | tojson }}}}", inner.trim());
        return json!({KIND: "json", "value": {KIND: "jinja", "template": template}});
    }
    json!({KIND: "jinja", "template": template})
}

/// The templates of all values of the kind `jinja`.
fn templates(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let (Some("jinja"), Some(template)) =
                (fields.get(KIND).and_then(Value::as_str), fields.get("template").and_then(Value::as_str))
            {
                found.push(template.to_owned());
            }
            fields.values().for_each(|value| templates(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| templates(item, found)),
        _ => {}
    }
}

/// Puts the text of each template in its place, as a value of the kind `none`, which stands for itself.
fn render_in_place(value: &mut Value, context: &Context, failed: &mut Option<String>) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(|value| render_in_place(value, context, failed));
            if let (Some("jinja"), Some(template)) =
                (fields.get(KIND).and_then(Value::as_str), fields.get("template").and_then(Value::as_str))
            {
                match render::render(template, context) {
                    Ok(text) => *value = json!({KIND: "none", "value": text}),
                    Err(error) => *failed = Some(error.to_string()),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| render_in_place(item, context, failed)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_with_templates_become_values_taken_at_run_time() {
        let mut given =
            json!({"a": "{{ x }}", "b": "Hi {{ x }}", "c": "plain", "d": {"e": ["{{ y }}", 1]}, "f": {KIND: "json", "value": "{{"}});
        upgrade(given.as_object_mut().expect("an object"));
        let one = |template: &str| json!({KIND: "json", "value": {KIND: "jinja", "template": template}});
        let expected = json!({
            "a": one("{{ x | tojson }}"), "b": {KIND: "jinja", "template": "Hi {{ x }}"}, "c": "plain",
            "d": {"e": [one("{{ y | tojson }}"), 1]}, "f": {KIND: "json", "value": "{{"},
        });
        assert_eq!(given, expected);
        let mut context = Context::new("http://ui", crate::clock::Timestamp::default());
        context.add_plain("x", &json!({"n": 1.5}));
        context.add_plain("y", &json!([true, null]));
        let mut failed = None;
        given.as_object_mut().expect("an object").remove("f");
        render_in_place(&mut given, &context, &mut failed);
        assert_eq!(failed, None);
        let filled = crate::parameters::hydrate(given.as_object().expect("an object"), &HashMap::new()).expect("it fits");
        assert_eq!(Value::Object(filled), json!({"a": {"n": 1.5}, "b": "Hi {'n': 1.5}", "c": "plain", "d": {"e": [[true, null], 1]}}));
    }
}
