//! Tables `block_schema` and `block_schema_reference`. What is stored of a schema leaves out the schemas inside it;
//! `blocks/schema.rs` puts them back.

use sea_query::{Expr, ExprTrait, OnConflict, Order, Query, SelectStatement};
use serde_json::{Map, Value, json};

use crate::clock::Timestamp;
use crate::id::{BlockSchemaId, BlockSchemaReferenceId, BlockTypeId};
use crate::model::block::BlockSchema;
use crate::model::filter::block::BlockSchemaFilter;
use crate::store::filter::block;
use crate::store::schema as t;
use crate::store::{Row, StoreError, Tx, block_types};

const COLUMNS: [t::BlockSchema; 8] = [
    t::BlockSchema::Id,
    t::BlockSchema::Created,
    t::BlockSchema::Updated,
    t::BlockSchema::Checksum,
    t::BlockSchema::Fields,
    t::BlockSchema::BlockTypeId,
    t::BlockSchema::Capabilities,
    t::BlockSchema::Version,
];

fn select() -> SelectStatement {
    Query::select().columns(COLUMNS.map(|column| (t::BlockSchema::Table, column))).from(t::BlockSchema::Table).take()
}

fn decode(row: &Row) -> Result<BlockSchema, StoreError> {
    Ok(BlockSchema {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        checksum: row.get("checksum")?,
        fields: row.json("fields")?,
        block_type_id: row.get("block_type_id")?,
        block_type: None,
        capabilities: row.json("capabilities")?,
        version: row.get("version")?,
    })
}

/// Runs the query and puts each schema's type in.
async fn fetch(tx: &mut Tx, select: &SelectStatement) -> Result<Vec<BlockSchema>, StoreError> {
    let mut schemas: Vec<BlockSchema> = tx.fetch_all(select).await?.iter().map(decode).collect::<Result<_, _>>()?;
    if schemas.is_empty() {
        return Ok(schemas);
    }
    let mut ids: Vec<BlockTypeId> = schemas.iter().map(|schema| schema.block_type_id).collect();
    ids.sort_unstable();
    ids.dedup();
    let types = block_types::by_ids(tx, &ids).await?;
    for schema in &mut schemas {
        schema.block_type = types.get(&schema.block_type_id).cloned();
    }
    Ok(schemas)
}

/// A row to insert.
#[derive(Debug, Clone, Copy)]
pub struct NewSchema<'a> {
    pub checksum: &'a str,
    pub fields: &'a Map<String, Value>,
    pub block_type_id: BlockTypeId,
    pub capabilities: &'a [String],
    pub version: &'a str,
}

/// Inserts a schema unless one of its checksum and version exists; true where it was inserted.
pub async fn insert(tx: &mut Tx, id: BlockSchemaId, now: Timestamp, schema: NewSchema<'_>) -> Result<bool, StoreError> {
    let mut insert = Query::insert();
    insert
        .into_table(t::BlockSchema::Table)
        .columns(COLUMNS)
        .values_panic([
            id.into(),
            now.into(),
            now.into(),
            schema.checksum.into(),
            Value::Object(schema.fields.clone()).into(),
            schema.block_type_id.into(),
            json!(schema.capabilities).into(),
            schema.version.into(),
        ])
        .on_conflict(OnConflict::columns([t::BlockSchema::Checksum, t::BlockSchema::Version]).do_nothing().to_owned());
    Ok(tx.execute(&insert).await? > 0)
}

/// Reads schemas by their ids, oldest first.
pub async fn by_ids(tx: &mut Tx, ids: &[BlockSchemaId]) -> Result<Vec<BlockSchema>, StoreError> {
    let dialect = tx.dialect();
    let mut select = select();
    select
        .and_where(dialect.any_id(Expr::col((t::BlockSchema::Table, t::BlockSchema::Id)), ids))
        .order_by((t::BlockSchema::Table, t::BlockSchema::Created), Order::Asc)
        .order_by((t::BlockSchema::Table, t::BlockSchema::Id), Order::Asc);
    fetch(tx, &select).await
}

/// Reads the newest schema of a checksum, of any version unless one is given.
pub async fn by_checksum(tx: &mut Tx, checksum: &str, version: Option<&str>) -> Result<Option<BlockSchema>, StoreError> {
    let mut select = select();
    select
        .and_where(Expr::col((t::BlockSchema::Table, t::BlockSchema::Checksum)).eq(checksum))
        .order_by((t::BlockSchema::Table, t::BlockSchema::Created), Order::Desc)
        .limit(1);
    if let Some(version) = version {
        select.and_where(Expr::col((t::BlockSchema::Table, t::BlockSchema::Version)).eq(version));
    }
    Ok(fetch(tx, &select).await?.pop())
}

/// Lists schemas, newest first.
pub async fn list(tx: &mut Tx, filter: Option<&BlockSchemaFilter>, limit: u64, offset: u64) -> Result<Vec<BlockSchema>, StoreError> {
    let mut select = select();
    if let Some(filter) = filter {
        select.cond_where(block::block_schema(filter, tx.dialect()));
    }
    select
        .order_by((t::BlockSchema::Table, t::BlockSchema::Created), Order::Desc)
        .order_by((t::BlockSchema::Table, t::BlockSchema::Id), Order::Desc)
        .limit(limit)
        .offset(offset);
    fetch(tx, &select).await
}

/// Deletes a schema with its documents (by the database); true where there was one.
pub async fn delete(tx: &mut Tx, id: BlockSchemaId) -> Result<bool, StoreError> {
    Ok(tx.execute(Query::delete().from_table(t::BlockSchema::Table).and_where(Expr::col(t::BlockSchema::Id).eq(id))).await? > 0)
}

/// Every capability that some schema has, sorted.
pub async fn capabilities(tx: &mut Tx) -> Result<Vec<String>, StoreError> {
    let select = Query::select().distinct().column(t::BlockSchema::Capabilities).from(t::BlockSchema::Table).take();
    let mut all = Vec::new();
    for row in tx.fetch_all(&select).await? {
        all.extend(row.json::<Vec<String>>("capabilities")?);
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// One schema inside another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaReference {
    /// The field.
    pub name: String,
    pub parent: BlockSchemaId,
    pub reference: BlockSchemaId,
}

/// The references from these schemas.
pub async fn references(tx: &mut Tx, parents: &[BlockSchemaId]) -> Result<Vec<SchemaReference>, StoreError> {
    let dialect = tx.dialect();
    let select = Query::select()
        .columns([
            t::BlockSchemaReference::Name,
            t::BlockSchemaReference::ParentBlockSchemaId,
            t::BlockSchemaReference::ReferenceBlockSchemaId,
        ])
        .from(t::BlockSchemaReference::Table)
        .and_where(dialect.any_id(Expr::col(t::BlockSchemaReference::ParentBlockSchemaId), parents))
        .order_by(t::BlockSchemaReference::Created, Order::Asc)
        .order_by(t::BlockSchemaReference::Id, Order::Asc)
        .take();
    let decode = |row: &Row| {
        Ok(SchemaReference {
            name: row.get("name")?,
            parent: row.get("parent_block_schema_id")?,
            reference: row.get("reference_block_schema_id")?,
        })
    };
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Inserts a reference that does not exist yet.
pub async fn insert_reference(
    tx: &mut Tx,
    id: BlockSchemaReferenceId,
    now: Timestamp,
    reference: &SchemaReference,
) -> Result<(), StoreError> {
    let insert = Query::insert()
        .into_table(t::BlockSchemaReference::Table)
        .columns([
            t::BlockSchemaReference::Id,
            t::BlockSchemaReference::Created,
            t::BlockSchemaReference::Updated,
            t::BlockSchemaReference::Name,
            t::BlockSchemaReference::ParentBlockSchemaId,
            t::BlockSchemaReference::ReferenceBlockSchemaId,
        ])
        .values_panic([
            id.into(),
            now.into(),
            now.into(),
            reference.name.as_str().into(),
            reference.parent.into(),
            reference.reference.into(),
        ])
        .to_owned();
    tx.execute(&insert).await?;
    Ok(())
}
