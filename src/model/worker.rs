//! Workers (`prefect/server/schemas/{core,responses,filters}.py`).

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::id::{WorkPoolId, WorkerId};
use crate::model::check::{Checker, integer, optional};
use crate::model::filter::Operator;
use crate::model::json;
use crate::model::status::WorkerStatus;

/// A worker.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Worker {
    pub id: WorkerId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub name: String,
    pub work_pool_id: WorkPoolId,
    #[serde(with = "json::optional_timestamp")]
    pub last_heartbeat_time: Option<Timestamp>,
    pub heartbeat_interval_seconds: Option<i64>,
    /// As last written: the foreman notes who has gone silent.
    pub status: WorkerStatus,
}

/// Body of `POST /work_pools/{name}/workers/heartbeat`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct WorkerHeartbeat {
    pub name: String,
    /// The published worker sends it as a float.
    #[serde(default, deserialize_with = "whole_number")]
    pub heartbeat_interval_seconds: Option<i32>,
}

/// An optional integer, or what stands for one (`30.0`, `"30"`).
fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i32>, D::Error> {
    let given = Value::deserialize(deserializer)?;
    let mut checker = Checker::below(Vec::new());
    let read = optional(integer)(&mut checker, &given);
    let number = checker.finish(read).map_err(|issues| {
        let (kind, message) = issues.first().map_or(("int_type", ""), |issue| (issue.kind.as_str(), issue.msg.as_str()));
        json::invalid::<D::Error>(kind, message)
    })?;
    let fits = |number: i64| {
        i32::try_from(number)
            .map_err(|_| json::invalid("int_parsing_size", "Unable to parse input string as an integer, exceeded maximum size"))
    };
    number.map(fits).transpose()
}

/// Which workers.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerFilter {
    pub operator: Operator,
    pub last_heartbeat_time: Option<WorkerFilterHeartbeat>,
    pub status: Option<WorkerFilterStatus>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerFilterHeartbeat {
    #[serde(with = "json::optional_timestamp")]
    pub before_: Option<Timestamp>,
    #[serde(with = "json::optional_timestamp")]
    pub after_: Option<Timestamp>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerFilterStatus {
    pub any_: Option<Vec<WorkerStatus>>,
    pub not_any_: Option<Vec<WorkerStatus>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_interval_may_be_a_whole_float() {
        let read = |interval: &str| {
            serde_json::from_str::<WorkerHeartbeat>(&format!(r#"{{"name": "w", "heartbeat_interval_seconds": {interval}}}"#))
        };
        for (interval, seconds) in [("30", Some(30)), ("30.0", Some(30)), ("\"30\"", Some(30)), ("null", None)] {
            assert_eq!(read(interval).expect("valid").heartbeat_interval_seconds, seconds, "{interval}");
        }
        assert!(read("30.5").is_err());
        assert!(read("3000000000").is_err());
    }
}
