//! Puts the descriptions of all operations together.

use std::collections::BTreeSet;

use axum::http::Method;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::describe::Operation;
use crate::api::middleware::{VERSION_HEADER, is_checked};
use crate::api::root::PREFECT_VERSION;

/// Where the schemas lie that others refer to.
const SCHEMAS: &str = "#/components/schemas/";

/// A route and what describes it.
#[derive(Debug, Clone)]
pub struct Described {
    /// Its method.
    pub method: Method,
    /// Its path, below the API's base path.
    pub path: &'static str,
    /// The group that it is shown in.
    pub tag: &'static str,
    /// The full name of its handler.
    pub handler: &'static str,
    /// Describes it.
    pub describe: fn(&mut Operation, &mut Schemas),
}

impl Described {
    /// What it does, in the words of the handler's name: `Read by name`.
    fn summary(&self) -> String {
        let name = self.handler.rsplit("::").next().unwrap_or_default();
        let mut letters = name.trim_start_matches("r#").chars();
        letters
            .next()
            .into_iter()
            .flat_map(char::to_uppercase)
            .chain(letters)
            .map(|letter| if letter == '_' { ' ' } else { letter })
            .collect()
    }

    /// A name for generated clients, which follows from method and path alone: `get_flows_name_name`.
    fn id(&self) -> String {
        let mut id = self.method.as_str().to_ascii_lowercase();
        for part in self.path.split('/').filter(|part| !part.is_empty()) {
            id.push('_');
            id.extend(part.chars().filter(|letter| !matches!(letter, '{' | '}')).map(|letter| if letter == '-' { '_' } else { letter }));
        }
        id
    }

    fn path_names(&self) -> Vec<&'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect()
    }

    fn to_json(&self, schemas: &mut Schemas) -> Value {
        let mut operation = Operation { path_names: self.path_names(), ..Operation::default() };
        (self.describe)(&mut operation, schemas);
        if is_checked(self.path) {
            operation.parameter("header", VERSION_HEADER, false, json!({"type": "string"}));
        }
        let mut described = json!({"tags": [self.tag], "summary": self.summary(), "operationId": self.id()});
        if !operation.parameters.is_empty() {
            described["parameters"] = operation.parameters.into();
        }
        if let Some(body) = operation.body {
            described["requestBody"] = body;
        }
        described["responses"] = operation.answers.into();
        described
    }
}

/// Makes the schemas of types, each of them once. What a type reads and what it writes may differ: what has a default
/// may be left out of a request, and is there in an answer.
#[derive(Debug)]
pub struct Schemas {
    input: SchemaGenerator,
    output: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        });
        Self { input: settings.clone().for_deserialize().into_generator(), output: settings.for_serialize().into_generator() }
    }

    /// What a type reads; a reference where it has a name.
    pub fn input<T: JsonSchema>(&mut self) -> Schema {
        self.input.subschema_for::<T>()
    }

    /// What a type reads, as a whole.
    pub fn whole_input<T: JsonSchema>(&mut self) -> Schema {
        T::json_schema(&mut self.input)
    }

    /// What a type writes; a reference where it has a name.
    pub fn output<T: JsonSchema>(&mut self) -> Schema {
        self.output.subschema_for::<T>()
    }
}

/// The document.
#[derive(Debug)]
pub struct Document(Value);

impl Document {
    /// Describes the operations of an API below `base_path`.
    pub fn of(operations: &[Described], base_path: &str) -> Self {
        let mut schemas = Schemas::new();
        let mut paths = Map::new();
        for operation in operations {
            let method = operation.method.as_str().to_ascii_lowercase();
            let described = operation.to_json(&mut schemas);
            if let Value::Object(path) = paths.entry(operation.path).or_insert_with(|| json!({})) {
                path.insert(method, described);
            }
        }
        let mut inputs = schemas.input.take_definitions(true);
        let mut outputs = schemas.output.take_definitions(true);
        let differing = differing(&inputs, &outputs);
        for (definitions, suffix) in [(&mut inputs, "-Input"), (&mut outputs, "-Output")] {
            rename_definitions(definitions, &differing, suffix);
        }
        for operation in paths.values_mut().filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
            for (part, suffix) in [("parameters", "-Input"), ("requestBody", "-Input"), ("responses", "-Output")] {
                if let Some(part) = operation.get_mut(part) {
                    rename_references(part, &differing, suffix);
                }
            }
        }
        inputs.extend(outputs);
        inputs.sort_keys();
        Self(json!({
            "openapi": "3.1.0",
            "info": {
                "title": "Prefect REST API",
                "description": format!("Served by Praetor {}.", env!("CARGO_PKG_VERSION")),
                "version": PREFECT_VERSION,
            },
            "servers": [{"url": if base_path.is_empty() { "/" } else { base_path }}],
            "paths": paths,
            "components": {"schemas": inputs},
        }))
    }

    /// As JSON.
    pub fn as_json(&self) -> &Value {
        &self.0
    }
}

/// Names under which requests and answers mean different things, directly or by what they refer to.
fn differing(inputs: &Map<String, Value>, outputs: &Map<String, Value>) -> BTreeSet<String> {
    let common = || inputs.iter().filter_map(|(name, input)| Some((name, input, outputs.get(name)?)));
    let mut differing: BTreeSet<String> = common().filter(|(_, input, output)| input != output).map(|(name, ..)| name.clone()).collect();
    loop {
        let more: Vec<String> = common()
            .filter(|(name, input, _)| !differing.contains(*name) && refers_to(input, &differing))
            .map(|(name, ..)| name.clone())
            .collect();
        if more.is_empty() {
            return differing;
        }
        differing.extend(more);
    }
}

fn refers_to(schema: &Value, names: &BTreeSet<String>) -> bool {
    match schema {
        Value::Object(members) => members.iter().any(|(key, member)| match referred(key, member) {
            Some(name) => names.contains(name),
            None => refers_to(member, names),
        }),
        Value::Array(items) => items.iter().any(|item| refers_to(item, names)),
        _ => false,
    }
}

/// The name that a member refers to, where it is a reference.
fn referred<'a>(key: &str, member: &'a Value) -> Option<&'a str> {
    member.as_str().filter(|_| key == "$ref")?.strip_prefix(SCHEMAS)
}

fn rename_definitions(definitions: &mut Map<String, Value>, names: &BTreeSet<String>, suffix: &str) {
    *definitions = std::mem::take(definitions)
        .into_iter()
        .map(|(name, mut schema)| {
            rename_references(&mut schema, names, suffix);
            (if names.contains(&name) { name + suffix } else { name }, schema)
        })
        .collect();
}

fn rename_references(schema: &mut Value, names: &BTreeSet<String>, suffix: &str) {
    match schema {
        Value::Object(members) => {
            for (key, member) in members {
                if let Some(name) = referred(key, member) {
                    if names.contains(name) {
                        *member = format!("{SCHEMAS}{name}{suffix}").into();
                    }
                } else {
                    rename_references(member, names, suffix);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename_references(item, names, suffix)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::api::extract::{Embedded, Json, Query};
    use crate::api::openapi::{Routes, post};
    use crate::api::operations::OPERATIONS;

    fn whole() -> Value {
        let (_, operations) = crate::api::routes().into_parts();
        Document::of(&operations, "/api").0
    }

    fn operations(document: &Value) -> impl Iterator<Item = (String, &Value)> {
        let paths = document["paths"].as_object().expect("paths").iter();
        paths.flat_map(|(path, methods)| {
            let methods = methods.as_object().expect("methods").iter();
            methods.map(move |(method, operation)| (format!("{} {path}", method.to_ascii_uppercase()), operation))
        })
    }

    #[test]
    fn it_describes_the_operations_of_the_reference_and_our_own() {
        let document = whole();
        let described: BTreeSet<String> = operations(&document).map(|(name, _)| name).filter(|name| !name.contains(" /cluster/")).collect();
        let listed: BTreeSet<String> = OPERATIONS.iter().map(|(method, path)| format!("{method} {path}")).collect();
        assert_eq!(described, listed);
        assert!(operations(&document).count() > listed.len());
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_and_an_answer() {
        let document = whole();
        let mut ids = BTreeSet::new();
        for (name, operation) in operations(&document) {
            assert!(ids.insert(operation["operationId"].as_str().expect("an id")), "{name}");
            assert!(operation["summary"].as_str().is_some_and(|summary| summary.starts_with(char::is_uppercase)), "{name}");
            assert!(operation.as_object().is_some_and(|parts| parts.values().all(|part| !part.is_null())), "{name}: {operation}");
            assert!(operation["responses"].as_object().is_some_and(|answers| !answers.is_empty()), "{name}");
        }
    }

    #[test]
    fn no_two_types_share_a_name_and_every_reference_leads_somewhere() {
        fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
            match value {
                Value::Object(members) => members.iter().for_each(|(key, member)| match referred(key, member) {
                    Some(name) => drop(found.insert(name)),
                    None => references(member, found),
                }),
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document = whole();
        let schemas = document["components"]["schemas"].as_object().expect("schemas");
        // schemars numbers the second type of a name.
        let numbered =
            |name: &&String| name.trim_end_matches("-Input").trim_end_matches("-Output").ends_with(|end: char| end.is_ascii_digit());
        let numbered: Vec<&String> = schemas.keys().filter(numbered).filter(|name| !name.ends_with("V2")).collect();
        assert!(numbered.is_empty(), "give these a name of their own with #[schemars(rename = ...)]: {numbered:?}");
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 100 && found.iter().all(|name| schemas.contains_key(*name)));
        assert!(schemas.keys().all(|name| found.contains(name.as_str())), "a schema that nothing refers to");
    }

    #[test]
    fn it_is_the_same_each_time() {
        assert!(whole() == whole(), "something in it is made up, such as a default");
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Leaf {
        #[serde(default)]
        given: bool,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Branch {
        leaf: Leaf,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Same {
        name: String,
    }

    #[derive(Deserialize, JsonSchema)]
    struct Body {
        branch: Branch,
        same: Same,
        #[serde(default)]
        more: Option<u64>,
    }

    #[derive(Deserialize, JsonSchema)]
    struct Asked {
        all: bool,
        #[serde(default)]
        #[expect(dead_code, reason = "only its schema is looked at")]
        some: Option<bool>,
    }

    #[test]
    fn what_is_read_and_what_is_written_are_told_apart_only_where_they_differ() {
        async fn handler(Query(asked): Query<Asked>, Embedded(body): Embedded<Body>) -> Json<(Branch, Same)> {
            assert!(asked.all && body.more.is_none());
            Json((body.branch, body.same))
        }
        let (_, operations) = Routes::tagged("Things").route("/things/{id}", post(handler)).into_parts();
        let document = Document::of(&operations, "").0;
        let operation = &document["paths"]["/things/{id}"]["post"];
        assert_eq!((&operation["tags"], &operation["summary"]), (&json!(["Things"]), &json!("Handler")));
        assert_eq!(document["servers"][0]["url"], "/");
        let body = &operation["requestBody"];
        let schema = &body["content"]["application/json"]["schema"];
        assert_eq!((&body["required"], &schema["required"]), (&json!(true), &json!(["branch", "same"])));
        assert_eq!(schema["properties"]["branch"]["$ref"], "#/components/schemas/Branch-Input");
        assert_eq!(schema["properties"]["same"]["$ref"], "#/components/schemas/Same");
        let answer = &operation["responses"]["200"]["content"]["application/json"]["schema"]["prefixItems"];
        assert_eq!(answer[0]["$ref"], "#/components/schemas/Branch-Output");
        let schemas = &document["components"]["schemas"];
        assert_eq!(schemas["Branch-Output"]["properties"]["leaf"]["$ref"], "#/components/schemas/Leaf-Output");
        assert_eq!((&schemas["Leaf-Input"]["required"], &schemas["Leaf-Output"]["required"]), (&json!(null), &json!(["given"])));
        let parameters: Vec<(&Value, &Value)> =
            operation["parameters"].as_array().expect("some").iter().map(|one| (&one["name"], &one["required"])).collect();
        let expected = [("all", true), ("some", false), (VERSION_HEADER, false)].map(|(name, required)| (json!(name), json!(required)));
        assert_eq!(parameters, expected.iter().map(|(name, required)| (name, required)).collect::<Vec<_>>());
    }
}
