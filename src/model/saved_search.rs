//! Saved searches of the UI (`prefect/server/schemas/core.py`).

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::id::SavedSearchId;
use crate::model::json;

/// A set of filters under a name.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct SavedSearch {
    pub id: SavedSearchId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub name: String,
    pub filters: Vec<SavedSearchFilter>,
}

/// One filter. Only the UI knows what its parts mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SavedSearchFilter {
    pub object: String,
    pub property: String,
    pub r#type: String,
    pub operation: String,
    #[serde(deserialize_with = "present")]
    pub value: Value,
}

/// A value that may be null, and must be there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    Value::deserialize(deserializer)
}

/// Body of `PUT /saved_searches/`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SavedSearchCreate {
    pub name: String,
    #[serde(default)]
    pub filters: Vec<SavedSearchFilter>,
}
