//! Filters over block types, schemas and documents.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Operator;
use super::part::{AnyOf, Equal, NameLike};
use crate::id::{BlockDocumentId, BlockSchemaId, BlockTypeId};
use crate::model::Patch;

/// Which block types.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BlockTypeFilter {
    pub name: Option<BlockTypeFilterName>,
    pub slug: Option<AnyOf<String>>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BlockTypeFilterName {
    /// Case-insensitive part of the name.
    pub like_: Option<String>,
}

/// Which block schemas.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BlockSchemaFilter {
    pub operator: Operator,
    pub block_type_id: Option<AnyOf<BlockTypeId>>,
    pub block_capabilities: Option<BlockSchemaFilterCapabilities>,
    pub id: Option<AnyOf<BlockSchemaId>>,
    pub version: Option<AnyOf<String>>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BlockSchemaFilterCapabilities {
    /// The schema has every one of these.
    pub all_: Option<Vec<String>>,
}

/// Which block documents.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BlockDocumentFilter {
    pub operator: Operator,
    pub id: Option<AnyOf<BlockDocumentId>>,
    /// Absent leaves anonymous documents out; null lets them in.
    pub is_anonymous: Patch<Equal>,
    pub block_type_id: Option<AnyOf<BlockTypeId>>,
    pub name: Option<NameLike>,
}

/// Filters on documents and on what they belong to, as list bodies hold them side by side.
#[derive(Debug, Clone, Default)]
pub struct BlockFilters {
    pub documents: BlockDocumentFilter,
    pub types: Option<BlockTypeFilter>,
    pub schemas: Option<BlockSchemaFilter>,
}
