//! What has to hold of a deployment's body as a whole, before its fields are read.

use serde_json::{Map, Value, json};

use crate::api::error::{ApiError, Issue};
use crate::api::extract::from_value_within;
use crate::api::pydantic::Bounds;
use crate::model::deployment::{DeploymentCreate, DeploymentUpdate};
use crate::parameters::{Invalid, Options, validate};

/// Fields of old clients, which the reference drops.
const OLD_FIELDS: [&str; 4] = ["worker_pool_queue_id", "worker_pool_name", "worker_pool_queue_name", "work_pool_queue_name"];

/// Reads the body of a creation.
///
/// # Errors
/// 422.
pub fn create(bounds: Bounds, mut body: Value) -> Result<DeploymentCreate, ApiError> {
    if let Value::Object(fields) = &mut body {
        let checked = drop_old_fields(fields).and_then(|()| parameters_fit(fields));
        checked.map_err(|message| refused(message, &body))?;
    }
    from_value_within(bounds, body, "body")
}

/// Reads the body of an update.
///
/// # Errors
/// 422.
pub fn update(bounds: Bounds, mut body: Value) -> Result<DeploymentUpdate, ApiError> {
    if let Value::Object(fields) = &mut body {
        drop_old_fields(fields).map_err(|message| refused(message, &body))?;
    }
    from_value_within(bounds, body, "body")
}

fn refused(message: String, body: &Value) -> ApiError {
    let issue = Issue {
        kind: "value_error".into(),
        loc: vec!["body".into()],
        msg: format!("Value error, {message}"),
        input: body.clone(),
        ctx: Some(json!({"error": {}})),
    };
    ApiError::Invalid { issues: vec![issue], body: body.clone() }
}

fn drop_old_fields(fields: &mut Map<String, Value>) -> Result<(), String> {
    if is_filled(fields.get("concurrency_limit")) && is_filled(fields.get("global_concurrency_limit_id")) {
        return Err("A deployment cannot have both a concurrency limit and a global concurrency limit.".into());
    }
    for field in OLD_FIELDS {
        fields.shift_remove(field);
    }
    Ok(())
}

fn is_filled(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(fields)) => !fields.is_empty(),
        Some(Value::Bool(true)) => true,
    }
}

/// Only where the body itself asks for it, as the reference has it.
fn parameters_fit(fields: &Map<String, Value>) -> Result<(), String> {
    if !is_filled(fields.get("enforce_parameter_schema")) {
        return Ok(());
    }
    let Some(schema) = fields.get("parameter_openapi_schema").filter(|schema| !schema.is_null()) else { return Ok(()) };
    let none = json!({});
    let values = fields.get("parameters").filter(|values| !values.is_null()).unwrap_or(&none);
    let options = Options { as_is: true, ignore_required: true, none_with_default: false };
    validate(values, schema, options).map_err(|error| match error {
        Invalid::Schema(message) => format!("The provided schema is not a valid json schema. Schema error: {message}"),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: Value) -> String {
        match create(Bounds::default(), body) {
            Err(ApiError::Invalid { issues, .. }) => issues[0].msg.clone(),
            other => panic!("expected a finding, got {other:?}"),
        }
    }

    #[test]
    fn a_body_is_checked_as_a_whole() {
        let body = |more: Value| {
            let mut body = json!({"name": "d", "flow_id": uuid::Uuid::nil(), "worker_pool_name": "old"});
            body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            body
        };
        assert!(create(Bounds::default(), body(json!({}))).is_ok());
        assert!(
            message(body(json!({"concurrency_limit": 1, "global_concurrency_limit_id": uuid::Uuid::nil()}))).contains("cannot have both")
        );
        let schema = json!({"type": "object", "properties": {"x": {"type": "string"}}, "required": ["y"]});
        let enforced = |parameters: Value| {
            body(json!({"enforce_parameter_schema": true, "parameter_openapi_schema": schema, "parameters": parameters}))
        };
        assert!(create(Bounds::default(), enforced(json!({"x": "a"}))).is_ok());
        assert_eq!(
            message(enforced(json!({"x": 1}))),
            "Value error, Validation failed for field 'x'. Failure reason: 1 is not of type 'string'"
        );
        assert!(create(Bounds::default(), body(json!({"parameter_openapi_schema": schema, "parameters": {"x": 1}}))).is_ok());
        assert!(
            message(body(json!({"enforce_parameter_schema": true, "parameter_openapi_schema": {"type": "objekt"}})))
                .contains("not a valid json schema")
        );
        assert_eq!(message(body(json!({"unknown": 1}))), "Extra inputs are not permitted");
    }
}
