//! A field of an update body has three states: absent (leave it), null (clear it), or a value (set it).

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One field of an update body. Use with `#[serde(default)]`; add `skip_serializing_if = "Patch::is_absent"` to write.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Patch<T> {
    /// The key was not in the body.
    #[default]
    Absent,
    /// The key was there and null.
    Null,
    /// The key was there with a value.
    Value(T),
}

impl<T> Patch<T> {
    /// True where the body did not have the key.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// `None` where absent, `Some(None)` where null, `Some(Some(value))` where set.
    pub fn into_option(self) -> Option<Option<T>> {
        match self {
            Self::Absent => None,
            Self::Null => Some(None),
            Self::Value(value) => Some(Some(value)),
        }
    }

    /// The value, where there is one.
    pub fn as_value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Null => None,
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<T>::deserialize(deserializer).map(|value| value.map_or(Self::Null, Self::Value))
    }
}

impl<T: Serialize> Serialize for Patch<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Absent | Self::Null => serializer.serialize_none(),
            Self::Value(value) => value.serialize(serializer),
        }
    }
}

/// A value or null; whether the key may be absent is said by `#[serde(default)]`.
impl<T: JsonSchema> JsonSchema for Patch<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Option::<T>::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        Option::<T>::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<Option<T>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        name: Patch<String>,
    }

    #[test]
    fn absent_null_and_value_are_three_things() {
        let of = |text: &str| serde_json::from_str::<Body>(text).expect("valid").name;
        assert_eq!(of("{}"), Patch::Absent);
        assert_eq!(of(r#"{"name":null}"#), Patch::Null);
        assert_eq!(of(r#"{"name":"a"}"#), Patch::Value("a".into()));
    }
}
