//! The parts that filters are made of: what may be asked of one column. An absent operator does not restrict; an empty
//! `any_` matches nothing, an empty `not_any_` or `all_` does not restrict.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Operator;
use crate::clock::Timestamp;
use crate::model::json;

/// One of.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "AnyOf_{T}")]
pub struct AnyOf<T> {
    #[serde(default = "none")]
    #[schemars(default)]
    pub any_: Option<Vec<T>>,
}

/// One of, and none of.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "AnyOfOrNot_{T}")]
pub struct AnyOfOrNot<T> {
    #[serde(default = "none")]
    #[schemars(default)]
    pub any_: Option<Vec<T>>,
    #[serde(default = "none")]
    #[schemars(default)]
    pub not_any_: Option<Vec<T>>,
}

/// One of, or NULL (`is_null_`: false means not NULL).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "AnyOfOrNull_{T}")]
pub struct AnyOfOrNull<T> {
    #[serde(default)]
    pub operator: Operator,
    #[serde(default = "none")]
    #[schemars(default)]
    pub any_: Option<Vec<T>>,
    #[serde(default)]
    pub is_null_: Option<bool>,
}

fn none<T>() -> Option<Vec<T>> {
    None
}

impl<T> AnyOf<T> {
    /// One of these.
    pub fn of(items: Vec<T>) -> Self {
        Self { any_: Some(items) }
    }
}

impl<T> AnyOfOrNot<T> {
    /// One of these.
    pub fn of(items: Vec<T>) -> Self {
        Self { any_: Some(items), not_any_: None }
    }
}

impl<T> AnyOfOrNull<T> {
    /// One of these.
    pub fn of(items: Vec<T>) -> Self {
        Self { operator: Operator::And, any_: Some(items), is_null_: None }
    }
}

/// One of, and a case-insensitive part (with SQL wildcards).
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NameLike {
    pub any_: Option<Vec<String>>,
    pub like_: Option<String>,
}

/// All of these tags, or no tags at all.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tags {
    pub operator: Operator,
    pub all_: Option<Vec<String>>,
    pub is_null_: Option<bool>,
}

/// All of these tags, one of these, or no tags at all.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TagsOrAny {
    pub operator: Operator,
    pub all_: Option<Vec<String>>,
    pub any_: Option<Vec<String>>,
    pub is_null_: Option<bool>,
}

/// At or before, and at or after.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Between {
    #[serde(with = "json::optional_timestamp")]
    pub before_: Option<Timestamp>,
    #[serde(with = "json::optional_timestamp")]
    pub after_: Option<Timestamp>,
}

/// At or before, at or after, and NULL or not.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BetweenOrNull {
    #[serde(with = "json::optional_timestamp")]
    pub before_: Option<Timestamp>,
    #[serde(with = "json::optional_timestamp")]
    pub after_: Option<Timestamp>,
    pub is_null_: Option<bool>,
}

/// Exactly.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Equal {
    pub eq_: Option<bool>,
}

/// At least, at most.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Range {
    pub ge_: Option<i64>,
    pub le_: Option<i64>,
}
