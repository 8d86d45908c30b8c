//! Reading of bodies which are too deep for one finding at a time: unions of models, whose every member's findings are
//! told. Takes a JSON value apart as pydantic does in its lax mode, and collects findings in its order and words.
//!
//! A reader is a function `fn(&mut Checker, &Value) -> Option<T>`; it gives `None` exactly where it has found something.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::model::json::{Complaint, invalid_at, parse_seconds};

/// Findings of one body, at most; later ones are not told. Members of nested unions multiply.
const FINDINGS_MAX: usize = 500;

/// Bytes, more or less, of what the findings of one body show of it.
const FINDINGS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Readings of members of nested unions, at most: a member that does not fit is read again with all others, so that they
/// double with each level. No legal body needs as many.
const READINGS_MAX: usize = 3000;

/// One finding of request validation, as pydantic words it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, schemars::JsonSchema)]
pub struct Issue {
    /// Kind, such as `missing`, `extra_forbidden`, `uuid_parsing`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Path: `"body"`, `"query"` or `"path"`, then keys and indexes.
    pub loc: Vec<Value>,
    /// For people.
    pub msg: String,
    /// What was given there.
    pub input: Value,
    /// What the message was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ctx: Option<Value>,
}

/// A member of a union: its label, and what reads it.
pub type UnionMember<'a, T> = (&'a str, &'a dyn Fn(&mut Checker) -> Option<T>);

/// Where the reading is, and what it has found.
pub struct Checker {
    path: Vec<Value>,
    issues: Vec<Issue>,
    given: usize,
    shown_bytes: usize,
    readings: usize,
}

/// How far the reading had come; see [`Checker::mark`].
#[derive(Clone, Copy)]
pub struct Mark {
    issues: usize,
    given: usize,
}

impl Checker {
    /// Begins below `root`, such as `["body"]`.
    pub fn below(root: Vec<Value>) -> Self {
        Self { path: root, issues: Vec::new(), given: 0, shown_bytes: 0, readings: 0 }
    }

    /// What was read, or what was found.
    ///
    /// # Errors
    /// The findings.
    pub fn finish<T>(self, read: Option<T>) -> Result<T, Vec<Issue>> {
        read.ok_or(self.issues)
    }

    /// Tells a finding about `input` here.
    pub fn find<T>(&mut self, kind: &str, msg: impl Into<String>, input: &Value, ctx: Option<Value>) -> Option<T> {
        // One finding there is always.
        if self.issues.is_empty() || !self.is_full() {
            self.shown_bytes += bytes_of(input);
            self.issues.push(Issue { kind: kind.into(), loc: self.path.clone(), msg: msg.into(), input: input.clone(), ctx });
        }
        None
    }

    /// Tells that a validator of the model refuses `input`.
    pub fn refuse<T>(&mut self, message: impl std::fmt::Display, input: &Value) -> Option<T> {
        self.find("value_error", format!("Value error, {message}"), input, Some(json!({"error": {}})))
    }

    /// True where no more findings are kept; whoever multiplies its work stops then.
    pub fn is_full(&self) -> bool {
        self.issues.len() >= FINDINGS_MAX || self.shown_bytes > FINDINGS_BYTES_MAX
    }

    /// Counts a reading of a union that may nest; false where there have been too many.
    pub fn may_nest(&mut self) -> bool {
        self.readings += 1;
        self.readings <= READINGS_MAX
    }

    /// Reads one step deeper.
    pub fn at<T>(&mut self, step: impl Into<Value>, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.path.push(step.into());
        let read = read(self);
        self.path.pop();
        read
    }

    /// How far the reading has come.
    pub fn mark(&self) -> Mark {
        Mark { issues: self.issues.len(), given: self.given }
    }

    /// Goes back to a mark: what was found since is not told.
    pub fn forget(&mut self, to: Mark) {
        self.issues.truncate(to.issues);
        self.given = to.given;
    }

    /// Reads the member of a union that has most of the keys given, the first of equals. Where none fits, the findings of
    /// all are told, each below its label.
    pub fn union<T>(&mut self, members: &[UnionMember<'_, T>]) -> Option<T> {
        let start = self.mark();
        let mut best: Option<(usize, T)> = None;
        for (label, member) in members {
            self.given = 0;
            if let Some(read) = self.at(*label, |checker| member(checker))
                && best.as_ref().is_none_or(|(given, _)| self.given > *given)
            {
                best = Some((self.given, read));
            }
        }
        self.given = start.given;
        let (given, read) = best?;
        self.forget(start);
        self.given += given;
        Some(read)
    }

    /// Reads an object's fields.
    pub fn object<'v>(&mut self, value: &'v Value) -> Option<Fields<'v>> {
        match value.as_object() {
            Some(map) => Some(Fields { whole: value, map }),
            None => self.find("model_attributes_type", "Input should be a valid dictionary or object to extract fields from", value, None),
        }
    }
}

/// What was found, as the error of a deserializer: for a part of a body that is read otherwise.
pub fn complain<E: serde::de::Error>(issues: Vec<Issue>) -> E {
    let complaints: Vec<Complaint> = issues
        .into_iter()
        .map(|issue| Complaint { location: issue.loc, kind: issue.kind, message: issue.msg, input: Some(issue.input) })
        .collect();
    invalid_at(&complaints)
}

/// The fields of an object that is being read.
pub struct Fields<'v> {
    /// The object.
    pub whole: &'v Value,
    map: &'v Map<String, Value>,
}

impl Fields<'_> {
    /// A field that has to be there.
    pub fn required<T>(&self, checker: &mut Checker, key: &str, read: impl FnOnce(&mut Checker, &Value) -> Option<T>) -> Option<T> {
        match self.map.get(key) {
            Some(value) => {
                checker.given += 1;
                checker.at(key, |checker| read(checker, value))
            }
            None => checker.at(key, |checker| checker.find("missing", "Field required", self.whole, None)),
        }
    }

    /// A field with a default.
    pub fn or<T>(&self, checker: &mut Checker, key: &str, default: T, read: impl FnOnce(&mut Checker, &Value) -> Option<T>) -> Option<T> {
        if self.map.contains_key(key) { self.required(checker, key, read) } else { Some(default) }
    }

    /// A literal whose default it is.
    pub fn literal(&self, checker: &mut Checker, key: &str, literal: &str) -> Option<()> {
        self.or(checker, key, (), |checker, value| one_of(checker, value, &[(literal, ())]))
    }

    /// Tells of keys other than `known`; `None` where there are some.
    pub fn forbid_others(&self, checker: &mut Checker, known: &[&str]) -> Option<()> {
        let others: Vec<(&String, &Value)> = self.map.iter().filter(|(key, _)| !known.contains(&key.as_str())).collect();
        for (key, value) in &others {
            checker.at(key.as_str(), |checker| checker.find::<()>("extra_forbidden", "Extra inputs are not permitted", value, None));
        }
        others.is_empty().then_some(())
    }
}

/// About how long a value is in JSON.
fn bytes_of(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(bytes_of).sum::<usize>(),
        Value::Object(fields) => 2 + fields.iter().map(|(key, value)| key.len() + 4 + bytes_of(value)).sum::<usize>(),
    }
}

/// `'a', 'b' or 'c'`
fn alternatives(words: &[String]) -> String {
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// One of some words.
pub fn one_of<T: Clone>(checker: &mut Checker, value: &Value, words: &[(&str, T)]) -> Option<T> {
    if let Some((_, meaning)) = words.iter().find(|(word, _)| value.as_str() == Some(word)) {
        return Some(meaning.clone());
    }
    let expected = alternatives(&words.iter().map(|(word, _)| format!("'{word}'")).collect::<Vec<_>>());
    literal_error(checker, value, &expected)
}

/// Tells that `value` is none of the literals that `expected` names.
pub fn literal_error<T>(checker: &mut Checker, value: &Value, expected: &str) -> Option<T> {
    checker.find("literal_error", format!("Input should be {expected}"), value, Some(json!({"expected": expected})))
}

/// A member of an enumeration, by its JSON.
pub fn enumeration<T: serde::de::DeserializeOwned>(checker: &mut Checker, value: &Value, words: &[&str]) -> Option<T> {
    if let Ok(member) = serde_json::from_value(value.clone()) {
        return Some(member);
    }
    let expected = alternatives(&words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>());
    checker.find("enum", format!("Input should be {expected}"), value, Some(json!({"expected": expected})))
}

/// A text.
pub fn string(checker: &mut Checker, value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        _ => checker.find("string_type", "Input should be a valid string", value, None),
    }
}

/// Something or null.
pub fn optional<T>(read: impl Fn(&mut Checker, &Value) -> Option<T>) -> impl Fn(&mut Checker, &Value) -> Option<Option<T>> {
    move |checker, value| if value.is_null() { Some(None) } else { read(checker, value).map(Some) }
}

/// A boolean, or a word or number that stands for one.
pub fn boolean(checker: &mut Checker, value: &Value) -> Option<bool> {
    let read = match value {
        Value::Bool(value) => Some(*value),
        Value::Number(number) => match number.as_f64() {
            Some(0.0) => Some(false),
            Some(1.0) => Some(true),
            _ => None,
        },
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "1" | "on" | "t" | "true" | "y" | "yes" => Some(true),
            "0" | "off" | "f" | "false" | "n" | "no" => Some(false),
            _ => None,
        },
        _ => return checker.find("bool_type", "Input should be a valid boolean", value, None),
    };
    read.or_else(|| checker.find("bool_parsing", "Input should be a valid boolean, unable to interpret input", value, None))
}

/// An integer, or what stands for one.
pub fn integer(checker: &mut Checker, value: &Value) -> Option<i64> {
    match value {
        Value::Bool(value) => Some(i64::from(*value)),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Some(integer),
            (None, Some(float)) if float.fract() == 0.0 && float.abs() < 9e18 => Some(float as i64),
            _ => checker.find("int_from_float", "Input should be a valid integer, got a number with a fractional part", value, None),
        },
        Value::String(text) => {
            let digits = text.trim();
            let digits = digits.split_once('.').filter(|(_, rest)| rest.bytes().all(|digit| digit == b'0')).map_or(digits, |split| split.0);
            digits.parse().ok().or_else(|| {
                checker.find("int_parsing", "Input should be a valid integer, unable to parse string as an integer", value, None)
            })
        }
        _ => checker.find("int_type", "Input should be a valid integer", value, None),
    }
}

/// A number, or what stands for one.
pub fn number(checker: &mut Checker, value: &Value) -> Option<f64> {
    match value {
        Value::Bool(value) => Some(f64::from(u8::from(*value))),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => {
            text.trim().replace('_', "").parse().ok().or_else(|| {
                checker.find("float_parsing", "Input should be a valid number, unable to parse string as a number", value, None)
            })
        }
        _ => checker.find("float_type", "Input should be a valid number", value, None),
    }
}

/// A UUID.
pub fn uuid(checker: &mut Checker, value: &Value) -> Option<Uuid> {
    let Value::String(text) = value else {
        return checker.find("uuid_type", "UUID input should be a string, bytes or UUID object", value, None);
    };
    match text.parse() {
        Ok(id) => Some(id),
        Err(error) => {
            let error = format!("{error}");
            checker.find("uuid_parsing", format!("Input should be a valid UUID, {error}"), value, Some(json!({"error": error})))
        }
    }
}

/// A duration in seconds, in whole microseconds.
pub fn seconds(checker: &mut Checker, value: &Value) -> Option<f64> {
    match value {
        Value::Bool(_) | Value::Number(_) | Value::String(_) => match parse_seconds(value) {
            Some(seconds) => Some((seconds * 1e6).round() / 1e6),
            None => checker.find("time_delta_parsing", "Input should be a valid timedelta", value, None),
        },
        _ => checker.find("time_delta_type", "Input should be a valid timedelta", value, None),
    }
}

/// An object of anything.
pub fn object(checker: &mut Checker, value: &Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(fields) => Some(fields.clone()),
        _ => checker.find("dict_type", "Input should be a valid dictionary", value, None),
    }
}

/// A list; the findings of all items are told.
pub fn list<T>(read: impl Fn(&mut Checker, &Value) -> Option<T>) -> impl Fn(&mut Checker, &Value) -> Option<Vec<T>> {
    move |checker, value| match value {
        Value::Array(items) => {
            let mut all = Some(Vec::with_capacity(items.len()));
            for (index, item) in items.iter().enumerate() {
                let item = checker.at(index, |checker| read(checker, item));
                all = all.zip(item).map(|(mut all, item)| {
                    all.push(item);
                    all
                });
                if all.is_none() && checker.is_full() {
                    break;
                }
            }
            all
        }
        _ => checker.find("list_type", "Input should be a valid list", value, None),
    }
}

/// A set of texts.
pub fn string_set(checker: &mut Checker, value: &Value) -> Option<BTreeSet<String>> {
    match value {
        Value::Array(_) => list(string)(checker, value).map(|items| items.into_iter().collect()),
        _ => checker.find("set_type", "Input should be a valid set", value, None),
    }
}
