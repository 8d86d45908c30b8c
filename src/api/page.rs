//! `limit` and `offset` of list bodies, and the answer of `/paginate` routes.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use crate::api::error::ApiError;
use crate::limits;

/// A checked `limit` of a list body: absent and null mean the default; above the maximum is 422.
///
/// # Errors
/// 422 as the reference words it.
pub fn limit(given: Option<i64>) -> Result<u64, ApiError> {
    let max = limits::PAGE_ITEMS;
    match given.map(u64::try_from) {
        None => Ok(max),
        Some(Ok(limit)) if limit <= max => Ok(limit),
        Some(Ok(_)) => Err(ApiError::detail(
            axum::http::StatusCode::UNPROCESSABLE_ENTITY,
            format!("Invalid limit: must be less than or equal to {max}."),
        )),
        Some(Err(_)) => {
            Err(ApiError::detail(axum::http::StatusCode::UNPROCESSABLE_ENTITY, "Invalid limit: must be greater than or equal to 0."))
        }
    }
}

/// A checked `offset` of a list body.
///
/// # Errors
/// 422 where negative.
pub fn offset(given: Option<i64>) -> Result<u64, ApiError> {
    u64::try_from(given.unwrap_or(0)).map_err(|_| {
        ApiError::invalid("greater_than_equal", &["body", "offset"], "Input should be greater than or equal to 0", json!(given))
    })
}

/// A page number, from 1.
///
/// # Errors
/// 422 below 1.
pub fn page(given: Option<i64>) -> Result<u64, ApiError> {
    match given.unwrap_or(1) {
        page @ 1.. => Ok(page as u64),
        page => Err(ApiError::invalid("greater_than_equal", &["body", "page"], "Input should be greater than or equal to 1", json!(page))),
    }
}

/// What `/paginate` answers.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}Page")]
pub struct Page<T> {
    /// Items of this page.
    pub results: Vec<T>,
    /// Items in all.
    pub count: u64,
    /// Items per page.
    pub limit: u64,
    /// Pages in all.
    pub pages: u64,
    /// This page, from 1.
    pub page: u64,
}

impl<T> Page<T> {
    /// Counts the pages (0 where `limit` is 0).
    pub fn new(results: Vec<T>, count: u64, limit: u64, page: u64) -> Self {
        Self { results, count, limit, pages: if limit == 0 { 0 } else { count.div_ceil(limit) }, page }
    }
}
