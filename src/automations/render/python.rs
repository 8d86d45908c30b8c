//! Values as Python shows them: `None`, `True`, `['a', 1.0]`, `{'k': 'v'}`; and as its `json.dumps` writes them.

use std::fmt::Write as _;

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};
use serde_json::Value as Json;

use super::objects;
use crate::model::json::{python_dumps, write_timestamp};

/// As `str()`.
pub fn text(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => representation(value),
    }
}

/// As `repr()`, of what is made of plain values; an object shows itself.
pub fn representation(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(number) if number.is_finite() => python_dumps(&Json::from(number)),
            Ok(number) if number.is_nan() => "nan".to_owned(),
            Ok(number) => if number > 0.0 { "inf" } else { "-inf" }.to_owned(),
            Err(_) => value.to_string(),
        },
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<String> = value.try_iter().map(|items| items.map(|item| representation(&item)).collect()).unwrap_or_default();
            match (value.is_tuple(), items.as_slice()) {
                (true, [one]) => format!("({one},)"),
                (true, _) => format!("({})", items.join(", ")),
                (false, _) => format!("[{}]", items.join(", ")),
            }
        }
        ValueKind::Map if objects::shows_itself(value) => value.to_string(),
        ValueKind::Map => {
            let keys = value.try_iter().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
            let pair = |key: &Value| {
                let inner = value.get_item(key).unwrap_or_default();
                format!("{}: {}", representation(key), representation(&inner))
            };
            format!("{{{}}}", keys.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

/// A string with its quotes: single ones, unless it has some and no double ones.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter if letter == quote => out.extend(['\\', letter]),
            letter if letter.is_control() => {
                write!(out, "\\x{:02x}", u32::from(letter)).expect("writing to a string cannot fail");
            }
            letter => out.push(letter),
        }
    }
    out.push(quote);
    out
}

/// The JSON of a value.
///
/// # Errors
/// It has none: an undefined value, a function.
pub fn json(value: &Value) -> Result<Json, Error> {
    if let Some(moment) = value.downcast_object_ref::<objects::Moment>() {
        return Ok(write_timestamp(&moment.0.to_utc()).into());
    }
    if let Some(delta) = value.downcast_object_ref::<objects::Delta>() {
        return Ok(delta.seconds().into());
    }
    if let Some(model) = value.downcast_object_ref::<objects::Model>() {
        return Ok(model.json.clone());
    }
    if let Some(labelled) = value.downcast_object_ref::<objects::Labelled>() {
        return Ok(labelled.0.iter().map(|(label, value)| (label.clone(), Json::from(value.as_str()))).collect());
    }
    Ok(match value.kind() {
        ValueKind::None => Json::Null,
        ValueKind::Bool => value.is_true().into(),
        ValueKind::Number if value.is_integer() => match (i64::try_from(value.clone()), u64::try_from(value.clone())) {
            (Ok(number), _) => number.into(),
            (_, Ok(number)) => number.into(),
            _ => return Err(Error::new(ErrorKind::BadSerialization, "a number is too large for JSON")),
        },
        ValueKind::Number => f64::try_from(value.clone()).map(Json::from)?,
        ValueKind::String => value.as_str().unwrap_or_default().into(),
        ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.map(|item| json(&item)).collect::<Result<Vec<_>, _>>()?.into(),
        ValueKind::Map => {
            let mut fields = serde_json::Map::new();
            for key in value.try_iter()? {
                fields.insert(text(&key), json(&value.get_item(&key)?)?);
            }
            Json::Object(fields)
        }
        kind => return Err(Error::new(ErrorKind::BadSerialization, format!("a value of the kind {kind} has no JSON"))),
    })
}

/// The `tojson` filter: keys sorted, safe inside of HTML.
///
/// # Errors
/// As [`json`].
pub fn to_json(value: &Value, indent: Option<usize>) -> Result<String, Error> {
    let mut value = json(value)?;
    value.sort_all_objects();
    let text = match indent {
        None => python_dumps(&value),
        Some(indent) => {
            let indent = " ".repeat(indent.min(INDENT));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            let mut out = Vec::new();
            let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
            serde::Serialize::serialize(&value, &mut serializer)
                .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
            ascii(&String::from_utf8_lossy(&out))
        }
    };
    Ok(text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026").replace('\'', "\\u0027"))
}

/// Columns of an indent at most.
pub const INDENT: usize = 100;

fn ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii() {
            out.push(letter);
        } else {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                write!(out, "\\u{unit:04x}").expect("writing to a string cannot fail");
            }
        }
    }
    out
}
