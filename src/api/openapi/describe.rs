//! What the type of a handler tells of its operation: [`Input`] of each extractor, [`Answer`] of the result.

use axum::Extension;
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::NoContent;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::document::Schemas;
use crate::api::answer::{Accepted, Created, PlainText};
use crate::api::caller::Caller;
use crate::api::error::{ApiError, InvalidRequest};
use crate::api::extract::{Embedded, Json, Path, PathAndEmbedded, Query};
use crate::api::provenance::Creator;
use crate::api::slot_queue::SlotQueue;
use crate::api::task_workers::Presence;
use crate::app::App;

/// An operation, as far as it is described.
#[derive(Debug, Default)]
pub struct Operation {
    /// The names in the braces of the path.
    pub path_names: Vec<&'static str>,
    /// OpenAPI's parameter objects.
    pub parameters: Vec<Value>,
    /// OpenAPI's request body object.
    pub body: Option<Value>,
    /// OpenAPI's response objects by status.
    pub answers: Map<String, Value>,
}

impl Operation {
    /// Adds a parameter.
    pub fn parameter(&mut self, place: &str, name: &str, required: bool, schema: impl Into<Value>) {
        self.parameters.push(json!({"name": name, "in": place, "required": required, "schema": schema.into()}));
    }

    /// Sets the body.
    pub fn json_body(&mut self, required: bool, schema: impl Into<Value>) {
        self.body = Some(json!({"required": required, "content": {"application/json": {"schema": schema.into()}}}));
    }

    /// Adds an answer with a JSON body.
    pub fn json_answer(&mut self, status: StatusCode, schema: impl Into<Value>) {
        self.answer(status, "application/json", schema);
    }

    /// Adds an answer with a body of a kind.
    pub fn answer(&mut self, status: StatusCode, kind: &str, schema: impl Into<Value>) {
        let answer = json!({"description": reason(status), "content": {kind: {"schema": schema.into()}}});
        self.answers.insert(status.as_str().to_owned(), answer);
    }

    /// Adds an answer without a body.
    pub fn empty_answer(&mut self, status: StatusCode) {
        self.answers.insert(status.as_str().to_owned(), json!({"description": reason(status)}));
    }
}

fn reason(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or_default()
}

/// Describes an operation by its handler. `T` is axum's: the extractors.
pub trait Describe<T> {
    /// Describes it.
    fn describe(operation: &mut Operation, schemas: &mut Schemas);
}

impl<F, Fut, R> Describe<((),)> for F
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = R>,
    R: Answer,
{
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        R::describe(operation, schemas);
    }
}

macro_rules! handlers {
    ($($($input:ident),+;)*) => {$(
        impl<F, Fut, R, M, $($input),+> Describe<(M, $($input),+,)> for F
        where
            F: FnOnce($($input),+) -> Fut,
            Fut: Future<Output = R>,
            R: Answer,
            $($input: Input),+
        {
            fn describe(operation: &mut Operation, schemas: &mut Schemas) {
                $($input::describe(operation, schemas);)+
                R::describe(operation, schemas);
            }
        }
    )*};
}

handlers! {
    A;
    A, B;
    A, B, C;
    A, B, C, D;
}

/// What an extractor takes out of a request.
pub trait Input {
    /// Describes it.
    fn describe(operation: &mut Operation, schemas: &mut Schemas);
}

/// Extractors of what is no part of the documented request.
macro_rules! silent {
    ($($input:ty),*) => {$(
        impl Input for $input {
            fn describe(_: &mut Operation, _: &mut Schemas) {}
        }
    )*};
}

silent!(State<App>, HeaderMap, OriginalUri, Caller, Creator, Extension<Presence>, Extension<SlotQueue>);

impl<T: JsonSchema> Input for Json<T> {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        operation.json_body(true, schemas.input::<T>());
    }
}

impl<T: JsonSchema> Input for Embedded<T> {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        let schema = schemas.whole_input::<T>();
        operation.json_body(!required(&schema).is_empty(), schema);
    }
}

impl<T: JsonSchema> Input for Path<T> {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        let schema = schemas.whole_input::<T>();
        let of_each = match schema.get("prefixItems").and_then(Value::as_array) {
            Some(of_each) => of_each.clone(),
            None => vec![schema.into()],
        };
        let names = operation.path_names.clone();
        debug_assert_eq!(names.len(), of_each.len(), "a path has as many names as its extractor takes");
        for (name, schema) in names.into_iter().zip(of_each) {
            operation.parameter("path", name, true, schema);
        }
    }
}

impl<P: JsonSchema, T: JsonSchema> Input for PathAndEmbedded<P, T> {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        let schema = schemas.whole_input::<P>();
        for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            operation.parameter("path", name, true, schema.clone());
        }
        Embedded::<T>::describe(operation, schemas);
    }
}

impl<T: JsonSchema> Input for Query<T> {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        let schema = schemas.whole_input::<T>();
        let required = required(&schema);
        for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            operation.parameter("query", name, required.contains(&name.as_str()), schema.clone());
        }
    }
}

fn required(schema: &Schema) -> Vec<&str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What a handler answers.
pub trait Answer {
    /// Describes it.
    fn describe(operation: &mut Operation, schemas: &mut Schemas);
}

/// Findings are told of whatever is read out of a request.
impl<T: Answer> Answer for Result<T, ApiError> {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        T::describe(operation, schemas);
        if operation.body.is_some() || !operation.parameters.is_empty() {
            operation.json_answer(StatusCode::UNPROCESSABLE_ENTITY, schemas.output::<InvalidRequest<'static>>());
        }
    }
}

impl Answer for NoContent {
    fn describe(operation: &mut Operation, _: &mut Schemas) {
        operation.empty_answer(StatusCode::NO_CONTENT);
    }
}

impl Answer for PlainText {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        operation.answer(StatusCode::OK, "text/plain", schemas.output::<String>());
    }
}

/// JSON bodies, each with the statuses that it comes with.
macro_rules! json_answers {
    ($($answer:ty: $($status:ident),+;)*) => {$(
        impl<T: JsonSchema> Answer for $answer {
            fn describe(operation: &mut Operation, schemas: &mut Schemas) {
                $(operation.json_answer(StatusCode::$status, schemas.output::<T>());)+
            }
        }
    )*};
}

json_answers! {
    Json<T>: OK;
    Created<T>: CREATED;
    Accepted<T>: ACCEPTED;
    (StatusCode, Json<T>): OK, CREATED;
}
