//! What templates look at: moments, durations, labelled resources, and the reference's models by their fields.

use std::cmp::Ordering;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use chrono::{DateTime, Datelike, Offset, TimeDelta, TimeZone, Timelike};
use chrono_tz::Tz;
use indexmap::IndexMap;
use minijinja::value::{DynObject, Enumerator, Kwargs, Object, ObjectExt, ObjectRepr, Tuple, Value, from_args};
use minijinja::{Error, ErrorKind, State};
use serde_json::Value as Json;

use super::python;
use crate::clock::Timestamp;
use crate::model::json::{parse_timestamp, write_timestamp};

/// A `datetime`.
#[derive(Debug)]
pub struct Moment(pub DateTime<Tz>);

/// A `timedelta`.
#[derive(Debug)]
pub struct Delta(pub TimeDelta);

/// The labels of a resource, and what is known of it by them.
#[derive(Debug)]
pub struct Labelled(pub IndexMap<String, String>);

/// Labels as a tree: `labels.prefect.resource.id`.
#[derive(Debug)]
pub struct Labels {
    /// Below here, by what is left of their names.
    labels: IndexMap<String, String>,
    /// Of the label that ends here.
    value: String,
}

/// An object of the reference, by its fields.
#[derive(Debug)]
pub struct Model {
    /// Such as `flow-run`; empty where nothing depends on it.
    pub kind: &'static str,
    fields: IndexMap<String, Value>,
    /// As clients see it.
    pub json: Json,
}

/// True for objects of ours, which have a text of their own.
pub fn shows_itself(value: &Value) -> bool {
    value.downcast_object_ref::<Labelled>().is_some() || value.downcast_object_ref::<Labels>().is_some()
}

/// Fields that hold a moment.
const MOMENTS: [&str; 15] = [
    "occurred",
    "received",
    "triggered",
    "created",
    "updated",
    "timestamp",
    "start_time",
    "end_time",
    "expected_start_time",
    "next_scheduled_start_time",
    "scheduled_time",
    "last_polled",
    "pause_timeout",
    "cache_expiration",
    "transition_time",
];

/// Fields that hold a duration in seconds.
const DELTAS: [&str; 6] =
    ["total_run_time", "estimated_run_time", "estimated_start_time_delta", "within", "schedule_after", "transition_delta"];

/// Fields that hold what users made up, where nothing is to be read out of names.
const PLAIN: [&str; 12] = [
    "payload",
    "parameters",
    "job_variables",
    "base_job_template",
    "labels",
    "context",
    "data",
    "triggering_labels",
    "task_inputs",
    "parameter_openapi_schema",
    "match",
    "match_related",
];

/// JSON as it is.
pub fn plain(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (_, Some(number)) => Value::from(number),
            _ => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(plain).collect::<Vec<_>>().into(),
        Json::Object(fields) => Value::from_pairs(fields.iter().map(|(key, value)| (Value::from(key.as_str()), plain(value)))),
    }
}

/// An object of the reference out of its JSON. `ui` is where the UI is.
pub fn model(kind: &'static str, json: &Json, ui: &str) -> Value {
    let Json::Object(given) = json else { return plain(json) };
    let mut fields: IndexMap<String, Value> = given.iter().map(|(key, value)| (key.clone(), field(key, value, ui))).collect();
    if kind == "event" {
        add_event_fields(&mut fields, json, ui);
    }
    Value::from_object(Model { kind, fields, json: json.clone() })
}

fn field(key: &str, json: &Json, ui: &str) -> Value {
    match json {
        _ if PLAIN.contains(&key) => plain(json),
        Json::String(text) if MOMENTS.contains(&key) => match parse_timestamp(text) {
            Some(at) => moment(at),
            None => plain(json),
        },
        Json::Number(seconds) if DELTAS.contains(&key) => delta(seconds.as_f64().unwrap_or_default()),
        Json::Object(_) if key == "resource" => labelled(json),
        Json::Array(items) if key == "related" => items.iter().map(labelled).collect::<Vec<_>>().into(),
        Json::Object(_) if key == "triggering_event" => model("event", json, ui),
        Json::Object(_) if key == "firing" => model("firing", json, ui),
        Json::Object(_) => model("", json, ui),
        Json::Array(items) => items.iter().map(|item| field("", item, ui)).collect::<Vec<_>>().into(),
        other => plain(other),
    }
}

fn labelled(json: &Json) -> Value {
    let labels = json.as_object().into_iter().flatten();
    Value::from_object(Labelled(labels.map(|(label, value)| (label.clone(), value.as_str().unwrap_or_default().to_owned())).collect()))
}

/// A moment as templates see it.
pub fn moment(at: Timestamp) -> Value {
    Value::from_object(Moment(at.with_timezone(&Tz::UTC)))
}

/// A duration as templates see it.
pub fn delta(seconds: f64) -> Value {
    Value::from_object(Delta(TimeDelta::microseconds((seconds * 1e6).round() as i64)))
}

/// Labels as templates see them.
pub fn labels(labels: &IndexMap<String, String>) -> Value {
    Value::from_object(Labels { labels: labels.clone(), value: String::new() })
}

fn add_event_fields(fields: &mut IndexMap<String, Value>, json: &Json, ui: &str) {
    let related: Vec<Value> = json["related"].as_array().into_iter().flatten().map(labelled).collect();
    let role = |resource: &Value| resource.get_attr("role").map(|role| python::text(&role)).unwrap_or_default();
    let involved: Vec<Value> = std::iter::once(labelled(&json["resource"])).chain(related.iter().cloned()).collect();
    let mut in_role: IndexMap<String, Vec<Value>> = IndexMap::new();
    for resource in related {
        in_role.entry(role(&resource)).or_default().push(resource);
    }
    let first = in_role.iter().map(|(role, resources)| (Value::from(role.as_str()), resources[0].clone()));
    fields.insert("resource_in_role".into(), Value::from_pairs(first));
    let all = in_role.iter().map(|(role, resources)| (Value::from(role.as_str()), Value::from(resources.clone())));
    fields.insert("resources_in_role".into(), Value::from_pairs(all));
    fields.insert("involved_resources".into(), involved.into());
    fields.insert("url".into(), super::event_url(json, ui).map_or(Value::from(()), Value::from));
}

fn no_arguments(args: &[Value]) -> Result<(), Error> {
    from_args::<()>(args)
}

fn unknown(method: &str) -> Error {
    Error::new(ErrorKind::UnknownMethod, format!("there is no method {method}"))
}

impl Moment {
    fn formatted(&self, format: &str) -> Result<Value, Error> {
        // Python's %f has six digits.
        let format = format.replace("%f", "%6f");
        let mut out = String::new();
        write!(out, "{}", self.0.format(&format)).map_err(|_| Error::new(ErrorKind::InvalidOperation, "no such format of a moment"))?;
        Ok(out.into())
    }

    fn iso(&self, separator: char) -> String {
        let fraction = if self.0.timestamp_subsec_micros() == 0 { "" } else { "%.6f" };
        self.0.format(&format!("%Y-%m-%d{separator}%H:%M:%S{fraction}%:z")).to_string()
    }

    fn shifted(&self, args: &[Value], sign: i32) -> Result<Value, Error> {
        let (named,): (Kwargs,) = from_args(args)?;
        let mut by = TimeDelta::zero();
        for (name, seconds) in [("weeks", 604_800.0), ("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0)] {
            let amount: Option<f64> = named.get(name)?;
            by += TimeDelta::microseconds((amount.unwrap_or(0.0) * seconds * 1e6) as i64);
        }
        named.assert_all_used()?;
        let moved = self.0.checked_add_signed(by * sign);
        moved.map(|at| Value::from_object(Self(at))).ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "out of range"))
    }

    fn replaced(&self, args: &[Value]) -> Result<Value, Error> {
        let (named,): (Kwargs,) = from_args(args)?;
        let part = |name: &str| named.get::<Option<u32>>(name);
        let year: Option<i32> = named.get("year")?;
        let bad = || Error::new(ErrorKind::InvalidOperation, "no such moment");
        let mut naive = self.0.naive_local();
        if let Some(year) = year {
            naive = naive.with_year(year).ok_or_else(bad)?;
        }
        type With = fn(&chrono::NaiveDateTime, u32) -> Option<chrono::NaiveDateTime>;
        let parts: [(&str, With); 5] = [
            ("month", |at, value| at.with_month(value)),
            ("day", |at, value| at.with_day(value)),
            ("hour", |at, value| at.with_hour(value)),
            ("minute", |at, value| at.with_minute(value)),
            ("second", |at, value| at.with_second(value)),
        ];
        for (name, with) in parts {
            if let Some(value) = part(name)? {
                naive = with(&naive, value).ok_or_else(bad)?;
            }
        }
        if let Some(micros) = part("microsecond")? {
            naive = naive.with_nanosecond(micros.checked_mul(1000).ok_or_else(bad)?).ok_or_else(bad)?;
        }
        named.assert_all_used()?;
        self.0.timezone().from_local_datetime(&naive).earliest().map(|at| Value::from_object(Self(at))).ok_or_else(bad)
    }
}

impl Object for Moment {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = &self.0;
        Some(match key.as_str()? {
            "year" => at.year().into(),
            "month" => at.month().into(),
            "day" => at.day().into(),
            "hour" => at.hour().into(),
            "minute" => at.minute().into(),
            "second" => at.second().into(),
            "microsecond" => at.timestamp_subsec_micros().into(),
            "tzinfo" | "timezone_name" => at.timezone().name().into(),
            "day_of_week" => at.weekday().num_days_from_monday().into(),
            "day_of_year" => at.ordinal().into(),
            "int_timestamp" => at.timestamp().into(),
            _ => return None,
        })
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        let at = &self.0;
        match method {
            "strftime" => {
                let (format,): (&str,) = from_args(args)?;
                self.formatted(format)
            }
            "isoformat" => {
                let (separator,): (Option<&str>,) = from_args(args)?;
                Ok(self.iso(separator.and_then(|text| text.chars().next()).unwrap_or('T')).into())
            }
            "replace" => self.replaced(args),
            "add" => self.shifted(args, 1),
            "subtract" => self.shifted(args, -1),
            "in_timezone" | "in_tz" => {
                let (zone,): (&str,) = from_args(args)?;
                let zone: Tz = zone.parse().map_err(|_| Error::new(ErrorKind::InvalidOperation, "no such time zone"))?;
                Ok(Value::from_object(Self(at.with_timezone(&zone))))
            }
            _ => {
                no_arguments(args)?;
                match method {
                    "date" | "to_date_string" => self.formatted("%Y-%m-%d"),
                    "time" if at.timestamp_subsec_micros() == 0 => self.formatted("%H:%M:%S"),
                    "time" => self.formatted("%H:%M:%S.%f"),
                    "to_time_string" => self.formatted("%H:%M:%S"),
                    "to_datetime_string" => self.formatted("%Y-%m-%d %H:%M:%S"),
                    "to_iso8601_string" if at.offset().fix().local_minus_utc() == 0 => Ok(write_timestamp(&at.to_utc()).into()),
                    "to_iso8601_string" => Ok(self.iso('T').into()),
                    "ctime" => self.formatted("%a %b %e %H:%M:%S %Y"),
                    "timestamp" => Ok((at.timestamp_micros() as f64 / 1e6).into()),
                    "weekday" => Ok(at.weekday().num_days_from_monday().into()),
                    "isoweekday" => Ok(at.weekday().number_from_monday().into()),
                    "astimezone" => Ok(Value::from_object(Self(*at))),
                    _ => Err(unknown(method)),
                }
            }
        }
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        other.downcast_ref::<Self>().map(|other| self.0.cmp(&other.0))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iso(' '))
    }
}

impl Delta {
    /// Its length.
    pub fn seconds(&self) -> f64 {
        self.0.num_microseconds().unwrap_or_default() as f64 / 1e6
    }
}

impl Object for Delta {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let micros = self.0.num_microseconds().unwrap_or_default();
        Some(match key.as_str()? {
            "days" => micros.div_euclid(86_400_000_000).into(),
            "seconds" => (micros.rem_euclid(86_400_000_000) / 1_000_000).into(),
            "microseconds" => micros.rem_euclid(1_000_000).into(),
            _ => return None,
        })
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        no_arguments(args)?;
        if method == "total_seconds" { Ok(self.seconds().into()) } else { Err(unknown(method)) }
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        other.downcast_ref::<Self>().map(|other| self.0.cmp(&other.0))
    }

    /// As Python's: `1 day, 0:11:10.500000`.
    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.num_microseconds().unwrap_or_default();
        let (days, rest) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000));
        if days != 0 {
            write!(f, "{days} day{}, ", if days.abs() == 1 { "" } else { "s" })?;
        }
        let seconds = rest / 1_000_000;
        write!(f, "{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)?;
        if rest % 1_000_000 != 0 { write!(f, ".{:06}", rest % 1_000_000) } else { Ok(()) }
    }
}

impl Object for Labelled {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let label = |name: &str| self.0.get(name).map(|value| Value::from(value.as_str()));
        match key.as_str()? {
            "id" => label("prefect.resource.id"),
            "name" => label("prefect.resource.name").or(Some(Value::from(()))),
            "role" => label("prefect.resource.role"),
            "labels" => Some(labels(&self.0)),
            name => label(name),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.mapped_enumerator(|this| Box::new(this.0.keys().map(|key| Value::from(key.as_str()))))
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        match method {
            "get" => {
                let (label, default): (&str, Option<Value>) = from_args(args)?;
                Ok(self.0.get(label).map(|value| Value::from(value.as_str())).or(default).unwrap_or(Value::from(())))
            }
            "keys" => no_arguments(args).map(|()| self.0.keys().map(|key| Value::from(key.as_str())).collect::<Vec<_>>().into()),
            "items" => no_arguments(args).map(|()| pairs(&self.0)),
            "has_all_labels" => {
                let (wanted,): (Value,) = from_args(args)?;
                for label in wanted.try_iter()? {
                    if self.0.get(&python::text(&label)) != Some(&python::text(&wanted.get_item(&label)?)) {
                        return Ok(false.into());
                    }
                }
                Ok(true.into())
            }
            _ => Err(unknown(method)),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = Value::from_pairs(self.0.iter().map(|(label, value)| (Value::from(label.as_str()), Value::from(value.as_str()))));
        write!(f, "root={}", python::representation(&fields))
    }
}

fn pairs(labels: &IndexMap<String, String>) -> Value {
    let pair = |(label, value): (&String, &String)| Value::from_object(Tuple::new(vec![label.as_str().into(), value.as_str().into()]));
    labels.iter().map(pair).collect::<Vec<Value>>().into()
}

impl Object for Labels {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?;
        // A whole label by its name, as `labels['prefect.resource.id']`.
        if name.contains('.') {
            return self.labels.get(name).map(|value| Value::from(value.as_str()));
        }
        let prefix = format!("{name}.");
        let below = self.labels.iter().filter_map(|(label, value)| Some((label.strip_prefix(&prefix)?.to_owned(), value.clone())));
        let below: IndexMap<String, String> = below.collect();
        let value = self.labels.get(name);
        if below.is_empty() {
            return value.map(|value| Value::from(value.as_str()));
        }
        Some(Value::from_object(Self { labels: below, value: value.cloned().unwrap_or_default() }))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(pairs(&self.labels).try_iter().map(Iterator::collect).unwrap_or_default())
    }

    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.value)
    }
}

impl Object for Model {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.fields.get(key.as_str()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.mapped_enumerator(|this| Box::new(this.fields.keys().map(|key| Value::from(key.as_str()))))
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        match method {
            "find_resource_label" if self.kind == "event" => {
                let (label,): (&str,) = from_args(args)?;
                Ok(self.find_resource_label(label).map_or(Value::from(()), Value::from))
            }
            "model_dump" => Ok(plain(&self.json)),
            "model_dump_json" => Ok(self.json.to_string().into()),
            // What else there is, pycompat knows: `get`, `items`, `keys`, `values`.
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

impl Model {
    /// A label of the event's resource, or of the first related one in a role (`related:<role>:<label>`).
    fn find_resource_label(&self, label: &str) -> Option<String> {
        let of = |resource: &Json, label: &str| resource.get(label).and_then(Json::as_str).map(str::to_owned);
        if let Some((role, label)) = label.strip_prefix("related:").and_then(|rest| rest.split_once(':')) {
            let in_role = |resource: &&Json| resource["prefect.resource.role"] == role;
            return of(self.json["related"].as_array()?.iter().find(in_role)?, label);
        }
        of(&self.json["resource"], label)
    }
}
