//! Blocks: types, the schemas of their fields, and documents that hold values
//! (`prefect/server/schemas/{core,actions,sorting}.py`).

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::id::{BlockDocumentId, BlockSchemaId, BlockTypeId};
use crate::model::json::{self, invalid};
use crate::model::{Patch, name};

/// The version of a schema whose author gave none.
pub const NO_VERSION: &str = "non-versioned";

/// What a block is: the class, as clients know it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct BlockType {
    pub id: BlockTypeId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub name: String,
    pub slug: String,
    pub logo_url: Option<String>,
    pub documentation_url: Option<String>,
    /// With `&`, `<` and `>` escaped when it was created.
    pub description: Option<String>,
    /// Escaped as the description is.
    pub code_example: Option<String>,
    pub is_protected: bool,
}

/// Body of `POST /block_types/`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlockTypeCreate {
    #[serde(deserialize_with = "plain_name")]
    pub name: String,
    #[serde(deserialize_with = "type_slug")]
    pub slug: String,
    #[serde(default)]
    pub logo_url: Option<String>,
    #[serde(default)]
    pub documentation_url: Option<String>,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub code_example: Option<String>,
}

/// Body of `PATCH /block_types/{id}`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BlockTypeUpdate {
    pub logo_url: Patch<String>,
    pub documentation_url: Patch<String>,
    pub description: Patch<String>,
    pub code_example: Patch<String>,
}

impl BlockTypeUpdate {
    /// True unless all four fields are given and say what the type says already, escapes aside. Clients of every
    /// version send the whole when they save a block; writing it each time would have them wait for each other.
    pub fn changes(&self, current: &BlockType) -> bool {
        let same = |patch: &Patch<String>, current: &Option<String>| match patch {
            Patch::Absent => false,
            Patch::Null => current.is_none(),
            Patch::Value(value) => current.as_ref().is_some_and(|current| unescape_html(current) == unescape_html(value)),
        };
        !(same(&self.logo_url, &current.logo_url)
            && same(&self.documentation_url, &current.documentation_url)
            && same(&self.description, &current.description)
            && same(&self.code_example, &current.code_example))
    }
}

/// Escapes text for HTML, quotes left alone (Python's `html.escape(text, quote=False)`).
pub fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn unescape_html(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#x27;", "'").replace("&amp;", "&")
}

/// The fields of a block type, at some version.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct BlockSchema {
    pub id: BlockSchemaId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub checksum: String,
    pub fields: Map<String, Value>,
    pub block_type_id: BlockTypeId,
    pub block_type: Option<BlockType>,
    pub capabilities: Vec<String>,
    pub version: String,
}

impl BlockSchema {
    /// Paths of the fields that are secret, parts joined by dots, `*` for any key.
    pub fn secret_fields(&self) -> impl Iterator<Item = &str> {
        self.fields.get("secret_fields").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }
}

/// Body of `POST /block_schemas/`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlockSchemaCreate {
    #[serde(default)]
    pub fields: Map<String, Value>,
    pub block_type_id: BlockTypeId,
    #[serde(default)]
    pub capabilities: Vec<String>,
    #[serde(default = "no_version")]
    pub version: String,
}

fn no_version() -> String {
    NO_VERSION.to_owned()
}

/// Values for the fields of a block type, under a name.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct BlockDocument {
    pub id: BlockDocumentId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub name: String,
    /// With the data of referenced documents in place.
    pub data: Map<String, Value>,
    pub block_schema_id: BlockSchemaId,
    pub block_schema: Option<BlockSchema>,
    pub block_type_id: BlockTypeId,
    pub block_type_name: Option<String>,
    pub block_type: Option<BlockType>,
    /// By the field that holds the referenced document.
    pub block_document_references: IndexMap<String, BlockDocumentReference>,
    pub is_anonymous: bool,
}

/// A document inside another.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct BlockDocumentReference {
    pub block_document: ReferencedDocument,
}

/// What a document says of one inside it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ReferencedDocument {
    pub id: BlockDocumentId,
    pub name: String,
    pub block_type: Option<BlockType>,
    pub is_anonymous: bool,
    pub block_document_references: IndexMap<String, BlockDocumentReference>,
}

/// Body of `POST /block_documents/`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(try_from = "AnyBlockDocumentCreate")]
pub struct BlockDocumentCreate {
    /// Always there unless the document is anonymous.
    pub name: Option<String>,
    pub data: Map<String, Value>,
    pub block_schema_id: BlockSchemaId,
    pub block_type_id: BlockTypeId,
    pub is_anonymous: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AnyBlockDocumentCreate {
    #[serde(default, deserialize_with = "document_name")]
    name: Option<String>,
    #[serde(default)]
    data: Map<String, Value>,
    block_schema_id: BlockSchemaId,
    block_type_id: BlockTypeId,
    #[serde(default)]
    is_anonymous: bool,
}

impl TryFrom<AnyBlockDocumentCreate> for BlockDocumentCreate {
    type Error = serde::de::value::Error;

    fn try_from(given: AnyBlockDocumentCreate) -> Result<Self, Self::Error> {
        if !given.is_anonymous && given.name.is_none() {
            return Err(invalid("value_error", "Names must be provided for block documents."));
        }
        let AnyBlockDocumentCreate { name, data, block_schema_id, block_type_id, is_anonymous } = given;
        Ok(Self { name, data, block_schema_id, block_type_id, is_anonymous })
    }
}

/// Body of `PATCH /block_documents/{id}`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlockDocumentUpdate {
    #[serde(default)]
    pub block_schema_id: Option<BlockSchemaId>,
    #[serde(default, deserialize_with = "some")]
    pub data: Option<Map<String, Value>>,
    /// Whether fields that `data` does not have keep their values.
    #[serde(default = "yes")]
    pub merge_existing_data: bool,
}

fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Map<String, Value>>, D::Error> {
    Map::deserialize(deserializer).map(Some)
}

fn yes() -> bool {
    true
}

/// Order of a list of block documents.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BlockDocumentSort {
    NameDesc,
    #[default]
    NameAsc,
    BlockTypeAndNameAsc,
}

fn check_plain_name<E: serde::de::Error>(given: &str) -> Result<(), E> {
    if given.is_empty() || name::banned_character(given).is_some() {
        return Err(invalid("string_pattern_mismatch", "String should match pattern '^[^/%&><]+$'"));
    }
    Ok(())
}

fn plain_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let given = String::deserialize(deserializer)?;
    check_plain_name(&given)?;
    Ok(given)
}

fn type_slug<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let given = String::deserialize(deserializer)?;
    if !name::is_lowercase_dashes(&given) {
        return Err(invalid("value_error", "Block type slug must only contain lowercase letters, numbers, and dashes."));
    }
    Ok(given)
}

fn document_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let Some(given) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    check_plain_name(&given)?;
    if !name::is_lowercase_dashes(&given) {
        return Err(invalid("value_error", "Block document name must only contain lowercase letters, numbers, and dashes."));
    }
    Ok(Some(given))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_type(description: &str) -> BlockType {
        let at = Timestamp::default();
        BlockType {
            id: BlockTypeId::fresh(),
            created: at,
            updated: at,
            name: "x".into(),
            slug: "x".into(),
            logo_url: None,
            documentation_url: None,
            description: Some(description.into()),
            code_example: None,
            is_protected: false,
        }
    }

    #[test]
    fn a_whole_update_that_says_nothing_new_changes_nothing() {
        let whole = |text: &str| serde_json::from_str::<BlockTypeUpdate>(text).expect("valid");
        let current = block_type("a &lt;b&gt; &amp;lt;");
        let same = r#"{"logo_url": null, "documentation_url": null, "description": "a <b> &lt;", "code_example": null}"#;
        assert!(!whole(same).changes(&block_type("a <b> <")), "either side is unescaped, once");
        assert!(whole(same).changes(&block_type("a <b> &amp;lt;")));
        assert!(
            !whole(r#"{"logo_url": null, "documentation_url": null, "description": "a <b>", "code_example": null}"#)
                .changes(&block_type("a &lt;b&gt;"))
        );
        assert!(whole(r#"{"description": "other"}"#).changes(&current));
        assert!(whole("{}").changes(&current), "a part is never the whole");
    }

    #[test]
    fn a_document_has_a_name_unless_it_is_anonymous() {
        let id = BlockTypeId::fresh();
        let of = |rest: &str| {
            serde_json::from_str::<BlockDocumentCreate>(&format!(r#"{{"block_schema_id": "{id}", "block_type_id": "{id}"{rest}}}"#))
        };
        assert!(of("").is_err());
        assert!(of(r#", "is_anonymous": true"#).is_ok());
        assert!(of(r#", "name": "a-1""#).is_ok());
        for wrong in ["A", "a_b", "a/b", ""] {
            assert!(of(&format!(r#", "name": "{wrong}""#)).is_err(), "{wrong}");
        }
    }
}
