//! `/templates/validate`, also below `/automations` for old user interfaces.

use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, NoContent, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::api::error::ApiError;
use crate::api::extract::{Json, parse_body, read_body};
use crate::api::openapi::describe::{Answer, Input, Operation};
use crate::api::openapi::{Routes, Schemas, post};
use crate::app::App;
use crate::automations::template;

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Automations").route("/templates/validate", post(validate)).route("/automations/templates/validate", post(validate))
}

/// A template: a JSON text, or the body itself where it is not said to be JSON.
struct Source(String);

impl FromRequest<App> for Source {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let is_json = kind.is_none_or(|kind| kind.contains("json"));
        let body = read_body(request, app).await?;
        if body.is_empty() {
            return Ok(Self(String::new()));
        }
        if !is_json {
            return String::from_utf8(body.to_vec()).map(Self).map_err(|_| not_text(Value::Null));
        }
        match parse_body::<Value>(&body)? {
            Value::String(text) => Ok(Self(text)),
            Value::Null => Ok(Self(String::new())),
            other => Err(not_text(other)),
        }
    }
}

impl Input for Source {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        operation.json_body(false, schemas.input::<String>());
    }
}

/// The verdict on a template.
struct Verdict(Option<TemplateError>);

/// What is wrong with a template.
#[derive(Debug, Serialize, JsonSchema)]
struct TemplateError {
    line: usize,
    message: String,
    source: String,
}

/// How a [`TemplateError`] is told.
#[derive(Debug, Serialize, JsonSchema)]
struct InvalidTemplate {
    error: TemplateError,
}

impl IntoResponse for Verdict {
    fn into_response(self) -> Response {
        match self.0 {
            None => NoContent.into_response(),
            Some(error) => (StatusCode::UNPROCESSABLE_ENTITY, Json(InvalidTemplate { error })).into_response(),
        }
    }
}

impl Answer for Verdict {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        operation.empty_answer(StatusCode::NO_CONTENT);
        operation.json_answer(StatusCode::UNPROCESSABLE_ENTITY, schemas.output::<InvalidTemplate>());
    }
}

/// Say what is wrong with a template.
async fn validate(Source(source): Source) -> Verdict {
    Verdict(template::validate(&source).err().map(|error| TemplateError { line: error.line, message: error.message, source }))
}

fn not_text(given: Value) -> ApiError {
    match ApiError::invalid("string_type", &["body"], "Input should be a valid string", given.clone()) {
        ApiError::Invalid { issues, .. } => ApiError::Invalid { issues, body: given },
        other => other,
    }
}
