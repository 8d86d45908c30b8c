//! What every request passes: measurement, authentication, the API version check, and a second run when the database
//! could not serve the first.

use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use subtle::ConstantTimeEq;

use crate::api::error::{ApiError, Retryable};
use crate::app::App;
use crate::limits;
use crate::telemetry::metrics;

/// Where a client says its API version.
pub const VERSION_HEADER: &str = "x-prefect-api-version";

/// The oldest API version of a client that is served, as the reference.
const MINIMUM_API_VERSION: (u64, u64, u64) = (0, 8, 0);

/// Counts and times requests by route.
pub async fn measure(request: Request, next: Next) -> Response {
    let method = method_name(request.method());
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let started = now();
    let response = next.run(request).await;
    metrics::http_request(method, route.as_deref().unwrap_or("none"), response.status().as_u16(), started.elapsed());
    response
}

#[expect(clippy::disallowed_methods, reason = "measures elapsed time only")]
fn now() -> Instant {
    Instant::now()
}

fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// Basic authentication with the one auth string, where one is set. Probes of health and readiness pass, and so do
/// WebSockets, which authenticate in their first message.
pub async fn authorize(State(app): State<App>, request: Request, next: Next) -> Response {
    let Some(wanted) = &app.settings().server.auth_string else { return next.run(request).await };
    let probe = request.method() == Method::GET && matches!(request.uri().path(), "/health" | "/ready");
    if probe || is_upgrade(&request) || given_credentials(&request).is_some_and(|given| given.ct_eq(wanted.expose().as_bytes()).into()) {
        return next.run(request).await;
    }
    (StatusCode::UNAUTHORIZED, axum::Json(json!({"exception_message": "Unauthorized"}))).into_response()
}

fn given_credentials(request: &Request) -> Option<Vec<u8>> {
    let text = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = text.split_once(' ')?;
    if scheme != "Basic" {
        return None;
    }
    BASE64_STANDARD.decode(encoded.trim()).ok()
}

fn is_upgrade(request: &Request) -> bool {
    request.headers().get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Whether the client's API version is looked at on a path: health and version are for everyone.
pub fn is_checked(path: &str) -> bool {
    !matches!(path, "/health" | "/version")
}

/// Refuses clients whose API version is malformed or too old.
pub async fn check_version(request: Request, next: Next) -> Response {
    if !is_checked(request.uri().path()) {
        return next.run(request).await;
    }
    let given = request.headers().get(VERSION_HEADER).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let refusal = match given.as_deref() {
        None | Some("") => None,
        Some(text) => match api_version(text) {
            None => Some(format!("Invalid X-PREFECT-API-VERSION header format.Expected header in format 'x.y.z' but received {text}")),
            Some(version) if version < MINIMUM_API_VERSION => {
                let (major, minor, patch) = MINIMUM_API_VERSION;
                Some(format!(
                    "The request specified API version {text} but this server requires version {major}.{minor}.{patch} or higher."
                ))
            }
            Some(_) => None,
        },
    };
    match refusal {
        Some(detail) => ApiError::detail(StatusCode::BAD_REQUEST, detail).into_response(),
        None => next.run(request).await,
    }
}

/// `x.y.z` as numbers.
pub fn api_version(text: &str) -> Option<(u64, u64, u64)> {
    let mut parts = text.split('.').map(|part| part.trim().parse().ok());
    let version = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(version)
}

/// Runs a request again, as a whole, when its transaction met a deadlock, a busy database or a lost connection. A
/// handler has no effect before its commit, so nothing happens twice.
pub async fn retry(request: Request, next: Next) -> Response {
    if is_upgrade(&request) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let Ok(bytes) = to_bytes(body, limits::REQUEST_BODY_BYTES).await else {
        let detail = format!("The request body is larger than {} bytes.", limits::REQUEST_BODY_BYTES);
        return ApiError::detail(StatusCode::PAYLOAD_TOO_LARGE, detail).into_response();
    };
    let mut attempt = 1;
    loop {
        let request = Request::from_parts(parts.clone(), Body::from(bytes.clone()));
        let response = next.clone().run(request).await;
        if response.extensions().get::<Retryable>().is_none() || attempt >= limits::TRANSACTION_ATTEMPTS {
            return response;
        }
        metrics::store_retry();
        tracing::debug!(path = parts.uri.path(), attempt, "the request is run again");
        tokio::time::sleep(Duration::from_millis(5 << attempt)).await;
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_three_numbers() {
        assert_eq!(api_version("0.8.4"), Some((0, 8, 4)));
        assert_eq!(api_version("0.8"), None);
        assert_eq!(api_version("0.8.4.1"), None);
        assert_eq!(api_version("a.b.c"), None);
    }
}
