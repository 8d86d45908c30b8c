//! `/ui/schemas/validate`

use std::collections::HashMap;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json};
use crate::app::App;
use crate::model::filter::variable::VariableFilter;
use crate::model::variable::VariableSort;
use crate::parameters::hydrate::needs_hydration;
use crate::parameters::report::report;
use crate::store::variables;

/// Variables at hand for a form at most.
const VARIABLES: u64 = 10_000;

/// The routes of this file.
pub fn router() -> Router<App> {
    Router::new().route("/ui/schemas/validate", post(validate))
}

#[derive(Debug, Deserialize)]
struct ValidateBody {
    schema: Map<String, Value>,
    values: Map<String, Value>,
}

/// What is wrong with the values of a form.
async fn validate(State(app): State<App>, Embedded(body): Embedded<ValidateBody>) -> Result<Json<Value>, ApiError> {
    let known = if needs_hydration(&body.values) {
        let mut tx = app.read("ui.variables").await?;
        let all = variables::list(&mut tx, &VariableFilter::default(), VariableSort::default(), VARIABLES, 0).await?;
        all.into_iter().map(|variable| (variable.name, variable.value)).collect()
    } else {
        HashMap::new()
    };
    report(&body.values, &Value::Object(body.schema), &known)
        .map(Json)
        .map_err(|error| ApiError::detail(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
}
