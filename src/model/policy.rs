//! How runs are retried, and what the rules remember of a run (`FlowRunPolicy`, `TaskRunPolicy` in
//! `prefect/server/schemas/core.py`): the column `empirical_policy`.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Number, Value};

use crate::model::Patch;
use crate::model::json::{self, Complaint, invalid};

/// Retry delays of one task at most.
const RETRY_DELAYS: usize = 50;

/// How a flow run came to run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryType {
    /// Its process retries by itself; no worker may take it.
    InProcess,
    /// A worker takes it again.
    Reschedule,
}

/// Policy of a flow run. Unknown keys are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "FlowRunPolicyInput")]
pub struct FlowRunPolicy {
    /// Old name of `retries`.
    pub max_retries: i64,
    /// Old name of `retry_delay`.
    pub retry_delay_seconds: f64,
    pub retries: Option<i64>,
    /// Seconds.
    pub retry_delay: Option<i64>,
    /// Pauses that this run has made, so that none is made twice.
    pub pause_keys: Option<BTreeSet<String>>,
    /// True from the moment a paused run is resumed until it runs.
    pub resuming: Option<bool>,
    pub retry_type: Option<RetryType>,
}

impl FlowRunPolicy {
    /// The policy of a run about which nothing was said.
    pub fn new() -> Self {
        Self::default()
    }

    /// True while the run is being resumed.
    pub fn is_resuming(&self) -> bool {
        self.resuming == Some(true)
    }
}

impl Default for FlowRunPolicy {
    /// The policy of a run about which nothing was said.
    fn default() -> Self {
        FlowRunPolicyInput::default().into()
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(default)]
struct FlowRunPolicyInput {
    max_retries: i64,
    retry_delay_seconds: f64,
    retries: Option<i64>,
    retry_delay: Option<i64>,
    pause_keys: Option<BTreeSet<String>>,
    resuming: Option<bool>,
    retry_type: Option<RetryType>,
}

impl Default for FlowRunPolicyInput {
    fn default() -> Self {
        Self {
            max_retries: 0,
            retry_delay_seconds: 0.0,
            retries: None,
            retry_delay: None,
            pause_keys: Some(BTreeSet::new()),
            resuming: Some(false),
            retry_type: None,
        }
    }
}

/// `#[serde(default, deserialize_with = "policy::of_body")]`: as the reference reads it from a body, where the seconds
/// of `retry_delay_seconds` that become the `retry_delay` must be whole.
pub fn of_body<'de, D: Deserializer<'de>>(deserializer: D) -> Result<FlowRunPolicy, D::Error> {
    let input = FlowRunPolicyInput::deserialize(deserializer)?;
    if input.retry_delay.is_none_or(|delay| delay == 0) && input.retry_delay_seconds.fract() != 0.0 {
        let message = "Input should be a valid integer, got a number with a fractional part";
        return Err(json::invalid_at(&[Complaint::new(vec!["retry_delay".into()], "int_from_float", message)]));
    }
    Ok(input.into())
}

/// [`of_body`], for an update.
pub fn patch_of_body<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patch<FlowRunPolicy>, D::Error> {
    #[derive(Deserialize)]
    struct OfBody(#[serde(deserialize_with = "of_body")] FlowRunPolicy);
    Ok(Option::<OfBody>::deserialize(deserializer)?.map_or(Patch::Null, |policy| Patch::Value(policy.0)))
}

impl From<FlowRunPolicyInput> for FlowRunPolicy {
    fn from(input: FlowRunPolicyInput) -> Self {
        let unset = |value: Option<i64>| value.is_none_or(|value| value == 0);
        let mut policy = Self {
            max_retries: input.max_retries,
            retry_delay_seconds: input.retry_delay_seconds,
            retries: input.retries,
            retry_delay: input.retry_delay,
            pause_keys: input.pause_keys,
            resuming: input.resuming,
            retry_type: input.retry_type,
        };
        if unset(policy.retries) && policy.max_retries != 0 {
            policy.retries = Some(policy.max_retries);
        }
        if unset(policy.retry_delay) && policy.retry_delay_seconds != 0.0 {
            policy.retry_delay = Some(policy.retry_delay_seconds as i64);
        }
        policy
    }
}

/// Seconds between the runs of a task: the same each time, or one per retry (the last one stays).
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RetryDelay {
    Same(Number),
    Each(Vec<Number>),
}

impl RetryDelay {
    /// Seconds before the run after `run_count` runs.
    pub fn after(&self, run_count: i64) -> f64 {
        match self {
            Self::Same(seconds) => seconds.as_f64(),
            // The reference counts from the end where nothing has run yet.
            Self::Each(all) if run_count < 1 => all.last().and_then(Number::as_f64),
            Self::Each(all) => all.get((run_count - 1) as usize).or(all.last()).and_then(Number::as_f64),
        }
        .unwrap_or(0.0)
    }
}

/// Policy of a task run. Unknown keys are ignored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "TaskRunPolicyInput")]
pub struct TaskRunPolicy {
    /// Old name of `retries`.
    pub max_retries: i64,
    /// Old name of `retry_delay`.
    pub retry_delay_seconds: f64,
    pub retries: Option<i64>,
    pub retry_delay: Option<RetryDelay>,
    /// By how much a delay may be longer or shorter than said; not negative.
    pub retry_jitter_factor: Option<f64>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct TaskRunPolicyInput {
    max_retries: i64,
    #[serde(deserialize_with = "number")]
    retry_delay_seconds: Option<Number>,
    retries: Option<i64>,
    #[serde(deserialize_with = "retry_delay")]
    retry_delay: Option<RetryDelay>,
    #[serde(deserialize_with = "jitter_factor")]
    retry_jitter_factor: Option<f64>,
}

impl From<TaskRunPolicyInput> for TaskRunPolicy {
    fn from(input: TaskRunPolicyInput) -> Self {
        let mut policy = Self {
            max_retries: input.max_retries,
            retry_delay_seconds: input.retry_delay_seconds.as_ref().and_then(Number::as_f64).unwrap_or_default(),
            retries: input.retries,
            retry_delay: input.retry_delay,
            retry_jitter_factor: input.retry_jitter_factor,
        };
        if policy.retries.is_none_or(|retries| retries == 0) && policy.max_retries != 0 {
            policy.retries = Some(policy.max_retries);
        }
        let unset = match &policy.retry_delay {
            None => true,
            Some(RetryDelay::Same(seconds)) => seconds.as_f64() == Some(0.0),
            Some(RetryDelay::Each(all)) => all.is_empty(),
        };
        if unset && policy.retry_delay_seconds != 0.0 {
            // A whole number stays one.
            policy.retry_delay = input.retry_delay_seconds.map(RetryDelay::Same);
        }
        policy
    }
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Number>, D::Error> {
    let wrong = || invalid("float_type", "Input should be a valid number");
    match Value::deserialize(deserializer)? {
        Value::Number(number) => Ok(Some(number)),
        Value::String(text) => text.trim().parse().ok().and_then(Number::from_f64).map(Some).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

fn retry_delay<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RetryDelay>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::Number(seconds) => Ok(Some(RetryDelay::Same(seconds))),
        Value::Array(all) => {
            let all: Vec<Number> = all
                .into_iter()
                .map(|one| match one {
                    Value::Number(seconds) => Ok(seconds),
                    _ => Err(invalid("float_type", "Input should be a valid number")),
                })
                .collect::<Result<_, _>>()?;
            if all.len() > RETRY_DELAYS {
                return Err(invalid("value_error", format_args!("Can not configure more than {RETRY_DELAYS} retry delays per task.")));
            }
            Ok(Some(RetryDelay::Each(all)))
        }
        _ => Err(invalid("float_type", "Input should be a valid number")),
    }
}

fn jitter_factor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    match Option::<f64>::deserialize(deserializer)? {
        Some(factor) if factor < 0.0 => Err(invalid("value_error", "`retry_jitter_factor` must be >= 0.")),
        factor => Ok(factor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_policy_of_nothing_is_written_as_the_reference_writes_it() {
        assert_eq!(
            serde_json::to_string(&FlowRunPolicy::default()).expect("serializes"),
            r#"{"max_retries":0,"retry_delay_seconds":0.0,"retries":null,"retry_delay":null,"pause_keys":[],"resuming":false,"retry_type":null}"#
        );
        assert_eq!(
            serde_json::to_string(&TaskRunPolicy::default()).expect("serializes"),
            r#"{"max_retries":0,"retry_delay_seconds":0.0,"retries":null,"retry_delay":null,"retry_jitter_factor":null}"#
        );
        assert_eq!(serde_json::from_str::<FlowRunPolicy>("{}").expect("valid"), FlowRunPolicy::default());
    }

    #[test]
    fn old_names_fill_in_the_new_ones() {
        let policy: FlowRunPolicy = serde_json::from_value(json!({"max_retries": 3, "retry_delay_seconds": 2})).expect("valid");
        assert_eq!((policy.retries, policy.retry_delay), (Some(3), Some(2)));
        let policy: TaskRunPolicy = serde_json::from_value(json!({"max_retries": 3, "retries": 5})).expect("valid");
        assert_eq!(policy.retries, Some(5));
    }

    #[test]
    fn delays_are_one_or_a_list_of_fifty() {
        let policy: TaskRunPolicy = serde_json::from_value(json!({"retry_delay": [1, 2.5]})).expect("valid");
        let delay = policy.retry_delay.expect("given");
        let milliseconds = [0, 1, 2, 9].map(|runs| (delay.after(runs) * 1000.0) as i64);
        assert_eq!(milliseconds, [2500, 1000, 2500, 2500]);
        assert!(serde_json::from_value::<TaskRunPolicy>(json!({"retry_delay": vec![1; 51]})).is_err());
        assert!(serde_json::from_value::<TaskRunPolicy>(json!({"retry_jitter_factor": -0.1})).is_err());
    }
}
