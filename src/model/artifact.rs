//! Artifacts, and the newest of each key (`prefect/server/schemas/{core,actions,sorting}.py`).

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::id::{ArtifactCollectionId, ArtifactId, FlowRunId, TaskRunId};
use crate::model::json::{self, invalid};
use crate::model::{Patch, name};

/// Characters of one value of an artifact's metadata; the rest is cut off.
const METADATA_CHARACTERS: usize = 500;

/// What authors say about an artifact.
pub type Metadata = IndexMap<String, String>;

/// Something that a run leaves behind for people to look at.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Artifact {
    pub id: ArtifactId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub key: Option<String>,
    pub r#type: Option<String>,
    pub description: Option<String>,
    pub data: Value,
    pub metadata_: Option<Metadata>,
    pub flow_run_id: Option<FlowRunId>,
    pub task_run_id: Option<TaskRunId>,
}

/// All artifacts of a key; says what its newest does.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ArtifactCollection {
    pub id: ArtifactCollectionId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub key: String,
    pub latest_id: ArtifactId,
    pub r#type: Option<String>,
    pub description: Option<String>,
    pub data: Value,
    pub metadata_: Option<Metadata>,
    pub flow_run_id: Option<FlowRunId>,
    pub task_run_id: Option<TaskRunId>,
}

/// Body of `POST /artifacts/`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ArtifactCreate {
    #[serde(deserialize_with = "artifact_key")]
    pub key: Option<String>,
    pub r#type: Option<String>,
    pub description: Option<String>,
    pub data: Value,
    #[serde(deserialize_with = "metadata")]
    pub metadata_: Option<Metadata>,
    pub flow_run_id: Option<FlowRunId>,
    pub task_run_id: Option<TaskRunId>,
}

/// Body of `PATCH /artifacts/{id}`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ArtifactUpdate {
    pub data: Patch<Value>,
    pub description: Patch<String>,
    #[serde(deserialize_with = "patched_metadata")]
    pub metadata_: Patch<Metadata>,
}

/// Order of a list of artifacts, or of collections.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ArtifactSort {
    CreatedDesc,
    UpdatedDesc,
    #[default]
    IdDesc,
    KeyDesc,
    KeyAsc,
}

fn artifact_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let key = Option::<String>::deserialize(deserializer)?;
    if key.as_ref().is_some_and(|key| !name::is_lowercase_dashes(key)) {
        return Err(invalid("value_error", "Artifact key must only contain lowercase letters, numbers, and dashes."));
    }
    Ok(key)
}

fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Metadata>, D::Error> {
    let mut metadata = Option::<Metadata>::deserialize(deserializer)?;
    for value in metadata.iter_mut().flat_map(|metadata| metadata.values_mut()) {
        if let Some((end, _)) = value.char_indices().nth(METADATA_CHARACTERS) {
            value.truncate(end);
            value.push_str("...");
        }
    }
    Ok(metadata)
}

fn patched_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patch<Metadata>, D::Error> {
    metadata(deserializer).map(|given| given.map_or(Patch::Null, Patch::Value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_metadata_are_cut() {
        let of = |length: usize| {
            let body = serde_json::json!({"metadata_": {"a": "ä".repeat(length)}});
            serde_json::from_value::<ArtifactCreate>(body).expect("valid").metadata_.expect("given")["a"].clone()
        };
        assert_eq!(of(500), "ä".repeat(500));
        assert_eq!(of(501), "ä".repeat(500) + "...");
    }

    #[test]
    fn keys_are_lower_case_with_dashes() {
        let of = |key: &str| serde_json::from_value::<ArtifactCreate>(serde_json::json!({"key": key}));
        assert!(of("a-1").is_ok());
        for wrong in ["A", "a_b", "a b", "ä"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
