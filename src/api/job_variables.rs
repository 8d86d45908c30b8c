//! Checks of job variables against the schema in a pool's job template (`prefect/server/api/validation.py`).
//!
//! Template, deployment and flow run lay theirs over one another. Only a flow run has to be complete, and only a pool's
//! own defaults have to be right: what is wrong with them later is ignored, together with what is missing.

use std::str::FromStr;

use axum::http::StatusCode;
use sea_query::{Expr, ExprTrait, Query};
use serde_json::{Map, Value};

use crate::api::block_documents;
use crate::api::error::ApiError;
use crate::app::App;
use crate::blocks::document;
use crate::id::BlockDocumentId;
use crate::model::deployment::Deployment;
use crate::model::work_pool::WorkPool;
use crate::parameters::{Invalid, Options, check_schema, validate};
use crate::store::schema as t;
use crate::store::work_pools::{self, Key};
use crate::store::{StoreError, Tx};

fn unprocessable(detail: String) -> ApiError {
    ApiError::detail(StatusCode::UNPROCESSABLE_ENTITY, detail)
}

/// Checks the defaults of a pool's template.
///
/// # Errors
/// 422, and 404 for a block that is not there.
pub async fn check_pool_defaults(app: &App, tx: &mut Tx, template: &Map<String, Value>) -> Result<(), ApiError> {
    let rules = Rules { ignore_required: true, ignore_bad_defaults: false };
    check(app, tx, template, &[], rules).await.map_err(|error| error.worded("Validation failed for work pool's job variable defaults"))
}

/// Checks the job variables of a deployment to be made.
///
/// # Errors
/// 422, and 404 for a block that is not there.
pub async fn check_deployment(app: &App, tx: &mut Tx, pool: &WorkPool, variables: &Map<String, Value>) -> Result<(), ApiError> {
    if variables.is_empty() {
        return Ok(());
    }
    let rules = Rules { ignore_required: true, ignore_bad_defaults: true };
    check(app, tx, &pool.base_job_template, &[variables], rules).await.map_err(|error| error.worded("Error creating deployment"))
}

/// Checks the job variables of a flow run of a deployment; `doing` is `creating` or `updating`.
///
/// # Errors
/// 422, and 404 for a block that is not there.
pub async fn check_flow_run(
    app: &App,
    tx: &mut Tx,
    deployment: &Deployment,
    variables: Option<&Map<String, Value>>,
    doing: &str,
) -> Result<(), ApiError> {
    // A deployment without a pool has no template.
    let Some(queue) = &deployment.queue else { return Ok(()) };
    let Some(pool) = work_pools::read(tx, &Key::Id(queue.work_pool_id)).await? else { return Ok(()) };
    let layers: Vec<&Map<String, Value>> = std::iter::once(&deployment.job_variables).chain(variables).collect();
    let rules = Rules { ignore_required: false, ignore_bad_defaults: true };
    check(app, tx, &pool.base_job_template, &layers, rules).await.map_err(|error| error.worded(&format!("Error {doing} flow run")))
}

/// Checks the job variables with which an automation runs a deployment, on their own; gives what does not fit.
///
/// # Errors
/// 422 for a schema that is none, and 404 for a block that is not there.
pub async fn check_action(
    app: &App,
    tx: &mut Tx,
    deployment: &Deployment,
    variables: &Map<String, Value>,
) -> Result<Option<Invalid>, ApiError> {
    let Some(queue) = &deployment.queue else { return Ok(None) };
    let Some(pool) = work_pools::read(tx, &Key::Id(queue.work_pool_id)).await? else { return Ok(None) };
    if deployment.job_variables.is_empty() && variables.is_empty() {
        return Ok(None);
    }
    let rules = Rules { ignore_required: false, ignore_bad_defaults: true };
    match check(app, tx, &pool.base_job_template, &[variables], rules).await {
        Ok(()) => Ok(None),
        Err(Failure::Variables(error)) => Ok(Some(error)),
        Err(Failure::Other(error)) => Err(error),
    }
}

/// As the reference checks an update of a deployment: without defaults.
///
/// # Errors
/// 409.
pub fn check_update(pool: &WorkPool, variables: Option<&Map<String, Value>>) -> Result<(), ApiError> {
    let (Some(schema), Some(variables)) = (pool.base_job_template.get("variables"), variables) else { return Ok(()) };
    let options = Options { ignore_required: true, ..Options::default() };
    validate(&Value::Object(variables.clone()), schema, options)
        .map_err(|error| ApiError::conflict(format!("Error creating deployment: {error}")))
}

#[derive(Debug, Clone, Copy)]
struct Rules {
    ignore_required: bool,
    ignore_bad_defaults: bool,
}

enum Failure {
    /// The variables do not fit.
    Variables(Invalid),
    /// Anything else, worded already.
    Other(ApiError),
}

impl Failure {
    fn worded(self, what: &str) -> ApiError {
        match self {
            Self::Variables(error) => unprocessable(format!("{what}: {error}")),
            Self::Other(error) => error,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Other(error.into())
    }
}

async fn check(app: &App, tx: &mut Tx, template: &Map<String, Value>, layers: &[&Map<String, Value>], rules: Rules) -> Result<(), Failure> {
    let Some(schema) = template.get("variables").filter(|schema| schema.as_object().is_some_and(|fields| !fields.is_empty())) else {
        return Ok(());
    };
    check_schema(schema).map_err(|error| Failure::Other(unprocessable(error.to_string())))?;
    let (mut variables, bad_defaults) = defaults(app, tx, schema, rules.ignore_bad_defaults).await?;
    for layer in layers {
        variables.extend((*layer).clone());
    }
    let options = Options {
        as_is: false,
        ignore_required: rules.ignore_required || (rules.ignore_bad_defaults && bad_defaults),
        none_with_default: true,
    };
    validate(&Value::Object(variables), schema, options).map_err(Failure::Variables)
}

/// The defaults of a schema's fields, and whether some were left out because they do not fit it.
async fn defaults(app: &App, tx: &mut Tx, schema: &Value, ignore_bad: bool) -> Result<(Map<String, Value>, bool), Failure> {
    let mut found = Map::new();
    let mut bad = false;
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        let Some(default) = property.get("default") else { continue };
        let default = match default.as_object().and_then(|default| default.get("$ref")) {
            None => default.clone(),
            Some(reference) => match block_data(app, tx, reference).await? {
                Some(data) => data,
                None => continue,
            },
        };
        let options = Options { as_is: true, ignore_required: true, none_with_default: false };
        let alone = Value::Object(Map::from_iter([(name.clone(), default.clone())]));
        if ignore_bad && validate(&alone, schema, options).is_err() {
            bad = true;
        } else {
            found.insert(name.clone(), default);
        }
    }
    Ok((found, bad))
}

/// The data of the block that a default refers to, secrets starred; `None` where it refers to nothing.
async fn block_data(app: &App, tx: &mut Tx, reference: &Value) -> Result<Option<Value>, Failure> {
    let Some(id) = reference.get("block_document_id").filter(|id| !id.is_null()) else { return Ok(None) };
    let missing = || Failure::Other(ApiError::not_found("Block not found."));
    let id = id.as_str().and_then(|id| BlockDocumentId::from_str(id).ok()).ok_or_else(missing)?;
    // Where there is a document there is a key: none is made inside this transaction.
    if !block_exists(tx, id).await? {
        return Err(missing());
    }
    let cipher = block_documents::cipher(app).await.map_err(Failure::Other)?;
    let document = document::by_id(tx, &cipher, id, false).await.map_err(|error| Failure::Other(error.into()))?;
    Ok(Some(Value::Object(document.ok_or_else(missing)?.data)))
}

/// True where there is such a block document.
pub(crate) async fn block_exists(tx: &mut Tx, id: BlockDocumentId) -> Result<bool, StoreError> {
    let mut select = Query::select();
    select.column(t::BlockDocument::Id).from(t::BlockDocument::Table).and_where(Expr::col(t::BlockDocument::Id).eq(id));
    Ok(tx.fetch_optional(&select).await?.is_some())
}
