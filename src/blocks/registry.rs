//! Block types that are there from the start.
//!
//! Three are described here, since every client counts on them: `webhook`, `secret` and `local-file-system`, protected
//! as the reference's server has them. Their fields are what clients compute the schema's checksum from. All others
//! come from an installed `prefect` package, where there is one: the list of collections that ships inside it. Clients
//! register the rest when they save a block.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{BlockError, schema};
use crate::clock::Timestamp;
use crate::events::lifecycle::{self, Action};
use crate::id::BlockTypeId;
use crate::model::Patch;
use crate::model::block::{BlockSchemaCreate, BlockTypeCreate, BlockTypeUpdate, NO_VERSION};
use crate::store::Tx;
use crate::store::block_types::{self, Key, Taken};

/// The version of the protected blocks' schemas: the client's, whose classes have these fields.
const VERSION: &str = "3.8.4";

/// A block type with its schema.
#[derive(Debug, Clone)]
pub struct Definition {
    pub block_type: BlockTypeCreate,
    pub is_protected: bool,
    pub fields: Map<String, Value>,
    pub capabilities: Vec<String>,
    pub version: String,
}

/// Stores a type and its schema, as far as they are not stored yet.
///
/// # Errors
/// As [`schema::create`].
pub async fn register(tx: &mut Tx, now: Timestamp, definition: &Definition) -> Result<(), BlockError> {
    let wanted = &definition.block_type;
    let inserted = block_types::insert(tx, BlockTypeId::fresh(), now, wanted, definition.is_protected, Taken::Keep).await?;
    let gone = || BlockError::Invalid(format!("The block type '{}' was deleted while it was registered.", wanted.slug));
    let mut block_type = block_types::read(tx, &Key::Slug(wanted.slug.clone())).await?.ok_or_else(gone)?;
    if inserted {
        tx.emit(lifecycle::block_type(Action::Created, &block_type, now));
    } else {
        let patch = |text: &Option<String>| text.clone().map_or(Patch::Null, Patch::Value);
        let update = BlockTypeUpdate {
            logo_url: patch(&wanted.logo_url),
            documentation_url: patch(&wanted.documentation_url),
            description: patch(&wanted.description),
            code_example: patch(&wanted.code_example),
        };
        // What a client has written about a protected type is left alone; it knows better than we do.
        let changed = !definition.is_protected && update.changes(&block_type);
        if changed {
            block_types::update(tx, block_type.id, now, &update).await?;
        }
        if definition.is_protected && !block_type.is_protected {
            block_types::protect(tx, block_type.id, now, true).await?;
        }
        if changed || (definition.is_protected && !block_type.is_protected) {
            block_type = block_types::read(tx, &Key::Id(block_type.id)).await?.ok_or_else(gone)?;
            tx.emit(lifecycle::block_type(Action::Updated, &block_type, now));
        }
    }
    let create = BlockSchemaCreate {
        fields: definition.fields.clone(),
        block_type_id: block_type.id,
        capabilities: definition.capabilities.clone(),
        version: definition.version.clone(),
    };
    schema::create(tx, now, create).await?;
    Ok(())
}

const LOGOS: &str = "https://cdn.sanity.io/images/3ugk85nk/production";

fn protected_block(name: &str, slug: &str, logo: &str, capabilities: &[&str], fields: Value) -> Definition {
    let Value::Object(fields) = fields else { unreachable!("the fields are written as an object below") };
    Definition {
        block_type: BlockTypeCreate {
            name: name.to_owned(),
            slug: slug.to_owned(),
            logo_url: Some(format!("{LOGOS}/{logo}.png")),
            documentation_url: Some("https://docs.prefect.io/latest/develop/blocks".to_owned()),
            description: fields.get("description").and_then(Value::as_str).map(str::to_owned),
            code_example: None,
        },
        is_protected: true,
        capabilities: capabilities.iter().map(|&capability| capability.to_owned()).collect(),
        fields,
        version: VERSION.to_owned(),
    }
}

/// The three that the system expects to be present.
pub fn protected() -> Vec<Definition> {
    vec![webhook(), secret(), local_file_system()]
}

fn webhook() -> Definition {
    let fields = json!({
        "title": "Webhook",
        "type": "object",
        "description": "Block that enables calling webhooks.",
        "block_type_slug": "webhook",
        "block_schema_references": {},
        "required": ["url"],
        "secret_fields": ["url", "headers.*"],
        "properties": {
            "method": {
                "position": 0,
                "title": "Method",
                "type": "string",
                "enum": ["GET", "POST", "PUT", "PATCH", "DELETE"],
                "default": "POST",
                "description": "The webhook request method. Defaults to `POST`.",
            },
            "url": {
                "position": 1,
                "title": "Webhook URL",
                "type": "string",
                "format": "password",
                "writeOnly": true,
                "description": "The webhook URL.",
                "examples": ["https://hooks.slack.com/XXX"],
            },
            "headers": {
                "position": 2,
                "title": "Webhook Headers",
                "type": "object",
                "description": "A dictionary of headers to send with the webhook request.",
            },
            "allow_private_urls": {
                "position": 3,
                "title": "Allow Private Urls",
                "type": "boolean",
                "default": true,
                "description": "Whether to allow notifications to private URLs. Defaults to True.",
            },
            "verify": {
                "position": 4,
                "title": "Verify",
                "type": "boolean",
                "default": true,
                "description": "Whether or not to enforce a secure connection to the webhook.",
            },
        },
    });
    protected_block("Webhook", "webhook", "c7247cb359eb6cf276734d4b1fbf00fb8930e89e-250x250", &[], fields)
}

fn secret() -> Definition {
    let description = "A block that represents a secret value. The value stored in this block will be obfuscated when this block is \
                       viewed or edited in the UI.";
    let fields = json!({
        "title": "Secret",
        "type": "object",
        "description": description,
        "block_type_slug": "secret",
        "block_schema_references": {},
        "required": ["value"],
        "secret_fields": ["value", "value"],
        "properties": {
            "value": {
                "position": 0,
                "title": "Value",
                "format": "password",
                "writeOnly": true,
                "description": "A value that should be kept secret.",
                "examples": ["sk-1234567890", {"username": "johndoe", "password": "s3cr3t"}],
                "anyOf": [
                    {"type": "string", "format": "password", "writeOnly": true},
                    {"title": "string", "type": "string"},
                    {"title": "JSON", "$ref": "#/definitions/JsonValue"},
                ],
            },
        },
        "definitions": {"JsonValue": {}},
    });
    protected_block("Secret", "secret", "c6f20e556dd16effda9df16551feecfb5822092b-48x48", &[], fields)
}

fn local_file_system() -> Definition {
    let fields = json!({
        "title": "LocalFileSystem",
        "type": "object",
        "description": "Store data as a file on a local file system.",
        "block_type_slug": "local-file-system",
        "block_schema_references": {},
        "secret_fields": [],
        "properties": {
            "basepath": {
                "position": 0,
                "title": "Basepath",
                "anyOf": [{"type": "string"}, {"type": "null"}],
                "default": null,
                "description": "Default local path for this block to write to.",
            },
        },
    });
    let capabilities = ["write-path", "read-path", "put-directory", "get-directory"];
    protected_block("Local File System", "local-file-system", "ad39089fa66d273b943394a68f003f7a19aa850e-48x48", &capabilities, fields)
}

/// The blocks that an installed `prefect` package describes; none where there is no package.
pub async fn of_installed_package(setting: Option<&Path>) -> Vec<Definition> {
    let Some(package) = installed_package(setting).await else { return Vec::new() };
    let path = package.join("server/collection_blocks_data.json");
    let read = async {
        let text = tokio::fs::read(&path).await.map_err(|error| error.to_string())?;
        collections(&text).map_err(|error| error.to_string())
    };
    read.await.unwrap_or_else(|error| {
        tracing::warn!("no block types are read from {}: {error}", path.display());
        Vec::new()
    })
}

/// The directory of an installed `prefect` package: the setting's, else that of the active virtual environment, else
/// that of the `prefect` command on `PATH`.
pub async fn installed_package(setting: Option<&Path>) -> Option<PathBuf> {
    if let Some(setting) = setting {
        return Some(setting.to_owned());
    }
    if let Some(active) = std::env::var_os("VIRTUAL_ENV")
        && let Some(package) = package_in(Path::new(&active)).await
    {
        return Some(package);
    }
    let path = std::env::var_os("PATH")?;
    for directory in std::env::split_paths(&path) {
        let Ok(command) = tokio::fs::canonicalize(directory.join("prefect")).await else { continue };
        let Some(environment) = command.parent().and_then(Path::parent) else { continue };
        if let Some(package) = package_in(environment).await {
            return Some(package);
        }
    }
    None
}

/// The package that is installed in a Python environment.
async fn package_in(environment: &Path) -> Option<PathBuf> {
    let mut entries = tokio::fs::read_dir(environment.join("lib")).await.ok()?;
    while let Ok(Some(entry)) = entries.next_entry().await {
        for packages in ["site-packages", "dist-packages"] {
            let package = entry.path().join(packages).join("prefect");
            if tokio::fs::try_exists(package.join("server/collection_blocks_data.json")).await.unwrap_or(false) {
                return Some(package);
            }
        }
    }
    None
}

#[derive(Deserialize)]
struct Collections {
    collections: Map<String, Value>,
}

#[derive(Deserialize)]
struct CollectionBlock {
    name: String,
    slug: String,
    #[serde(default)]
    logo_url: Option<String>,
    #[serde(default)]
    documentation_url: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    code_example: Option<String>,
    block_schema: CollectionSchema,
}

#[derive(Deserialize)]
struct CollectionSchema {
    fields: Map<String, Value>,
    #[serde(default)]
    capabilities: Vec<String>,
    #[serde(default)]
    version: Option<String>,
}

/// The blocks of a package's list. A block that holds others comes after them.
fn collections(text: &[u8]) -> Result<Vec<Definition>, serde_json::Error> {
    let Collections { collections } = serde_json::from_slice(text)?;
    let mut found = Vec::new();
    for (_, collection) in collections {
        let Value::Object(types) = &collection["block_types"] else { continue };
        for block in types.values() {
            let CollectionBlock { name, slug, logo_url, documentation_url, description, code_example, block_schema } =
                CollectionBlock::deserialize(block)?;
            found.push(Definition {
                block_type: BlockTypeCreate { name, slug, logo_url, documentation_url, description, code_example },
                is_protected: false,
                fields: block_schema.fields,
                capabilities: block_schema.capabilities,
                version: block_schema.version.unwrap_or_else(|| NO_VERSION.to_owned()),
            });
        }
    }
    found.sort_by_key(|definition| holds_blocks(&definition.fields));
    Ok(found)
}

/// How many blocks are inside, as an order: every reference is to a type that must be there first.
fn holds_blocks(fields: &Map<String, Value>) -> usize {
    let inside = fields.get("block_schema_references").and_then(Value::as_object).map_or(0, Map::len);
    let below = fields.get("definitions").and_then(Value::as_object).into_iter().flat_map(Map::values);
    inside + below.filter_map(Value::as_object).map(holds_blocks).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::checksum;

    #[test]
    fn protected_blocks_have_the_checksums_that_clients_compute() {
        let checksums: Vec<String> = protected().iter().map(|definition| checksum::of(&definition.fields)).collect();
        assert_eq!(
            checksums,
            [
                "sha256:58bb03f0d84592252ad568ed9a8c899792ae5d0ad2dd4a2428e99674f9050cf1",
                "sha256:c078ed9c1e813e224c0b353d7ad4564a11d51d3198d9ac0686478165a1911c78",
                "sha256:0fc8b7f936f38f465715ef2df4a817ac9fe38b80bb01d5c6c9649a6da6ae6971",
            ]
        );
    }

    #[test]
    fn blocks_that_hold_others_come_after_them() {
        let inner = json!({"block_schema_references": {}});
        let outer = json!({"block_schema_references": {"a": {}}, "definitions": {"Inner": inner}});
        let block = |slug: &str, fields: &Value| json!({"name": slug, "slug": slug, "block_schema": {"fields": fields, "capabilities": [], "checksum": "", "version": "1"}});
        let list = json!({"collections": {
            "one": {"block_types": {"outer": block("outer", &outer)}},
            "two": {"block_types": {"inner": block("inner", &inner)}},
        }});
        let slugs: Vec<String> =
            collections(list.to_string().as_bytes()).expect("a list").into_iter().map(|found| found.block_type.slug).collect();
        assert_eq!(slugs, ["inner", "outer"]);
    }
}
