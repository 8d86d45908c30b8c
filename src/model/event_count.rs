//! Counting of events (`prefect/server/events/counting.py`): what is counted, and the spans of time that counts fall into.
//!
//! All time is divided into spans of one length, counted from a fixed Monday; a range of time is answered with every span
//! that touches it, also those without events.

use chrono::{Datelike, TimeDelta, TimeZone, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::model::json;

/// Spans of one answer at most, as the reference.
const SPANS: i128 = 1000;

/// The shortest interval, in units of time, as the reference.
pub const INTERVAL_MIN: f64 = 0.01;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Countable {
    /// Spans of a day; older than `Time`.
    Day,
    /// Spans of the unit and interval asked for.
    Time,
    /// Names of events.
    Event,
    /// Resources.
    Resource,
}

/// A unit of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TimeUnit {
    Week,
    #[default]
    Day,
    Hour,
    Minute,
    Second,
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct EventCount {
    /// The name or id; of a span, its number in the answer.
    pub value: String,
    /// For people; of a span, its begin.
    pub label: String,
    /// Events.
    pub count: i64,
    /// The begin of the span, or when the first of the events occurred.
    #[serde(with = "json::timestamp")]
    pub start_time: Timestamp,
    /// The end of the span, or when the last of the events occurred.
    #[serde(with = "json::timestamp")]
    pub end_time: Timestamp,
}

impl TimeUnit {
    fn micros(self) -> f64 {
        let seconds = match self {
            Self::Week => 7 * 86_400,
            Self::Day => 86_400,
            Self::Hour => 3600,
            Self::Minute => 60,
            Self::Second => 1,
        };
        f64::from(seconds) * 1e6
    }

    /// The last moment of the unit that `at` is in; weeks end with Sunday.
    fn end(self, at: Timestamp) -> Timestamp {
        let day = at.date_naive().and_time(chrono::NaiveTime::MIN).and_utc();
        let length = TimeDelta::microseconds(self.micros() as i64);
        let start = match self {
            Self::Week => day - TimeDelta::days(i64::from(at.weekday().num_days_from_monday())),
            Self::Day => day,
            Self::Hour | Self::Minute | Self::Second => {
                let into = (at - day).num_microseconds().unwrap_or_default() % (self.micros() as i64);
                at - TimeDelta::microseconds(into)
            }
        };
        start + length - TimeDelta::microseconds(1)
    }
}

/// The spans that a range of time touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spans {
    /// Where the first one begins.
    pub start: Timestamp,
    /// Length of each, in microseconds.
    pub micros: i64,
    /// How many.
    pub count: i64,
}

impl Spans {
    /// Divides the range; what lies after the current unit of time is left out.
    ///
    /// # Errors
    /// There would be too many; the reference's sentence.
    pub fn divide(since: Timestamp, until: Timestamp, unit: TimeUnit, interval: f64, now: Timestamp) -> Result<Self, String> {
        let micros = (unit.micros() * interval).round() as i64;
        let spans = ceil_div((until - since).num_microseconds().unwrap_or(i64::MAX), micros);
        if i128::from(spans) > SPANS {
            return Err(format!(
                "The given interval would create {spans} buckets, which is too many. Please increase the interval or reduce the time \
                 range to produce {SPANS} buckets or fewer."
            ));
        }
        let pivot = Utc.with_ymd_and_hms(2024, 4, 1, 0, 0, 0).single().expect("a date");
        let first = (since - pivot).num_microseconds().unwrap_or_default().div_euclid(micros);
        let start = pivot + TimeDelta::microseconds(first * micros);
        let until = if until > now { unit.end(now) } else { until };
        let count = ceil_div((until - start).num_microseconds().unwrap_or_default(), micros).max(0);
        Ok(Self { start, micros, count })
    }

    /// One line for each span, with the counts of those that have events, by number.
    pub fn filled(&self, counts: &[(i64, i64)]) -> Vec<EventCount> {
        let mut lines: Vec<EventCount> = (0..self.count)
            .map(|number| {
                let start_time = self.start + TimeDelta::microseconds(number * self.micros);
                let end_time = start_time + TimeDelta::microseconds(self.micros - 1);
                EventCount { value: number.to_string(), label: iso(start_time), count: 0, start_time, end_time }
            })
            .collect();
        for (number, count) in counts {
            // Events of the future are beyond the last span.
            if let Some(line) = usize::try_from(*number).ok().and_then(|number| lines.get_mut(number)) {
                line.count = *count;
            }
        }
        lines
    }
}

fn ceil_div(dividend: i64, divisor: i64) -> i64 {
    -(-dividend).div_euclid(divisor)
}

/// As Python's `isoformat`.
fn iso(at: Timestamp) -> String {
    json::write_timestamp(&at).replace('Z', "+00:00")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        json::parse_timestamp(text).expect("a moment")
    }

    #[test]
    fn spans_are_counted_from_the_fixed_monday() {
        let now = at("2024-04-20T12:00:00Z");
        let days = Spans::divide(at("2024-04-02T13:00:00Z"), at("2024-04-04T01:00:00Z"), TimeUnit::Day, 1.0, now).expect("few");
        assert_eq!((days.start, days.count), (at("2024-04-02"), 3));
        let lines = days.filled(&[(1, 7), (3, 1)]);
        assert_eq!((lines[1].count, lines[1].label.as_str(), lines[1].value.as_str()), (7, "2024-04-03T00:00:00+00:00", "1"));
        assert_eq!(lines[1].end_time, at("2024-04-03T23:59:59.999999Z"));
        let weeks = Spans::divide(at("2024-03-31"), at("2024-04-30"), TimeUnit::Week, 1.0, now).expect("few");
        assert_eq!((weeks.start, weeks.count), (at("2024-03-25"), 4), "what lies after this week is left out");
        let half = Spans::divide(at("2024-04-02"), at("2024-04-02T00:00:01Z"), TimeUnit::Second, 0.5, now).expect("few");
        assert_eq!(half.filled(&[])[1].label, "2024-04-02T00:00:00.500000+00:00");
    }

    #[test]
    fn more_than_a_thousand_spans_are_refused() {
        let (since, now) = (at("2024-04-02"), at("2024-04-20"));
        assert!(Spans::divide(since, since + TimeDelta::seconds(1000), TimeUnit::Second, 1.0, now).is_ok());
        let refused = Spans::divide(since, since + TimeDelta::seconds(1001), TimeUnit::Second, 1.0, now).expect_err("too many");
        assert!(refused.starts_with("The given interval would create 1001 buckets"), "{refused}");
    }

    #[test]
    fn units_end_as_the_calendar_says() {
        let now = at("2024-04-18T12:34:56.789Z");
        for (unit, end) in [
            (TimeUnit::Second, "2024-04-18T12:34:56.999999Z"),
            (TimeUnit::Minute, "2024-04-18T12:34:59.999999Z"),
            (TimeUnit::Hour, "2024-04-18T12:59:59.999999Z"),
            (TimeUnit::Day, "2024-04-18T23:59:59.999999Z"),
            (TimeUnit::Week, "2024-04-21T23:59:59.999999Z"),
        ] {
            assert_eq!(unit.end(now), at(end), "{unit:?}");
        }
    }
}
