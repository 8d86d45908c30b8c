//! Key-value labels of flows, runs and deployments: text to text, number or boolean.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::model::Patch;
use crate::model::json::{Complaint, invalid_at};

/// Labels, in the order given.
pub type Labels = Map<String, Value>;

/// The form of [`Labels`], for `#[schemars(with = "...")]`.
pub type Form = std::collections::BTreeMap<String, Label>;

/// The form of a label's value.
#[derive(Debug, JsonSchema)]
#[schemars(inline, untagged)]
pub enum Label {
    /// True or false.
    Flag(bool),
    /// A whole number.
    Whole(i64),
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
}

/// What pydantic says of a value that is none of the four types.
const COMPLAINTS: [(&str, &str, &str); 4] = [
    ("bool", "bool_type", "Input should be a valid boolean"),
    ("int", "int_type", "Input should be a valid integer"),
    ("float", "float_type", "Input should be a valid number"),
    ("str", "string_type", "Input should be a valid string"),
];

fn check<E: serde::de::Error>(labels: Labels) -> Result<Labels, E> {
    let wrong = labels.iter().filter(|(_, value)| matches!(value, Value::Null | Value::Array(_) | Value::Object(_)));
    let complaints: Vec<Complaint> = wrong
        .flat_map(|(key, _)| COMPLAINTS.map(|(member, kind, message)| Complaint::new([key.as_str(), member], kind, message)))
        .collect();
    if complaints.is_empty() { Ok(labels) } else { Err(invalid_at(&complaints)) }
}

/// `#[serde(default, deserialize_with = "labels::deserialize")]`: null counts as none.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
    Option::<Labels>::deserialize(deserializer).and_then(|labels| check(labels.unwrap_or_default()))
}

/// As [`deserialize`], but null is null.
pub fn deserialize_nullable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Labels>, D::Error> {
    Option::<Labels>::deserialize(deserializer)?.map(check).transpose()
}

/// As [`deserialize`], for update bodies: null is no labels.
pub fn deserialize_patch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patch<Labels>, D::Error> {
    deserialize(deserializer).map(Patch::Value)
}

/// `lower | middle | upper`: a later layer wins, and keys keep the place where they first stood.
pub fn merge(layers: impl IntoIterator<Item = Labels>) -> Labels {
    let mut merged = Labels::new();
    for layer in layers {
        merged.extend(layer);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_scalars_and_null_is_none() {
        assert_eq!(deserialize(json!({"a": 1, "b": true, "c": "x"})).expect("scalars").len(), 3);
        assert_eq!(deserialize(json!(null)).expect("null"), Labels::new());
        assert!(deserialize(json!({"a": null})).is_err());
        assert!(deserialize(json!({"a": {}})).is_err());
    }

    #[test]
    fn later_layers_win_and_order_stays() {
        let layer = |value: Value| value.as_object().cloned().expect("an object");
        let merged = merge([layer(json!({"a": 1, "b": 1})), layer(json!({"c": 2, "a": 2}))]);
        assert_eq!(Value::Object(merged).to_string(), r#"{"a":2,"b":1,"c":2}"#);
    }
}
