//! Who makes an object, out of the headers that the actions of automations send.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::model::flow_run::CreatedBy;

/// The creator, where the request is made by an automation (`prefect-automation-id`, and its name in Base64).
#[derive(Debug, Clone)]
pub struct Creator(pub Option<CreatedBy>);

impl<S: Send + Sync> FromRequestParts<S> for Creator {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty());
        let automation = text("prefect-automation-id").and_then(|id| id.parse().ok());
        let name = text("prefect-automation-name")
            .and_then(|name| BASE64_STANDARD.decode(name).ok())
            .and_then(|name| String::from_utf8(name).ok())
            .filter(|name| !name.is_empty());
        Ok(Self(automation.zip(name).map(|(id, name)| CreatedBy {
            id: Some(id),
            kind: Some("AUTOMATION".into()),
            display_value: Some(name),
        })))
    }
}
