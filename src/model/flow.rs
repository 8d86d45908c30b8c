//! Flows (`prefect/server/schemas/{core,actions,sorting}.py`).

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::clock::Timestamp;
use crate::id::FlowId;
use crate::model::json::{self, invalid};
use crate::model::labels::{self, Labels};
use crate::model::{Patch, name};

/// A flow.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Flow {
    pub id: FlowId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub name: String,
    pub tags: Vec<String>,
    /// `None` where the row has none, as rows of old servers have.
    #[schemars(with = "Option<labels::Form>")]
    pub labels: Option<Labels>,
}

/// Body of `POST /flows/`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowCreate {
    #[serde(deserialize_with = "flow_name")]
    pub name: String,
    #[serde(default)]
    pub tags: Vec<String>,
    /// Null is kept, other than with deployments and runs, as the reference has it.
    #[serde(default = "no_labels", deserialize_with = "labels::deserialize_nullable")]
    #[schemars(with = "Option<labels::Form>")]
    pub labels: Option<Labels>,
}

/// Body of `PATCH /flows/{id}`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowUpdate {
    #[serde(default)]
    pub tags: Patch<Vec<String>>,
}

/// Order of a list of flows.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FlowSort {
    CreatedDesc,
    UpdatedDesc,
    #[default]
    NameAsc,
    NameDesc,
}

#[expect(clippy::unnecessary_wraps, reason = "the default of an optional field")]
fn no_labels() -> Option<Labels> {
    Some(Labels::new())
}

fn flow_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name.is_empty() || name::banned_character(&name).is_some() {
        return Err(invalid("string_pattern_mismatch", "String should match pattern '^[^/%&><]+$'"));
    }
    Ok(name)
}
