//! `/deployments`: the deployments, their schedules and their runs.

mod body;
mod crud;
pub(crate) mod runs;
pub(crate) mod schedules;
mod update;

use crate::api::error::ApiError;
use crate::api::openapi::Routes;
use crate::id::DeploymentId;
use crate::model::deployment::Deployment;
use crate::store::Tx;
use crate::store::deployments::{self as store, Key};

/// The routes of this folder.
pub fn router() -> Routes {
    Routes::tagged("Deployments").merge(crud::router()).merge(update::router()).merge(schedules::router()).merge(runs::router())
}

fn missing() -> ApiError {
    ApiError::not_found("Deployment not found")
}

/// As [`missing`], with the full stop that some routes of the reference have.
fn missing_stop() -> ApiError {
    ApiError::not_found("Deployment not found.")
}

/// Locks and reads a deployment that is to be changed.
async fn locked(tx: &mut Tx, id: DeploymentId, missing: fn() -> ApiError) -> Result<Deployment, ApiError> {
    store::read_for_update(tx, &Key::Id(id)).await?.ok_or_else(missing)
}
