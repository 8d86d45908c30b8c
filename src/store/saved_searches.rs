//! Table `saved_search`.

use sea_query::{Expr, ExprTrait, OnConflict, Order, Query, SelectStatement};
use serde_json::json;

use crate::clock::Timestamp;
use crate::id::SavedSearchId;
use crate::model::saved_search::{SavedSearch, SavedSearchCreate};
use crate::store::schema as t;
use crate::store::{Row, StoreError, Tx};

const COLUMNS: [t::SavedSearch; 5] =
    [t::SavedSearch::Id, t::SavedSearch::Created, t::SavedSearch::Updated, t::SavedSearch::Name, t::SavedSearch::Filters];

fn select() -> SelectStatement {
    Query::select().columns(COLUMNS).from(t::SavedSearch::Table).take()
}

fn decode(row: &Row) -> Result<SavedSearch, StoreError> {
    Ok(SavedSearch {
        id: row.get("id")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        name: row.get("name")?,
        filters: row.json("filters")?,
    })
}

/// Inserts a search, or replaces the filters of the one of this name. Gives the search, and whether it is new.
pub async fn upsert(tx: &mut Tx, id: SavedSearchId, now: Timestamp, create: &SavedSearchCreate) -> Result<(SavedSearch, bool), StoreError> {
    let insert = Query::insert()
        .into_table(t::SavedSearch::Table)
        .columns(COLUMNS)
        .values_panic([id.into(), now.into(), now.into(), create.name.as_str().into(), json!(create.filters).into()])
        .on_conflict(OnConflict::column(t::SavedSearch::Name).update_columns([t::SavedSearch::Filters, t::SavedSearch::Updated]).to_owned())
        .returning(Query::returning().columns(COLUMNS))
        .to_owned();
    let search = decode(&tx.fetch_one(&insert).await?)?;
    let is_new = search.id == id;
    Ok((search, is_new))
}

/// Reads one search.
pub async fn read(tx: &mut Tx, id: SavedSearchId) -> Result<Option<SavedSearch>, StoreError> {
    tx.fetch_optional(select().and_where(Expr::col(t::SavedSearch::Id).eq(id))).await?.as_ref().map(decode).transpose()
}

/// Lists searches by name.
pub async fn list(tx: &mut Tx, limit: u64, offset: u64) -> Result<Vec<SavedSearch>, StoreError> {
    let select = select().order_by(t::SavedSearch::Name, Order::Asc).limit(limit).offset(offset).take();
    tx.fetch_all(&select).await?.iter().map(decode).collect()
}

/// Deletes a search; true where there was one.
pub async fn delete(tx: &mut Tx, id: SavedSearchId) -> Result<bool, StoreError> {
    Ok(tx.execute(Query::delete().from_table(t::SavedSearch::Table).and_where(Expr::col(t::SavedSearch::Id).eq(id))).await? > 0)
}
