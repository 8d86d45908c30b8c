//! What is known of the client that asks, as far as rules differ by it.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;

use crate::api::middleware;
use crate::app::App;
use crate::clock::Timestamp;
use crate::orchestration::{ApiVersion, ClientVersion, Context};

/// The client's versions, out of its headers. A malformed API version has been refused before
/// (`api/middleware.rs`).
#[derive(Debug, Clone)]
pub struct Caller {
    client: Option<ClientVersion>,
    api: Option<ApiVersion>,
}

impl Caller {
    /// The context of a transition that the client proposes `now`.
    pub fn context(self, app: &App, now: Timestamp) -> Context<'_> {
        Context { now, client: self.client, api: self.api, settings: &app.settings().orchestration }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let text = |name: header::HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let api = text(header::HeaderName::from_static(middleware::VERSION_HEADER)).and_then(middleware::api_version);
        Ok(Self { client: text(header::USER_AGENT).and_then(ClientVersion::of_user_agent), api })
    }
}
