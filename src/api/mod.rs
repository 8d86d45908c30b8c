//! The HTTP API under `/api`: merges the resource routers and adds the layers. The whole surface is in
//! [`operations`]; what the router does not have of it answers 501, a wrong trailing slash is redirected (307), a known
//! path with another method is 405, the rest 404, all in the reference's words.

pub mod answer;
pub mod caller;
pub mod error;
pub mod extract;
pub mod filters;
pub mod history;
pub mod middleware;
pub mod names;
pub mod openapi;
pub mod operations;
pub mod page;
pub mod provenance;
pub mod pydantic;
pub mod python_json;
pub mod run_states;

pub mod concurrency_limits;
pub mod concurrency_limits_v2;
pub mod deployments;
pub mod admin;
pub mod artifacts;
pub mod automations;
pub mod block_documents;
pub mod block_schemas;
pub mod block_types;
pub mod collections;
pub mod csrf;
pub mod dead_letters;
pub mod events;
pub mod flow_runs;
pub mod flows;
pub mod health;
pub mod logs;
pub mod job_variables;
pub mod root;
pub mod saved_searches;
pub mod socket;
mod hints;
mod slot_queue;
pub mod task_queue;
pub mod task_runs;
pub mod task_workers;
pub mod templates;
pub mod ui;
pub mod ui_files;
pub mod ui_schemas;
pub mod ui_settings;
pub mod variables;
pub mod work_pools;
pub mod work_queues;

use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, OriginalUri, Request};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use tower::util::MapRequest;
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};
use uuid::Uuid;

pub use error::ApiError;
use openapi::Routes;
pub use ui_files::UiFiles;

use crate::app::App;
use crate::config::Settings;
use crate::limits;

/// Every operation of the API, below its base path.
pub fn routes() -> Routes {
    Routes::empty()
        .merge(admin::router())
        .merge(artifacts::router())
        .merge(automations::router())
        .merge(block_documents::router())
        .merge(block_schemas::router())
        .merge(block_types::router())
        .merge(collections::router())
        .merge(concurrency_limits::router())
        .merge(concurrency_limits_v2::router())
        .merge(csrf::router())
        .merge(dead_letters::router())
        .merge(deployments::router())
        .merge(events::router())
        .merge(flow_runs::router())
        .merge(flows::router())
        .merge(logs::router())
        .merge(root::router())
        .merge(run_states::router())
        .merge(saved_searches::router())
        .merge(task_runs::router())
        .merge(task_workers::router())
        .merge(templates::router())
        .merge(ui::router())
        .merge(ui_schemas::router())
        .merge(variables::router())
        .merge(work_pools::router())
        .merge(work_queues::router())
}

/// Every WebSocket, below the base path.
fn sockets() -> Router<App> {
    Router::new()
        .merge(socket::events_in::router())
        .merge(socket::events_out::router())
        .merge(socket::logs_out::router())
        .merge(socket::task_subscription::router())
        .merge(socket::worker_channel::router())
}

/// The API, ready to be served, below the base path of the settings.
///
/// `more` are routes of parts that the API does not know, below the same base path and behind the same layers. What lies
/// outside of the base path is answered by `ui`.
pub fn router(app: App, more: Router<App>, ui: Arc<UiFiles>) -> Router {
    let settings = app.settings();
    let base_path = settings.server.base_path.trim_end_matches('/').to_owned();
    let cors = cors(settings);
    let (routes, operations) = routes().into_parts();
    let pages = openapi::router(operations, &base_path);
    let api = routes
        .merge(sockets())
        .merge(pages.clone())
        .merge(more)
        .layer(Extension(task_queue::TaskQueue::start(&app)))
        .layer(Extension(slot_queue::SlotQueue::start(&app)))
        .layer(Extension(task_workers::Presence::start(&app)))
        .fallback(fallback)
        .method_not_allowed_fallback(fallback)
        .route_layer(from_fn(middleware::measure))
        .layer(DefaultBodyLimit::max(limits::REQUEST_BODY_BYTES))
        .layer(from_fn(middleware::retry))
        .layer(from_fn(middleware::check_version))
        .layer(from_fn_with_state(app.clone(), middleware::authorize))
        .layer(from_fn_with_state(app.clone(), csrf::check))
        .layer(CompressionLayer::new().gzip(true).compress_when(SizeAbove::new(GZIP_BYTES)))
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| ApiError::Internal("a handler panicked".into()).into_response()));
    let files = Arc::clone(&ui);
    let files = Router::new()
        .fallback(move |request: Request| Arc::clone(&files).answer(request))
        .layer(CompressionLayer::new().gzip(true).quality(CompressionLevel::Fastest).compress_when(SizeAbove::new(GZIP_BYTES)));
    // The base path itself, without a slash, is not below it.
    let whole = Router::new()
        .nest(&base_path, api)
        .route_service(&base_path, files.clone())
        .merge(ui_settings::router(ui))
        .merge(if openapi::PAGES.iter().any(|(_, path)| *path == base_path) { Router::new() } else { pages })
        .fallback_service(files)
        .layer(cors)
        .with_state(app);
    let base_path: Arc<str> = base_path.into();
    Router::new().fallback_service(MapRequest::new(whole, move |request| names::apart(&base_path, request)))
}

/// Smallest answer that is compressed, in bytes, as the reference.
const GZIP_BYTES: u64 = 500;

fn cors(settings: &Settings) -> CorsLayer {
    fn listed<T: FromStr>(given: &[String]) -> Option<Vec<T>> {
        if given.iter().any(|one| one == "*") { None } else { Some(given.iter().filter_map(|one| one.parse().ok()).collect()) }
    }
    let server = &settings.server;
    let origins = listed::<HeaderValue>(&server.cors_allowed_origins).map_or_else(AllowOrigin::any, AllowOrigin::list);
    let methods = listed::<Method>(&server.cors_allowed_methods).map_or_else(AllowMethods::any, AllowMethods::list);
    let headers = listed::<HeaderName>(&server.cors_allowed_headers).map_or_else(AllowHeaders::any, AllowHeaders::list);
    CorsLayer::new().allow_origin(origins).allow_methods(methods).allow_headers(headers)
}

/// No route, or not with this method.
async fn fallback(method: Method, OriginalUri(original): OriginalUri, uri: Uri) -> Response {
    let path = uri.path();
    match find(&method, path) {
        Known::Operation(template) => return ApiError::NotBuilt { method: method.to_string(), path: template }.into_response(),
        Known::OtherMethod(first) => {
            // Only the first route of a path, as the reference's framework has it.
            return ([(header::ALLOW, first)], ApiError::detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")).into_response();
        }
        Known::No => {}
    }
    let toggled = path.strip_suffix('/').map_or_else(|| format!("{path}/"), str::to_owned);
    if matches!(find(&method, &toggled), Known::No) {
        return ApiError::no_route().into_response();
    }
    let original_path = original.path();
    let mut location = original_path.strip_suffix('/').map_or_else(|| format!("{original_path}/"), str::to_owned);
    if let Some(query) = original.query() {
        location.push('?');
        location.push_str(query);
    }
    (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response()
}

enum Known {
    Operation(&'static str),
    OtherMethod(&'static str),
    No,
}

fn find(method: &Method, path: &str) -> Known {
    let mut found = Known::No;
    for (known_method, template) in operations::OPERATIONS.iter().chain(openapi::PAGES) {
        if matches(template, path) {
            if *known_method == method.as_str() {
                return Known::Operation(template);
            }
            if matches!(found, Known::No) {
                found = Known::OtherMethod(known_method);
            }
        }
    }
    found
}

/// Whether a path is of a template. An `{id}` is a UUID or no match, as the reference's routes have it: so
/// `GET /flows/filter` is a wrong method, and no flow.
fn matches(template: &str, path: &str) -> bool {
    let fits = |wanted: &str, given: &str| match wanted {
        "{id}" => Uuid::parse_str(given).is_ok(),
        name if name.starts_with('{') => !given.is_empty(),
        text => text == given,
    };
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(wanted), Some(given)) if fits(wanted, given) => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_route_is_merged_twice() {
        // The router panics where two routes overlap.
        let (routes, operations) = routes().into_parts();
        let _router = routes.merge(sockets()).merge(openapi::router(operations, "/api"));
    }

    #[test]
    fn a_word_is_no_id() {
        assert!(matches!(find(&Method::GET, "/flows/filter"), Known::OtherMethod("POST")));
        assert!(matches!(find(&Method::PATCH, "/flows/filter"), Known::OtherMethod("POST")));
        assert!(matches!(find(&Method::PUT, "/variables/count"), Known::OtherMethod("POST")));
        assert!(matches!(find(&Method::GET, "/flows/nothing"), Known::No));
    }

    #[test]
    fn templates_match_whole_segments() {
        let id = "6c1e5a52-6c3f-4d2b-8a52-2f5e3a3d6a11";
        assert!(matches("/flows/{id}", &format!("/flows/{id}")));
        assert!(matches("/work_pools/{name}", "/work_pools/1"));
        assert!(!matches("/flows/{id}", "/flows/"));
        assert!(!matches("/flows/{id}", &format!("/flows/{id}/2")));
        assert!(matches("/flows/", "/flows/"));
    }
}
