//! `/ui/schemas/validate`

use std::collections::HashMap;

use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Shaped};
use crate::api::openapi::{Routes, post};
use crate::app::App;
use crate::model::filter::variable::VariableFilter;
use crate::model::variable::VariableSort;
use crate::parameters::hydrate::needs_hydration;
use crate::parameters::report::report;
use crate::store::variables;

/// Variables at hand for a form at most.
const VARIABLES: u64 = 10_000;

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("UI").route("/ui/schemas/validate", post(validate))
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ValidateBody {
    schema: Map<String, Value>,
    values: Map<String, Value>,
}

/// What [`report`] says.
#[derive(JsonSchema)]
#[schemars(rename = "SchemaValuesValidationResponse")]
#[expect(dead_code, reason = "only its schema is looked at")]
struct Report {
    errors: Vec<ReportedError>,
    valid: bool,
}

/// What is wrong with a form, or with a part of it.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is looked at")]
enum ReportedError {
    Whole(String),
    Property { property: String, errors: Vec<ReportedError> },
    Item { index: u64, errors: Vec<ReportedError> },
}

/// What is wrong with the values of a form.
async fn validate(State(app): State<App>, Embedded(body): Embedded<ValidateBody>) -> Result<Json<Shaped<Report>>, ApiError> {
    let known = if needs_hydration(&body.values) {
        let mut tx = app.read("ui.variables").await?;
        let all = variables::list(&mut tx, &VariableFilter::default(), VariableSort::default(), VARIABLES, 0).await?;
        all.into_iter().map(|variable| (variable.name, variable.value)).collect()
    } else {
        HashMap::new()
    };
    report(&body.values, &Value::Object(body.schema), &known)
        .map(|report| Json(report.into()))
        .map_err(|error| ApiError::detail(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
}
