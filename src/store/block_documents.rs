//! Tables `block_document` and `block_document_reference`. Data are stored encrypted and without the documents that
//! they refer to; `blocks/document.rs` decrypts and puts together.

use sea_query::{Asterisk, Expr, ExprTrait, Func, Order, Query, SelectStatement};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::id::{BlockDocumentId, BlockDocumentReferenceId, BlockSchemaId, BlockTypeId};
use crate::model::block::BlockDocumentSort;
use crate::model::filter::block::BlockFilters;
use crate::store::filter::block;
use crate::store::schema as t;
use crate::store::{Row, StoreError, Tx};

/// A document as it is stored.
#[derive(Debug, Clone)]
pub struct StoredDocument {
    pub id: BlockDocumentId,
    pub created: Timestamp,
    pub updated: Timestamp,
    pub name: String,
    /// A JSON string: the encrypted data.
    pub data: Value,
    pub block_schema_id: BlockSchemaId,
    pub block_type_id: BlockTypeId,
    pub block_type_name: Option<String>,
    pub is_anonymous: bool,
}

const COLUMNS: [t::BlockDocument; 9] = [
    t::BlockDocument::Id,
    t::BlockDocument::Created,
    t::BlockDocument::Updated,
    t::BlockDocument::Name,
    t::BlockDocument::Data,
    t::BlockDocument::BlockSchemaId,
    t::BlockDocument::BlockTypeId,
    t::BlockDocument::BlockTypeName,
    t::BlockDocument::IsAnonymous,
];

fn select() -> SelectStatement {
    Query::select().columns(COLUMNS.map(|column| (t::BlockDocument::Table, column))).from(t::BlockDocument::Table).take()
}

fn decode(row: &Row) -> Result<StoredDocument, StoreError> {
    Ok(StoredDocument {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        name: row.get("name")?,
        data: row.get("data")?,
        block_schema_id: row.get("block_schema_id")?,
        block_type_id: row.get("block_type_id")?,
        block_type_name: row.get("block_type_name")?,
        is_anonymous: row.get("is_anonymous")?,
    })
}

/// Inserts a document.
///
/// # Errors
/// [`StoreError::Unique`] where the type has a document of this name.
pub async fn insert(tx: &mut Tx, document: &StoredDocument) -> Result<(), StoreError> {
    let insert = Query::insert()
        .into_table(t::BlockDocument::Table)
        .columns(COLUMNS)
        .values_panic([
            document.id.into(),
            document.created.into(),
            document.updated.into(),
            document.name.as_str().into(),
            document.data.clone().into(),
            document.block_schema_id.into(),
            document.block_type_id.into(),
            document.block_type_name.clone().into(),
            document.is_anonymous.into(),
        ])
        .to_owned();
    tx.execute(&insert).await?;
    Ok(())
}

/// Reads documents by their ids.
pub async fn by_ids(tx: &mut Tx, ids: &[BlockDocumentId]) -> Result<Vec<StoredDocument>, StoreError> {
    let dialect = tx.dialect();
    let rows = tx.fetch_all(select().and_where(dialect.any_id(Expr::col((t::BlockDocument::Table, t::BlockDocument::Id)), ids))).await?;
    rows.iter().map(decode).collect()
}

/// Reads one document and holds it against change until the end of the transaction.
pub async fn lock(tx: &mut Tx, id: BlockDocumentId) -> Result<Option<StoredDocument>, StoreError> {
    let mut select = select();
    select.and_where(Expr::col((t::BlockDocument::Table, t::BlockDocument::Id)).eq(id));
    tx.dialect().for_update(&mut select);
    tx.fetch_optional(&select).await?.as_ref().map(decode).transpose()
}

/// Lists documents.
pub async fn list(
    tx: &mut Tx,
    filters: &BlockFilters,
    sort: BlockDocumentSort,
    limit: u64,
    offset: u64,
) -> Result<Vec<StoredDocument>, StoreError> {
    let column = |column| (t::BlockDocument::Table, column);
    let mut select = select();
    match sort {
        BlockDocumentSort::NameDesc => select.order_by(column(t::BlockDocument::Name), Order::Desc),
        BlockDocumentSort::NameAsc => select.order_by(column(t::BlockDocument::Name), Order::Asc),
        BlockDocumentSort::BlockTypeAndNameAsc => {
            select.order_by(column(t::BlockDocument::BlockTypeName), Order::Asc).order_by(column(t::BlockDocument::Name), Order::Asc)
        }
    };
    select
        .cond_where(block::block_documents(filters, tx.dialect()))
        .order_by(column(t::BlockDocument::Id), Order::Asc)
        .limit(limit)
        .offset(offset);
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Counts documents.
pub async fn count(tx: &mut Tx, filters: &BlockFilters) -> Result<i64, StoreError> {
    let mut select = Query::select();
    select
        .expr_as(Func::count(Expr::col(Asterisk)), "count")
        .from(t::BlockDocument::Table)
        .cond_where(block::block_documents(filters, tx.dialect()));
    tx.fetch_one(&select).await?.get("count")
}

/// True where the type has a document of this name.
pub async fn name_is_taken(tx: &mut Tx, block_type: BlockTypeId, name: &str) -> Result<bool, StoreError> {
    let select = Query::select()
        .column(t::BlockDocument::Id)
        .from(t::BlockDocument::Table)
        .and_where(Expr::col(t::BlockDocument::BlockTypeId).eq(block_type))
        .and_where(Expr::col(t::BlockDocument::Name).eq(name))
        .take();
    Ok(tx.fetch_optional(&select).await?.is_some())
}

/// Replaces the data of a document, and its schema.
pub async fn update(tx: &mut Tx, id: BlockDocumentId, now: Timestamp, data: Value, schema: BlockSchemaId) -> Result<(), StoreError> {
    let mut statement = Query::update();
    statement
        .table(t::BlockDocument::Table)
        .value(t::BlockDocument::Updated, now)
        .value(t::BlockDocument::Data, data)
        .value(t::BlockDocument::BlockSchemaId, schema)
        .and_where(Expr::col(t::BlockDocument::Id).eq(id));
    tx.execute(&statement).await?;
    Ok(())
}

/// Deletes a document; true where there was one.
pub async fn delete(tx: &mut Tx, id: BlockDocumentId) -> Result<bool, StoreError> {
    Ok(tx.execute(Query::delete().from_table(t::BlockDocument::Table).and_where(Expr::col(t::BlockDocument::Id).eq(id))).await? > 0)
}

/// One document inside another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentReference {
    pub id: BlockDocumentReferenceId,
    /// The field.
    pub name: String,
    pub parent: BlockDocumentId,
    pub reference: BlockDocumentId,
}

/// The references from these documents, by name.
pub async fn references(tx: &mut Tx, parents: &[BlockDocumentId]) -> Result<Vec<DocumentReference>, StoreError> {
    let dialect = tx.dialect();
    let select = Query::select()
        .columns([
            t::BlockDocumentReference::Id,
            t::BlockDocumentReference::Name,
            t::BlockDocumentReference::ParentBlockDocumentId,
            t::BlockDocumentReference::ReferenceBlockDocumentId,
        ])
        .from(t::BlockDocumentReference::Table)
        .and_where(dialect.any_id(Expr::col(t::BlockDocumentReference::ParentBlockDocumentId), parents))
        .order_by(t::BlockDocumentReference::Name, Order::Asc)
        .order_by(t::BlockDocumentReference::Id, Order::Asc)
        .take();
    let decode = |row: &Row| {
        Ok(DocumentReference {
            id: row.get("id")?,
            name: row.get("name")?,
            parent: row.get("parent_block_document_id")?,
            reference: row.get("reference_block_document_id")?,
        })
    };
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Inserts a reference.
///
/// # Errors
/// [`StoreError::Integrity`] where there is no such document, or where it is the parent.
pub async fn insert_reference(tx: &mut Tx, now: Timestamp, reference: &DocumentReference) -> Result<(), StoreError> {
    let insert = Query::insert()
        .into_table(t::BlockDocumentReference::Table)
        .columns([
            t::BlockDocumentReference::Id,
            t::BlockDocumentReference::Created,
            t::BlockDocumentReference::Updated,
            t::BlockDocumentReference::Name,
            t::BlockDocumentReference::ParentBlockDocumentId,
            t::BlockDocumentReference::ReferenceBlockDocumentId,
        ])
        .values_panic([
            reference.id.into(),
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

/// Deletes references.
pub async fn delete_references(tx: &mut Tx, ids: &[BlockDocumentReferenceId]) -> Result<(), StoreError> {
    let dialect = tx.dialect();
    let delete = Query::delete()
        .from_table(t::BlockDocumentReference::Table)
        .and_where(dialect.any_id(Expr::col(t::BlockDocumentReference::Id), ids))
        .to_owned();
    tx.execute(&delete).await?;
    Ok(())
}
