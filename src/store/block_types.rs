//! Table `block_type`.

use std::collections::HashMap;

use sea_query::{Expr, ExprTrait, OnConflict, Order, Query, SelectStatement};

use crate::clock::Timestamp;
use crate::id::BlockTypeId;
use crate::model::block::{BlockType, BlockTypeCreate, BlockTypeUpdate, escape_html};
use crate::model::filter::block::{BlockSchemaFilter, BlockTypeFilter};
use crate::store::filter::block;
use crate::store::schema as t;
use crate::store::{Row, StoreError, Tx};

const COLUMNS: [t::BlockType; 10] = [
    t::BlockType::Id,
    t::BlockType::Created,
    t::BlockType::Updated,
    t::BlockType::Name,
    t::BlockType::Slug,
    t::BlockType::LogoUrl,
    t::BlockType::DocumentationUrl,
    t::BlockType::Description,
    t::BlockType::CodeExample,
    t::BlockType::IsProtected,
];

fn select() -> SelectStatement {
    Query::select().columns(COLUMNS.map(|column| (t::BlockType::Table, column))).from(t::BlockType::Table).take()
}

fn decode(row: &Row) -> Result<BlockType, StoreError> {
    Ok(BlockType {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        name: row.get("name")?,
        slug: row.get("slug")?,
        logo_url: row.get("logo_url")?,
        documentation_url: row.get("documentation_url")?,
        description: row.get("description")?,
        code_example: row.get("code_example")?,
        is_protected: row.get("is_protected")?,
    })
}

/// Names a block type by its id or its slug.
#[derive(Debug, Clone)]
pub enum Key {
    Id(BlockTypeId),
    Slug(String),
}

fn key_is(key: &Key) -> Expr {
    match key {
        Key::Id(id) => Expr::col((t::BlockType::Table, t::BlockType::Id)).eq(*id),
        Key::Slug(slug) => Expr::col((t::BlockType::Table, t::BlockType::Slug)).eq(slug.as_str()),
    }
}

/// What to do where the slug is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// [`StoreError::Unique`].
    Error,
    /// Leave the type as it is.
    Keep,
}

/// Inserts a block type; true where it was inserted. Addresses are trimmed and texts escaped, as the reference does.
pub async fn insert(
    tx: &mut Tx,
    id: BlockTypeId,
    now: Timestamp,
    create: &BlockTypeCreate,
    is_protected: bool,
    taken: Taken,
) -> Result<bool, StoreError> {
    let trimmed = |text: &Option<String>| text.as_ref().map(|text| text.trim().to_owned());
    let escaped = |text: &Option<String>| text.as_ref().map(|text| escape_html(text));
    let mut insert = Query::insert();
    insert.into_table(t::BlockType::Table).columns(COLUMNS).values_panic([
        id.into(),
        now.into(),
        now.into(),
        create.name.as_str().into(),
        create.slug.as_str().into(),
        trimmed(&create.logo_url).into(),
        trimmed(&create.documentation_url).into(),
        escaped(&create.description).into(),
        escaped(&create.code_example).into(),
        is_protected.into(),
    ]);
    if taken == Taken::Keep {
        insert.on_conflict(OnConflict::column(t::BlockType::Slug).do_nothing().to_owned());
    }
    Ok(tx.execute(&insert).await? > 0)
}

/// Reads one block type.
pub async fn read(tx: &mut Tx, key: &Key) -> Result<Option<BlockType>, StoreError> {
    tx.fetch_optional(select().and_where(key_is(key))).await?.as_ref().map(decode).transpose()
}

/// Reads block types by their ids.
pub async fn by_ids(tx: &mut Tx, ids: &[BlockTypeId]) -> Result<HashMap<BlockTypeId, BlockType>, StoreError> {
    let dialect = tx.dialect();
    let rows = tx.fetch_all(select().and_where(dialect.any_id(Expr::col((t::BlockType::Table, t::BlockType::Id)), ids))).await?;
    rows.iter().map(|row| decode(row).map(|block_type| (block_type.id, block_type))).collect()
}

/// Lists block types by name; with a filter on schemas, those that have such a schema.
pub async fn list(
    tx: &mut Tx,
    types: Option<&BlockTypeFilter>,
    schemas: Option<&BlockSchemaFilter>,
    limit: u64,
    offset: u64,
) -> Result<Vec<BlockType>, StoreError> {
    let dialect = tx.dialect();
    let mut select = select();
    if let Some(filter) = types {
        select.cond_where(block::block_type(filter, dialect));
    }
    if let Some(filter) = schemas {
        let with = Query::select()
            .expr(Expr::val(1))
            .from(t::BlockSchema::Table)
            .and_where(Expr::col((t::BlockSchema::Table, t::BlockSchema::BlockTypeId)).equals((t::BlockType::Table, t::BlockType::Id)))
            .cond_where(block::block_schema(filter, dialect))
            .take();
        select.and_where(Expr::exists(with));
    }
    select
        .order_by((t::BlockType::Table, t::BlockType::Name), Order::Asc)
        .order_by((t::BlockType::Table, t::BlockType::Id), Order::Asc)
        .limit(limit)
        .offset(offset);
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Changes a block type; true where there was one.
pub async fn update(tx: &mut Tx, id: BlockTypeId, now: Timestamp, update: &BlockTypeUpdate) -> Result<bool, StoreError> {
    let mut statement = Query::update();
    statement.table(t::BlockType::Table).value(t::BlockType::Updated, now).and_where(Expr::col(t::BlockType::Id).eq(id));
    for (column, patch) in [
        (t::BlockType::LogoUrl, &update.logo_url),
        (t::BlockType::DocumentationUrl, &update.documentation_url),
        (t::BlockType::Description, &update.description),
        (t::BlockType::CodeExample, &update.code_example),
    ] {
        if let Some(value) = patch.clone().into_option() {
            statement.value(column, value);
        }
    }
    Ok(tx.execute(&statement).await? > 0)
}

/// Marks a type as protected or not.
pub async fn protect(tx: &mut Tx, id: BlockTypeId, now: Timestamp, is_protected: bool) -> Result<(), StoreError> {
    let mut statement = Query::update();
    statement
        .table(t::BlockType::Table)
        .value(t::BlockType::Updated, now)
        .value(t::BlockType::IsProtected, is_protected)
        .and_where(Expr::col(t::BlockType::Id).eq(id));
    tx.execute(&statement).await?;
    Ok(())
}

/// Deletes a block type with its schemas and documents (by the database).
pub async fn delete(tx: &mut Tx, id: BlockTypeId) -> Result<bool, StoreError> {
    Ok(tx.execute(Query::delete().from_table(t::BlockType::Table).and_where(Expr::col(t::BlockType::Id).eq(id))).await? > 0)
}
