//! Filter over variables.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Operator;
use super::part::AnyOf;
use crate::id::VariableId;

/// Which variables.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VariableFilter {
    pub operator: Operator,
    pub id: Option<AnyOf<VariableId>>,
    pub name: Option<VariableFilterName>,
    pub tags: Option<VariableFilterTags>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VariableFilterName {
    pub any_: Option<Vec<String>>,
    /// Case-insensitive part of the name, with SQL wildcards.
    pub like_: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VariableFilterTags {
    pub operator: Operator,
    pub all_: Option<Vec<String>>,
    pub is_null_: Option<bool>,
}
