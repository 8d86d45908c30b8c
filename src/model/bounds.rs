//! Validators of names and numbers of pools, queues and deployments: for `#[serde(deserialize_with = "...")]`.

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::clock::Timestamp;
use crate::model::json::{self, invalid};
use crate::model::{Patch, name};

/// A name that is not empty and holds none of `/ % & > <`.
pub fn check_name<E: Error>(given: String) -> Result<String, E> {
    if given.is_empty() || name::banned_character(&given).is_some() {
        return Err(invalid("string_pattern_mismatch", "String should match pattern '^[^/%&><]+$'"));
    }
    Ok(given)
}

/// [`check_name`] as a deserializer.
pub fn named<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).and_then(check_name)
}

fn at_least<E: Error>(given: i64, least: i64) -> Result<i64, E> {
    if given >= least {
        Ok(given)
    } else if least == 1 {
        Err(invalid("greater_than", "Input should be greater than 0"))
    } else {
        Err(invalid("greater_than_equal", format_args!("Input should be greater than or equal to {least}")))
    }
}

/// An optional number from 0.
pub fn non_negative<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Option::<i64>::deserialize(deserializer)?.map(|given| at_least(given, 0)).transpose()
}

/// An optional number from 1.
pub fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Option::<i64>::deserialize(deserializer)?.map(|given| at_least(given, 1)).transpose()
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
