//! How runs are retried, and what the rules remember of a run (`FlowRunPolicy`, `TaskRunPolicy` in
//! `prefect/server/schemas/core.py`): the column `empirical_policy`.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Number, Value};

use crate::model::Patch;
use crate::model::check::{self, Checker};
use crate::model::json::{self, invalid};

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

/// `#[serde(default, deserialize_with = "policy::of_body")]`: as the reference reads it from a body, where all that is
/// wrong is told, also with what an old name fills in.
pub fn of_body<'de, D: Deserializer<'de>>(deserializer: D) -> Result<FlowRunPolicy, D::Error> {
    read(deserializer, |checker, given| {
        let fields = checker.object(given)?;
        let max_retries = fields.or(checker, "max_retries", 0, check::integer);
        let retry_delay_seconds = fields.or(checker, "retry_delay_seconds", 0.0, check::number);
        let retries = fields.or(checker, "retries", None, check::optional(check::integer));
        let retry_delay = fields.or(checker, "retry_delay", None, check::optional(check::integer));
        let pause_keys = fields.or(checker, "pause_keys", Some(BTreeSet::new()), check::optional(check::string_set));
        let resuming = fields.or(checker, "resuming", Some(false), check::optional(check::boolean));
        let types = [("in_process", RetryType::InProcess), ("reschedule", RetryType::Reschedule)];
        let retry_type =
            fields.or(checker, "retry_type", None, check::optional(move |checker, value| check::one_of(checker, value, &types)));
        Some(FlowRunPolicy {
            max_retries: max_retries?,
            retry_delay_seconds: retry_delay_seconds?,
            retries: retries?,
            retry_delay: retry_delay?,
            pause_keys: pause_keys?,
            resuming: resuming?,
            retry_type: retry_type?,
        })
    })
}

/// [`of_body`], for a task run.
pub fn of_task_body<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TaskRunPolicy, D::Error> {
    read(deserializer, |checker, given| {
        let fields = checker.object(given)?;
        let max_retries = fields.or(checker, "max_retries", 0, check::integer);
        let retry_delay_seconds = fields.or(checker, "retry_delay_seconds", 0.0, check::number);
        let retries = fields.or(checker, "retries", None, check::optional(check::integer));
        let retry_delay = fields.or(checker, "retry_delay", None, check::optional(given_delay));
        let retry_jitter_factor = fields.or(checker, "retry_jitter_factor", None, check::optional(given_factor));
        Some(TaskRunPolicy {
            max_retries: max_retries?,
            retry_delay_seconds: retry_delay_seconds?,
            retries: retries?,
            retry_delay: retry_delay?,
            retry_jitter_factor: retry_jitter_factor?,
        })
    })
}

/// Reads a policy once the old names have filled in the new ones.
fn read<'de, D: Deserializer<'de>, T>(deserializer: D, policy: impl FnOnce(&mut Checker, &Value) -> Option<T>) -> Result<T, D::Error> {
    let mut given = Value::deserialize(deserializer)?;
    if let Value::Object(fields) = &mut given {
        for (old, new) in [("max_retries", "retries"), ("retry_delay_seconds", "retry_delay")] {
            let unset = fields.get(new).is_none_or(|value| !json::is_truthy(value));
            let says_zero = |value: &Value| *value == false || value.as_f64() == Some(0.0);
            if let Some(value) = fields.get(old).filter(|value| unset && !says_zero(value)).cloned() {
                fields.insert(new.to_owned(), value);
            }
        }
    }
    let mut checker = Checker::below(Vec::new());
    let read = policy(&mut checker, &given);
    checker.finish(read).map_err(check::complain)
}

/// A whole number stays one; a list is of whole numbers where all are, and of others else.
fn given_delay(checker: &mut Checker, value: &Value) -> Option<RetryDelay> {
    let other = |seconds: f64| Number::from_f64(seconds).unwrap_or_else(|| 0.into());
    let delay = match value {
        Value::Number(seconds) => Some(RetryDelay::Same(seconds.clone())),
        // Exact items come before those that are converted.
        Value::Array(all) if all.iter().any(Value::is_f64) && all.iter().all(Value::is_number) => {
            Some(RetryDelay::Each(all.iter().filter_map(Value::as_f64).map(other).collect()))
        }
        _ => checker.union(&[
            ("int", &|checker| check::integer(checker, value).map(|seconds| RetryDelay::Same(seconds.into()))),
            ("float", &|checker| check::number(checker, value).map(|seconds| RetryDelay::Same(other(seconds)))),
            ("list[int]", &|checker| {
                let all = check::list(check::integer)(checker, value)?;
                Some(RetryDelay::Each(all.into_iter().map(Number::from).collect()))
            }),
            ("list[float]", &|checker| {
                Some(RetryDelay::Each(check::list(check::number)(checker, value)?.into_iter().map(other).collect()))
            }),
        ]),
    };
    match delay {
        Some(RetryDelay::Each(all)) if all.len() > RETRY_DELAYS => {
            checker.refuse(format_args!("Can not configure more than {RETRY_DELAYS} retry delays per task."), value)
        }
        delay => delay,
    }
}

fn given_factor(checker: &mut Checker, value: &Value) -> Option<f64> {
    match check::number(checker, value)? {
        factor if factor < 0.0 => checker.refuse("`retry_jitter_factor` must be >= 0.", value),
        factor => Some(factor),
    }
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
    fn what_an_old_name_fills_in_is_judged_too() {
        let found = |read: &dyn Fn(Value) -> serde_json::Error, given: Value| {
            let told = read(given).to_string();
            let complaints: Vec<json::Complaint> = serde_json::from_str(told.trim_start_matches('\u{1}')).expect("complaints");
            complaints.into_iter().map(|complaint| (json!(complaint.location), complaint.kind, complaint.input)).collect::<Vec<_>>()
        };
        let of = |at: Value, kind: &str, input: Value| (at, kind.to_owned(), Some(input));
        let flow = |given: Value| of_body(given).expect_err("it is refused");
        assert_eq!(
            found(&flow, json!({"max_retries": "x", "retry_delay_seconds": 1.5, "retries": 0})),
            [
                of(json!(["max_retries"]), "int_parsing", json!("x")),
                of(json!(["retries"]), "int_parsing", json!("x")),
                of(json!(["retry_delay"]), "int_from_float", json!(1.5)),
            ]
        );
        let task = |given: Value| of_task_body(given).expect_err("it is refused");
        assert_eq!(
            found(&task, json!({"retry_delay": [null]})),
            [
                of(json!(["retry_delay", "int"]), "int_type", json!([null])),
                of(json!(["retry_delay", "float"]), "float_type", json!([null])),
                of(json!(["retry_delay", "list[int]", 0]), "int_type", json!(null)),
                of(json!(["retry_delay", "list[float]", 0]), "float_type", json!(null)),
            ]
        );
        for (given, delay) in [
            (json!({"retry_delay_seconds": 2, "retry_delay": 0}), json!(2)),
            (json!({"retry_delay": "2"}), json!(2)),
            (json!({"retry_delay": [1, 2.5]}), json!([1.0, 2.5])),
            (json!({"retry_delay": [true, "3"]}), json!([1, 3])),
            (json!({"retry_delay_seconds": false}), json!(null)),
        ] {
            assert_eq!(json!(of_task_body(given).expect("valid").retry_delay), delay);
        }
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
