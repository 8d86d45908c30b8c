//! `/flow_runs`: [`create`], [`crud`], [`query`], [`input`] and [`logs`]. States are set in `api/flow_runs/state.rs`.

mod create;
pub(crate) mod crud;
mod graph;
mod input;
mod logs;
mod query;
pub(crate) mod resume;
pub mod state;

use crate::api::error::ApiError;
use crate::api::openapi::Routes;

/// The routes of this folder.
pub fn router() -> Routes {
    Routes::tagged("Flow Runs")
        .merge(create::router())
        .merge(crud::router())
        .merge(graph::router())
        .merge(query::router())
        .merge(input::router())
        .merge(logs::router())
        .merge(state::router())
        .merge(resume::router())
}

fn missing() -> ApiError {
    ApiError::not_found("Flow run not found")
}
