//! `/saved_searches`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::NoContent;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path};
use crate::api::openapi::{Routes, get, post, put};
use crate::api::page;
use crate::app::App;
use crate::id::SavedSearchId;
use crate::model::saved_search::{SavedSearch, SavedSearchCreate};
use crate::store::saved_searches as store;

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Saved Searches")
        .route("/saved_searches/", put(create))
        .route("/saved_searches/filter", post(filter))
        .route("/saved_searches/{id}", get(read).delete(delete))
}

fn missing() -> ApiError {
    ApiError::not_found("Saved search not found")
}

/// Create a saved search, or replace the one of this name.
async fn create(State(app): State<App>, Json(body): Json<SavedSearchCreate>) -> Result<(StatusCode, Json<SavedSearch>), ApiError> {
    let mut tx = app.begin("saved_searches.create").await?;
    let (search, is_new) = store::upsert(&mut tx, SavedSearchId::fresh(), app.now(), &body).await?;
    tx.commit().await?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(search)))
}

/// Read a saved search.
async fn read(State(app): State<App>, Path(id): Path<SavedSearchId>) -> Result<Json<SavedSearch>, ApiError> {
    store::read(&mut app.read("saved_searches.read").await?, id).await?.map(Json).ok_or_else(missing)
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct FilterBody {
    limit: Option<i64>,
    #[serde(deserialize_with = "crate::model::bounds::non_negative")]
    offset: Option<i64>,
}

/// List saved searches by name.
async fn filter(State(app): State<App>, Embedded(body): Embedded<FilterBody>) -> Result<Json<Vec<SavedSearch>>, ApiError> {
    let (limit, offset) = (page::limit(body.limit)?, page::offset(body.offset)?);
    Ok(Json(store::list(&mut app.read("saved_searches.filter").await?, limit, offset).await?))
}

/// Delete a saved search.
async fn delete(State(app): State<App>, Path(id): Path<SavedSearchId>) -> Result<NoContent, ApiError> {
    let mut tx = app.begin("saved_searches.delete").await?;
    if !store::delete(&mut tx, id).await? {
        return Err(missing());
    }
    tx.commit().await?;
    Ok(NoContent)
}
