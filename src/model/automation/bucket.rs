//! What the evaluation of triggers remembers: counts of events in spans of time, and firings that others wait for.

use std::sync::Arc;

use uuid::Uuid;

use super::Firing;
use crate::clock::Timestamp;
use crate::id::AutomationId;
use crate::model::event::ReceivedEvent;

/// Which bucket: there is at most one at a time for each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketKey {
    pub automation_id: AutomationId,
    pub trigger_id: Uuid,
    /// The values of the trigger's `for_each` labels.
    pub values: Vec<String>,
}

/// Events counted in a span of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    pub start: Timestamp,
    /// Not in it any more.
    pub end: Timestamp,
    /// Below zero where the event that opened the bucket must not count.
    pub count: i64,
    pub last_event: Option<Arc<ReceivedEvent>>,
    /// What was last done to it, for people.
    pub last_operation: &'static str,
}

/// The newest firing of a trigger below another one.
#[derive(Debug, Clone, PartialEq)]
pub struct ChildFiring {
    pub automation_id: AutomationId,
    pub parent_trigger_id: Uuid,
    /// Its trigger is the child.
    pub firing: Firing,
}
