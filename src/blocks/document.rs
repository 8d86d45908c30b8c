//! Documents inside documents: a field may hold `{"$ref": {"block_document_id": ...}}`, which is stored as a reference
//! and read as the data of the document it names (`prefect/server/models/block_documents.py`).

use std::collections::HashMap;

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::secret::{self, Cipher};
use super::{BlockError, DEPTH, schema};
use crate::clock::Timestamp;
use crate::id::{BlockDocumentId, BlockDocumentReferenceId, BlockSchemaId, BlockTypeId};
use crate::model::block::{
    BlockDocument, BlockDocumentCreate, BlockDocumentReference, BlockDocumentUpdate, BlockSchema, BlockType, ReferencedDocument,
};
use crate::store::block_documents::{self as store, DocumentReference, StoredDocument};
use crate::store::{Tx, block_schemas, block_types};

/// Stores a document.
///
/// # Errors
/// [`BlockError::Invalid`] for a reference that names no document or leads back here; the store's for a name that is
/// taken and for a schema that does not exist.
pub async fn create(tx: &mut Tx, cipher: &Cipher, now: Timestamp, create: BlockDocumentCreate) -> Result<BlockDocumentId, BlockError> {
    let block_type = block_types::read(tx, &block_types::Key::Id(create.block_type_id)).await?;
    let block_type = block_type.ok_or_else(|| BlockError::Invalid(format!("Block type {} not found", create.block_type_id)))?;
    let (data, references) = separate(create.data)?;
    let id = BlockDocumentId::fresh();
    let document = StoredDocument {
        id,
        created: now,
        updated: now,
        name: create.name.unwrap_or_else(|| format!("anonymous-{}", crate::id::v4())),
        data: cipher.encrypt(&data),
        block_schema_id: create.block_schema_id,
        block_type_id: create.block_type_id,
        block_type_name: Some(block_type.name),
        is_anonymous: create.is_anonymous,
    };
    store::insert(tx, &document).await?;
    for (name, reference) in references {
        add_reference(tx, now, DocumentReference { id: BlockDocumentReferenceId::fresh(), name, parent: id, reference }).await?;
    }
    Ok(id)
}

/// Changes a document; false where there is none.
///
/// # Errors
/// As [`create`], and [`BlockError::Invalid`] for a schema of another type.
pub async fn update(
    tx: &mut Tx,
    cipher: &Cipher,
    id: BlockDocumentId,
    now: Timestamp,
    update: BlockDocumentUpdate,
) -> Result<bool, BlockError> {
    let Some(current) = store::lock(tx, id).await? else { return Ok(false) };
    let given = match update.data {
        Some(data) => data,
        None if update.merge_existing_data => return Ok(true),
        None => Map::new(),
    };
    let current_schema = block_schemas::by_ids(tx, &[current.block_schema_id]).await?.pop();
    let secret_fields = current_schema.iter().flat_map(BlockSchema::secret_fields);
    let current_data = cipher.decrypt(&current.data)?;
    let mut data = secret::keep_unseen(given, &current_data, secret_fields);
    if update.merge_existing_data {
        let mut merged = current_data;
        merged.extend(data);
        data = merged;
    }
    let (data, references) = separate(data)?;

    let schema_id = update.block_schema_id.unwrap_or(current.block_schema_id);
    if schema_id != current.block_schema_id {
        let proposed = block_schemas::by_ids(tx, &[schema_id]).await?.pop();
        let proposed = proposed.ok_or_else(|| BlockError::Invalid(format!("Block schema {schema_id} not found")))?;
        if proposed.block_type_id != current.block_type_id {
            return Err(BlockError::Invalid("Must migrate block document to a block schema of the same block type.".to_owned()));
        }
    }
    store::update(tx, id, now, cipher.encrypt(&data), schema_id).await?;

    let mut gone = store::references(tx, &[id]).await?;
    for (name, reference) in references {
        match gone.iter().position(|existing| existing.name == name && existing.reference == reference) {
            Some(kept) => drop(gone.swap_remove(kept)),
            None => {
                add_reference(tx, now, DocumentReference { id: BlockDocumentReferenceId::fresh(), name, parent: id, reference }).await?;
            }
        }
    }
    if !gone.is_empty() {
        let gone: Vec<BlockDocumentReferenceId> = gone.iter().map(|reference| reference.id).collect();
        store::delete_references(tx, &gone).await?;
    }
    Ok(true)
}

/// The data without references, and the references by the field that held them. Only fields of the document itself
/// hold references.
type Separated = (Map<String, Value>, Vec<(String, BlockDocumentId)>);

fn separate(data: Map<String, Value>) -> Result<Separated, BlockError> {
    let (mut plain, mut references) = (Map::new(), Vec::new());
    for (key, value) in data {
        let Some(reference) = value.as_object().and_then(|object| object.get("$ref")) else {
            plain.insert(key, value);
            continue;
        };
        let missing = || BlockError::Invalid(format!("Received block reference without a block_document_id in key {key}"));
        let given = reference.get("block_document_id").and_then(Value::as_str).ok_or_else(missing)?;
        let wrong = |_| BlockError::Invalid(format!("Received block reference with a malformed block_document_id in key {key}"));
        references.push((key.clone(), given.parse().map_err(wrong)?));
    }
    Ok((plain, references))
}

async fn add_reference(tx: &mut Tx, now: Timestamp, reference: DocumentReference) -> Result<(), BlockError> {
    if leads_to(tx, reference.reference, reference.parent).await? {
        return Err(BlockError::Invalid(format!(
            "Cannot create block document reference: it would introduce a cycle into the block_document_reference graph \
             (parent={}, reference={}).",
            reference.parent, reference.reference
        )));
    }
    Ok(store::insert_reference(tx, now, &reference).await?)
}

/// True where `to` is `from` or inside it, at any depth.
async fn leads_to(tx: &mut Tx, from: BlockDocumentId, to: BlockDocumentId) -> Result<bool, BlockError> {
    let mut visited = Vec::new();
    let mut level = vec![from];
    while !level.is_empty() {
        if level.contains(&to) {
            return Ok(true);
        }
        visited.append(&mut level.clone());
        level = store::references(tx, &level).await?.into_iter().map(|reference| reference.reference).collect();
        level.retain(|id| !visited.contains(id));
        level.sort_unstable();
        level.dedup();
    }
    Ok(false)
}

/// Reads one document, whole.
pub async fn by_id(tx: &mut Tx, cipher: &Cipher, id: BlockDocumentId, secrets: bool) -> Result<Option<BlockDocument>, BlockError> {
    let found = store::by_ids(tx, &[id]).await?;
    Ok(whole(tx, cipher, found, secrets).await?.pop())
}

/// Decrypts documents, puts those inside them and their schemas in, and stars in place of secrets unless `secrets`.
///
/// # Errors
/// [`BlockError::Cipher`], and [`BlockError::Invalid`] where documents are nested too deep.
pub async fn whole(tx: &mut Tx, cipher: &Cipher, documents: Vec<StoredDocument>, secrets: bool) -> Result<Vec<BlockDocument>, BlockError> {
    let mut graph =
        Graph { cipher, secrets, documents: HashMap::new(), references: HashMap::new(), schemas: HashMap::new(), types: HashMap::new() };
    let mut level = documents.clone();
    while !level.is_empty() {
        let ids: Vec<BlockDocumentId> = level.iter().map(|document| document.id).collect();
        graph.documents.extend(level.drain(..).map(|document| (document.id, document)));
        let references = store::references(tx, &ids).await?;
        let mut unknown: Vec<BlockDocumentId> =
            references.iter().map(|reference| reference.reference).filter(|id| !graph.documents.contains_key(id)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        for reference in references {
            graph.references.entry(reference.parent).or_default().push(reference);
        }
        if !unknown.is_empty() {
            level = store::by_ids(tx, &unknown).await?;
        }
    }
    if documents.is_empty() {
        return Ok(Vec::new());
    }
    let ids = distinct(graph.documents.values().map(|document| document.block_schema_id));
    let schemas = block_schemas::by_ids(tx, &ids).await?;
    let roots = distinct(documents.iter().map(|document| document.block_schema_id));
    let (roots, inner): (Vec<_>, Vec<_>) = schemas.into_iter().partition(|schema| roots.contains(&schema.id));
    graph.schemas = schema::whole(tx, roots).await?.into_iter().chain(inner).map(|schema| (schema.id, schema)).collect();
    graph.types = block_types::by_ids(tx, &distinct(graph.documents.values().map(|document| document.block_type_id))).await?;

    let mut all = Vec::with_capacity(documents.len());
    for document in &documents {
        if let Some(mut document) = graph.whole(document, 0)? {
            document.block_schema = graph.schemas.get(&document.block_schema_id).cloned();
            all.push(document);
        }
    }
    Ok(all)
}

fn distinct<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.dedup();
    items
}

struct Graph<'a> {
    cipher: &'a Cipher,
    secrets: bool,
    documents: HashMap<BlockDocumentId, StoredDocument>,
    references: HashMap<BlockDocumentId, Vec<DocumentReference>>,
    schemas: HashMap<BlockSchemaId, BlockSchema>,
    types: HashMap<BlockTypeId, BlockType>,
}

impl Graph<'_> {
    /// `None` where the schema was deleted meanwhile, and the document with it.
    fn whole(&self, stored: &StoredDocument, depth: usize) -> Result<Option<BlockDocument>, BlockError> {
        if depth > DEPTH {
            return Err(BlockError::Invalid(format!(
                "Block document reference graph exceeds max depth {DEPTH}; refusing to recurse further."
            )));
        }
        let Some(schema) = self.schemas.get(&stored.block_schema_id) else { return Ok(None) };
        let mut data = self.cipher.decrypt(&stored.data)?;
        if !self.secrets {
            data = secret::obfuscate(data, schema.secret_fields());
        }
        let mut references = IndexMap::new();
        for reference in self.references.get(&stored.id).into_iter().flatten() {
            let Some(inner) = self.documents.get(&reference.reference) else { continue };
            let Some(inner) = self.whole(inner, depth + 1)? else { continue };
            data.insert(reference.name.clone(), json!(inner.data));
            let block_document = ReferencedDocument {
                id: inner.id,
                name: inner.name,
                block_type: inner.block_type,
                is_anonymous: inner.is_anonymous,
                block_document_references: inner.block_document_references,
            };
            references.insert(reference.name.clone(), BlockDocumentReference { block_document });
        }
        Ok(Some(BlockDocument {
            id: stored.id,
            created: stored.created,
            updated: stored.updated,
            name: stored.name.clone(),
            data,
            block_schema_id: stored.block_schema_id,
            block_schema: None,
            block_type_id: stored.block_type_id,
            block_type_name: stored.block_type_name.clone(),
            block_type: self.types.get(&stored.block_type_id).cloned(),
            block_document_references: references,
            is_anonymous: stored.is_anonymous,
        }))
    }
}
