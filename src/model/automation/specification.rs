//! Labels that resources must have, with globs and negation (`prefect/server/events/schemas/events.py`).

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::event::Resource;
use crate::model::glob::label_matches;

/// One pattern, or some of which one must fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Patterns {
    One(String),
    Any(Vec<String>),
}

impl Patterns {
    /// The patterns.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(pattern) => std::slice::from_ref(pattern),
            Self::Any(patterns) => patterns,
        }
    }
}

/// By label, what its value must be like. An empty one fits every resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ResourceSpecification(pub IndexMap<String, Patterns>);

impl ResourceSpecification {
    /// True where it fits every resource.
    pub fn matches_every_resource(&self) -> bool {
        self.0.is_empty()
    }

    /// True where it fits every resource of a kind such as `prefect.flow-run`.
    pub fn matches_every_resource_of_kind(&self, kind: &str) -> bool {
        self.0.is_empty()
            || self.0.len() == 1
                && self
                    .0
                    .get("prefect.resource.id")
                    .is_some_and(|patterns| patterns.as_slice().iter().any(|pattern| pattern.strip_prefix(kind) == Some(".*")))
    }

    /// True where the resource has every label with a value that fits. A label that the resource lacks fits nothing, not
    /// even a negation.
    pub fn matches(&self, resource: &Resource) -> bool {
        self.0.iter().all(|(label, patterns)| {
            let value = resource.get(label).map(String::as_str);
            patterns.as_slice().iter().any(|pattern| label_matches(pattern, value))
        })
    }

    /// True where it fits one of the resources, or any at all.
    pub fn includes<'r>(&self, resources: impl IntoIterator<Item = &'r Resource>) -> bool {
        self.matches_every_resource() || resources.into_iter().any(|resource| self.matches(resource))
    }
}
