//! `/block_schemas` and `/block_capabilities`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::NoContent;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path, Query};
use crate::api::openapi::{Routes, get, post};
use crate::api::page;
use crate::app::App;
use crate::blocks::{checksum, schema};
use crate::id::BlockSchemaId;
use crate::model::block::{BlockSchema, BlockSchemaCreate};
use crate::model::filter::block::BlockSchemaFilter;
use crate::store::block_schemas as store;
use crate::store::{block_types, storage_defaults};

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Block schemas")
        .route("/block_schemas/", post(create))
        .route("/block_schemas/filter", post(filter))
        .route("/block_schemas/{id}", get(read).delete(delete))
        .route("/block_schemas/checksum/{checksum}", get(read_by_checksum))
        .route("/block_capabilities/", get(capabilities))
}

fn missing() -> ApiError {
    ApiError::not_found("Block schema not found")
}

/// Create a block schema; 200 where it exists.
async fn create(State(app): State<App>, Json(body): Json<BlockSchemaCreate>) -> Result<(StatusCode, Json<BlockSchema>), ApiError> {
    // Most saves are of a schema that is there, and need no write.
    let mut tx = app.read("block_schemas.find").await?;
    if block_types::read(&mut tx, &block_types::Key::Id(body.block_type_id)).await?.is_none() {
        return Err(ApiError::not_found(format!("Block type {} not found.", body.block_type_id)));
    }
    if let Some(existing) = schema::by_checksum(&mut tx, &checksum::of(&body.fields), Some(&body.version)).await? {
        return Ok((StatusCode::OK, Json(existing)));
    }
    drop(tx);
    let mut tx = app.begin("block_schemas.create").await?;
    let (schema, created) = schema::create(&mut tx, app.now(), body).await?;
    tx.commit().await?;
    Ok((if created { StatusCode::CREATED } else { StatusCode::OK }, Json(schema)))
}

/// Read a block schema by id.
async fn read(State(app): State<App>, Path(id): Path<BlockSchemaId>) -> Result<Json<BlockSchema>, ApiError> {
    schema::by_id(&mut app.read("block_schemas.read").await?, id).await?.map(Json).ok_or_else(missing)
}

#[derive(Debug, Deserialize, JsonSchema)]
struct VersionQuery {
    #[serde(default)]
    version: Option<String>,
}

/// Read the newest block schema of a checksum.
async fn read_by_checksum(
    State(app): State<App>,
    Path(checksum): Path<String>,
    Query(query): Query<VersionQuery>,
) -> Result<Json<BlockSchema>, ApiError> {
    let mut tx = app.read("block_schemas.read").await?;
    schema::by_checksum(&mut tx, &checksum, query.version.as_deref()).await?.map(Json).ok_or_else(missing)
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct FilterBody {
    block_schemas: Option<BlockSchemaFilter>,
    limit: Option<i64>,
    #[serde(deserialize_with = "crate::model::bounds::non_negative")]
    offset: Option<i64>,
}

/// List block schemas, newest first.
async fn filter(State(app): State<App>, Embedded(body): Embedded<FilterBody>) -> Result<Json<Vec<BlockSchema>>, ApiError> {
    let (limit, offset) = (page::limit(body.limit)?, page::offset(body.offset)?);
    let mut tx = app.read("block_schemas.filter").await?;
    let found = store::list(&mut tx, body.block_schemas.as_ref(), limit, offset).await?;
    Ok(Json(schema::whole(&mut tx, found).await?))
}

/// Delete a block schema with its documents.
async fn delete(State(app): State<App>, Path(id): Path<BlockSchemaId>) -> Result<NoContent, ApiError> {
    let mut tx = app.begin("block_schemas.delete").await?;
    let schema = store::by_ids(&mut tx, &[id]).await?.pop().ok_or_else(missing)?;
    if schema.block_type.is_some_and(|block_type| block_type.is_protected) {
        return Err(ApiError::detail(StatusCode::FORBIDDEN, "Block schemas for protected block types cannot be deleted."));
    }
    store::delete(&mut tx, id).await?;
    storage_defaults::clear_lost(&mut tx).await?;
    tx.commit().await?;
    Ok(NoContent)
}

/// Every capability that some schema has.
async fn capabilities(State(app): State<App>) -> Result<Json<Vec<String>>, ApiError> {
    Ok(Json(store::capabilities(&mut app.read("block_capabilities.read").await?).await?))
}
