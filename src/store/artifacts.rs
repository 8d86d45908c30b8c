//! Tables `artifact` and `artifact_collection`. A collection is one key with a copy of its newest artifact, kept by the
//! functions here in the same transaction.

use sea_query::{Asterisk, Expr, ExprTrait, Func, Iden, IntoIden, OnConflict, Order, Query, SelectStatement, UpdateStatement, Value};
use serde_json::{Value as Json, json};

use crate::clock::Timestamp;
use crate::id::{ArtifactCollectionId, ArtifactId};
use crate::model::artifact::{Artifact, ArtifactCollection, ArtifactCreate, ArtifactSort, ArtifactUpdate, Metadata};
use crate::model::filter::Filters;
use crate::model::filter::artifact::{ArtifactCollectionFilter, ArtifactFilter};
use crate::store::filter::artifact as condition;
use crate::store::schema as t;
use crate::store::{Row, StoreError, Tx};

const COLUMNS: [t::Artifact; 10] = [
    t::Artifact::Id,
    t::Artifact::Created,
    t::Artifact::Updated,
    t::Artifact::Key,
    t::Artifact::Type,
    t::Artifact::Description,
    t::Artifact::Data,
    t::Artifact::Metadata,
    t::Artifact::FlowRunId,
    t::Artifact::TaskRunId,
];

const COLLECTION_COLUMNS: [t::ArtifactCollection; 11] = [
    t::ArtifactCollection::Id,
    t::ArtifactCollection::Created,
    t::ArtifactCollection::Updated,
    t::ArtifactCollection::LatestId,
    t::ArtifactCollection::Key,
    t::ArtifactCollection::Type,
    t::ArtifactCollection::Description,
    t::ArtifactCollection::Data,
    t::ArtifactCollection::Metadata,
    t::ArtifactCollection::FlowRunId,
    t::ArtifactCollection::TaskRunId,
];

fn select() -> SelectStatement {
    Query::select().columns(COLUMNS.map(|column| (t::Artifact::Table, column))).from(t::Artifact::Table).take()
}

fn select_collection() -> SelectStatement {
    let columns = COLLECTION_COLUMNS.map(|column| (t::ArtifactCollection::Table, column));
    Query::select().columns(columns).from(t::ArtifactCollection::Table).take()
}

fn decode(row: &Row) -> Result<Artifact, StoreError> {
    Ok(Artifact {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        key: row.get("key")?,
        r#type: row.get("type")?,
        description: row.get("description")?,
        data: row.json("data")?,
        metadata_: row.json("metadata_")?,
        flow_run_id: row.get("flow_run_id")?,
        task_run_id: row.get("task_run_id")?,
    })
}

fn decode_collection(row: &Row) -> Result<ArtifactCollection, StoreError> {
    Ok(ArtifactCollection {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        key: row.get("key")?,
        latest_id: row.get("latest_id")?,
        r#type: row.get("type")?,
        description: row.get("description")?,
        data: row.json("data")?,
        metadata_: row.json("metadata_")?,
        flow_run_id: row.get("flow_run_id")?,
        task_run_id: row.get("task_run_id")?,
    })
}

/// Both columns hold JSON's `null`, not the database's, where there is nothing.
fn data(data: &Json) -> Value {
    Value::Json(Some(Box::new(data.clone())))
}

fn metadata(metadata: Option<&Metadata>) -> Value {
    Value::Json(Some(Box::new(json!(metadata))))
}

/// Inserts an artifact.
pub async fn insert(tx: &mut Tx, id: ArtifactId, now: Timestamp, create: &ArtifactCreate) -> Result<Artifact, StoreError> {
    let insert = Query::insert()
        .into_table(t::Artifact::Table)
        .columns(COLUMNS)
        .values_panic([
            id.into(),
            now.into(),
            now.into(),
            create.key.clone().into(),
            create.r#type.clone().into(),
            create.description.clone().into(),
            data(&create.data).into(),
            metadata(create.metadata_.as_ref()).into(),
            create.flow_run_id.into(),
            create.task_run_id.into(),
        ])
        .to_owned();
    tx.execute(&insert).await?;
    let ArtifactCreate { key, r#type, description, data, metadata_, flow_run_id, task_run_id } = create.clone();
    Ok(Artifact { id, created: now, updated: now, key, r#type, description, data, metadata_, flow_run_id, task_run_id })
}

/// Makes an artifact the newest of its key. Gives the collection, and whether it is new.
pub async fn make_latest(tx: &mut Tx, key: &str, artifact: &Artifact) -> Result<(ArtifactCollection, bool), StoreError> {
    let id = ArtifactCollectionId::fresh();
    let replaced = COLLECTION_COLUMNS
        .into_iter()
        .filter(|column| !matches!(column, t::ArtifactCollection::Id | t::ArtifactCollection::Created | t::ArtifactCollection::Key));
    let insert = Query::insert()
        .into_table(t::ArtifactCollection::Table)
        .columns(COLLECTION_COLUMNS)
        .values_panic([
            id.into(),
            artifact.created.into(),
            artifact.updated.into(),
            artifact.id.into(),
            key.into(),
            artifact.r#type.clone().into(),
            artifact.description.clone().into(),
            data(&artifact.data).into(),
            metadata(artifact.metadata_.as_ref()).into(),
            artifact.flow_run_id.into(),
            artifact.task_run_id.into(),
        ])
        .on_conflict(OnConflict::column(t::ArtifactCollection::Key).update_columns(replaced).to_owned())
        .returning(Query::returning().columns(COLLECTION_COLUMNS))
        .to_owned();
    let collection = decode_collection(&tx.fetch_one(&insert).await?)?;
    let is_new = collection.id == id;
    Ok((collection, is_new))
}

/// Reads one artifact.
pub async fn read(tx: &mut Tx, id: ArtifactId) -> Result<Option<Artifact>, StoreError> {
    let row = tx.fetch_optional(select().and_where(Expr::col((t::Artifact::Table, t::Artifact::Id)).eq(id))).await?;
    row.as_ref().map(decode).transpose()
}

/// Reads the collection of a key.
pub async fn read_collection(tx: &mut Tx, key: &str) -> Result<Option<ArtifactCollection>, StoreError> {
    let key_is = Expr::col((t::ArtifactCollection::Table, t::ArtifactCollection::Key)).eq(key);
    tx.fetch_optional(select_collection().and_where(key_is)).await?.as_ref().map(decode_collection).transpose()
}

/// Reads the collection of a key and holds it against change until the end of the transaction.
pub async fn lock_collection(tx: &mut Tx, key: &str) -> Result<Option<ArtifactCollection>, StoreError> {
    let mut select = select_collection();
    select.and_where(Expr::col((t::ArtifactCollection::Table, t::ArtifactCollection::Key)).eq(key));
    tx.dialect().for_update(&mut select);
    tx.fetch_optional(&select).await?.as_ref().map(decode_collection).transpose()
}

/// The newest artifact of a key but for one.
pub async fn newest_but(tx: &mut Tx, key: &str, id: ArtifactId) -> Result<Option<Artifact>, StoreError> {
    let mut select = select();
    select
        .and_where(Expr::col((t::Artifact::Table, t::Artifact::Key)).eq(key))
        .and_where(Expr::col((t::Artifact::Table, t::Artifact::Id)).ne(id))
        .order_by((t::Artifact::Table, t::Artifact::Created), Order::Desc)
        .limit(1);
    tx.fetch_optional(&select).await?.as_ref().map(decode).transpose()
}

fn order<T: Iden + Copy + 'static>(select: &mut SelectStatement, table: T, sort: ArtifactSort, columns: [T; 4]) {
    let [id, created, updated, key] = columns;
    let (column, order) = match sort {
        ArtifactSort::CreatedDesc => (created, Order::Desc),
        ArtifactSort::UpdatedDesc => (updated, Order::Desc),
        ArtifactSort::IdDesc => (id, Order::Desc),
        ArtifactSort::KeyDesc => (key, Order::Desc),
        ArtifactSort::KeyAsc => (key, Order::Asc),
    };
    select.order_by((table.into_iden(), column.into_iden()), order).order_by((table.into_iden(), id.into_iden()), Order::Desc);
}

/// Lists artifacts.
pub async fn list(
    tx: &mut Tx,
    filter: Option<&ArtifactFilter>,
    filters: &Filters,
    sort: ArtifactSort,
    limit: u64,
    offset: u64,
) -> Result<Vec<Artifact>, StoreError> {
    let mut select = select();
    let columns = [t::Artifact::Id, t::Artifact::Created, t::Artifact::Updated, t::Artifact::Key];
    order(&mut select, t::Artifact::Table, sort, columns);
    select.cond_where(condition::artifacts(filter, filters, tx.dialect())).limit(limit).offset(offset);
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Lists collections.
pub async fn list_collections(
    tx: &mut Tx,
    filter: Option<&ArtifactCollectionFilter>,
    filters: &Filters,
    sort: ArtifactSort,
    limit: u64,
    offset: u64,
) -> Result<Vec<ArtifactCollection>, StoreError> {
    let mut select = select_collection();
    let columns = [t::ArtifactCollection::Id, t::ArtifactCollection::Created, t::ArtifactCollection::Updated, t::ArtifactCollection::Key];
    order(&mut select, t::ArtifactCollection::Table, sort, columns);
    select.cond_where(condition::collections(filter, filters, tx.dialect())).limit(limit).offset(offset);
    tx.fetch_all(&select).await?.iter().map(decode_collection).collect()
}

/// Counts artifacts.
pub async fn count(tx: &mut Tx, filter: Option<&ArtifactFilter>, filters: &Filters) -> Result<i64, StoreError> {
    let mut select = Query::select();
    let count = Func::count(Expr::col(Asterisk));
    select.expr_as(count, "count").from(t::Artifact::Table).cond_where(condition::artifacts(filter, filters, tx.dialect()));
    tx.fetch_one(&select).await?.get("count")
}

/// Counts collections.
pub async fn count_collections(tx: &mut Tx, filter: Option<&ArtifactCollectionFilter>, filters: &Filters) -> Result<i64, StoreError> {
    let mut select = Query::select();
    let count = Func::count(Expr::col(Asterisk));
    select.expr_as(count, "count").from(t::ArtifactCollection::Table).cond_where(condition::collections(filter, filters, tx.dialect()));
    tx.fetch_one(&select).await?.get("count")
}

/// Changes an artifact, and the collection whose newest it is; true where there was either.
pub async fn update(tx: &mut Tx, id: ArtifactId, now: Timestamp, update: &ArtifactUpdate) -> Result<bool, StoreError> {
    fn set<T: Iden + 'static>(statement: &mut UpdateStatement, update: &ArtifactUpdate, columns: [T; 3]) {
        let [data_column, description, metadata_column] = columns;
        if let Some(given) = update.data.clone().into_option() {
            statement.value(data_column, data(&given.unwrap_or(Json::Null)));
        }
        if let Some(given) = update.description.clone().into_option() {
            statement.value(description, given);
        }
        if let Some(given) = update.metadata_.clone().into_option() {
            statement.value(metadata_column, metadata(given.as_ref()));
        }
    }
    let mut of_collection = Query::update();
    of_collection
        .table(t::ArtifactCollection::Table)
        .value(t::ArtifactCollection::Updated, now)
        .and_where(Expr::col(t::ArtifactCollection::LatestId).eq(id));
    set(&mut of_collection, update, [t::ArtifactCollection::Data, t::ArtifactCollection::Description, t::ArtifactCollection::Metadata]);
    let mut of_artifact = Query::update();
    of_artifact.table(t::Artifact::Table).value(t::Artifact::Updated, now).and_where(Expr::col(t::Artifact::Id).eq(id));
    set(&mut of_artifact, update, [t::Artifact::Data, t::Artifact::Description, t::Artifact::Metadata]);
    // The collection first, as deletion does, so that the two wait for each other in one order.
    let changed = tx.execute(&of_collection).await? + tx.execute(&of_artifact).await?;
    Ok(changed > 0)
}

/// Puts an older artifact in the place of the newest that is about to go.
pub async fn fall_back(tx: &mut Tx, collection: ArtifactCollectionId, artifact: &Artifact) -> Result<(), StoreError> {
    let mut statement = Query::update();
    statement
        .table(t::ArtifactCollection::Table)
        .value(t::ArtifactCollection::LatestId, artifact.id)
        .value(t::ArtifactCollection::Data, data(&artifact.data))
        .value(t::ArtifactCollection::Description, artifact.description.clone())
        .value(t::ArtifactCollection::Type, artifact.r#type.clone())
        .value(t::ArtifactCollection::Created, artifact.created)
        .value(t::ArtifactCollection::Updated, artifact.updated)
        .value(t::ArtifactCollection::FlowRunId, artifact.flow_run_id)
        .value(t::ArtifactCollection::TaskRunId, artifact.task_run_id)
        .value(t::ArtifactCollection::Metadata, metadata(artifact.metadata_.as_ref()))
        .and_where(Expr::col(t::ArtifactCollection::Id).eq(collection));
    tx.execute(&statement).await?;
    Ok(())
}

/// Deletes a collection.
pub async fn delete_collection(tx: &mut Tx, id: ArtifactCollectionId) -> Result<(), StoreError> {
    let id_is = Expr::col(t::ArtifactCollection::Id).eq(id);
    tx.execute(Query::delete().from_table(t::ArtifactCollection::Table).and_where(id_is)).await?;
    Ok(())
}

/// Deletes an artifact; true where there was one.
pub async fn delete(tx: &mut Tx, id: ArtifactId) -> Result<bool, StoreError> {
    Ok(tx.execute(Query::delete().from_table(t::Artifact::Table).and_where(Expr::col(t::Artifact::Id).eq(id))).await? > 0)
}
