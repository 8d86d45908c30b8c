//! Tokens against cross-site request forgery (`prefect/server/schemas/core.py`).

use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::model::json;

/// The token of one client, good until it expires.
#[derive(Clone, Serialize, JsonSchema)]
pub struct CsrfToken {
    pub id: Uuid,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub token: String,
    pub client: String,
    #[serde(with = "json::timestamp")]
    pub expiration: Timestamp,
}
