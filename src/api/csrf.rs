//! `/csrf-token`, and the check of tokens, which is a layer around every other route.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::Deserialize;
use subtle::ConstantTimeEq;

use crate::api::error::ApiError;
use crate::api::extract::{Json, Query};
use crate::api::openapi::{Routes, get};
use crate::app::App;
use crate::model::csrf::CsrfToken;
use crate::store::csrf_tokens as store;

/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Root").route("/csrf-token", get(create))
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ClientQuery {
    client: String,
}

/// Gives a client a token, in place of the one it had.
async fn create(State(app): State<App>, Query(query): Query<ClientQuery>) -> Result<Json<CsrfToken>, ApiError> {
    let settings = &app.settings().server;
    if !settings.csrf_protection_enabled {
        return Err(ApiError::detail(StatusCode::UNPROCESSABLE_ENTITY, "CSRF protection is disabled."));
    }
    let now = app.now();
    let lifetime = TimeDelta::from_std(settings.csrf_token_expiration).unwrap_or(TimeDelta::hours(1));
    let bytes: [u8; TOKEN_BYTES] = rand::random();
    let token = bytes.iter().fold(String::with_capacity(2 * TOKEN_BYTES), |token, byte| format!("{token}{byte:02x}"));
    let mut tx = app.begin("csrf_tokens.create").await?;
    let created = store::upsert(&mut tx, crate::id::v4(), now, &query.client, &token, now + lifetime).await?;
    store::delete_expired(&mut tx, now).await?;
    tx.commit().await?;
    Ok(Json(created))
}

/// Refuses writes without the token of their client, where protection is on.
pub async fn check(State(app): State<App>, request: Request, next: Next) -> Response {
    let writes = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH | Method::DELETE);
    if !writes || !app.settings().server.csrf_protection_enabled {
        return next.run(request).await;
    }
    match refusal(&app, request.headers().clone()).await {
        Ok(None) => next.run(request).await,
        Ok(Some(detail)) => ApiError::detail(StatusCode::FORBIDDEN, detail).into_response(),
        Err(error) => error.into_response(),
    }
}

async fn refusal(app: &App, headers: HeaderMap) -> Result<Option<&'static str>, ApiError> {
    let header = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let Some(token) = header("prefect-csrf-token") else { return Ok(Some("Missing CSRF token.")) };
    let Some(client) = header("prefect-csrf-client") else { return Ok(Some("Missing client identifier.")) };
    let known = store::read(&mut app.read("csrf_tokens.check").await?, &client, app.now()).await?;
    let right = known.is_some_and(|known| known.token.as_bytes().ct_eq(token.as_bytes()).into());
    Ok((!right).then_some("Invalid CSRF token or client identifier."))
}
