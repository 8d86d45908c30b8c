//! Values as the reference's JSON writer gives them, and as it reads them.
//!
//! * [`timestamp`]: `2026-01-02T03:04:05.678900Z`; the fraction has six digits, or is missing when zero. Read: ISO 8601
//!   with any offset or none (UTC), a date, or seconds (or milliseconds, above 2e10) since the epoch.
//! * [`seconds`]: durations as float seconds. Read: numbers or ISO 8601 durations (`PT1H`).
//! * [`python_dumps`]: text as Python's `json.dumps` writes it, for JSON columns on SQLite.
//!
//! Use them with `#[serde(with = "...")]`: `json::timestamp`, `json::optional_timestamp`, `json::seconds`,
//! `json::optional_seconds`. They are types rather than modules, so that the attribute also tells the schema of the field.

use std::borrow::Cow;

use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat, SubsecRound, Timelike, Utc};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::clock::Timestamp;

/// A deserialization error which carries the kind that the reference's validator would name (`type` in the 422 body)
/// beside the message. `api/extract.rs` takes it apart; elsewhere it reads as the message.
pub fn invalid<E: serde::de::Error>(kind: &str, message: impl std::fmt::Display) -> E {
    E::custom(format_args!("\u{1}{kind}\u{1}{message}"))
}

/// [`invalid`], with what the message was made from.
pub fn invalid_with<E: serde::de::Error>(kind: &str, message: impl std::fmt::Display, ctx: &Value) -> E {
    E::custom(format_args!("\u{1}{kind}\u{1}{message}\u{1}{ctx}"))
}

/// One of several things that are wrong with a value.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Complaint {
    /// Where, below the value: keys, indexes and members of unions.
    pub location: Vec<Value>,
    /// As in [`invalid`].
    pub kind: String,
    /// For people.
    pub message: String,
    /// What is there, where the location does not lead to it.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
}

/// A null that is there is a value.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Complaint {
    /// Puts it together.
    pub fn new<S: Into<Value>>(location: impl IntoIterator<Item = S>, kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { location: location.into_iter().map(Into::into).collect(), kind: kind.into(), message: message.into(), input: None }
    }
}

/// A deserialization error for all that is wrong inside a value, such as with each member of a union.
pub fn invalid_at<E: serde::de::Error>(complaints: &[Complaint]) -> E {
    E::custom(format_args!("\u{1}\u{1}{}", serde_json::to_string(complaints).expect("texts always serialize")))
}

/// Writes a moment as pydantic does.
pub fn write_timestamp(at: &Timestamp) -> String {
    let digits = if at.nanosecond() / 1000 == 0 { SecondsFormat::Secs } else { SecondsFormat::Micros };
    at.to_rfc3339_opts(digits, true)
}

/// Reads a moment in any form that pydantic takes as a string.
pub fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.to_utc().trunc_subsecs(6));
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z", "%Y-%m-%d %H:%M%#z"] {
        if let Ok(at) = DateTime::parse_from_str(text, format) {
            return Some(at.to_utc().trunc_subsecs(6));
        }
    }
    let naive_text = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"] {
        if let Ok(at) = NaiveDateTime::parse_from_str(naive_text, format) {
            return Some(at.and_utc().trunc_subsecs(6));
        }
    }
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Some(date.and_hms_opt(0, 0, 0)?.and_utc());
    }
    text.parse::<f64>().ok().and_then(timestamp_of_number)
}

/// Seconds since the epoch, or milliseconds above 2e10, as pydantic tells them apart.
fn timestamp_of_number(number: f64) -> Option<Timestamp> {
    let seconds = if number.abs() > 2e10 { number / 1000.0 } else { number };
    DateTime::<Utc>::from_timestamp_micros((seconds * 1e6).round() as i64)
}

fn read_timestamp<E: serde::de::Error>(value: &Value) -> Result<Timestamp, E> {
    match value {
        Value::String(text) => parse_timestamp(text).ok_or_else(|| invalid("value_error", format_args!("Unable to parse string [{text}]"))),
        Value::Number(number) => number.as_f64().and_then(timestamp_of_number).ok_or_else(no_moment),
        _ => Err(no_moment()),
    }
}

/// What the reference's type of moments says of what is no text.
fn no_moment<E: serde::de::Error>() -> E {
    invalid_with("value_error", "value is not a valid datetime", &Value::Null)
}

/// `#[serde(with = "json::timestamp")]`
#[expect(non_camel_case_types, reason = "the attribute names it as it would a module")]
#[derive(Debug)]
pub enum timestamp {}

impl timestamp {
    /// Writes it.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&write_timestamp(at))
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        read_timestamp(&Value::deserialize(deserializer)?)
    }
}

/// `#[serde(default, with = "json::optional_timestamp")]`
#[expect(non_camel_case_types, reason = "the attribute names it as it would a module")]
#[derive(Debug)]
pub enum optional_timestamp {}

impl optional_timestamp {
    /// Writes it.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => timestamp::serialize(at, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Null => Ok(None),
            value => read_timestamp(&value).map(Some),
        }
    }
}

/// Reads float seconds, or an ISO 8601 duration such as `PT1H30M` or `P1DT0.5S`.
pub fn parse_seconds(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok().or_else(|| iso_duration(text)),
        _ => None,
    }
    .filter(|seconds| seconds.is_finite())
}

fn iso_duration(text: &str) -> Option<f64> {
    let (sign, rest) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
    let rest = rest.strip_prefix(['P', 'p'])?;
    let (mut seconds, mut number, mut in_time, mut parts) = (0.0, String::new(), false, 0);
    for letter in rest.chars() {
        match letter.to_ascii_uppercase() {
            'T' if !in_time => in_time = true,
            digit @ ('0'..='9' | '.') => number.push(digit),
            unit => {
                let factor = match (unit, in_time) {
                    ('Y', false) => 365.0 * 86400.0,
                    ('M', false) => 30.0 * 86400.0,
                    ('W', false) => 7.0 * 86400.0,
                    ('D', false) => 86400.0,
                    ('H', true) => 3600.0,
                    ('M', true) => 60.0,
                    ('S', true) => 1.0,
                    _ => return None,
                };
                seconds += number.parse::<f64>().ok()? * factor;
                number.clear();
                parts += 1;
            }
        }
    }
    (number.is_empty() && parts > 0).then_some(sign * seconds)
}

/// `#[serde(with = "json::seconds")]`: a duration in float seconds.
#[expect(non_camel_case_types, reason = "the attribute names it as it would a module")]
#[derive(Debug)]
pub enum seconds {}

impl seconds {
    /// Writes it.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(seconds: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(*seconds)
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        parse_seconds(&Value::deserialize(deserializer)?).ok_or_else(|| invalid("time_delta_parsing", "Input should be a valid timedelta"))
    }
}

/// `#[serde(default, with = "json::optional_seconds")]`
#[expect(non_camel_case_types, reason = "the attribute names it as it would a module")]
#[derive(Debug)]
pub enum optional_seconds {}

impl optional_seconds {
    /// Writes it.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(seconds: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        match seconds {
            Some(seconds) => serializer.serialize_f64(*seconds),
            None => serializer.serialize_none(),
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Null => Ok(None),
            value => parse_seconds(&value)
                .map(Some)
                .ok_or_else(|| D::Error::custom("\u{1}time_delta_parsing\u{1}Input should be a valid timedelta")),
        }
    }
}

/// Gives each of the above the schema of what it writes.
macro_rules! written_as {
    ($($name:ident = $written:ty),* $(,)?) => {$(
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn schema_id() -> Cow<'static, str> {
                concat!(module_path!(), "::", stringify!($name)).into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                generator.subschema_for::<$written>()
            }
        }
    )*};
}

written_as! {
    timestamp = Timestamp,
    optional_timestamp = Option<Timestamp>,
    seconds = f64,
    optional_seconds = Option<f64>,
}

/// What Python takes for true: everything but null, false, zero and what is empty.
pub fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// Writes JSON as Python's `json.dumps` does: `, ` and `: ` between items, everything beyond ASCII escaped. JSON
/// columns of SQLite are compared as text by the reference, so the bytes matter.
pub fn python_dumps(value: &Value) -> String {
    struct Python;
    impl serde_json::ser::Formatter for Python {
        fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
            if first { Ok(()) } else { writer.write_all(b", ") }
        }
        fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
            if first { Ok(()) } else { writer.write_all(b", ") }
        }
        fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
            writer.write_all(b": ")
        }
        fn write_f64<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, value: f64) -> std::io::Result<()> {
            writer.write_all(python_float(value).as_bytes())
        }
        fn write_string_fragment<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, fragment: &str) -> std::io::Result<()> {
            for letter in fragment.chars() {
                if letter.is_ascii() {
                    writer.write_all(&[letter as u8])?;
                } else {
                    let mut units = [0; 2];
                    for unit in letter.encode_utf16(&mut units) {
                        write!(writer, "\\u{unit:04x}")?;
                    }
                }
            }
            Ok(())
        }
    }
    let mut out = Vec::with_capacity(64);
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, Python);
    serde::Serialize::serialize(value, &mut serializer).expect("a JSON value always serializes into memory");
    String::from_utf8(out).expect("the writer only emits ASCII")
}

/// A finite float as Python's `repr`: the shortest digits, with an exponent below 1e-4 and from 1e16.
fn python_float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("`{:e}` always has an exponent");
    let power: i32 = exponent.parse().expect("and it is a number");
    if (-4..16).contains(&power) {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if power < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", power.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_written_as_pydantic_writes_them() {
        for (given, written) in [
            ("2026-01-02T03:04:05.678900Z", "2026-01-02T03:04:05.678900Z"),
            ("2026-01-02 03:04:05+02:00", "2026-01-02T01:04:05Z"),
            ("2026-01-02T03:04:05", "2026-01-02T03:04:05Z"),
            ("2026-01-02", "2026-01-02T00:00:00Z"),
            ("1767323045.5", "2026-01-02T03:04:05.500000Z"),
        ] {
            assert_eq!(write_timestamp(&parse_timestamp(given).expect(given)), written);
        }
        assert_eq!(parse_timestamp("yesterday"), None);
    }

    #[test]
    fn durations_are_seconds_or_iso() {
        assert_eq!(parse_seconds(&"PT1H30M".into()), Some(5400.0));
        assert_eq!(parse_seconds(&"P1DT0.5S".into()), Some(86400.5));
        assert_eq!(parse_seconds(&2.into()), Some(2.0));
        assert_eq!(parse_seconds(&true.into()), Some(1.0));
        assert_eq!(parse_seconds(&"P".into()), None);
    }

    #[test]
    fn floats_are_pythons() {
        for (value, written) in [
            (60.0, "60.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1.5e-5, "1.5e-05"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-1.25e100, "-1.25e+100"),
        ] {
            assert_eq!(python_dumps(&value.into()), written);
        }
    }

    #[test]
    fn dumps_is_pythons() {
        let value = serde_json::json!({"b": ["ä", "a\"\n", 1, 1.0, null], "a": {}});
        assert_eq!(python_dumps(&value), r#"{"b": ["\u00e4", "a\"\n", 1, 1.0, null], "a": {}}"#);
    }

    #[test]
    fn what_is_empty_is_not_true() {
        for nothing in [
            serde_json::json!(null),
            serde_json::json!(0),
            serde_json::json!(false),
            serde_json::json!(""),
            serde_json::json!([]),
            serde_json::json!({}),
        ] {
            assert!(!is_truthy(&nothing), "{nothing}");
        }
        assert!(is_truthy(&serde_json::json!({"a": null})));
    }
}
