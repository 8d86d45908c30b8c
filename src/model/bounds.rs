//! Validators of names and numbers of pools, queues and deployments: for `#[serde(deserialize_with = "...")]`.

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::clock::Timestamp;
use serde_json::json;

use crate::model::json::{self, invalid_with};
use crate::model::{Patch, name};

/// A name that is not empty and holds none of `/ % & > <`.
pub fn check_name<E: Error>(given: String) -> Result<String, E> {
    if given.is_empty() || name::banned_character(&given).is_some() {
        let pattern = "^[^/%&><]+$";
        return Err(invalid_with(
            "string_pattern_mismatch",
            format_args!("String should match pattern '{pattern}'"),
            &json!({"pattern": pattern}),
        ));
    }
    Ok(given)
}

/// [`check_name`] as a deserializer.
pub fn named<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).and_then(check_name)
}

/// The number, which is not to be below `least`.
pub fn at_least<E: Error>(given: i64, least: i64) -> Result<i64, E> {
    let message = format_args!("Input should be greater than or equal to {least}");
    if given >= least { Ok(given) } else { Err(invalid_with("greater_than_equal", message, &json!({"ge": least}))) }
}

/// The number, which is not to be above `most`.
pub fn at_most<E: Error>(given: i64, most: i64) -> Result<i64, E> {
    let message = format_args!("Input should be less than or equal to {most}");
    if given <= most { Ok(given) } else { Err(invalid_with("less_than_equal", message, &json!({"le": most}))) }
}

/// The number, which is to be above 0.
pub fn above_zero<E: Error>(given: i64) -> Result<i64, E> {
    if given > 0 { Ok(given) } else { Err(invalid_with("greater_than", "Input should be greater than 0", &json!({"gt": 0}))) }
}

/// An optional number from 1, such as that of a page.
pub fn from_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Option::<i64>::deserialize(deserializer)?.map(|given| at_least(given, 1)).transpose()
}

/// An optional number from 0.
pub fn non_negative<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Option::<i64>::deserialize(deserializer)?.map(|given| at_least(given, 0)).transpose()
}

/// An optional number from 1.
pub fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Option::<i64>::deserialize(deserializer)?.map(above_zero).transpose()
}

/// A field of an update body from 0.
pub fn patched_non_negative<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patch<i64>, D::Error> {
    non_negative(deserializer).map(|given| given.map_or(Patch::Null, Patch::Value))
}

/// A field of an update body from 1.
pub fn patched_positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patch<i64>, D::Error> {
    positive(deserializer).map(|given| given.map_or(Patch::Null, Patch::Value))
}

/// A field of an update body that is a moment.
pub fn patched_timestamp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patch<Timestamp>, D::Error> {
    json::optional_timestamp::deserialize(deserializer).map(|given| given.map_or(Patch::Null, Patch::Value))
}
