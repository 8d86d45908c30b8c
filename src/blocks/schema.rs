//! Schemas inside schemas. A schema arrives whole, with the definitions of the blocks inside it; it is stored without
//! them, each inner block as a schema of its own with a reference to it, and put together again when it is read
//! (`prefect/server/models/block_schemas.py`).

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::{BlockError, DEPTH, checksum};
use crate::clock::Timestamp;
use crate::id::{BlockSchemaId, BlockSchemaReferenceId};
use crate::model::block::{BlockSchema, BlockSchemaCreate, NO_VERSION};
use crate::store::block_schemas::{self as store, NewSchema, SchemaReference};
use crate::store::{Tx, block_types};

/// Stores a schema and those inside it that are not stored yet. Gives the schema, and whether it is new.
///
/// # Errors
/// [`BlockError::MissingBlockType`], and [`BlockError::Invalid`] where a block inside has no definition.
pub async fn create(tx: &mut Tx, now: Timestamp, create: BlockSchemaCreate) -> Result<(BlockSchema, bool), BlockError> {
    let definitions = checksum::definitions_of(&create.fields).cloned();
    create_inside(tx, now, create, definitions.as_ref(), 0).await
}

async fn create_inside(
    tx: &mut Tx,
    now: Timestamp,
    create: BlockSchemaCreate,
    definitions: Option<&Map<String, Value>>,
    depth: usize,
) -> Result<(BlockSchema, bool), BlockError> {
    if depth > DEPTH {
        return Err(BlockError::Invalid(format!("Block schemas are nested deeper than {DEPTH}.")));
    }
    let mut fields = create.fields;
    if let Some(definitions) = definitions {
        fields.insert("definitions".to_owned(), Value::Object(definitions.clone()));
    }
    let checksum = checksum::of(&fields);
    if let Some(existing) = by_checksum(tx, &checksum, Some(&create.version)).await? {
        return Ok((existing, false));
    }
    if let Some(definitions) = definitions {
        let plain = checksum::plain_definitions(&fields, definitions);
        if plain.is_empty() {
            fields.remove("definitions");
        } else {
            fields.insert("definitions".to_owned(), Value::Object(plain));
        }
    }
    let references = fields.remove("block_schema_references").unwrap_or_else(|| json!({}));

    let row = NewSchema {
        checksum: &checksum,
        fields: &fields,
        block_type_id: create.block_type_id,
        capabilities: &create.capabilities,
        version: &create.version,
    };
    let id = BlockSchemaId::fresh();
    if !store::insert(tx, id, now, row).await? {
        // Another request was faster.
        let existing = by_checksum(tx, &checksum, Some(&create.version)).await?;
        return existing.map(|schema| (schema, false)).ok_or_else(|| BlockError::Invalid("The block schema was deleted.".to_owned()));
    }
    store_references(tx, now, id, &references, &fields, definitions, depth).await?;

    let stored = store::by_ids(tx, &[id]).await?.pop();
    let mut schema = stored.ok_or_else(|| BlockError::Invalid("The block schema was deleted.".to_owned()))?;
    schema.fields.insert("block_schema_references".to_owned(), references);
    if let Some(definitions) = definitions {
        schema.fields.insert("definitions".to_owned(), Value::Object(definitions.clone()));
    }
    Ok((schema, true))
}

async fn store_references(
    tx: &mut Tx,
    now: Timestamp,
    parent: BlockSchemaId,
    references: &Value,
    fields: &Map<String, Value>,
    definitions: Option<&Map<String, Value>>,
    depth: usize,
) -> Result<(), BlockError> {
    let mut stored = HashSet::new();
    for (name, given) in references.as_object().into_iter().flatten() {
        let one = std::slice::from_ref(given);
        for reference in given.as_array().map_or(one, Vec::as_slice) {
            let text = |key: &str| {
                let wrong = || BlockError::Invalid(format!("The block schema reference {name:?} has no {key}."));
                reference[key].as_str().ok_or_else(wrong)
            };
            let (slug, checksum) = (text("block_type_slug")?, text("block_schema_checksum")?);
            let block_type = block_types::read(tx, &block_types::Key::Slug(slug.to_owned())).await?;
            let block_type = block_type.ok_or_else(|| BlockError::MissingBlockType(slug.to_owned()))?;
            let inner = if let Some(inner) = store::by_checksum(tx, checksum, None).await? {
                inner.id
            } else {
                let missing = || {
                    let name = &block_type.name;
                    BlockError::Invalid(format!("Unable to create nested block schema for block type '{name}' due to missing definition."))
                };
                let definitions = definitions.ok_or_else(missing)?;
                let create = BlockSchemaCreate {
                    fields: definition_of(name, slug, fields, definitions).ok_or_else(missing)?.clone(),
                    block_type_id: block_type.id,
                    capabilities: Vec::new(),
                    version: NO_VERSION.to_owned(),
                };
                Box::pin(create_inside(tx, now, create, Some(definitions), depth + 1)).await?.0.id
            };
            let reference = SchemaReference { name: name.clone(), parent, reference: inner };
            if stored.insert((reference.name.clone(), inner)) {
                store::insert_reference(tx, BlockSchemaReferenceId::fresh(), now, &reference).await?;
            }
        }
    }
    Ok(())
}

/// The definition of the block of type `slug` in the field `name`: the only one that the field refers to, or the one
/// that says it is of that type.
fn definition_of<'a>(
    name: &str,
    slug: &str,
    fields: &Map<String, Value>,
    definitions: &'a Map<String, Value>,
) -> Option<&'a Map<String, Value>> {
    let names = checksum::references_in(fields.get("properties")?.get(name)?);
    let mut found = names.iter().filter_map(|name| definitions.get(*name)?.as_object());
    if names.len() == 1 { found.next() } else { found.find(|definition| definition.get("block_type_slug").is_some_and(|is| is == slug)) }
}

/// Reads a schema by its id, whole.
pub async fn by_id(tx: &mut Tx, id: BlockSchemaId) -> Result<Option<BlockSchema>, BlockError> {
    let found = store::by_ids(tx, &[id]).await?;
    Ok(whole(tx, found).await?.pop())
}

/// Reads the newest schema of a checksum, of any version unless one is given, whole.
pub async fn by_checksum(tx: &mut Tx, checksum: &str, version: Option<&str>) -> Result<Option<BlockSchema>, BlockError> {
    let found = store::by_checksum(tx, checksum, version).await?;
    Ok(whole(tx, found.into_iter().collect()).await?.pop())
}

/// Puts the schemas inside these back, as far as they are there.
pub async fn whole(tx: &mut Tx, schemas: Vec<BlockSchema>) -> Result<Vec<BlockSchema>, BlockError> {
    let mut graph = Graph::default();
    let mut level = schemas.clone();
    while !level.is_empty() {
        let ids: Vec<BlockSchemaId> = level.iter().map(|schema| schema.id).collect();
        graph.schemas.extend(level.drain(..).map(|schema| (schema.id, schema)));
        let references = store::references(tx, &ids).await?;
        let mut unknown: Vec<BlockSchemaId> =
            references.iter().map(|reference| reference.reference).filter(|id| !graph.schemas.contains_key(id)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        for reference in references {
            graph.references.entry(reference.parent).or_default().push(reference);
        }
        if !unknown.is_empty() {
            level = store::by_ids(tx, &unknown).await?;
        }
    }
    Ok(schemas.into_iter().map(|schema| graph.whole(&schema, 0)).collect())
}

#[derive(Default)]
struct Graph {
    schemas: HashMap<BlockSchemaId, BlockSchema>,
    references: HashMap<BlockSchemaId, Vec<SchemaReference>>,
}

impl Graph {
    fn whole(&self, schema: &BlockSchema, depth: usize) -> BlockSchema {
        let mut names: Map<String, Value> = Map::new();
        let mut definitions: Map<String, Value> = Map::new();
        for reference in self.references.get(&schema.id).into_iter().flatten() {
            let Some(inner) = self.schemas.get(&reference.reference) else { continue };
            let slug = inner.block_type.as_ref().map(|block_type| block_type.slug.as_str());
            add_reference(&mut names, &reference.name, json!({"block_schema_checksum": inner.checksum, "block_type_slug": slug}));
            if depth < DEPTH {
                add_definition(&mut definitions, self.whole(inner, depth + 1));
            }
        }
        let mut whole = schema.clone();
        whole.fields.insert("block_schema_references".to_owned(), Value::Object(names));
        if !definitions.is_empty() {
            let entry = whole.fields.entry("definitions").or_insert_with(|| json!({}));
            if let Some(existing) = entry.as_object_mut() {
                existing.extend(definitions);
            }
        }
        whole
    }
}

/// One reference of a name stands alone, several are a list.
fn add_reference(names: &mut Map<String, Value>, name: &str, reference: Value) {
    match names.get_mut(name) {
        None => drop(names.insert(name.to_owned(), reference)),
        Some(Value::Array(several)) if !several.contains(&reference) => several.push(reference),
        Some(Value::Array(_)) => {}
        Some(one) if *one != reference => *one = json!([one.take(), reference]),
        Some(_) => {}
    }
}

/// Definitions are flat: those of an inner block stand beside it. A block is known by its title.
fn add_definition(definitions: &mut Map<String, Value>, mut inner: BlockSchema) {
    let Some(title) = inner.fields.get("title").and_then(Value::as_str).map(str::to_owned) else { return };
    let below = inner.fields.remove("definitions");
    definitions.insert(title, Value::Object(inner.fields));
    if let Some(Value::Object(below)) = below {
        definitions.extend(below);
    }
}
