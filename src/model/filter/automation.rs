//! Filter over automations.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Operator;
use super::part::{AnyOf, TagsOrAny};
use crate::clock::Timestamp;
use crate::model::json;

/// Which automations.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AutomationFilter {
    pub operator: Operator,
    pub name: Option<AnyOf<String>>,
    pub created: Option<AutomationFilterCreated>,
    pub tags: Option<TagsOrAny>,
}

/// By the time of their making.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AutomationFilterCreated {
    /// At or before.
    #[serde(with = "json::optional_timestamp")]
    pub before_: Option<Timestamp>,
}
