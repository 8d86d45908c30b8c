//! What flow runs and task runs have in common: generated names, sized parameters, estimates, counts by state.

use std::fmt::Formatter;

use schemars::JsonSchema;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::model::json::{self, invalid};
use crate::model::state::StateType;

/// Bytes of parameters at most, as JSON text, where no setting says otherwise.
pub const PARAMETERS_BYTES: u64 = 512 * 1024;

/// A name for a run that was given none: an adjective and an animal, such as `patient-heron`.
pub fn generated_name() -> String {
    petname::petname(2, "-").unwrap_or_else(|| crate::id::v4().to_string())
}

/// Reads a run's name; one that is missing, or nothing in Python's eyes, is generated.
pub fn name_or_generated<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(name) if !name.is_empty() => Ok(name),
        nothing if !json::is_truthy(&nothing) => Ok(generated_name()),
        _ => Err(invalid("string_type", "Input should be a valid string")),
    }
}

/// Under this name a deserializer is told that parameters of a run come next: the one of request bodies knows how large they
/// may be, and calls [`check_size`]. Others take them as they are.
pub const SIZED_PARAMETERS: &str = "$praetor::SizedParameters";

/// Reads parameters, whose size is bounded in request bodies ([`SIZED_PARAMETERS`]).
pub fn sized_parameters<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    struct Parameters;

    impl<'de> Visitor<'de> for Parameters {
        type Value = Map<String, Value>;

        fn expecting(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("a map")
        }

        fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            Map::deserialize(deserializer)
        }
    }

    deserializer.deserialize_newtype_struct(SIZED_PARAMETERS, Parameters)
}

/// Checks that parameters take `bytes_max` bytes at most, as JSON text in ASCII; 0 is no bound.
///
/// # Errors
/// The reference's words.
pub fn check_size(parameters: &Map<String, Value>, bytes_max: u64) -> Result<(), String> {
    if bytes_max == 0 || parameters.is_empty() {
        return Ok(());
    }
    let text = serde_json::to_string(parameters).expect("JSON has only string keys");
    let bytes = ascii_bytes(&text);
    if bytes <= bytes_max {
        return Ok(());
    }
    let (most, given) = (with_commas(bytes_max), with_commas(bytes));
    Err(format!("Flow run parameters must be less than {most} bytes when serialized (got {given} bytes)."))
}

/// Bytes of JSON text once everything beyond ASCII is escaped.
fn ascii_bytes(text: &str) -> u64 {
    text.chars().map(|letter| if letter.is_ascii() { 1 } else { 6 * letter.len_utf16() as u64 }).sum()
}

/// `524288` as `524,288`.
fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Seconds between two moments.
pub fn seconds_between(later: Timestamp, earlier: Timestamp) -> f64 {
    (later - earlier).num_microseconds().map_or(0.0, |micros| micros as f64 / 1e6)
}

/// The moments of a run from which its run time and lateness are estimated.
#[derive(Debug, Clone, Copy)]
pub struct Moments {
    pub state_type: Option<StateType>,
    pub state_timestamp: Option<Timestamp>,
    pub start_time: Option<Timestamp>,
    pub expected_start_time: Option<Timestamp>,
    /// Seconds in states that are over.
    pub total_run_time: f64,
}

impl Moments {
    /// Run time in seconds, with the time that a running run has been running until `now`.
    pub fn estimated_run_time(&self, now: Timestamp) -> f64 {
        match (self.state_type, self.state_timestamp) {
            (Some(StateType::Running), Some(since)) => self.total_run_time + seconds_between(now, since),
            _ => self.total_run_time,
        }
    }

    /// Seconds by which the run started late, or is late `now` where it has not started and is not over.
    pub fn estimated_start_time_delta(&self, now: Timestamp) -> f64 {
        match (self.start_time, self.expected_start_time) {
            (Some(start), Some(expected)) if start > expected => seconds_between(start, expected),
            (None, Some(expected)) if expected < now && !self.state_type.is_some_and(StateType::is_terminal) => {
                seconds_between(now, expected)
            }
            _ => 0.0,
        }
    }
}

/// How many runs are in each type of state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub struct CountByState {
    pub completed: i64,
    pub pending: i64,
    pub running: i64,
    pub failed: i64,
    pub cancelled: i64,
    pub crashed: i64,
    pub paused: i64,
    pub cancelling: i64,
    pub scheduled: i64,
}

impl CountByState {
    /// The count of one type.
    pub fn of(&mut self, kind: StateType) -> &mut i64 {
        match kind {
            StateType::Completed => &mut self.completed,
            StateType::Pending => &mut self.pending,
            StateType::Running => &mut self.running,
            StateType::Failed => &mut self.failed,
            StateType::Cancelled => &mut self.cancelled,
            StateType::Crashed => &mut self.crashed,
            StateType::Paused => &mut self.paused,
            StateType::Cancelling => &mut self.cancelling,
            StateType::Scheduled => &mut self.scheduled,
        }
    }
}

/// Runs of one state in one interval of a history.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct HistoryState {
    pub state_type: StateType,
    pub state_name: String,
    pub count_runs: i64,
    /// Seconds.
    pub sum_estimated_run_time: f64,
    /// Seconds.
    pub sum_estimated_lateness: f64,
}

/// One interval of a history of runs.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct HistoryInterval {
    #[serde(with = "json::timestamp")]
    pub interval_start: Timestamp,
    #[serde(with = "json::timestamp")]
    pub interval_end: Timestamp,
    pub states: Vec<HistoryState>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_follow_the_run() {
        let at = |second: i64| Timestamp::from_timestamp(1_000_000 + second, 0).expect("in range");
        let moments = |state_type, start: Option<i64>, expected: Option<i64>| Moments {
            state_type,
            state_timestamp: Some(at(10)),
            start_time: start.map(at),
            expected_start_time: expected.map(at),
            total_run_time: 5.0,
        };
        let now = at(100);
        let cases = [
            // state, start, expected -> run time, lateness
            (Some(StateType::Running), Some(3), Some(1), 95.0, 2.0),
            (Some(StateType::Completed), Some(1), Some(3), 5.0, 0.0),
            (Some(StateType::Scheduled), None, Some(40), 5.0, 60.0),
            (None, None, Some(40), 5.0, 60.0),
            (Some(StateType::Scheduled), None, Some(140), 5.0, 0.0),
            (Some(StateType::Cancelled), None, Some(40), 5.0, 0.0),
            (Some(StateType::Pending), None, None, 5.0, 0.0),
        ];
        for (state, start, expected, run_time, lateness) in cases {
            let moments = moments(state, start, expected);
            assert_eq!((moments.estimated_run_time(now), moments.estimated_start_time_delta(now)), (run_time, lateness), "{moments:?}");
        }
    }

    #[test]
    fn parameters_are_as_large_as_their_text_in_ascii() {
        let parameters = Map::from_iter([("x".to_owned(), Value::from("y".repeat(1_000)))]);
        assert_eq!(check_size(&parameters, 1_008), Ok(()));
        let refused = "Flow run parameters must be less than 1,007 bytes when serialized (got 1,008 bytes).";
        assert_eq!(check_size(&parameters, 1_007), Err(refused.to_owned()));
        assert_eq!(check_size(&parameters, 0), Ok(()), "no bound");
        assert_eq!(check_size(&Map::new(), 1), Ok(()), "nothing is never too large");
        assert_eq!((ascii_bytes("a\u{e4}\u{1f600}"), with_commas(1_234), with_commas(12)), (19, "1,234".into(), "12".into()));
    }

    #[test]
    fn generated_names_have_two_words() {
        let name = generated_name();
        assert_eq!(name.split('-').count(), 2, "{name}");
    }
}
