//! Schedules of deployments as clients and the database see them: interval, cron, recurrence rule.
//!
//! The union carries no tag; the keys decide. Reading applies the reference's defaults and checks, so a value of
//! these types is valid. The reference's client knows a fourth kind without keys (`NoSchedule`); its server refuses
//! it, and so does this one. When a schedule is due is the matter of `crate::schedule`.

pub mod cron;
mod interval;
pub mod rrule;
#[cfg(test)]
mod tests;

use std::str::FromStr;
use std::sync::LazyLock;

use chrono::{DateTime, FixedOffset, TimeDelta, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use self::rrule::RRULE_CHARACTERS_MAX;
use crate::clock::{Clock, SystemClock};
use crate::model::json::{self, Complaint};

/// Any schedule of a deployment.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Schedule {
    /// Every so often.
    Interval(IntervalSchedule),
    /// By a cron expression.
    Cron(CronSchedule),
    /// By a recurrence rule.
    RRule(RRuleSchedule),
}

/// Every `interval` from `anchor_date` on, in both directions.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct IntervalSchedule {
    /// Positive; whole microseconds. In JSON a number of seconds.
    #[serde(serialize_with = "serialize_seconds")]
    #[schemars(with = "f64")]
    pub interval: TimeDelta,
    /// Keeps the offset it was given with, which has no other meaning.
    #[serde(serialize_with = "serialize_moment")]
    #[schemars(with = "Option<DateTime<FixedOffset>>")]
    pub anchor_date: DateTime<FixedOffset>,
    /// IANA name whose daylight saving intervals of a day and more follow; may be empty, but then nothing is due.
    #[schemars(default = "utc")]
    pub timezone: String,
}

/// Whenever the wall clock matches.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct CronSchedule {
    /// A valid expression, see [`cron::parse`].
    pub cron: String,
    /// IANA name; absent or empty means UTC.
    pub timezone: Option<String>,
    /// Join day of month and day of week by "or", as cron does, rather than by "and".
    #[schemars(default = "yes")]
    pub day_or: bool,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn yes() -> bool {
    true
}

/// By iCalendar's rules.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RRuleSchedule {
    /// A valid text, see [`rrule::validate`].
    pub rrule: String,
    /// IANA name.
    pub timezone: Option<String>,
}

/// One complaint about a schedule, as the reference's validation lists them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issue {
    /// Below the schedule: the member of the union as the reference names it, then the key.
    pub location: Vec<String>,
    /// Pydantic's error type.
    pub kind: &'static str,
    /// Pydantic's message.
    pub message: String,
}

/// Why a schedule's value is refused; the texts are the reference's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Invalid {
    /// No cron expression.
    #[error("Invalid cron string: \"{0}\"")]
    Cron(String),
    /// A cron expression that another server would read otherwise.
    #[error("Random and Hashed expressions are unsupported, received: \"{0}\"")]
    Random(String),
    /// No timezone of that name.
    #[error("Invalid timezone: \"{0}\" (specify in IANA tzdata format, for example, America/New_York)")]
    Timezone(String),
    /// Zero or less.
    #[error("interval must be positive")]
    IntervalNotPositive,
    /// No recurrence rule.
    #[error("Invalid RRule string \"{text}\": {reason}")]
    RRule {
        /// As received.
        text: String,
        /// dateutil's words.
        reason: String,
    },
    /// Too long a recurrence rule.
    #[error("Invalid RRule string \"{head}...\"\nMax length is {RRULE_CHARACTERS_MAX}, got {length}")]
    RRuleLength {
        /// The first 40 characters.
        head: String,
        /// In characters.
        length: usize,
    },
}

/// The timezone of that IANA name.
pub fn zone_named(name: &str) -> Option<Tz> {
    Tz::from_str(name).ok()
}

impl Schedule {
    /// The reference's class name, by which flow runs name their creator.
    pub fn class_name(&self) -> &'static str {
        match self {
            Self::Interval(_) => "IntervalSchedule",
            Self::Cron(_) => "CronSchedule",
            Self::RRule(_) => "RRuleSchedule",
        }
    }

    /// The schedule as the API stores it: a recurrence rule gets a `DTSTART`, see [`rrule::normalize`].
    #[must_use]
    pub fn normalized(mut self, now: DateTime<Utc>) -> Self {
        if let Self::RRule(schedule) = &mut self {
            schedule.rrule = rrule::normalize(&schedule.rrule, schedule.timezone.as_deref(), now);
        }
        self
    }

    /// Reads a schedule; `now` is the anchor of an interval that names none.
    ///
    /// # Errors
    /// Every complaint of every member of the union, in the reference's order.
    pub fn from_json(value: &Value, now: DateTime<Utc>) -> Result<Self, Vec<Issue>> {
        let Value::Object(keys) = value else {
            return Err([INTERVAL, CRON, RRULE]
                .map(|member| Issue {
                    location: vec![member.to_owned()],
                    kind: "model_attributes_type",
                    message: "Input should be a valid dictionary or object to extract fields from".to_owned(),
                })
                .into());
        };
        let mut issues = match read_interval(keys, now) {
            Ok(schedule) => return Ok(Self::Interval(schedule)),
            Err(issues) => issues,
        };
        match read_cron(keys) {
            Ok(schedule) => return Ok(Self::Cron(schedule)),
            Err(more) => issues.extend(more),
        }
        match read_rrule(keys) {
            Ok(schedule) => Ok(Self::RRule(schedule)),
            Err(more) => {
                issues.extend(more);
                Err(issues)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Schedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        // An interval without an anchor begins now, wherever it is read.
        Self::from_json(&value, SystemClock.now()).map_err(|issues| {
            let complaints = issues.into_iter().map(|Issue { location, kind, message }| Complaint::new(location, kind, message));
            json::invalid_at(&complaints.collect::<Vec<_>>())
        })
    }
}

const INTERVAL: &str = "function-after[validate_timezone(), IntervalSchedule]";
const CRON: &str = "function-after[validate_timezone(), CronSchedule]";
const RRULE: &str = "RRuleSchedule";

/// The names pydantic's pattern for a rule's timezone is made of.
static ZONE_PATTERN: LazyLock<String> = LazyLock::new(|| {
    let mut names: Vec<&str> = TZ_VARIANTS.iter().map(|zone| zone.name()).collect();
    names.sort_unstable();
    names.join("|")
});

/// Reads the keys of one member of the union and gathers its complaints.
struct Reader<'a> {
    member: &'static str,
    keys: &'a Map<String, Value>,
    known: &'static [&'static str],
    issues: Vec<Issue>,
}

impl<'a> Reader<'a> {
    fn new(member: &'static str, keys: &'a Map<String, Value>, known: &'static [&'static str]) -> Self {
        Self { member, keys, known, issues: Vec::new() }
    }

    fn refuse(&mut self, key: Option<&str>, kind: &'static str, message: impl Into<String>) {
        let location = std::iter::once(self.member).chain(key).map(str::to_owned).collect();
        self.issues.push(Issue { location, kind, message: message.into() });
    }

    fn invalid(&mut self, key: Option<&str>, reason: &Invalid) {
        self.refuse(key, "value_error", format!("Value error, {reason}"));
    }

    fn required(&mut self, key: &str) -> Option<&'a Value> {
        if !self.keys.contains_key(key) {
            self.refuse(Some(key), "missing", "Field required");
        }
        self.keys.get(key)
    }

    fn string(&mut self, key: &str, value: &'a Value) -> Option<&'a str> {
        if value.as_str().is_none() {
            self.refuse(Some(key), "string_type", "Input should be a valid string");
        }
        value.as_str()
    }

    fn timezone(&mut self, absent: Option<&'static str>) -> Option<&'a str> {
        match self.keys.get("timezone") {
            None => absent,
            Some(Value::Null) => None,
            Some(value) => self.string("timezone", value),
        }
    }

    /// The check that runs on the whole schedule, once its fields are good.
    fn check_timezone(&mut self, timezone: Option<&str>) {
        self.check_extra();
        if let Some(name) = timezone
            && self.issues.is_empty()
            && !name.is_empty()
            && zone_named(name).is_none()
        {
            self.invalid(None, &Invalid::Timezone(name.to_owned()));
        }
    }

    /// What is left over is complained of after the fields.
    fn check_extra(&mut self) {
        let (keys, known) = (self.keys, self.known);
        for key in keys.keys().filter(|key| !known.contains(&key.as_str())) {
            self.refuse(Some(key), "extra_forbidden", "Extra inputs are not permitted");
        }
    }

    fn finish<T>(self, value: Option<T>) -> Result<T, Vec<Issue>> {
        match value {
            Some(value) if self.issues.is_empty() => Ok(value),
            _ => Err(self.issues),
        }
    }
}

fn read_interval(keys: &Map<String, Value>, now: DateTime<Utc>) -> Result<IntervalSchedule, Vec<Issue>> {
    let mut reader = Reader::new(INTERVAL, keys, &["interval", "anchor_date", "timezone"]);
    let interval = reader.required("interval").and_then(|value| match interval::duration(value) {
        Some(interval) if interval > TimeDelta::zero() => Some(interval),
        Some(_) => {
            reader.invalid(Some("interval"), &Invalid::IntervalNotPositive);
            None
        }
        None => {
            let kind = if value.is_string() || value.is_number() || value.is_boolean() { "time_delta_parsing" } else { "time_delta_type" };
            reader.refuse(Some("interval"), kind, "Input should be a valid timedelta");
            None
        }
    });
    let anchor_date = match reader.keys.get("anchor_date") {
        None => Some(now.fixed_offset()),
        Some(value) => {
            let read = interval::moment(value);
            if read.is_none() {
                let message = value.as_str().map_or_else(
                    || "value is not a valid datetime".to_owned(),
                    |text| format!("Value error, Unable to parse string [{text}]"),
                );
                reader.refuse(Some("anchor_date"), "value_error", message);
            }
            read
        }
    };
    let timezone = reader.timezone(None);
    reader.check_timezone(timezone);
    // An anchor brings an offset, never a name, so the inferred timezone is always UTC.
    let timezone = timezone.map_or_else(utc, str::to_owned);
    let schedule = interval.zip(anchor_date).map(|(interval, anchor_date)| IntervalSchedule { interval, anchor_date, timezone });
    reader.finish(schedule)
}

fn read_cron(keys: &Map<String, Value>) -> Result<CronSchedule, Vec<Issue>> {
    let mut reader = Reader::new(CRON, keys, &["cron", "timezone", "day_or"]);
    let cron = reader.required("cron").and_then(|value| reader.string("cron", value));
    if let Some(text) = cron {
        match cron::parse(text) {
            Ok(_) => {}
            Err(cron::CronError::Syntax) => reader.invalid(Some("cron"), &Invalid::Cron(text.to_owned())),
            Err(cron::CronError::Random) => reader.invalid(Some("cron"), &Invalid::Random(text.to_owned())),
        }
    }
    let timezone = reader.timezone(None);
    let day_or = match reader.keys.get("day_or") {
        None => yes(),
        Some(value) => boolean(value).unwrap_or_else(|| {
            reader.refuse(Some("day_or"), "bool_parsing", "Input should be a valid boolean, unable to interpret input");
            true
        }),
    };
    reader.check_timezone(timezone);
    let timezone = timezone.map(str::to_owned);
    let schedule = cron.map(|cron| CronSchedule { cron: cron.to_owned(), timezone, day_or });
    reader.finish(schedule)
}

fn read_rrule(keys: &Map<String, Value>) -> Result<RRuleSchedule, Vec<Issue>> {
    let mut reader = Reader::new(RRULE, keys, &["rrule", "timezone"]);
    let rrule = reader.required("rrule").and_then(|value| reader.string("rrule", value));
    if let Some(text) = rrule {
        let length = text.chars().count();
        if let Err(reason) = rrule::validate(text) {
            reader.invalid(Some("rrule"), &Invalid::RRule { text: text.to_owned(), reason: reason.to_string() });
        } else if length > RRULE_CHARACTERS_MAX {
            let head = text.chars().take(40).collect();
            reader.invalid(Some("rrule"), &Invalid::RRuleLength { head, length });
        }
    }
    let timezone = reader.timezone(Some("UTC"));
    // The reference searches for a known name anywhere in the text.
    if let Some(name) = timezone
        && !TZ_VARIANTS.iter().any(|zone| name.contains(zone.name()))
    {
        let message = format!("String should match pattern '{}'", *ZONE_PATTERN);
        reader.refuse(Some("timezone"), "string_pattern_mismatch", message);
    }
    reader.check_extra();
    let timezone = timezone.map(str::to_owned);
    let schedule = rrule.map(|rrule| RRuleSchedule { rrule: rrule.to_owned(), timezone });
    reader.finish(schedule)
}

/// Pydantic's idea of a boolean.
fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => match number.as_f64()? {
            0.0 => Some(false),
            1.0 => Some(true),
            _ => None,
        },
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
            "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn serialize_seconds<S: Serializer>(interval: &TimeDelta, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(seconds(*interval))
}

fn serialize_moment<S: Serializer>(at: &DateTime<FixedOffset>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&interval::print_moment(at))
}

/// A duration as Python's `total_seconds` gives it: the nearest double to its whole microseconds.
pub fn seconds(duration: TimeDelta) -> f64 {
    let micros = i128::from(duration.num_seconds()) * 1_000_000 + i128::from(duration.subsec_nanos() / 1_000);
    micros as f64 / 1e6
}
