//! What is wrong with values that someone is still filling in, field by field, for a form to show
//! (`build_error_obj` of `prefect/utilities/schema_tools/validation.py`).

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::hydrate;
use super::validate::{Found, Invalid, Step, findings};

/// Begins the text that stands for a value which is known at run time only. Nobody types a control character.
const PLACEHOLDER: &str = "\u{1}praetor placeholder ";

/// The findings as nested lists of `{"property" | "index", "errors"}` and messages, and whether there are none.
///
/// # Errors
/// [`Invalid`] where the schema is none, or leads back to itself.
pub fn report(values: &Map<String, Value>, schema: &Value, variables: &HashMap<String, Value>) -> Result<Value, Invalid> {
    let mut placeholders = Placeholders { variables, complaints: Vec::new() };
    let filled = placeholders.mark(&Value::Object(values.clone())).unwrap_or_else(|| json!({}));
    let mut errors = Vec::new();
    for found in findings(&filled, schema)? {
        let at = found.path.iter().try_fold(&filled, |inner, step| match step {
            Step::Index(index) => inner.get(index),
            Step::Key(key) => inner.get(key),
        });
        // Of such a value only its own complaint is told.
        if at.and_then(number_of).is_none() {
            add(&mut errors, found);
        }
    }
    for found in placeholders.found(&filled, &mut Vec::new()) {
        add(&mut errors, found);
    }
    Ok(json!({"valid": errors.is_empty(), "errors": errors}))
}

fn number_of(value: &Value) -> Option<usize> {
    value.as_str()?.strip_prefix(PLACEHOLDER)?.parse().ok()
}

struct Placeholders<'a> {
    variables: &'a HashMap<String, Value>,
    /// By the number of the placeholder; none where the value is in order.
    complaints: Vec<Option<String>>,
}

impl Placeholders<'_> {
    fn placeholder(&mut self, complaint: Option<String>) -> Value {
        self.complaints.push(complaint);
        Value::String(format!("{PLACEHOLDER}{}", self.complaints.len() - 1))
    }

    /// The values as far as they are known now; `None` where one is to be left out.
    fn mark(&mut self, given: &Value) -> Option<Value> {
        match given {
            Value::Object(fields) => {
                if let Some(kind) = fields.get(hydrate::KIND) {
                    self.of_kind(kind, fields)
                } else {
                    let fields = fields.iter().filter_map(|(key, inner)| Some((key.clone(), self.mark(inner)?)));
                    Some(Value::Object(fields.collect()))
                }
            }
            Value::Array(items) => Some(Value::Array(items.iter().filter_map(|item| self.mark(item)).collect())),
            other => Some(other.clone()),
        }
    }

    fn of_kind(&mut self, kind: &Value, fields: &Map<String, Value>) -> Option<Value> {
        if let (Some("none"), Some(inner)) = (kind.as_str(), fields.get("value")) {
            return self.mark(inner);
        }
        match hydrate::value(&Value::Object(fields.clone()), self.variables) {
            Err(error) => Some(self.placeholder(Some(error.to_string()))),
            Ok(Some(_)) if ends_in_template(fields) => Some(self.placeholder(None)),
            Ok(known) => known,
        }
    }

    fn found(&self, value: &Value, path: &mut Vec<Step>) -> Vec<Found> {
        let mut all = Vec::new();
        match value {
            Value::Object(fields) => {
                for (key, inner) in fields {
                    path.push(Step::Key(key.clone()));
                    all.extend(self.found(inner, path));
                    path.pop();
                }
            }
            Value::Array(items) => {
                for (index, inner) in items.iter().enumerate() {
                    path.push(Step::Index(index));
                    all.extend(self.found(inner, path));
                    path.pop();
                }
            }
            other => {
                let complaint = number_of(other).and_then(|number| self.complaints.get(number)?.clone());
                all.extend(complaint.map(|message| Found { path: path.clone(), message }));
            }
        }
        all
    }
}

/// True where the value is a template's, or is made from what a template gives.
fn ends_in_template(fields: &Map<String, Value>) -> bool {
    match fields.get(hydrate::KIND).and_then(Value::as_str) {
        Some("jinja") => true,
        Some("json") => fields.get("value").and_then(Value::as_object).is_some_and(ends_in_template),
        Some("workspace_variable") => fields.get("variable_name").and_then(Value::as_object).is_some_and(ends_in_template),
        _ => false,
    }
}

/// Steps on the way share an entry; each finding has an entry of its own at its end.
fn add(errors: &mut Vec<Value>, found: Found) {
    let Some((last, way)) = found.path.split_last() else { return errors.push(found.message.into()) };
    let mut here = errors;
    for step in way {
        let (name, value) = labelled(step);
        let known = here.iter().position(|entry| entry[name] == value);
        let index = known.unwrap_or_else(|| {
            here.push(json!({name: value, "errors": []}));
            here.len() - 1
        });
        here = here[index]["errors"].as_array_mut().expect("entries are made with a list of errors");
    }
    let (name, value) = labelled(last);
    here.push(json!({name: value, "errors": [found.message]}));
}

fn labelled(step: &Step) -> (&'static str, Value) {
    match step {
        Step::Index(index) => ("index", (*index).into()),
        Step::Key(key) => ("property", key.as_str().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: Value) -> Value {
        let schema = json!({"type": "object", "required": ["a"], "properties": {
            "a": {"type": "integer"},
            "b": {"type": "array", "items": {"type": "object", "properties": {"c": {"type": "string"}}}},
        }});
        let variables = HashMap::from([("five".to_owned(), json!(5))]);
        report(values.as_object().expect("an object"), &schema, &variables).expect("a schema")
    }

    #[test]
    fn findings_stand_where_they_belong() {
        assert_eq!(of(json!({"a": 1})), json!({"valid": true, "errors": []}));
        assert_eq!(of(json!({})), json!({"valid": false, "errors": [{"property": "a", "errors": ["'a' is a required property"]}]}));
        let nested = json!([{"property": "b", "errors": [
            {"index": 1, "errors": [{"property": "c", "errors": ["1 is not of type 'string'"]}]},
        ]}]);
        assert_eq!(of(json!({"a": 1, "b": [{}, {"c": 1}]})), json!({"valid": false, "errors": nested}));
    }

    #[test]
    fn values_of_run_time_are_told_of_themselves_only() {
        let variable = |name: &str| json!({"__prefect_kind": "workspace_variable", "variable_name": name});
        assert_eq!(of(json!({"a": variable("five")}))["valid"], true);
        assert_eq!(
            of(json!({"a": variable("six")})),
            json!({"valid": false, "errors": [{"property": "a", "errors": ["Variable 'six' not found in workspace."]}]})
        );
        assert_eq!(of(json!({"a": {"__prefect_kind": "jinja", "template": "{{ x }}"}}))["valid"], true);
        assert_eq!(of(json!({"a": {"__prefect_kind": "json", "value": "\"5\""}}))["valid"], false);
        assert_eq!(of(json!({"a": {"__prefect_kind": "json"}}))["errors"][0]["errors"][0], "'a' is a required property");
    }
}
