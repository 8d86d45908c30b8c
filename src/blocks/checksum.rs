//! The checksum of a schema's fields. Clients compute it from their class and ask for the schema by it, so it is theirs
//! to the byte (`Block._calculate_schema_checksum`): `sha256:` over Python's `json.dumps([[fields], {}], sort_keys=True)`,
//! where the fields leave out every `secret_fields` and the definitions of other blocks.

use indexmap::IndexMap;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::model::json::python_dumps;

/// The checksum.
pub fn of(fields: &Map<String, Value>) -> String {
    let mut fields = without_secret_fields(fields);
    if let Some(definitions) = definitions_of(&fields).cloned() {
        let others = plain_definitions(&fields, &definitions);
        if others.is_empty() {
            fields.remove("definitions");
        } else {
            fields.insert("definitions".to_owned(), Value::Object(others));
        }
    }
    let mut hashed = json!([[fields], {}]);
    hashed.sort_all_objects();
    let digest = Sha256::digest(python_dumps(&hashed).as_bytes());
    let hex = digest.iter().fold(String::from("sha256:"), |hex, byte| format!("{hex}{byte:02x}"));
    debug_assert_eq!(hex.len(), 71);
    hex
}

/// The definitions of a schema's fields, where there are any.
pub fn definitions_of(fields: &Map<String, Value>) -> Option<&Map<String, Value>> {
    fields.get("definitions").and_then(Value::as_object).filter(|definitions| !definitions.is_empty())
}

/// Only objects are descended into, as the reference does.
fn without_secret_fields(object: &Map<String, Value>) -> Map<String, Value> {
    let kept = object.iter().filter(|(key, _)| *key != "secret_fields");
    kept.map(|(key, value)| {
        let value = value.as_object().map_or_else(|| value.clone(), |inner| Value::Object(without_secret_fields(inner)));
        (key.clone(), value)
    })
    .collect()
}

/// The definitions that `object` refers to, itself or through others, and that are no blocks.
pub fn plain_definitions(object: &Map<String, Value>, definitions: &Map<String, Value>) -> Map<String, Value> {
    let mut found = IndexMap::new();
    let mut wanted = Vec::new();
    collect_references(object, &mut wanted);
    while let Some(name) = wanted.pop() {
        let Some(Value::Object(definition)) = definitions.get(name) else { continue };
        let is_block = definition.get("block_type_slug").is_some_and(|slug| !slug.is_null());
        // An empty definition counts as none there; the reference asks for its truth.
        if is_block || found.contains_key(name) || definition.is_empty() {
            continue;
        }
        found.insert(name, definition);
        collect_references(definition, &mut wanted);
    }
    found.into_iter().map(|(name, definition)| (name.to_owned(), Value::Object(definition.clone()))).collect()
}

/// The names of definitions that `value` refers to, at any depth.
pub fn references_in(value: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    collect(value, &mut found);
    found
}

fn collect<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(object) => collect_references(object, found),
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}

fn collect_references<'a>(object: &'a Map<String, Value>, found: &mut Vec<&'a str>) {
    if let Some(Value::String(reference)) = object.get("$ref") {
        found.push(reference.strip_prefix("#/definitions/").unwrap_or(reference));
    }
    object.values().for_each(|value| collect(value, found));
}
