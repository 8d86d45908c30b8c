//! Serves the document, and the pages that show it. The scripts of the pages come from the same address as the
//! reference's; without it, the document is still there.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Bytes;
use axum::http::header;
use axum::response::Html;
use axum::routing::get;

use super::document::{Described, Document};
use crate::app::App;

/// What [`router`] serves, as `operations::OPERATIONS` lists the operations.
pub const PAGES: &[(&str, &str)] = &[("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/redoc")];

const SWAGGER_UI: &str = include_str!("swagger_ui.html");
const REDOC: &str = include_str!("redoc.html");

/// The document of these operations and its pages.
pub fn router(operations: Vec<Described>, base_path: &str) -> Router<App> {
    let source = Arc::new(Source { operations, base_path: base_path.to_owned(), document: OnceLock::new() });
    Router::new()
        .route("/openapi.json", get(async move || ([(header::CONTENT_TYPE, "application/json")], source.document())))
        .route("/docs", get(async || Html(SWAGGER_UI)))
        .route("/redoc", get(async || Html(REDOC)))
}

struct Source {
    operations: Vec<Described>,
    base_path: String,
    document: OnceLock<Bytes>,
}

impl Source {
    /// The document, made when it is asked for first.
    fn document(&self) -> Bytes {
        self.document.get_or_init(|| Document::of(&self.operations, &self.base_path).as_json().to_string().into()).clone()
    }
}
