//! Durations and anchor dates as pydantic reads them from JSON.

use std::sync::LazyLock;

use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeDelta, Utc};
use regex::{Captures, Regex};
use serde_json::Value;

/// Longest duration, in days, that the reference can hold.
const DAYS_MAX: f64 = 999_999_999.0;
/// Numbers above this are milliseconds since 1970, below it seconds; pydantic's watershed.
const SECONDS_MAX: f64 = 2e10;

static CLOCK: LazyLock<Regex> = LazyLock::new(|| {
    // Without seconds the hour needs two digits.
    regex(r"^([+-])?(?:(\d+)\s*(?:d|days?),?\s+)?(?:(\d+):(\d{2}):(\d{2})(?:[.,](\d{1,9}))?|(\d{2,}):(\d{2}))$")
});
static DAYS: LazyLock<Regex> = LazyLock::new(|| regex(r"^([+-])?(\d+)\s*(?:d|days?),?\s*$"));
static ISO: LazyLock<Regex> = LazyLock::new(|| {
    let part = r"(?:(\d+(?:[.,]\d+)?)";
    let date = ["Y", "M", "W", "D"].map(|unit| format!("{part}{unit})?")).concat();
    let time = ["H", "M", "S"].map(|unit| format!("{part}{unit})?")).concat();
    regex(&format!("^([+-])?P{date}(?:T{time})?$"))
});
static MOMENT: LazyLock<Regex> = LazyLock::new(|| {
    regex(concat!(
        r"^(\d{4})-?(\d{2})-?(\d{2})(?:[Tt _](\d{2})(?::?(\d{2})(?::?(\d{2})(?:[.,](\d{1,9}))?)?)?",
        r"(?:([Zz])|([+-])(\d{2}):?(\d{2})?)?)?$"
    ))
});

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is a constant")
}

/// Reads a duration: seconds as a number, ISO 8601 (`P1DT2H`), or a clock (`1 day, 02:00:00`).
pub(super) fn duration(value: &Value) -> Option<TimeDelta> {
    match value {
        // To Python a boolean is a number.
        Value::Bool(flag) => whole_micros(f64::from(u8::from(*flag))),
        Value::Number(number) => whole_micros(number.as_f64()?),
        Value::String(text) => duration_text(text),
        _ => None,
    }
}

fn whole_micros(seconds: f64) -> Option<TimeDelta> {
    if !seconds.is_finite() || seconds.abs() > DAYS_MAX * 86_400.0 {
        return None;
    }
    let whole = TimeDelta::try_seconds(seconds.trunc() as i64)?;
    whole.checked_add(&TimeDelta::microseconds((seconds.fract() * 1e6).round() as i64))
}

fn duration_text(text: &str) -> Option<TimeDelta> {
    let number = |captures: &Captures, at: usize| -> f64 {
        captures.get(at).map_or(0.0, |found| found.as_str().replace(',', ".").parse().unwrap_or(f64::INFINITY))
    };
    let (seconds, negative) = if let Some(found) = ISO.captures(text) {
        if found.iter().skip(2).flatten().next().is_none() || text.ends_with('T') {
            return None;
        }
        // A year is 365 days and a month 30, as pydantic has it.
        let units = [365.0 * 86_400.0, 30.0 * 86_400.0, 7.0 * 86_400.0, 86_400.0, 3_600.0, 60.0, 1.0];
        let sum = units.iter().enumerate().map(|(at, unit)| number(&found, at + 2) * unit).sum::<f64>();
        (sum, found.get(1).is_some_and(|sign| sign.as_str() == "-"))
    } else if let Some(found) = CLOCK.captures(text) {
        let (hours, minutes) = (number(&found, 3) + number(&found, 7), number(&found, 4) + number(&found, 8));
        if minutes > 59.0 || number(&found, 5) > 59.0 {
            return None;
        }
        let fraction = found.get(6).map_or(0.0, |digits| format!("0.{}", digits.as_str()).parse().unwrap_or(0.0));
        let clock = hours * 3_600.0 + minutes * 60.0 + number(&found, 5) + fraction;
        (number(&found, 2) * 86_400.0 + clock, found.get(1).is_some_and(|sign| sign.as_str() == "-"))
    } else if let Some(found) = DAYS.captures(text) {
        (number(&found, 2) * 86_400.0, found.get(1).is_some_and(|sign| sign.as_str() == "-"))
    } else {
        return None;
    };
    whole_micros(if negative { -seconds } else { seconds })
}

/// Reads an anchor date: ISO 8601 (no offset means UTC) or seconds, or milliseconds, since 1970.
pub(super) fn moment(value: &Value) -> Option<DateTime<FixedOffset>> {
    match value {
        Value::Number(number) => since_epoch(number.as_f64()?),
        Value::String(text) => match text.parse::<f64>() {
            Ok(number) => since_epoch(number),
            Err(_) => moment_text(text),
        },
        _ => None,
    }
}

fn since_epoch(number: f64) -> Option<DateTime<FixedOffset>> {
    let seconds = if number.abs() > SECONDS_MAX { number / 1_000.0 } else { number };
    if !seconds.is_finite() || seconds.abs() > 3e11 {
        return None;
    }
    let micros = (seconds * 1e6).round() as i64;
    DateTime::<Utc>::from_timestamp_micros(micros).map(|at| at.fixed_offset())
}

fn moment_text(text: &str) -> Option<DateTime<FixedOffset>> {
    let found = MOMENT.captures(text)?;
    let number = |at: usize| found.get(at).map_or(Some(0), |digits| digits.as_str().parse::<u32>().ok());
    let date = NaiveDate::from_ymd_opt(i32::try_from(number(1)?).ok()?, number(2)?, number(3)?)?;
    // Digits after the sixth are cut off.
    let micro = found.get(7).map_or(Some(0), |digits| format!("{:0<6.6}", digits.as_str()).parse().ok())?;
    let time = NaiveTime::from_hms_micro_opt(number(4)?, number(5)?, number(6)?, micro)?;
    let offset = match found.get(9) {
        None => Utc.fix(),
        Some(sign) => {
            let seconds = i32::try_from(number(10)? * 3_600 + number(11)? * 60).ok()?;
            FixedOffset::east_opt(if sign.as_str() == "-" { -seconds } else { seconds })?
        }
    };
    NaiveDateTime::new(date, time).and_local_timezone(offset).single()
}

/// Prints a moment as pydantic does: `Z` for UTC, microseconds only when there are any.
pub(super) fn print_moment(at: &DateTime<FixedOffset>) -> String {
    let fraction = if at.timestamp_subsec_micros() == 0 { "" } else { ".%6f" };
    let offset = if at.offset().local_minus_utc() == 0 { "Z" } else { "%:z" };
    at.format(&format!("%Y-%m-%dT%H:%M:%S{fraction}{offset}")).to_string()
}
