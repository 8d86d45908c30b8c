//! Variables (`prefect/server/schemas/{core,actions,sorting}.py`).

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::id::VariableId;
use crate::model::json::{self, invalid, invalid_with, python_dumps};
use crate::model::{Patch, name};

/// Characters of a variable's name at most.
const NAME_CHARACTERS: usize = 255;
/// Characters of a variable's value at most, as JSON text.
const VALUE_CHARACTERS: usize = 5000;

/// A variable.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Variable {
    pub id: VariableId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub name: String,
    pub value: Value,
    pub tags: Vec<String>,
}

/// Body of `POST /variables/`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VariableCreate {
    #[serde(deserialize_with = "variable_name")]
    pub name: String,
    #[serde(deserialize_with = "variable_value")]
    pub value: Value,
    #[serde(default)]
    pub tags: Vec<String>,
}

/// Body of `PATCH /variables/...`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VariableUpdate {
    #[serde(default, deserialize_with = "patched_name")]
    pub name: Patch<String>,
    #[serde(default, deserialize_with = "patched_value")]
    pub value: Patch<Value>,
    #[serde(default)]
    pub tags: Patch<Vec<String>>,
}

/// Order of a list of variables.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum VariableSort {
    CreatedDesc,
    UpdatedDesc,
    NameDesc,
    #[default]
    NameAsc,
}

fn check_name<E: serde::de::Error>(name: String) -> Result<String, E> {
    if !name::is_lowercase_dashes_underscores(&name) {
        return Err(invalid("value_error", "Variable name must only contain lowercase letters, numbers, and dashes or underscores."));
    }
    let given = name.chars().count();
    if given > NAME_CHARACTERS {
        // What pydantic says of a bound that comes after a validator.
        let message = format_args!("Value should have at most {NAME_CHARACTERS} items after validation, not {given}");
        let ctx = serde_json::json!({"field_type": "Value", "max_length": NAME_CHARACTERS, "actual_length": given});
        return Err(invalid_with("too_long", message, &ctx));
    }
    Ok(name)
}

fn check_value<E: serde::de::Error>(value: Value) -> Result<Value, E> {
    if !value.is_null() && python_dumps(&value).len() > VALUE_CHARACTERS {
        return Err(invalid("value_error", format_args!("Variable value must be less than {VALUE_CHARACTERS} characters")));
    }
    Ok(value)
}

fn variable_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).and_then(check_name)
}

fn variable_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    Value::deserialize(deserializer).and_then(check_value)
}

fn patched_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patch<String>, D::Error> {
    Option::<String>::deserialize(deserializer)?.map_or(Ok(Patch::Null), |name| check_name(name).map(Patch::Value))
}

fn patched_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patch<Value>, D::Error> {
    Value::deserialize(deserializer).and_then(check_value).map(Patch::Value)
}
