//! Events as clients send them and as the server keeps them (`prefect/server/events/schemas/events.py`).

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::model::json;

/// Labels of a resource, in the order given; `prefect.resource.id` is always there, related resources also have
/// `prefect.resource.role`.
pub type Resource = IndexMap<String, String>;

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When it happened, by the emitter's clock.
    #[serde(with = "json::timestamp")]
    pub occurred: Timestamp,
    /// What happened, such as `prefect.flow-run.Completed`.
    pub event: String,
    /// What it happened to.
    pub resource: Resource,
    /// What else has to do with it.
    #[serde(default)]
    pub related: Vec<Resource>,
    /// Anything else to know.
    #[serde(default)]
    pub payload: Map<String, Value>,
    /// The emitter's id of the event; a second event of the same id is the same event.
    pub id: Uuid,
    /// The event that is known to have gone before.
    #[serde(default)]
    pub follows: Option<Uuid>,
}
