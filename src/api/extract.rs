//! Extractors whose rejections are the reference's: [`Json`] (422 with pydantic-like findings), [`Query`], [`Path`]
//! (a malformed UUID misses the route: 404).
//!
//! A body without `Content-Type` is JSON. An empty body, and one that is null, is missing; for [`Embedded`] it is `{}`.

use std::borrow::Cow;
use std::marker::PhantomData;

use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::api::error::{ApiError, Issue};
use crate::api::pydantic::{self, Bounds};
use crate::api::python_json;
use crate::app::App;

/// A JSON body in, a JSON body out.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        parse_body_within(bounds(app), &read_body(request, app).await?).map(Json)
    }
}

/// The bounds of request bodies.
pub fn bounds(app: &App) -> Bounds {
    Bounds { parameters_bytes: app.settings().server.max_parameter_bytes }
}

/// The bytes of a body.
///
/// # Errors
/// It is too large, or its connection broke.
pub async fn read_body(request: Request, app: &App) -> Result<Bytes, ApiError> {
    Bytes::from_request(request, app).await.map_err(|rejection| ApiError::detail(rejection.status(), rejection.body_text()))
}

/// A JSON body whose members are parameters of the operation, each with a default of its own: a null is the same as an
/// absent one, as FastAPI has it for embedded body parameters.
#[derive(Debug, Clone)]
pub struct Embedded<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Embedded<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let body = parse_json(&read_body(request, app).await?)?;
        embedded(bounds(app), &body).map(Self).map_err(|issues| ApiError::Invalid { issues, body })
    }
}

fn embedded<T: DeserializeOwned>(bounds: Bounds, body: &Value) -> Result<T, Vec<Issue>> {
    let mut members = body.clone();
    match &mut members {
        Value::Object(members) => members.retain(|_, member| !member.is_null()),
        Value::Null => members = json!({}),
        _ => {}
    }
    pydantic::read_within(bounds, &members, "body").map_err(|mut issues| {
        without_input(&mut issues, 2);
        issues
    })
}

/// Parameters of the path, by their names, which are part of the route all the same, together with an [`Embedded`] body:
/// findings of both are told at once.
#[derive(Debug, Clone)]
pub struct PathAndEmbedded<P, T>(pub P, pub T);

impl<P: DeserializeOwned, T: DeserializeOwned> FromRequest<App> for PathAndEmbedded<P, T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let (mut parts, rest) = request.into_parts();
        let path = RawPathParams::from_request_parts(&mut parts, app)
            .await
            .map_err(|rejection| ApiError::detail(rejection.status(), rejection.body_text()))?;
        let path: Map<String, Value> = path.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let body = parse_json(&read_body(Request::from_parts(parts, rest), app).await?)?;
        match (pydantic::read(&Value::Object(path), "path"), embedded(bounds(app), &body)) {
            (Ok(path), Ok(read)) => Ok(Self(path, read)),
            (Ok(_), Err(issues)) | (Err(issues), Ok(_)) => Err(ApiError::Invalid { issues, body }),
            (Err(mut issues), Err(more)) => {
                issues.extend(more);
                Err(ApiError::Invalid { issues, body })
            }
        }
    }
}

/// Parses a JSON body, with the reference's 422 where it does not fit `T`.
///
/// # Errors
/// [`ApiError::Invalid`].
pub fn parse_body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    parse_body_within(Bounds::default(), bytes)
}

fn parse_body_within<T: DeserializeOwned>(bounds: Bounds, bytes: &[u8]) -> Result<T, ApiError> {
    let value = parse_json(bytes)?;
    if value.is_null() {
        return Err(ApiError::invalid("missing", &["body"], "Field required", Value::Null));
    }
    from_value_within(bounds, value, "body")
}

/// The JSON of a body; null where it is empty.
fn parse_json(bytes: &[u8]) -> Result<Value, ApiError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return ApiError::detail(StatusCode::BAD_REQUEST, "There was an error parsing the body");
        };
        // What only this parser refuses, such as half of a pair of surrogates, is in its own words.
        let (at, words) =
            python_json::complaint(text).map_or_else(|| (error.column(), error.to_string()), |(at, words)| (at, words.to_owned()));
        ApiError::Invalid {
            issues: vec![Issue {
                kind: "json_invalid".into(),
                loc: vec!["body".into(), json!(at)],
                msg: "JSON decode error".into(),
                input: json!({}),
                ctx: Some(json!({"error": words})),
            }],
            body: Value::String(text.to_owned()),
        }
    })
}

/// Reads `T` out of a JSON value, with findings located under `root`.
///
/// # Errors
/// [`ApiError::Invalid`].
pub fn from_value<T: DeserializeOwned>(value: Value, root: &str) -> Result<T, ApiError> {
    from_value_within(Bounds::default(), value, root)
}

/// As [`from_value`], within other bounds than those that hold where no setting says otherwise.
///
/// # Errors
/// [`ApiError::Invalid`].
pub fn from_value_within<T: DeserializeOwned>(bounds: Bounds, value: Value, root: &str) -> Result<T, ApiError> {
    pydantic::read_within(bounds, &value, root).map_err(|issues| ApiError::Invalid { issues, body: value })
}

/// A JSON value that has, or is to have, the form of `T`: a body that the handler reads itself, or one that was written
/// before so that something could be left out of it.
#[derive(Debug, Clone)]
pub struct Shaped<T> {
    /// The value.
    pub value: Value,
    form: PhantomData<fn() -> T>,
}

impl<T> From<Value> for Shaped<T> {
    fn from(value: Value) -> Self {
        Self { value, form: PhantomData }
    }
}

impl<'de, T> Deserialize<'de> for Shaped<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}

impl<T> Serialize for Shaped<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<T: JsonSchema> JsonSchema for Shaped<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Path parameters. What does not parse is no route of the reference: 404 `{"detail": "Not Found"}`.
#[derive(Debug, Clone)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        // The reference decodes before it looks for a route: an encoded slash leads elsewhere.
        let raw = axum::extract::RawPathParams::from_request_parts(parts, state).await;
        if raw.is_ok_and(|raw| raw.iter().any(|(_, value)| value.contains('/'))) {
            return Err(ApiError::no_route());
        }
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0)).map_err(|_: PathRejection| ApiError::no_route())
    }
}

/// Query parameters; 422 under `["query", name]`.
#[derive(Debug, Clone)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = parts.uri.query().unwrap_or_default();
        let given: serde_json::Map<String, Value> = url::form_urlencoded::parse(query.as_bytes())
            .map(|(key, value)| (key.into_owned(), Value::String(value.into_owned())))
            .collect();
        pydantic::read(&Value::Object(given), "query").map(Self).map_err(|mut issues| {
            without_input(&mut issues, 2);
            ApiError::Invalid { issues, body: Value::Null }
        })
    }
}

/// A parameter that is missing has no input, where FastAPI looks for it, at this depth.
fn without_input(issues: &mut [Issue], depth: usize) {
    for issue in issues.iter_mut().filter(|issue| issue.kind == "missing" && issue.loc.len() == depth) {
        issue.input = Value::Null;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its deserialization is looked at")]
    struct Body {
        name: String,
        #[serde(default)]
        ids: Vec<uuid::Uuid>,
        #[serde(default)]
        count: Option<i64>,
    }

    fn issue_of(body: &str) -> Issue {
        match parse_body::<Body>(body.as_bytes()) {
            Err(ApiError::Invalid { mut issues, .. }) => issues.remove(0),
            other => panic!("expected a finding, got {other:?}"),
        }
    }

    #[test]
    fn findings_are_located_and_named_as_pydantic_names_them() {
        let cases = [
            ("", "missing", json!(["body"]), Value::Null),
            ("{}", "missing", json!(["body", "name"]), json!({})),
            (r#"{"name":"a","x":1}"#, "extra_forbidden", json!(["body", "x"]), json!(1)),
            (r#"{"x":1}"#, "missing", json!(["body", "name"]), json!({"x":1})),
            (r#"{"name":1}"#, "string_type", json!(["body", "name"]), json!(1)),
            (r#"{"name":"a","ids":["q"]}"#, "uuid_parsing", json!(["body", "ids", 0]), json!("q")),
            (r#"{"name":"a","count":"q"}"#, "int_parsing", json!(["body", "count"]), json!("q")),
            (r#"{"name":"a","ids":{}}"#, "list_type", json!(["body", "ids"]), json!({})),
            ("[]", "model_attributes_type", json!(["body"]), json!([])),
        ];
        for (body, kind, loc, input) in cases {
            let found = issue_of(body);
            assert_eq!((found.kind.as_str(), json!(found.loc), found.input), (kind, loc, input), "{body}");
        }
        assert_eq!(issue_of("{").kind, "json_invalid");
    }

    #[test]
    fn an_input_of_no_form_lacks_something_of_each() {
        let found = |input: Value| {
            let body = json!({"task_key": "k", "dynamic_key": "0", "task_inputs": {"x": [input]}}).to_string();
            match parse_body::<crate::model::task_run::TaskRunCreate>(body.as_bytes()) {
                Err(ApiError::Invalid { issues, .. }) => {
                    issues.into_iter().map(|issue| (issue.kind, json!(issue.loc[4..]), issue.input, issue.ctx)).collect::<Vec<_>>()
                }
                other => panic!("expected findings, got {other:?}"),
            }
        };
        let of = |kind: &str, at: Value, input: Value, ctx: Option<Value>| (kind.to_owned(), at, input, ctx);
        let forms = ["TaskRunResult", "FlowRunResult", "Parameter", "Constant"];
        assert_eq!(found(json!(1)), forms.map(|form| of("model_attributes_type", json!([form]), json!(1), None)));
        let given = json!({"input_type": "constant", "id": "q"});
        let other = |form: &str, kind: &str| {
            let ctx = Some(json!({"expected": format!("'{kind}'")}));
            of("literal_error", json!([form, "input_type"]), json!("constant"), ctx)
        };
        let issues = found(given.clone());
        assert_eq!(issues[0], other("TaskRunResult", "task_run"));
        assert_eq!((issues[1].0.as_str(), &issues[1].1, &issues[1].2), ("uuid_parsing", &json!(["TaskRunResult", "id"]), &json!("q")));
        assert_eq!(issues[2], other("FlowRunResult", "flow_run"));
        assert_eq!(issues[4], other("Parameter", "parameter"));
        assert_eq!(issues[5], of("missing", json!(["Parameter", "name"]), given.clone(), None));
        assert_eq!(issues[6..], [of("missing", json!(["Constant", "type"]), given, None)]);
    }

    #[test]
    fn a_filter_that_is_neither_one_nor_a_list_lacks_something_of_both() {
        let found = |any_resource: Value| match from_value::<crate::model::filter::event::EventFilter>(
            json!({"any_resource": any_resource}),
            "body",
        ) {
            Err(ApiError::Invalid { issues, .. }) => {
                issues.into_iter().map(|issue| (issue.kind, json!(issue.loc[2..]))).collect::<Vec<_>>()
            }
            other => panic!("expected findings, got {other:?}"),
        };
        let of = |kind: &str, at: Value| (kind.to_owned(), at);
        assert_eq!(
            found(json!(["x"])),
            [
                of("model_attributes_type", json!(["EventAnyResourceFilter"])),
                of("model_attributes_type", json!(["list[EventAnyResourceFilter]", 0])),
            ]
        );
        assert_eq!(
            found(json!({"id": [1], "x": 1})),
            [
                of("string_type", json!(["EventAnyResourceFilter", "id", 0])),
                of("extra_forbidden", json!(["EventAnyResourceFilter", "x"])),
                of("list_type", json!(["list[EventAnyResourceFilter]"])),
            ]
        );
    }

    #[test]
    fn parameters_are_bounded_beside_other_findings() {
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "only its deserialization is looked at")]
        struct Run {
            #[serde(deserialize_with = "crate::model::run::sized_parameters")]
            parameters: serde_json::Map<String, Value>,
            name: String,
        }
        let read = |parameters_bytes: u64, body: &str| match parse_body_within::<Run>(Bounds { parameters_bytes }, body.as_bytes()) {
            Ok(_) => Vec::new(),
            Err(ApiError::Invalid { issues, .. }) => issues.into_iter().map(|issue| (issue.kind, json!(issue.loc), issue.ctx)).collect(),
            Err(other) => panic!("expected findings, got {other:?}"),
        };
        assert_eq!(read(7, r#"{"parameters":{"x":1},"name":"a"}"#), []);
        let large = ("value_error".to_owned(), json!(["body", "parameters"]), Some(json!({"error": {}})));
        let unnamed = ("missing".to_owned(), json!(["body", "name"]), None);
        assert_eq!(read(6, r#"{"parameters":{"x":1}}"#), [large, unnamed]);
        assert_eq!(read(6, r#"{"parameters":[1,2,3]}"#)[0].0, "dict_type");
        assert_eq!(read(0, r#"{"parameters":{"x":1},"name":"a"}"#), [], "no bound");
    }
}
