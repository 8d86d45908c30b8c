//! `/flows`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::NoContent;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path};
use crate::api::filters::of_flows::{CountBody, ListBody, PageBody};
use crate::api::filters::{bulk_items, bulk_limit};
use crate::api::openapi::{Routes, get, post};
use crate::api::page::Page;
use crate::app::App;
use crate::events::lifecycle::{self, Action};
use crate::id::FlowId;
use crate::model::filter::Filters;
use crate::model::filter::flow::FlowFilter;
use crate::model::flow::{Flow, FlowCreate, FlowSort, FlowUpdate};
use crate::store::flows::{self as store, Key};

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Flows")
        .route("/flows/", post(create))
        .route("/flows/count", post(count))
        .route("/flows/filter", post(filter))
        .route("/flows/paginate", post(paginate))
        .route("/flows/bulk_delete", post(bulk_delete))
        .route("/flows/name/{name}", get(read_by_name))
        .route("/flows/{id}", get(read).patch(update).delete(delete))
}

fn missing() -> ApiError {
    ApiError::not_found("Flow not found")
}

/// Create a flow; one of the same name is given back as it is.
async fn create(State(app): State<App>, Json(body): Json<FlowCreate>) -> Result<(StatusCode, Json<Flow>), ApiError> {
    let now = app.now();
    let mut tx = app.begin("flows.create").await?;
    let inserted = store::insert(&mut tx, FlowId::fresh(), now, &body).await?;
    let flow = store::read(&mut tx, &Key::Name(body.name)).await?.ok_or_else(missing)?;
    if inserted {
        tx.emit(lifecycle::flow(Action::Created, &flow, now));
    }
    tx.commit().await?;
    Ok((if inserted { StatusCode::CREATED } else { StatusCode::OK }, Json(flow)))
}

/// Change a flow.
async fn update(State(app): State<App>, Path(id): Path<FlowId>, Json(body): Json<FlowUpdate>) -> Result<NoContent, ApiError> {
    let now = app.now();
    let mut tx = app.begin("flows.update").await?;
    if !store::update(&mut tx, id, now, &body).await? {
        return Err(missing());
    }
    let flow = store::read(&mut tx, &Key::Id(id)).await?.ok_or_else(missing)?;
    tx.emit(lifecycle::flow(Action::Updated, &flow, now));
    tx.commit().await?;
    Ok(NoContent)
}

/// Count flows.
async fn count(State(app): State<App>, Embedded(body): Embedded<CountBody>) -> Result<Json<u64>, ApiError> {
    let filters = body.into_filters();
    Ok(Json(store::count(&mut app.read("flows.count").await?, &filters).await?))
}

/// Read a flow by name.
async fn read_by_name(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Flow>, ApiError> {
    store::read(&mut app.read("flows.read").await?, &Key::Name(name)).await?.map(Json).ok_or_else(missing)
}

/// Read a flow by id.
async fn read(State(app): State<App>, Path(id): Path<FlowId>) -> Result<Json<Flow>, ApiError> {
    store::read(&mut app.read("flows.read").await?, &Key::Id(id)).await?.map(Json).ok_or_else(missing)
}

/// List flows.
async fn filter(State(app): State<App>, Embedded(body): Embedded<ListBody<FlowSort>>) -> Result<Json<Vec<Flow>>, ApiError> {
    let (limit, offset) = body.window()?;
    let (filters, sort) = body.into_filters();
    Ok(Json(store::list(&mut app.read("flows.filter").await?, &filters, sort, limit, offset).await?))
}

/// List a page of flows.
async fn paginate(State(app): State<App>, Embedded(body): Embedded<PageBody<FlowSort>>) -> Result<Json<Page<Flow>>, ApiError> {
    let (limit, page, offset) = body.paged()?;
    let (filters, sort) = body.into_filters();
    let mut tx = app.read("flows.paginate").await?;
    let results = store::list(&mut tx, &filters, sort, limit, offset).await?;
    let count = store::count(&mut tx, &filters).await?;
    Ok(Json(Page::new(results, count, limit, page)))
}

/// Delete a flow, with its deployments and runs.
async fn delete(State(app): State<App>, Path(id): Path<FlowId>) -> Result<NoContent, ApiError> {
    let mut tx = app.begin("flows.delete").await?;
    let flow = store::read(&mut tx, &Key::Id(id)).await?.ok_or_else(missing)?;
    store::delete(&mut tx, &[id]).await?;
    tx.emit(lifecycle::flow(Action::Deleted, &flow, app.now()));
    tx.commit().await?;
    Ok(NoContent)
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct BulkDeleteBody {
    flows: Option<FlowFilter>,
    #[serde(deserialize_with = "bulk_items")]
    limit: Option<i64>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "FlowBulkDeleteResponse")]
struct BulkDeleted {
    deleted: Vec<FlowId>,
}

/// Delete flows that match, with their deployments and runs.
async fn bulk_delete(State(app): State<App>, Embedded(body): Embedded<BulkDeleteBody>) -> Result<Json<BulkDeleted>, ApiError> {
    let limit = bulk_limit(body.limit);
    let filters = Filters { flows: body.flows, ..Filters::default() };
    let now = app.now();
    let mut tx = app.begin("flows.bulk_delete").await?;
    let flows = store::list(&mut tx, &filters, FlowSort::default(), limit, 0).await?;
    let deleted: Vec<FlowId> = flows.iter().map(|flow| flow.id).collect();
    store::delete(&mut tx, &deleted).await?;
    for flow in &flows {
        tx.emit(lifecycle::flow(Action::Deleted, flow, now));
    }
    tx.commit().await?;
    Ok(Json(BulkDeleted { deleted }))
}
