//! `/block_documents`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::NoContent;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::answer::Created;
use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path, Query, Shaped, from_value};
use crate::api::openapi::{Routes, get, post};
use crate::api::page;
use crate::app::App;
use crate::blocks::secret::Cipher;
use crate::blocks::{BlockError, document};
use crate::events::lifecycle::{self, Action};
use crate::id::BlockDocumentId;
use crate::model::block::{BlockDocument, BlockDocumentCreate, BlockDocumentSort, BlockDocumentUpdate};
use crate::model::filter::block::{BlockDocumentFilter, BlockFilters, BlockSchemaFilter, BlockTypeFilter};
use crate::model::filter::null_is_default;
use crate::model::json::is_truthy;
use crate::store::block_documents as store;
use crate::store::{StoreError, Tx, storage_defaults};

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Block documents")
        .route("/block_documents/", post(create))
        .route("/block_documents/filter", post(filter))
        .route("/block_documents/count", post(count))
        .route("/block_documents/{id}", get(read).patch(update).delete(delete))
}

fn missing() -> ApiError {
    ApiError::not_found("Block document not found")
}

impl From<BlockError> for ApiError {
    fn from(error: BlockError) -> Self {
        match error {
            BlockError::Store(error) => error.into(),
            BlockError::Invalid(reason) => Self::detail(StatusCode::BAD_REQUEST, reason),
            BlockError::MissingBlockType(_) => Self::conflict(error.to_string()),
            BlockError::Cipher(reason) => Self::Internal(reason),
        }
    }
}

/// Whether secrets are shown.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Secrets {
    pub include_secrets: bool,
}

/// The cipher of this installation, whose key is made where there is none yet.
///
/// # Errors
/// The store's; 500 for a malformed key.
pub async fn cipher(app: &App) -> Result<Cipher, ApiError> {
    Ok(app.block_cipher().await?)
}

/// Lists documents, whole.
///
/// # Errors
/// The store's; 500 where data cannot be decrypted.
pub async fn list(
    app: &App,
    filters: &BlockFilters,
    sort: BlockDocumentSort,
    limit: u64,
    offset: u64,
    secrets: bool,
) -> Result<Vec<BlockDocument>, ApiError> {
    let cipher = cipher(app).await?;
    let mut tx = app.read("block_documents.list").await?;
    let found = store::list(&mut tx, filters, sort, limit, offset).await?;
    Ok(document::whole(&mut tx, &cipher, found, secrets).await?)
}

/// The document as everyone may see it, and its event unless it is anonymous.
async fn emit(app: &App, tx: &mut Tx, cipher: &Cipher, action: Action, id: BlockDocumentId) -> Result<Option<BlockDocument>, ApiError> {
    let document = document::by_id(tx, cipher, id, false).await?;
    if let Some(document) = document.as_ref().filter(|document| !document.is_anonymous) {
        tx.emit(lifecycle::block_document(action, document, app.now()));
    }
    Ok(document)
}

/// Reads the body of a creation: before its fields, the reference looks whether it has a name.
fn named(body: Value) -> Result<BlockDocumentCreate, ApiError> {
    let truthy = |field: &str| body.get(field).is_some_and(is_truthy);
    if body.is_object() && !truthy("is_anonymous") && !truthy("name") {
        let mut error =
            ApiError::invalid("value_error", &["body"], "Value error, Names must be provided for block documents.", body.clone());
        if let ApiError::Invalid { issues, body: echoed } = &mut error {
            issues[0].ctx = Some(json!({"error": {}}));
            *echoed = body;
        }
        return Err(error);
    }
    from_value(body, "body")
}

/// Create a block document.
async fn create(State(app): State<App>, Json(body): Json<Shaped<BlockDocumentCreate>>) -> Result<Created<BlockDocument>, ApiError> {
    let body = named(body.value)?;
    let taken = || ApiError::conflict("Block already exists");
    let cipher = cipher(&app).await?;
    let mut tx = app.begin("block_documents.create").await?;
    if let Some(name) = &body.name
        && store::name_is_taken(&mut tx, body.block_type_id, name).await?
    {
        return Err(taken());
    }
    let id = document::create(&mut tx, &cipher, app.now(), body).await.map_err(|error| match error {
        BlockError::Store(StoreError::Unique { .. }) => taken(),
        other => other.into(),
    })?;
    let created = emit(&app, &mut tx, &cipher, Action::Created, id).await?.ok_or_else(missing)?;
    tx.commit().await?;
    Ok(Created(created))
}

/// Read a block document.
async fn read(
    State(app): State<App>,
    Path(id): Path<BlockDocumentId>,
    Query(query): Query<Secrets>,
) -> Result<Json<BlockDocument>, ApiError> {
    let cipher = cipher(&app).await?;
    let mut tx = app.read("block_documents.read").await?;
    document::by_id(&mut tx, &cipher, id, query.include_secrets).await?.map(Json).ok_or_else(missing)
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct FilterBody {
    block_documents: Option<BlockDocumentFilter>,
    block_types: Option<BlockTypeFilter>,
    block_schemas: Option<BlockSchemaFilter>,
    include_secrets: bool,
    #[serde(deserialize_with = "null_is_default")]
    sort: BlockDocumentSort,
    limit: Option<i64>,
    #[serde(deserialize_with = "crate::model::bounds::non_negative")]
    offset: Option<i64>,
}

fn filters(documents: Option<BlockDocumentFilter>, types: Option<BlockTypeFilter>, schemas: Option<BlockSchemaFilter>) -> BlockFilters {
    BlockFilters { documents: documents.unwrap_or_default(), types, schemas }
}

/// List block documents.
async fn filter(State(app): State<App>, Embedded(body): Embedded<FilterBody>) -> Result<Json<Vec<BlockDocument>>, ApiError> {
    let (limit, offset) = (page::limit(body.limit)?, page::offset(body.offset)?);
    let (sort, secrets) = (body.sort, body.include_secrets);
    let filters = filters(body.block_documents, body.block_types, body.block_schemas);
    list(&app, &filters, sort, limit, offset, secrets).await.map(Json)
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct CountBody {
    block_documents: Option<BlockDocumentFilter>,
    block_types: Option<BlockTypeFilter>,
    block_schemas: Option<BlockSchemaFilter>,
}

/// Count block documents.
async fn count(State(app): State<App>, Embedded(body): Embedded<CountBody>) -> Result<Json<i64>, ApiError> {
    let filters = filters(body.block_documents, body.block_types, body.block_schemas);
    Ok(Json(store::count(&mut app.read("block_documents.count").await?, &filters).await?))
}

/// Change a block document.
async fn update(
    State(app): State<App>,
    Path(id): Path<BlockDocumentId>,
    Json(body): Json<BlockDocumentUpdate>,
) -> Result<NoContent, ApiError> {
    let cipher = cipher(&app).await?;
    let mut tx = app.begin("block_documents.update").await?;
    if !document::update(&mut tx, &cipher, id, app.now(), body).await? {
        return Err(missing());
    }
    emit(&app, &mut tx, &cipher, Action::Updated, id).await?;
    tx.commit().await?;
    Ok(NoContent)
}

/// Delete a block document.
async fn delete(State(app): State<App>, Path(id): Path<BlockDocumentId>) -> Result<NoContent, ApiError> {
    let cipher = cipher(&app).await?;
    let mut tx = app.begin("block_documents.delete").await?;
    emit(&app, &mut tx, &cipher, Action::Deleted, id).await?.ok_or_else(missing)?;
    store::delete(&mut tx, id).await?;
    storage_defaults::clear_lost(&mut tx).await?;
    tx.commit().await?;
    Ok(NoContent)
}
