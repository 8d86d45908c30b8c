//! Values that a parameter takes at run time: `{"__prefect_kind": "json" | "jinja" | "workspace_variable" | "none", ...}`
//! (`prefect/utilities/schema_tools/hydration.py`).

use std::collections::HashMap;

use serde_json::{Map, Value};

/// What is wrong with such a value. Prints as the reference's messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HydrationError {
    /// The key that the kind needs is not there.
    #[error("Missing '{0}' key in __prefect object")]
    Missing(&'static str),
    /// Text that is no JSON.
    #[error("Invalid JSON: {0}")]
    Json(String),
    /// Text that is no template, or a template that fails.
    #[error("Invalid jinja: {0}")]
    Jinja(String),
    /// No variable of that name.
    #[error("Variable '{0}' not found in workspace.")]
    Variable(String),
}

/// What a template of a user may do at most, as the reference bounds it.
const TEMPLATE_FUEL: u64 = 100_000;

/// True where a value somewhere in `parameters` is taken at run time.
pub fn needs_hydration(parameters: &Map<String, Value>) -> bool {
    fn needs(value: &Value) -> bool {
        match value {
            Value::Object(fields) => fields.contains_key(KIND) || fields.values().any(needs),
            Value::Array(items) => items.iter().any(needs),
            _ => false,
        }
    }
    parameters.contains_key(KIND) || parameters.values().any(needs)
}

pub(super) const KIND: &str = "__prefect_kind";

/// Fills in the values, with `variables` of the workspace at hand.
///
/// # Errors
/// The first [`HydrationError`].
pub fn hydrate(parameters: &Map<String, Value>, variables: &HashMap<String, Value>) -> Result<Map<String, Value>, HydrationError> {
    match value(&Value::Object(parameters.clone()), variables)? {
        Some(Value::Object(hydrated)) => Ok(hydrated),
        // The whole became something else than parameters; the reference would go on with it and fail.
        Some(_) | None => Ok(Map::new()),
    }
}

/// `None` where the value is to be left out.
pub(super) fn value(given: &Value, variables: &HashMap<String, Value>) -> Result<Option<Value>, HydrationError> {
    match given {
        Value::Object(fields) => {
            if let Some(kind) = fields.get(KIND) {
                of_kind(kind, fields, variables)
            } else {
                let mut hydrated = Map::new();
                for (key, inner) in fields {
                    if let Some(inner) = value(inner, variables)? {
                        hydrated.insert(key.clone(), inner);
                    }
                }
                Ok(Some(Value::Object(hydrated)))
            }
        }
        Value::Array(items) => {
            let mut hydrated = Vec::with_capacity(items.len());
            for item in items {
                hydrated.extend(value(item, variables)?);
            }
            Ok(Some(Value::Array(hydrated)))
        }
        other => Ok(Some(other.clone())),
    }
}

fn of_kind(kind: &Value, fields: &Map<String, Value>, variables: &HashMap<String, Value>) -> Result<Option<Value>, HydrationError> {
    // What a key holds, itself taken at run time where it is an object.
    let inner = |key: &str| match fields.get(key) {
        None => Ok(None),
        Some(object @ Value::Object(_)) => value(object, variables).map(Some),
        Some(other) => Ok(Some(Some(other.clone()))),
    };
    match kind.as_str() {
        Some("none") => value(fields.get("value").ok_or(HydrationError::Missing("value"))?, variables),
        Some("json") => match inner("value")?.flatten() {
            Some(Value::String(text)) => {
                serde_json::from_str(&text).map(Some).map_err(|error| HydrationError::Json(python_complaint(&text, &error)))
            }
            other => Ok(other),
        },
        Some("jinja") => {
            let Some(template) = inner("template")? else { return Err(HydrationError::Missing("template")) };
            match template {
                Some(Value::String(template)) => render(&template).map(|text| Some(Value::String(text))),
                other => Ok(other),
            }
        }
        Some("workspace_variable") => match inner("variable_name")?.flatten() {
            None => Ok(None),
            Some(Value::String(name)) => variables.get(&name).cloned().map(Some).ok_or(HydrationError::Variable(name)),
            Some(other) => Err(HydrationError::Variable(other.to_string())),
        },
        // An unknown kind stands for its value.
        _ => Ok(Some(fields.get("value").cloned().unwrap_or(Value::Null))),
    }
}

/// What is wrong with a value taken at run time, as far as it can be told before that; `template` checks a template.
pub fn problem(fields: &Map<String, Value>, template: fn(&str) -> Result<(), String>) -> Option<HydrationError> {
    // What a key holds, itself taken at run time where it is an object.
    let nested = |key: &str| match fields.get(key) {
        Some(Value::Object(inner)) if inner.contains_key(KIND) => problem(inner, template),
        _ => None,
    };
    match fields.get(KIND).and_then(Value::as_str) {
        Some("none") if !fields.contains_key("value") => Some(HydrationError::Missing("value")),
        Some("none") => nested("value"),
        Some("json") => match fields.get("value") {
            Some(Value::String(text)) => {
                serde_json::from_str::<Value>(text).err().map(|error| HydrationError::Json(python_complaint(text, &error)))
            }
            _ => nested("value"),
        },
        Some("jinja") => match fields.get("template") {
            None => Some(HydrationError::Missing("template")),
            Some(Value::String(text)) => template(text).err().map(HydrationError::Jinja),
            Some(_) => nested("template"),
        },
        Some("workspace_variable") => nested("variable_name"),
        _ => None,
    }
}

fn render(template: &str) -> Result<String, HydrationError> {
    let mut environment = minijinja::Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Chainable);
    environment.set_fuel(Some(TEMPLATE_FUEL));
    environment.render_str(template, ()).map_err(|error| HydrationError::Jinja(error.to_string()))
}

/// What Python's parser says of the same text.
fn python_complaint(text: &str, error: &serde_json::Error) -> String {
    let (line, column) = (error.line().max(1), error.column().max(1));
    let before: usize = text.split('\n').take(line - 1).map(|line| line.chars().count() + 1).sum();
    format!("Expecting value: line {line} column {column} (char {})", before + column - 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(parameters: Value) -> Result<Value, HydrationError> {
        let variables = HashMap::from([("v".to_owned(), json!({"a": 1}))]);
        hydrate(parameters.as_object().expect("an object"), &variables).map(Value::Object)
    }

    #[test]
    fn values_are_filled_in() {
        let given = json!({
            "json": {"__prefect_kind": "json", "value": "[1, {\"a\": null}]"},
            "none": {"__prefect_kind": "none", "value": {"__prefect_kind": "json", "value": "2"}},
            "variable": {"__prefect_kind": "workspace_variable", "variable_name": "v"},
            "jinja": [{"__prefect_kind": "jinja", "template": "{{ 1 + 1 }}{{ nothing.at.all }}"}],
            "gone": {"__prefect_kind": "json"},
            "gone_too": [{"__prefect_kind": "workspace_variable"}],
            "other": {"__prefect_kind": "new", "value": 3},
            "nested": {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": "{{ '4' }}"}},
            "plain": {"a": [1]},
        });
        let filled = json!({
            "json": [1, {"a": null}], "none": 2, "variable": {"a": 1}, "jinja": ["2"], "gone_too": [], "other": 3, "nested": 4,
            "plain": {"a": [1]},
        });
        assert_eq!(of(given), Ok(filled));
    }

    #[test]
    fn what_cannot_be_filled_in_is_told() {
        let message = |given| of(given).expect_err("must fail").to_string();
        assert_eq!(message(json!({"a": {"__prefect_kind": "none"}})), "Missing 'value' key in __prefect object");
        assert_eq!(message(json!({"a": {"__prefect_kind": "jinja"}})), "Missing 'template' key in __prefect object");
        assert_eq!(
            message(json!({"a": {"__prefect_kind": "json", "value": "oops"}})),
            "Invalid JSON: Expecting value: line 1 column 1 (char 0)"
        );
        assert_eq!(
            message(json!({"a": {"__prefect_kind": "workspace_variable", "variable_name": "w"}})),
            "Variable 'w' not found in workspace."
        );
        assert!(message(json!({"a": {"__prefect_kind": "jinja", "template": "{{"}})).starts_with("Invalid jinja: "));
        assert!(needs_hydration(json!({"a": [{"__prefect_kind": "json"}]}).as_object().expect("an object")));
        assert!(!needs_hydration(json!({"a": [{"b": 1}]}).as_object().expect("an object")));
    }
}
