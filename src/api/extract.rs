//! Extractors whose rejections are the reference's: [`Json`] (422 with pydantic-like findings), [`Query`], [`Path`]
//! (a malformed UUID misses the route: 404).
//!
//! A body without `Content-Type` is JSON. An empty body counts as `{}` where every field has a default.

use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use serde_path_to_error::Segment;

use crate::api::error::{ApiError, Issue};

/// A JSON body in, a JSON body out.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes =
            Bytes::from_request(request, state).await.map_err(|rejection| ApiError::detail(rejection.status(), rejection.body_text()))?;
        parse_body(&bytes).map(Json)
    }
}

/// A JSON body whose members are parameters of the operation, each with a default of its own: a null is the same as an
/// absent one, as FastAPI has it for embedded body parameters.
#[derive(Debug, Clone)]
pub struct Embedded<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Embedded<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Json(mut value) = Json::<Value>::from_request(request, state).await?;
        if let Value::Object(members) = &mut value {
            members.retain(|_, member| !member.is_null());
        }
        from_value(value, "body").map(Self)
    }
}

/// Parses a JSON body, with the reference's 422 where it does not fit `T`.
///
/// # Errors
/// [`ApiError::Invalid`].
pub fn parse_body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return T::deserialize(json!({})).map_err(|_| ApiError::invalid("missing", &["body"], "Field required", Value::Null));
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|error| ApiError::Invalid {
        issues: vec![Issue {
            kind: "json_invalid".into(),
            loc: vec!["body".into(), json!(error.column())],
            msg: "JSON decode error".into(),
            input: json!({}),
            ctx: Some(json!({"error": error.to_string()})),
        }],
        body: Value::String(String::from_utf8_lossy(bytes).into_owned()),
    })?;
    from_value(value, "body")
}

/// Reads `T` out of a JSON value, with findings located under `root`.
///
/// # Errors
/// [`ApiError::Invalid`].
pub fn from_value<T: DeserializeOwned>(value: Value, root: &str) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(&value).map_err(|error| {
        let issue = issue(&error, &value, root);
        ApiError::Invalid { issues: vec![issue], body: value }
    })
}

/// Words a serde error as pydantic would.
fn issue(error: &serde_path_to_error::Error<serde_json::Error>, value: &Value, root: &str) -> Issue {
    let mut path: Vec<Value> = error
        .path()
        .iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(json!(index)),
            Segment::Map { key } => Some(json!(key)),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect();
    let text = error.inner().to_string();
    let quoted = || text.split('`').nth(1).unwrap_or_default().to_owned();
    let (kind, message, ctx) = if let Some(marked) = text.strip_prefix('\u{1}') {
        let (kind, message) = marked.split_once('\u{1}').unwrap_or(("value_error", marked));
        let ctx = (kind == "value_error").then(|| json!({"error": {}}));
        let message = if kind == "value_error" { format!("Value error, {message}") } else { message.to_owned() };
        (kind.to_owned(), message, ctx)
    } else if text.starts_with("missing field") {
        let issue_input = at(value, &path).clone();
        path.push(quoted().into());
        return Issue { kind: "missing".into(), loc: located(root, path), msg: "Field required".into(), input: issue_input, ctx: None };
    } else if text.starts_with("unknown field") {
        let field = Value::from(quoted());
        if path.last() != Some(&field) {
            path.push(field);
        }
        ("extra_forbidden".into(), "Extra inputs are not permitted".into(), None)
    } else if text.starts_with("unknown variant") {
        let variants: Vec<String> = text.split('`').skip(3).step_by(2).map(|variant| format!("'{variant}'")).collect();
        let expected = match variants.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
            None => String::new(),
        };
        ("enum".into(), format!("Input should be {expected}"), Some(json!({"expected": expected})))
    } else {
        let (kind, message) = type_issue(&text);
        (kind.into(), message, None)
    };
    let input = at(value, &path).clone();
    Issue { kind, loc: located(root, path), msg: message, input, ctx }
}

fn type_issue(text: &str) -> (&'static str, String) {
    let expected = text.rsplit("expected ").next().unwrap_or_default();
    let (kind, noun) = if text.contains("UUID") {
        return ("uuid_parsing", format!("Input should be a valid UUID, {text}"));
    } else if expected.contains("string") {
        ("string_type", "string")
    } else if expected.contains("boolean") {
        ("bool_parsing", "boolean")
    } else if ["i64", "u64", "i32", "u32", "usize", "integer"].iter().any(|name| expected.contains(name)) {
        if text.contains("string") { ("int_parsing", "integer, unable to parse string as an integer") } else { ("int_type", "integer") }
    } else if expected.contains("f64") || expected.contains("float") {
        ("float_type", "number")
    } else if expected.contains("sequence") {
        ("list_type", "list")
    } else if expected.contains("struct") {
        return ("model_attributes_type", "Input should be a valid dictionary or object to extract fields from".into());
    } else if expected.contains("map") {
        ("dict_type", "dictionary")
    } else {
        return ("value_error", format!("Value error, {text}"));
    };
    (kind, format!("Input should be a valid {noun}"))
}

fn located(root: &str, path: Vec<Value>) -> Vec<Value> {
    std::iter::once(root.into()).chain(path).collect()
}

fn at<'a>(value: &'a Value, path: &[Value]) -> &'a Value {
    path.iter().fold(value, |inner, step| match step {
        Value::String(key) => &inner[key.as_str()],
        Value::Number(index) => &inner[index.as_u64().unwrap_or_default() as usize],
        _ => inner,
    })
}

/// Path parameters. What does not parse is no route of the reference: 404 `{"detail": "Not Found"}`.
#[derive(Debug, Clone)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
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
        let deserializer = serde_urlencoded::Deserializer::new(url::form_urlencoded::parse(query.as_bytes()));
        serde_path_to_error::deserialize(deserializer).map(Self).map_err(|error| {
            let given: serde_json::Map<String, Value> = url::form_urlencoded::parse(query.as_bytes())
                .map(|(key, value)| (key.into_owned(), Value::String(value.into_owned())))
                .collect();
            let path = error.path().to_string();
            let text = error.inner().to_string();
            let missing = text.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')).map(str::to_owned);
            let (kind, name, msg) = if let Some(name) = missing {
                ("missing".to_owned(), name, "Field required".to_owned())
            } else {
                let (kind, message) = type_issue(&text);
                (kind.to_owned(), path, message)
            };
            let input = given.get(&name).cloned().unwrap_or(Value::Null);
            ApiError::Invalid {
                issues: vec![Issue { kind, loc: vec!["query".into(), name.into()], msg, input, ctx: None }],
                body: Value::Null,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

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
}
