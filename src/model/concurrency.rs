//! Concurrency limits (`prefect/server/schemas/{core,actions,responses}.py`): those by name (v2), and those by tag of
//! the old API (v1), which are kept as limits named `tag:<tag>`.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::{ConcurrencyLimitId, LeaseId};
use crate::model::json::{self, invalid};
use crate::model::{Patch, name};

/// Beginning of the name of a limit on a tag.
pub const TAG_PREFIX: &str = "tag:";

/// The average occupancy of a slot never falls below this many seconds, so that waits do not become nothing.
const OCCUPANCY_SECONDS_MIN: f64 = 0.1;
/// The average is taken over this many samples per slot of the limit.
const OCCUPANCY_SAMPLES_PER_SLOT: f64 = 2.0;
/// A limit by name, as the row has it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
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

/// The longest average waits, from which refused slots decay; settings of the server.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// Seconds, for limits on tags.
    pub tag_seconds: f64,
    /// Seconds, for other limits.
    pub other_seconds: f64,
}

fn left(count: i64, rate: f64, seconds: f64) -> i64 {
    // Another node's clock may be ahead of ours: nothing grows back.
    (count - (rate * seconds.max(0.0)).floor() as i64).max(0)
}

fn seconds_since(updated: Timestamp, now: Timestamp) -> f64 {
    (now - updated).num_microseconds().unwrap_or(i64::MAX) as f64 / 1e6
}

impl ConcurrencyLimitV2 {
    /// The tag that this limit is on.
    pub fn tag(&self) -> Option<&str> {
        self.name.strip_prefix(TAG_PREFIX)
    }

    /// Slots taken at this moment.
    pub fn active_slots_at(&self, now: Timestamp) -> i64 {
        left(self.active_slots, self.slot_decay_per_second, seconds_since(self.updated, now))
    }

    /// Slots refused of late, at this moment. Those of a limit without decay are forgotten as fast as its slots come
    /// free on average.
    pub fn denied_slots_at(&self, now: Timestamp, waits: Waits) -> i64 {
        let rate = if self.slot_decay_per_second > 0.0 {
            self.slot_decay_per_second
        } else {
            let longest = if self.tag().is_some() { waits.tag_seconds } else { waits.other_seconds };
            1.0 / self.avg_slot_occupancy_seconds.min(longest).max(OCCUPANCY_SECONDS_MIN)
        };
        left(self.denied_slots, rate, seconds_since(self.updated, now))
    }

    /// The average occupancy after `slots` were held for `seconds`.
    pub fn occupancy_after(&self, slots: i64, seconds: f64) -> f64 {
        let sample = (seconds / slots.max(1) as f64).max(OCCUPANCY_SECONDS_MIN);
        let samples = self.limit.max(1) as f64 * OCCUPANCY_SAMPLES_PER_SLOT;
        self.avg_slot_occupancy_seconds + (sample - self.avg_slot_occupancy_seconds) / samples
    }
}

/// A limit by name as it is answered: with the slots that are taken at this moment.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct MinimalConcurrencyLimit {
    pub id: ConcurrencyLimitId,
    pub name: String,
    pub limit: i64,
}

/// Limits of which slots were taken, and the lease that holds them.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ConcurrencyLimitWithLease {
    pub lease_id: LeaseId,
    pub limits: Vec<MinimalConcurrencyLimit>,
}

/// Body of `POST /v2/concurrency_limits/`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConcurrencyLimitCreate {
    pub tag: String,
    pub concurrency_limit: i64,
}

/// What kind of thing holds a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HolderType {
    FlowRun,
    TaskRun,
    Deployment,
}

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaseHolder {
    #[serde(rename = "type")]
    pub kind: HolderType,
    pub id: Uuid,
}

/// What happens to a run of a deployment whose slots are all taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CollisionStrategy {
    /// It waits.
    Enqueue,
    /// It is cancelled.
    CancelNew,
}

/// How a deployment uses its concurrency limit. Unknown keys are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    const WAITS: Waits = Waits { tag_seconds: 10.0, other_seconds: 30.0 };

    fn limit(name: &str, active_slots: i64, denied_slots: i64, decay: f64, occupancy: f64) -> ConcurrencyLimitV2 {
        ConcurrencyLimitV2 {
            id: ConcurrencyLimitId(Uuid::nil()),
            created: Timestamp::UNIX_EPOCH,
            updated: Timestamp::UNIX_EPOCH,
            active: true,
            name: name.into(),
            limit: 4,
            active_slots,
            denied_slots,
            slot_decay_per_second: decay,
            avg_slot_occupancy_seconds: occupancy,
        }
    }

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + TimeDelta::milliseconds(milliseconds)
    }

    #[test]
    fn slots_of_a_rate_limit_come_back_whole_with_time_and_never_grow() {
        let limit = limit("a", 5, 0, 0.5, 2.0);
        assert_eq!([-9_000, 0, 1_999, 2_000, 60_000].map(|ms| limit.active_slots_at(at(ms))), [5, 5, 5, 4, 0]);
    }

    #[test]
    fn refusals_are_forgotten_at_the_rate_of_the_limit_or_of_its_occupancy() {
        let cases = [
            (limit("a", 0, 10, 0.5, 2.0), 5),         // by its decay: 10 s * 0.5
            (limit("a", 0, 10, 0.0, 2.0), 5),         // by its occupancy: 10 s / 2 s
            (limit("tag:a", 0, 10, 0.0, 1e6), 9),     // a tag waits 10 s at most
            (limit("a", 0, 10, 0.0, 1e6), 10),        // others 30 s
            (limit("a", 0, 1_000, 0.0, 0.0001), 900), // and never less than 0.1 s
        ];
        for (limit, denied) in cases {
            assert_eq!(limit.denied_slots_at(at(10_000), WAITS), denied, "{limit:?}");
        }
    }

    #[test]
    fn the_average_occupancy_moves_by_one_sample_of_two_per_slot() {
        let limit = limit("a", 1, 0, 0.0, 2.0);
        assert!((limit.occupancy_after(2, 20.0) - 3.0).abs() < 1e-9);
        assert!((limit.occupancy_after(1, 0.001) - (2.0 - 1.9 / 8.0)).abs() < 1e-9);
    }
}
