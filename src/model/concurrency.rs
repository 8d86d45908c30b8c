//! Concurrency limits (`prefect/server/schemas/{core,actions,responses}.py`): those by name (v2), and those by tag of
//! the old API (v1), which are kept as limits named `tag:<tag>`.

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::{ConcurrencyLimitId, LeaseId};
use crate::model::json::{self, invalid};
use crate::model::{Patch, name};

/// Beginning of the name of a limit on a tag.
pub const TAG_PREFIX: &str = "tag:";

/// A limit by name, as the row has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConcurrencyLimitV2 {
    pub id: ConcurrencyLimitId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    /// An inactive limit limits nothing.
    pub active: bool,
    pub name: String,
    pub limit: i64,
    /// Slots taken when the row was last written; decayed since.
    pub active_slots: i64,
    /// Slots refused of late, from which the wait is told.
    pub denied_slots: i64,
    /// For rate limits; 0 otherwise.
    pub slot_decay_per_second: f64,
    /// How long a slot is held on average.
    pub avg_slot_occupancy_seconds: f64,
}

impl ConcurrencyLimitV2 {
    /// The tag that this limit is on.
    pub fn tag(&self) -> Option<&str> {
        self.name.strip_prefix(TAG_PREFIX)
    }
}

/// A limit by name as it is answered: with the slots that are taken at this moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GlobalConcurrencyLimit {
    pub id: ConcurrencyLimitId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub active: bool,
    pub name: String,
    pub limit: i64,
    pub active_slots: i64,
    pub slot_decay_per_second: f64,
}

/// A limit of which slots were taken.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MinimalConcurrencyLimit {
    pub id: ConcurrencyLimitId,
    pub name: String,
    pub limit: i64,
}

/// Limits of which slots were taken, and the lease that holds them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConcurrencyLimitWithLease {
    pub lease_id: LeaseId,
    pub limits: Vec<MinimalConcurrencyLimit>,
}

/// Body of `POST /v2/concurrency_limits/`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConcurrencyLimitV2Create {
    #[serde(default = "yes")]
    pub active: bool,
    #[serde(deserialize_with = "limit_name")]
    pub name: String,
    #[serde(deserialize_with = "not_negative")]
    pub limit: i64,
    #[serde(default, deserialize_with = "not_negative")]
    pub active_slots: i64,
    #[serde(default, deserialize_with = "not_negative")]
    pub denied_slots: i64,
    #[serde(default, deserialize_with = "not_negative_rate")]
    pub slot_decay_per_second: f64,
}

/// Body of `PATCH /v2/concurrency_limits/{id_or_name}`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConcurrencyLimitV2Update {
    pub active: Patch<bool>,
    #[serde(deserialize_with = "patched_name")]
    pub name: Patch<String>,
    #[serde(deserialize_with = "patched_count")]
    pub limit: Patch<i64>,
    #[serde(deserialize_with = "patched_count")]
    pub active_slots: Patch<i64>,
    #[serde(deserialize_with = "patched_count")]
    pub denied_slots: Patch<i64>,
    #[serde(deserialize_with = "patched_rate")]
    pub slot_decay_per_second: Patch<f64>,
}

/// A limit on a tag, of the old API.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConcurrencyLimit {
    pub id: ConcurrencyLimitId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub tag: String,
    pub concurrency_limit: i64,
    /// The task runs that hold a slot.
    pub active_slots: Vec<Uuid>,
}

/// Body of `POST /concurrency_limits/`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConcurrencyLimitCreate {
    pub tag: String,
    pub concurrency_limit: i64,
}

/// What kind of thing holds a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderType {
    FlowRun,
    TaskRun,
    Deployment,
}

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseHolder {
    #[serde(rename = "type")]
    pub kind: HolderType,
    pub id: Uuid,
}

/// What happens to a run of a deployment whose slots are all taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CollisionStrategy {
    /// It waits.
    Enqueue,
    /// It is cancelled.
    CancelNew,
}

/// How a deployment uses its concurrency limit. Unknown keys are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConcurrencyOptions {
    pub collision_strategy: CollisionStrategy,
    /// Seconds that a run has from its slot to its start, 60 to 86,400; the server's setting where it says nothing.
    #[serde(default, deserialize_with = "grace_period")]
    pub grace_period_seconds: Option<i64>,
}

fn yes() -> bool {
    true
}

fn check_name<E: serde::de::Error>(given: String) -> Result<String, E> {
    if given.is_empty() || name::banned_character(&given).is_some() {
        return Err(invalid("string_pattern_mismatch", "String should match pattern '^[^/%&><]+$'"));
    }
    Ok(given)
}

fn check_count<E: serde::de::Error>(count: i64) -> Result<i64, E> {
    if count < 0 { Err(invalid("greater_than_equal", "Input should be greater than or equal to 0")) } else { Ok(count) }
}

fn check_rate<E: serde::de::Error>(rate: f64) -> Result<f64, E> {
    if rate < 0.0 { Err(invalid("greater_than_equal", "Input should be greater than or equal to 0")) } else { Ok(rate) }
}

fn limit_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).and_then(check_name)
}

fn not_negative<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    i64::deserialize(deserializer).and_then(check_count)
}

fn not_negative_rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    f64::deserialize(deserializer).and_then(check_rate)
}

fn patched_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patch<String>, D::Error> {
    Option::<String>::deserialize(deserializer)?.map_or(Ok(Patch::Null), |name| check_name(name).map(Patch::Value))
}

fn patched_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patch<i64>, D::Error> {
    Option::<i64>::deserialize(deserializer)?.map_or(Ok(Patch::Null), |count| check_count(count).map(Patch::Value))
}

fn patched_rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patch<f64>, D::Error> {
    Option::<f64>::deserialize(deserializer)?.map_or(Ok(Patch::Null), |rate| check_rate(rate).map(Patch::Value))
}

fn grace_period<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    match Option::<i64>::deserialize(deserializer)? {
        Some(seconds) if seconds < 60 => Err(invalid("greater_than_equal", "Input should be greater than or equal to 60")),
        Some(seconds) if seconds > 86_400 => Err(invalid("less_than_equal", "Input should be less than or equal to 86400")),
        seconds => Ok(seconds),
    }
}
