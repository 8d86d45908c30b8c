//! The OpenAPI document of the API, and pages that show it: `/openapi.json`, `/docs` and `/redoc`.
//!
//! Nothing of the document is written by hand. A resource's router is a [`Routes`]: what axum needs to serve its routes,
//! and with each of them a function that describes it. That function is found by the type of the handler
//! ([`describe`]): its extractors are the parameters and the body, its result is the answer. Bodies are described by
//! `schemars`, out of the types and serde's attributes on them. So a field that is added to a body, or a route that is
//! added to a router, is in the document without more ado, and an extractor or answer that cannot be described does not
//! compile.
//!
//! The document is made when it is asked for first. `tests/compat/openapi.py` compares it with the reference's.

pub mod describe;
mod document;
mod pages;
mod routes;

pub use document::{Described, Document, Schemas};
pub use pages::{PAGES, router};
pub use routes::{Methods, Routes, delete, get, patch, post, put};
