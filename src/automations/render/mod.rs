//! Templates of users: rendered by minijinja with what the reference's Jinja knows beside it.
//!
//! A template reads what it is given and nothing else. It is bounded in work ([`FUEL`]: instructions, and bytes of what it
//! makes), in its output ([`OUTPUT_BYTES`]), and in `range` (100, as the reference). Text is Python's: `None`, `True`, `['a', 1.0]`, moments as `str(datetime)`.
//!
//! Other than in the reference: a state's type is shown as `FAILED`, not as `StateType.FAILED`; the difference of two
//! moments has no text; `~` shows none and booleans as minijinja does; `urlize`, `xmlattr` and the rarest filters of
//! `humanize` are missing.

mod humanize;
mod objects;
mod python;

use std::fmt;
use std::io;

use indexmap::IndexMap;
use minijinja::value::{Kwargs, Rest, Value};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use serde_json::Value as Json;

use super::template::maybe_template;
use crate::clock::Timestamp;

/// Work of one rendering: instructions, and bytes made (64 bytes are as dear as an instruction).
pub const FUEL: u64 = 500_000;

/// Bytes of one rendered text.
pub const OUTPUT_BYTES: usize = 1024 * 1024;

/// Items of a `range`, as the reference.
const RANGE_ITEMS: i64 = 100;

/// Columns that a text is filled up to.
const COLUMNS: usize = 10_000;

/// A template failed when it was rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct RenderError {
    /// What went wrong.
    pub error: String,
    /// The template.
    pub template: String,
}

/// What templates see, by name.
#[derive(Debug, Clone, Default)]
pub struct Context {
    values: IndexMap<&'static str, Value>,
    ui: String,
    now: Timestamp,
}

impl Context {
    /// Nothing yet; `ui` is where the UI is.
    pub fn new(ui: &str, now: Timestamp) -> Self {
        Self { values: IndexMap::new(), ui: format!("{}/", ui.trim_end_matches('/')), now }
    }

    /// Adds an object of the reference out of its JSON; null where it is not there.
    pub fn add(&mut self, name: &'static str, kind: &'static str, json: &Json) {
        self.values.insert(name, objects::model(kind, json, &self.ui));
    }

    /// Adds several.
    pub fn add_many(&mut self, name: &'static str, kind: &'static str, json: &[Json]) {
        let all: Vec<Value> = json.iter().map(|one| objects::model(kind, one, &self.ui)).collect();
        self.values.insert(name, all.into());
    }

    /// Adds JSON as it is.
    pub fn add_plain(&mut self, name: &'static str, json: &Json) {
        self.values.insert(name, objects::plain(json));
    }

    /// Adds labels as a tree.
    pub fn add_labels(&mut self, name: &'static str, labels: &IndexMap<String, String>) {
        self.values.insert(name, objects::labels(labels));
    }
}

/// The names that templates read from their context; those that cannot be parsed read nothing.
pub fn names<'a>(templates: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let environment = Environment::empty();
    let mut found: Vec<String> = templates
        .into_iter()
        .filter_map(|template| environment.template_from_str(template).ok().map(|parsed| parsed.undeclared_variables(false)))
        .flatten()
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Renders a template. Takes a moment of computing at most, and never waits.
///
/// # Errors
/// [`RenderError`], also where a bound is reached.
pub fn render(template: &str, context: &Context) -> Result<String, RenderError> {
    if !maybe_template(template) {
        return Ok(template.to_owned());
    }
    let failed = |error: String| RenderError { error, template: template.to_owned() };
    let environment = environment(context);
    let source = without_enum_values(template);
    let parsed = environment.template_from_str(&source).map_err(|error| failed(describe(&error)))?;
    let values = Value::from_pairs(context.values.iter().map(|(name, value)| (Value::from(*name), value.clone())));
    let mut output = Output(Vec::new());
    parsed.render_captured_to(values, &mut output).map_err(|error| failed(describe(&error)))?;
    String::from_utf8(output.0).map_err(|error| failed(error.to_string()))
}

/// The enumerations of the reference are plain texts here, which have no `value`.
fn without_enum_values(template: &str) -> String {
    let mut source = template.to_owned();
    for path in ["run.state.type", "run.state_type", "deployment.status", "work_pool.status", "work_queue.status", "trigger.posture"] {
        source = source.replace(&format!("{path}.value"), path).replace(&format!("{path}.name"), path);
    }
    source
}

/// A bounded text.
struct Output(Vec<u8>);

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_BYTES {
            return Err(io::Error::other(format!("the text is longer than {OUTPUT_BYTES} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

fn environment(context: &Context) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|output, _, value| {
        let written = match value.as_str() {
            Some(text) => fmt::Write::write_str(output, text),
            None => fmt::Write::write_str(output, &python::text(value)),
        };
        written.map_err(|_| Error::new(ErrorKind::WriteFailure, "the text cannot be written"))
    });
    environment.add_function("range", range);
    environment.add_filter("string", |value: Value| python::text(&value));
    environment.add_filter("tojson", |value: Value, indent: Option<usize>, named: Kwargs| {
        let indent = match indent {
            Some(indent) => Some(indent),
            None => named.get("indent")?,
        };
        named.assert_all_used()?;
        python::to_json(&value, indent)
    });
    environment.add_filter("join", join);
    environment
        .add_filter("center", |text: Value, width: Option<usize>| filled(&python::text(&text), width.unwrap_or(80), ' ', Fill::Both));
    environment.add_filter("forceescape", |value: Value| escaped(&python::text(&value)));
    environment.add_filter("wordcount", |text: Value| python::text(&text).split_whitespace().count());
    environment.add_filter("truncate", truncate);
    environment.add_filter("filesizeformat", |value: Value, binary: Option<bool>| file_size(&value, binary.unwrap_or(false)));
    environment.add_filter("striptags", |text: Value| without_tags(&python::text(&text)));
    environment.add_filter("wordwrap", |text: Value, width: Option<usize>| wrapped(&python::text(&text), width.unwrap_or(79)));
    environment.add_filter("flow_run_id", |text: Value| python_none(flow_run_id(text.as_str().unwrap_or_default())));
    let ui = context.ui.clone();
    environment.add_filter("ui_url", move |value: Value| python_none(ui_url(&value, &ui)));
    let ui = context.ui.clone();
    environment.add_filter("ui_resource_events_url", move |value: Value| python_none(resource_events_url(&value, &ui)));
    humanize::add(&mut environment, context.now);
    environment
}

fn python_none(text: Option<String>) -> Value {
    text.map_or(Value::from(()), Value::from)
}

fn range(first: i64, end: Option<i64>, step: Option<i64>) -> Result<Vec<i64>, Error> {
    let (start, end) = end.map_or((0, first), |end| (first, end));
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(Error::new(ErrorKind::InvalidOperation, "range() arg 3 must not be zero"));
    }
    let span = if step > 0 { end.saturating_sub(start) } else { start.saturating_sub(end) };
    let length = span.max(0).checked_add(step.abs() - 1).map_or(i64::MAX, |span| span / step.abs());
    if length > RANGE_ITEMS {
        let message = format!("Range too big. The sandbox blocks ranges larger than MAX_TEMPLATE_RANGE={RANGE_ITEMS}.");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    Ok((0..length).map(|number| start + number * step).collect())
}

fn join(values: Value, separator: Option<&str>, named: Kwargs) -> Result<String, Error> {
    let attribute: Option<&str> = named.get("attribute")?;
    let mut out = String::new();
    for (index, value) in values.try_iter()?.enumerate() {
        if index > 0 {
            out.push_str(separator.unwrap_or_default());
        }
        let shown = match attribute {
            Some(attribute) => value.get_attr(attribute)?,
            None => value,
        };
        out.push_str(&python::text(&shown));
        if out.len() > OUTPUT_BYTES {
            return Err(Error::new(ErrorKind::InvalidOperation, "the text is too long"));
        }
    }
    Ok(out)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fill {
    Left,
    Right,
    Both,
}

fn filled(text: &str, width: usize, with: char, fill: Fill) -> String {
    let missing = width.min(COLUMNS).saturating_sub(text.chars().count());
    let many = |count: usize| std::iter::repeat_n(with, count).collect::<String>();
    match fill {
        Fill::Left => many(missing) + text,
        Fill::Right => text.to_owned() + &many(missing),
        Fill::Both => {
            // Python puts the odd one to the left where the width is odd, too.
            let left = missing / 2 + (missing & width & 1);
            many(left) + text + &many(missing - left)
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;")
}

fn truncate(text: Value, length: Option<usize>, kill_words: Option<bool>, end: Option<&str>) -> String {
    const LEEWAY: usize = 5;
    let (text, length, end) = (python::text(&text), length.unwrap_or(255), end.unwrap_or("..."));
    if text.chars().count() <= length + LEEWAY {
        return text;
    }
    let kept: String = text.chars().take(length.saturating_sub(end.chars().count())).collect();
    let kept = if kill_words.unwrap_or(false) { kept.as_str() } else { kept.rsplit_once(' ').map_or(kept.as_str(), |(kept, _)| kept) };
    format!("{kept}{end}")
}

fn file_size(value: &Value, binary: bool) -> Result<String, Error> {
    let bytes = f64::try_from(value.clone())?;
    let (base, units) = if binary {
        (1024.0, ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"])
    } else {
        (1000.0, ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"])
    };
    if bytes < base {
        return Ok(if (bytes - 1.0).abs() < f64::EPSILON { "1 Byte".to_owned() } else { format!("{bytes:.0} Bytes") });
    }
    let power = (bytes.log(base) as usize).clamp(1, units.len());
    Ok(format!("{:.1} {}", bytes / f64::powi(base, power as i32), units[power - 1]))
}

fn without_tags(text: &str) -> String {
    let (mut out, mut inside) = (String::new(), false);
    for letter in text.chars() {
        match letter {
            '<' => inside = true,
            '>' if inside => inside = false,
            letter if !inside => out.push(letter),
            _ => {}
        }
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn wrapped(text: &str, width: usize) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut current = String::new();
        for word in line.split_whitespace() {
            if !current.is_empty() && current.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut current));
            }
            if !current.is_empty() {
                current.push(' ');
            }
            current.push_str(word);
        }
        lines.push(current);
    }
    lines.join("\n")
}

/// The id of a flow run that a text links to.
fn flow_run_id(text: &str) -> Option<String> {
    const MARK: &str = "flow-run/";
    text.match_indices(MARK).find_map(|(at, _)| {
        let id = text.get(at + MARK.len()..at + MARK.len() + 36)?;
        let is_plain = id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        (is_plain && uuid::Uuid::try_parse(id).is_ok()).then(|| id.to_owned())
    })
}

/// Where the UI shows an event.
fn event_url(event: &Json, ui: &str) -> Option<String> {
    let day = event["occurred"].as_str()?.get(..10)?;
    Some(format!("{ui}events/event/{day}/{}", event["id"].as_str()?))
}

fn ui_url(value: &Value, ui: &str) -> Option<String> {
    let model = value.downcast_object_ref::<objects::Model>()?;
    let id = model.json["id"].as_str()?;
    let path = match model.kind {
        "event" => return event_url(&model.json, ui),
        "automation" => format!("automations/automation/{id}"),
        "flow" => format!("flows/flow/{id}"),
        "flow-run" => format!("runs/flow-run/{id}"),
        "task-run" => format!("runs/task-run/{id}"),
        "deployment" => format!("deployments/deployment/{id}"),
        "work-pool" => format!("work-pools/work-pool/{}", model.json["name"].as_str().unwrap_or(id)),
        "work-queue" => format!("work-queues/work-queue/{id}"),
        "concurrency-limit" => format!("concurrency-limits/concurrency-limit/{id}"),
        _ => return None,
    };
    Some(format!("{ui}{path}"))
}

/// Where the UI shows the events of a resource. (The reference has none for a flow run or a deployment as it fetches
/// them, only for their resources.)
fn resource_events_url(value: &Value, ui: &str) -> Option<String> {
    if let Some(labelled) = value.downcast_object_ref::<objects::Labelled>() {
        return Some(format!("{ui}events?resource={}", labelled.0.get("prefect.resource.id")?));
    }
    let model = value.downcast_object_ref::<objects::Model>()?;
    let known = ["automation", "flow", "flow-run", "task-run", "deployment", "work-pool", "work-queue"].contains(&model.kind);
    known.then(|| Some(format!("{ui}events?resource=prefect.{}.{}", model.kind, model.json["id"].as_str()?)))?
}

/// Methods of Python's `str` that pycompat does not know; all else is left to it.
fn method(state: &mut minijinja::State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args);
    };
    let arguments = |args: &[Value]| minijinja::value::from_args::<(Rest<Value>,)>(args).map(|(Rest(args),)| args);
    let width = |args: &[Value]| -> Result<(usize, char), Error> {
        let (width, with): (usize, Option<&str>) = minijinja::value::from_args(args)?;
        Ok((width, with.and_then(|with| with.chars().next()).unwrap_or(' ')))
    };
    let one = |args: &[Value]| -> Result<String, Error> {
        let (text,): (&str,) = minijinja::value::from_args(args)?;
        Ok(text.to_owned())
    };
    Ok(match method {
        "center" => width(args).map(|(width, with)| filled(text, width, with, Fill::Both))?.into(),
        "ljust" => width(args).map(|(width, with)| filled(text, width, with, Fill::Right))?.into(),
        "rjust" => width(args).map(|(width, with)| filled(text, width, with, Fill::Left))?.into(),
        "zfill" => {
            let (width,): (usize,) = minijinja::value::from_args(args)?;
            match text.strip_prefix(['-', '+']) {
                Some(digits) => format!("{}{}", &text[..1], filled(digits, width.saturating_sub(1), '0', Fill::Left)).into(),
                None => filled(text, width, '0', Fill::Left).into(),
            }
        }
        "swapcase" => {
            arguments(args)?;
            let swap = |letter: char| -> String {
                if letter.is_uppercase() { letter.to_lowercase().collect() } else { letter.to_uppercase().collect() }
            };
            text.chars().map(swap).collect::<String>().into()
        }
        "casefold" => text.to_lowercase().into(),
        "removeprefix" => one(args).map(|prefix| text.strip_prefix(prefix.as_str()).unwrap_or(text))?.into(),
        "removesuffix" => one(args).map(|suffix| text.strip_suffix(suffix.as_str()).unwrap_or(text))?.into(),
        "partition" | "rpartition" => {
            let separator = one(args)?;
            let last = method == "rpartition";
            let found = if last { text.rsplit_once(separator.as_str()) } else { text.split_once(separator.as_str()) };
            let parts = match found {
                Some((before, after)) => [before, separator.as_str(), after],
                None if last => ["", "", text],
                None => [text, "", ""],
            };
            Value::from_object(minijinja::value::Tuple::new(parts.map(Value::from).to_vec()))
        }
        "rsplit" => {
            let (separator, most): (Option<&str>, Option<usize>) = minijinja::value::from_args(args)?;
            let most = most.map_or(usize::MAX, |most| most.saturating_add(1));
            let mut parts: Vec<&str> = match separator {
                Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
                Some(separator) => text.rsplitn(most, separator).collect(),
                None => text.split_whitespace().rev().collect(),
            };
            parts.reverse();
            parts.into_iter().map(Value::from).collect::<Vec<Value>>().into()
        }
        _ => return minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    })
}

#[cfg(test)]
mod tests;
