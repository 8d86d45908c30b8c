//! `/block_types`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::NoContent;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::api::answer::Created;
use crate::api::block_documents::{self, Secrets};
use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path, Query};
use crate::api::openapi::{Routes, get, post};
use crate::api::page;
use crate::app::App;
use crate::blocks::registry;
use crate::events::lifecycle::{self, Action};
use crate::id::BlockTypeId;
use crate::limits;
use crate::model::Patch;
use crate::model::block::{BlockDocument, BlockDocumentSort, BlockType, BlockTypeCreate, BlockTypeUpdate};
use crate::model::filter::block::{BlockDocumentFilter, BlockFilters, BlockSchemaFilter, BlockTypeFilter};
use crate::model::filter::part::{AnyOf, NameLike};
use crate::store::StoreError;
use crate::store::block_types::{self as store, Key, Taken};
use crate::store::storage_defaults;

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Block types")
        .route("/block_types/", post(create))
        .route("/block_types/filter", post(filter))
        .route("/block_types/install_system_block_types", post(install))
        .route("/block_types/{id}", get(read_by_id).patch(update).delete(delete))
        .route("/block_types/slug/{slug}", get(read_by_slug))
        .route("/block_types/slug/{slug}/block_documents", get(documents))
        .route("/block_types/slug/{slug}/block_documents/name/{block_document_name}", get(document_by_name))
}

fn missing() -> ApiError {
    ApiError::not_found("Block type not found")
}

/// Create a block type.
async fn create(State(app): State<App>, Json(body): Json<BlockTypeCreate>) -> Result<Created<BlockType>, ApiError> {
    if body.name.to_lowercase().starts_with("prefect") {
        return Err(ApiError::detail(StatusCode::FORBIDDEN, "Block type names beginning with 'Prefect' are reserved."));
    }
    let (id, now) = (BlockTypeId::fresh(), app.now());
    let mut tx = app.begin("block_types.create").await?;
    store::insert(&mut tx, id, now, &body, false, Taken::Error).await.map_err(|error| match error {
        StoreError::Unique { .. } => ApiError::conflict(format!("Block type with name \"{}\" already exists", body.name)),
        other => other.into(),
    })?;
    let created = store::read(&mut tx, &Key::Id(id)).await?.ok_or_else(missing)?;
    tx.emit(lifecycle::block_type(Action::Created, &created, now));
    tx.commit().await?;
    Ok(Created(created))
}

async fn read(app: &App, key: &Key) -> Result<BlockType, ApiError> {
    store::read(&mut app.read("block_types.read").await?, key).await?.ok_or_else(missing)
}

/// Read a block type by id.
async fn read_by_id(State(app): State<App>, Path(id): Path<BlockTypeId>) -> Result<Json<BlockType>, ApiError> {
    read(&app, &Key::Id(id)).await.map(Json)
}

/// Read a block type by slug.
async fn read_by_slug(State(app): State<App>, Path(slug): Path<String>) -> Result<Json<BlockType>, ApiError> {
    read(&app, &Key::Slug(slug)).await.map(Json)
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct FilterBody {
    block_types: Option<BlockTypeFilter>,
    block_schemas: Option<BlockSchemaFilter>,
    limit: Option<i64>,
    #[serde(deserialize_with = "crate::model::bounds::non_negative")]
    offset: Option<i64>,
}

/// List block types.
async fn filter(State(app): State<App>, Embedded(body): Embedded<FilterBody>) -> Result<Json<Vec<BlockType>>, ApiError> {
    let (limit, offset) = (page::limit(body.limit)?, page::offset(body.offset)?);
    let mut tx = app.read("block_types.filter").await?;
    Ok(Json(store::list(&mut tx, body.block_types.as_ref(), body.block_schemas.as_ref(), limit, offset).await?))
}

/// Change a block type, where that changes anything.
async fn update(State(app): State<App>, Path(id): Path<BlockTypeId>, Json(body): Json<BlockTypeUpdate>) -> Result<NoContent, ApiError> {
    let now = app.now();
    let mut tx = app.begin("block_types.update").await?;
    let before = store::read(&mut tx, &Key::Id(id)).await?.ok_or_else(missing)?;
    if body.changes(&before) {
        store::update(&mut tx, id, now, &body).await?;
        let after = store::read(&mut tx, &Key::Id(id)).await?.ok_or_else(missing)?;
        tx.emit(lifecycle::block_type(Action::Updated, &after, now));
        tx.commit().await?;
    }
    Ok(NoContent)
}

/// Delete a block type with its schemas and documents.
async fn delete(State(app): State<App>, Path(id): Path<BlockTypeId>) -> Result<NoContent, ApiError> {
    let mut tx = app.begin("block_types.delete").await?;
    let block_type = store::read(&mut tx, &Key::Id(id)).await?.ok_or_else(missing)?;
    if block_type.is_protected {
        return Err(ApiError::detail(StatusCode::FORBIDDEN, "protected block types cannot be deleted."));
    }
    store::delete(&mut tx, id).await?;
    storage_defaults::clear_lost(&mut tx).await?;
    tx.emit(lifecycle::block_type(Action::Deleted, &block_type, app.now()));
    tx.commit().await?;
    Ok(NoContent)
}

/// The documents of a type.
async fn documents(
    State(app): State<App>,
    Path(slug): Path<String>,
    Query(query): Query<Secrets>,
) -> Result<Json<Vec<BlockDocument>>, ApiError> {
    let block_type = read(&app, &Key::Slug(slug)).await?;
    let documents = BlockDocumentFilter { block_type_id: Some(AnyOf::of(vec![block_type.id])), ..BlockDocumentFilter::default() };
    let filters = BlockFilters { documents, ..BlockFilters::default() };
    block_documents::list(&app, &filters, BlockDocumentSort::default(), u64::from(u32::MAX), 0, query.include_secrets).await.map(Json)
}

/// A document by its type and name.
async fn document_by_name(
    State(app): State<App>,
    Path((slug, name)): Path<(String, String)>,
    Query(query): Query<Secrets>,
) -> Result<Json<BlockDocument>, ApiError> {
    let documents = BlockDocumentFilter {
        name: Some(NameLike { any_: Some(vec![name]), like_: None }),
        is_anonymous: Patch::Null,
        ..BlockDocumentFilter::default()
    };
    let types = BlockTypeFilter { slug: Some(AnyOf::of(vec![slug])), name: None };
    let filters = BlockFilters { documents, types: Some(types), schemas: None };
    let mut found = block_documents::list(&app, &filters, BlockDocumentSort::default(), 1, 0, query.include_secrets).await?;
    found.pop().map(Json).ok_or_else(|| ApiError::not_found("Block document not found"))
}

/// Registers the block types that clients expect to be there.
async fn install(State(app): State<App>) -> Result<Json<()>, ApiError> {
    for definition in registry::protected() {
        register(&app, &definition).await?;
    }
    Ok(Json(()))
}

async fn register(app: &App, definition: &registry::Definition) -> Result<(), ApiError> {
    let now = app.now();
    let mut tx = app.begin("block_types.register").await?;
    registry::register(&mut tx, now, definition).await?;
    tx.commit().await?;
    Ok(())
}

/// Registers the block types that are known at start: the protected ones, and those that an installed `prefect` package
/// describes. Every node does so; what is there already is left alone. A failure is logged and costs only its block.
pub async fn register_on_start(app: App) {
    // Early, so that no two nodes have to agree on a key under load, and a bad one is told at start.
    match block_documents::cipher(&app).await {
        Ok(_) => {}
        // It is asked for again with the first block.
        Err(ApiError::Store(error)) if error.is_retryable() => {
            tracing::warn!(error = %error, "the key of block documents could not be looked for yet");
        }
        Err(error) => tracing::error!(error = %error, "block documents cannot be read or written: {error}"),
    }
    let mut definitions = registry::protected();
    definitions.extend(registry::of_installed_package(app.settings().server.prefect_package.as_deref()).await);
    let mut failed = 0;
    for definition in &definitions {
        let mut outcome = register(&app, definition).await;
        for _ in 1..limits::TRANSACTION_ATTEMPTS {
            match &outcome {
                Err(ApiError::Store(error)) if error.is_retryable() => outcome = register(&app, definition).await,
                _ => break,
            }
        }
        if let Err(error) = outcome {
            failed += 1;
            tracing::warn!(block_type.slug = definition.block_type.slug, error = %error, "block type {} is not registered: {error}", definition.block_type.slug);
        }
    }
    let count = definitions.len() - failed;
    tracing::info!("{count} block types are registered");
}
