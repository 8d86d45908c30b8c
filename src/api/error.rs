//! One table: what went wrong -> status -> the reference's body (`detail`, `exception_message`, or the 422 form).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

pub use crate::model::check::Issue;
use crate::orchestration::OrchestrationError;
use crate::store::StoreError;
pub use crate::telemetry::chain;

/// The answer to a request that did not go well.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// `{"detail": ...}` with a status of the handler's choice: the reference's `HTTPException`.
    #[error("{status}: {detail}")]
    Detail {
        /// Status.
        status: StatusCode,
        /// Text, or any JSON.
        detail: Value,
    },
    /// `{"exception_message": ...}` with 404: the reference's `ObjectNotFoundError`.
    #[error("{0}")]
    ObjectNotFound(String),
    /// 422 for a body, query or path that does not validate.
    #[error("invalid request")]
    Invalid {
        /// Findings.
        issues: Vec<Issue>,
        /// The body, echoed.
        body: Value,
    },
    /// 423 with `Retry-After` (concurrency slots taken).
    #[error("locked")]
    Locked {
        /// Text.
        detail: String,
        /// Seconds to wait.
        retry_after: f64,
    },
    /// The operation is the reference's, and not built yet: 501.
    #[error("{method} {path} is not built yet")]
    NotBuilt {
        /// Method.
        method: String,
        /// The reference's path.
        path: &'static str,
    },
    /// The store failed: 409 for constraints, 503 where trying again may help, else 500.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something that should not happen; the log has it, the client sees 500.
    #[error("internal error: {0}")]
    Internal(String),
    /// Cannot be served now; try again: 503 (the stock client does, honouring `Retry-After`).
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl ApiError {
    /// 404 `{"detail": what}`.
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::detail(StatusCode::NOT_FOUND, what)
    }

    /// 409 `{"detail": what}`.
    pub fn conflict(what: impl Into<String>) -> Self {
        Self::detail(StatusCode::CONFLICT, what)
    }

    /// Any status with `{"detail": what}`.
    pub fn detail(status: StatusCode, what: impl Into<String>) -> Self {
        Self::Detail { status, detail: Value::String(what.into()) }
    }

    /// 422 with a single finding at `loc`.
    pub fn invalid(kind: &str, loc: &[&str], msg: impl Into<String>, input: Value) -> Self {
        let loc = loc.iter().map(|part| Value::from(*part)).collect();
        Self::Invalid { issues: vec![Issue { kind: kind.into(), loc, msg: msg.into(), input, ctx: None }], body: Value::Null }
    }

    /// What a route miss answers.
    pub fn no_route() -> Self {
        Self::not_found("Not Found")
    }
}

impl From<OrchestrationError> for ApiError {
    fn from(error: OrchestrationError) -> Self {
        match error {
            OrchestrationError::NotFound(message) => Self::ObjectNotFound(message),
            OrchestrationError::Store(error) => Self::Store(error),
        }
    }
}

/// What a request is answered that does not validate.
#[derive(Debug, Serialize, JsonSchema)]
pub struct InvalidRequest<'a> {
    /// Always the same.
    exception_message: &'static str,
    /// What is wrong, all of it.
    exception_detail: &'a [Issue],
    /// The body, as it was read.
    request_body: &'a Value,
}

/// Marks the answer of a request that may be run again as a whole (see `api/middleware.rs`).
#[derive(Debug, Clone, Copy)]
pub struct Retryable;

const INTEGRITY: &str =
    "Data integrity conflict. This usually means a unique or foreign key constraint was violated. See server logs for details.";

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, body) = match &self {
            Self::Detail { status, detail } => (*status, json!({"detail": detail})),
            Self::ObjectNotFound(message) => (StatusCode::NOT_FOUND, json!({"exception_message": message})),
            Self::Invalid { issues, body } => {
                let told = InvalidRequest { exception_message: "Invalid request received.", exception_detail: issues, request_body: body };
                (StatusCode::UNPROCESSABLE_ENTITY, json!(told))
            }
            Self::Locked { detail, .. } => (StatusCode::LOCKED, json!({"detail": detail})),
            Self::NotBuilt { method, path } => (
                StatusCode::NOT_IMPLEMENTED,
                json!({"detail": format!("{method} {path} is an operation of the Prefect API that this version of Praetor does not serve yet.")}),
            ),
            Self::Store(error) if error.is_integrity() => {
                tracing::info!(error = %chain(error), "a request violated a constraint");
                (StatusCode::CONFLICT, json!({"detail": INTEGRITY}))
            }
            Self::Store(error @ StoreError::NullCharacter(_)) => {
                tracing::info!(error = %chain(error), "a request holds a null character");
                (StatusCode::UNPROCESSABLE_ENTITY, json!({"detail": "Texts must not contain the null character."}))
            }
            Self::Store(error) if error.is_retryable() => {
                tracing::debug!(error = %chain(error), "the database did not serve a request");
                (StatusCode::SERVICE_UNAVAILABLE, json!({"exception_message": "Service Unavailable"}))
            }
            Self::Unavailable(reason) => {
                tracing::debug!(reason, "a request is put off");
                (StatusCode::SERVICE_UNAVAILABLE, json!({"exception_message": "Service Unavailable"}))
            }
            Self::Store(error) => {
                tracing::error!(error = %chain(error), "a request failed in the store");
                (StatusCode::INTERNAL_SERVER_ERROR, json!({"exception_message": "Internal Server Error"}))
            }
            Self::Internal(reason) => {
                tracing::error!(reason, "a request failed");
                (StatusCode::INTERNAL_SERVER_ERROR, json!({"exception_message": "Internal Server Error"}))
            }
        };
        let mut response = (status, axum::Json(body)).into_response();
        let retry_after = match &self {
            Self::Locked { retry_after, .. } => Some(*retry_after),
            _ if status == StatusCode::SERVICE_UNAVAILABLE => Some(1.0),
            _ => None,
        };
        if matches!(&self, Self::Store(error) if error.is_retryable()) {
            response.extensions_mut().insert(Retryable);
        }
        if let Some(value) = retry_after.and_then(|seconds| HeaderValue::from_str(&seconds.to_string()).ok()) {
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        response
    }
}
