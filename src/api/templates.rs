//! `/templates/validate`, also below `/automations` for old user interfaces.

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::extract::parse_body;
use crate::app::App;
use crate::automations::template;

/// The routes of this file.
pub fn router() -> Router<App> {
    Router::new().route("/templates/validate", post(validate)).route("/automations/templates/validate", post(validate))
}

/// Say what is wrong with a template: a JSON text, or the body itself where it is not said to be JSON.
async fn validate(headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let is_json = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).is_none_or(|kind| kind.contains("json"));
    let source = if body.is_empty() {
        String::new()
    } else if is_json {
        match parse_body::<Value>(&body)? {
            Value::String(text) => text,
            Value::Null => String::new(),
            other => return Err(not_text(other)),
        }
    } else {
        match String::from_utf8(body.to_vec()) {
            Ok(text) => text,
            Err(_) => return Err(not_text(Value::Null)),
        }
    };
    Ok(match template::validate(&source) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => {
            let told = json!({"error": {"line": error.line, "message": error.message, "source": source}});
            (StatusCode::UNPROCESSABLE_ENTITY, axum::Json(told)).into_response()
        }
    })
}

fn not_text(given: Value) -> ApiError {
    match ApiError::invalid("string_type", &["body"], "Input should be a valid string", given.clone()) {
        ApiError::Invalid { issues, .. } => ApiError::Invalid { issues, body: given },
        other => other,
    }
}
