//! Mends schemas which pydantic 1 made and which are no draft 2020-12 (`preprocess_schema`).

use serde_json::{Map, Value, json};

/// The schema without what an old pydantic gets wrong: optional fields take null, lists of item schemas are tuples, and
/// blocks may be given by reference. `none_with_default`: a field with a default takes null, too.
#[must_use]
pub fn preprocess(schema: &Value, none_with_default: bool) -> Value {
    let mut schema = schema.clone();
    let Value::Object(root) = &mut schema else { return schema };
    let required = required_of(root);
    if let Some(Value::Object(properties)) = root.get_mut("properties") {
        mend_properties(properties, &required, none_with_default);
    }
    if let Some(Value::Object(definitions)) = root.get_mut("definitions") {
        let mut blocks = Vec::new();
        for definition in definitions.values_mut() {
            let Value::Object(definition) = definition else { continue };
            let required = required_of(definition);
            if let Some(Value::Object(properties)) = definition.get_mut("properties") {
                mend_properties(properties, &required, none_with_default);
            }
            if definition.contains_key("block_type_slug")
                && let Some(title) = definition.get("title").and_then(Value::as_str)
            {
                blocks.push((title.to_owned(), Value::Object(definition.clone())));
            }
        }
        for (title, definition) in blocks {
            definitions.insert(title, json!({"oneOf": [definition, block_reference()]}));
        }
    }
    schema
}

/// What stands for a block that is named by its id.
fn block_reference() -> Value {
    json!({
        "type": "object",
        "properties": {
            "$ref": {
                "oneOf": [
                    {"type": "string", "format": "uuid"},
                    {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1},
                ]
            }
        },
        "required": ["$ref"],
    })
}

fn required_of(schema: &Map<String, Value>) -> Vec<String> {
    let names = schema.get("required").and_then(Value::as_array);
    names.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

fn mend_properties(properties: &mut Map<String, Value>, required: &[String], none_with_default: bool) {
    // The reference goes on with the required fields of the nested schema that it met last.
    let mut required = required.to_vec();
    for (key, property) in properties {
        let Value::Object(property) = property else { continue };
        if !required.contains(key)
            && property.get("type").is_some_and(|kind| kind != "null")
            && (none_with_default || !property.contains_key("default"))
            && let Some(kind) = property.shift_remove("type")
        {
            property.insert("anyOf".into(), json!([{"type": kind}, {"type": "null"}]));
        }
        if property.get("items").and_then(Value::as_array).is_some_and(|items| !items.is_empty())
            && !is_filled(property.get("prefixItems"))
            && let Some(items) = property.shift_remove("items")
        {
            property.insert("prefixItems".into(), items);
        }
        if property.contains_key("properties") {
            required = required_of(property);
            if let Some(Value::Object(nested)) = property.get_mut("properties") {
                mend_properties(nested, &required, false);
            }
        }
    }
}

fn is_filled(value: Option<&Value>) -> bool {
    value.and_then(Value::as_array).is_some_and(|items| !items.is_empty())
}

/// The schema without any key `required`, be it a keyword or a name; lists are left alone.
#[must_use]
pub fn without_required(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => Value::Object(
            fields.iter().filter(|(key, _)| *key != "required").map(|(key, value)| (key.clone(), without_required(value))).collect(),
        ),
        other => other.clone(),
    }
}

/// Keywords whose schemas look at the same value as the schema that they are in.
const IN_PLACE: [&str; 3] = ["allOf", "anyOf", "oneOf"];

/// True where looking at a value could lead back to the same schema without a step into the value.
pub fn is_circular(schema: &Value) -> bool {
    let mut to_visit = vec![schema];
    let mut seen: Vec<*const Value> = Vec::new();
    while let Some(here) = to_visit.pop() {
        if seen.contains(&std::ptr::from_ref(here)) {
            continue;
        }
        seen.push(std::ptr::from_ref(here));
        if loops(schema, here, &mut Vec::new()) {
            return true;
        }
        let Value::Object(fields) = here else { continue };
        to_visit.extend(in_place(schema, fields));
        for (key, value) in fields {
            match (key.as_str(), value) {
                ("properties" | "patternProperties", Value::Object(properties)) => to_visit.extend(properties.values()),
                ("items" | "additionalProperties" | "contains" | "propertyNames", value @ Value::Object(_)) => to_visit.push(value),
                ("prefixItems" | "items", Value::Array(items)) => to_visit.extend(items),
                _ => {}
            }
        }
    }
    false
}

fn in_place<'a>(root: &'a Value, fields: &'a Map<String, Value>) -> Vec<&'a Value> {
    let target = fields.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix('#'));
    let target = target.and_then(|pointer| root.pointer(pointer));
    let branches = IN_PLACE.iter().filter_map(|keyword| fields.get(*keyword)?.as_array()).flatten();
    target.into_iter().chain(branches).collect()
}

fn loops<'a>(root: &'a Value, here: &'a Value, path: &mut Vec<*const Value>) -> bool {
    let Value::Object(fields) = here else { return false };
    let this = std::ptr::from_ref(here);
    if path.contains(&this) {
        return true;
    }
    path.push(this);
    let found = in_place(root, fields).into_iter().any(|next| loops(root, next, path));
    path.pop();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_fields_take_null_and_lists_of_schemas_are_tuples() {
        let schema = json!({"properties": {
            "a": {"type": "string"}, "b": {"type": "string", "default": "x"}, "c": {"type": "integer"},
            "d": {"items": [{"type": "string"}]},
        }, "required": ["c"]});
        let mended = preprocess(&schema, false);
        assert_eq!(mended["properties"]["a"], json!({"anyOf": [{"type": "string"}, {"type": "null"}]}));
        assert_eq!(mended["properties"]["b"], json!({"type": "string", "default": "x"}));
        assert_eq!(mended["properties"]["c"], json!({"type": "integer"}));
        assert_eq!(mended["properties"]["d"], json!({"prefixItems": [{"type": "string"}]}));
        assert!(preprocess(&schema, true)["properties"]["b"].get("anyOf").is_some());
    }

    #[test]
    fn blocks_may_be_references() {
        let schema = json!({"definitions": {"B": {"title": "B", "block_type_slug": "b", "type": "object"}}});
        assert_eq!(preprocess(&schema, false)["definitions"]["B"]["oneOf"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn required_goes_everywhere_but_in_lists() {
        let schema = json!({"required": ["a"], "x": {"required": 1, "y": [{"required": 2}]}});
        assert_eq!(without_required(&schema), json!({"x": {"y": [{"required": 2}]}}));
    }

    #[test]
    fn a_loop_is_circular_and_a_tree_is_not() {
        let tree = json!({"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"next": {"$ref": "#/$defs/n"}}}}});
        assert!(!is_circular(&tree));
        let ring = json!({"properties": {"x": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}});
        assert!(is_circular(&ring));
    }
}
