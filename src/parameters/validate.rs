//! Validation against JSON Schema, draft 2020-12, with the findings that the reference would report: it picks one by
//! relevance (`jsonschema.exceptions.best_match`) and words it as Python does.

use std::cmp::Ordering;

use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::LocationSegment;
use jsonschema::{Draft, ValidationError, Validator};
use serde_json::Value;

use super::schema::{is_circular, preprocess, without_required};

/// Why values are not accepted. Prints as the reference's messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The values do not fit the schema, or it refers to what is not there.
    #[error("{0}")]
    Values(String),
    /// The schema is none.
    #[error("Invalid schema: {0}")]
    Schema(String),
    /// The schema leads back to itself.
    #[error("Invalid schema: Unable to validate schema with circular references.")]
    Circular,
}

/// How to validate.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::exhaustive_structs, reason = "the reference's keyword arguments")]
pub struct Options {
    /// Take the schema as it is, without [`preprocess`].
    pub as_is: bool,
    /// Values may be incomplete.
    pub ignore_required: bool,
    /// Fields with a default take null.
    pub none_with_default: bool,
}

/// Checks that `schema` is a schema.
///
/// # Errors
/// [`Invalid::Schema`].
pub fn check_schema(schema: &Value) -> Result<(), Invalid> {
    let errors: Vec<Finding> =
        jsonschema::draft202012::meta::validator().iter_errors(schema).map(|error| Finding::new(&error, 0)).collect();
    best(errors).map_or(Ok(()), |finding| Err(Invalid::Schema(finding.message)))
}

/// Validates `values` against `schema`.
///
/// # Errors
/// [`Invalid`].
pub fn validate(values: &Value, schema: &Value, options: Options) -> Result<(), Invalid> {
    let mut schema = if options.as_is { schema.clone() } else { preprocess(schema, options.none_with_default) };
    if options.ignore_required {
        schema = without_required(&schema);
    }
    if is_circular(&schema) {
        return Err(Invalid::Circular);
    }
    check_schema(&schema)?;
    let validator = compile(&schema)?;
    let errors: Vec<Finding> = validator.iter_errors(values).map(|error| Finding::new(&error, 0)).collect();
    let Some(finding) = best(errors) else { return Ok(()) };
    let path = finding.json_path();
    let field = if path == "$" {
        "Validation failed.".to_owned()
    } else {
        format!("Validation failed for field {}.", text(&path.replace("$.", "")))
    };
    Err(Invalid::Values(format!("{field} Failure reason: {}", finding.message)))
}

/// One thing that is wrong, for [`super::report`].
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Where; of a missing property, where it should be.
    pub path: Vec<Step>,
    pub message: String,
}

/// Everything that is wrong with `values`, in the schema's order.
pub(super) fn findings(values: &Value, schema: &Value) -> Result<Vec<Found>, Invalid> {
    let schema = preprocess(schema, false);
    check_schema(&schema)?;
    if is_circular(&schema) {
        return Err(Invalid::Circular);
    }
    let validator = compile(&schema).map_err(|error| Invalid::Schema(error.to_string()))?;
    let found = validator.iter_errors(values).map(|error| {
        let finding = Finding::new(&error, 0);
        let mut path = finding.path;
        if let ValidationErrorKind::Required { property } = error.kind() {
            path.extend(property.as_str().map(|name| Step::Key(name.to_owned())));
        }
        Found { path, message: finding.message }
    });
    Ok(found.collect())
}

fn compile(schema: &Value) -> Result<Validator, Invalid> {
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .should_validate_formats(false)
        .build(schema)
        .map_err(|error| Invalid::Values(format!("Validation failed. Failure reason: {error}")))
}

/// One step into a value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Index(usize),
    Key(String),
}

/// A validation error in the reference's terms.
#[derive(Debug, Clone)]
struct Finding {
    path: Vec<Step>,
    /// Steps of `path` that belong to the finding that this one explains.
    base: usize,
    keyword: String,
    message: String,
    context: Vec<Finding>,
}

impl Finding {
    fn new(error: &ValidationError<'_>, base: usize) -> Self {
        let path: Vec<Step> = error
            .instance_path()
            .iter()
            .map(|segment| match segment {
                LocationSegment::Index(index) => Step::Index(index),
                LocationSegment::Property(key) => Step::Key(key.into_owned()),
            })
            .collect();
        let context = match error.kind() {
            ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
                context.iter().flatten().map(|inner| Self::new(inner, path.len())).collect()
            }
            _ => Vec::new(),
        };
        Self { base, keyword: error.kind().keyword().to_owned(), message: message(error), context, path }
    }

    fn relative(&self) -> &[Step] {
        self.path.get(self.base..).unwrap_or_default()
    }

    fn is_weak(&self) -> bool {
        matches!(self.keyword.as_str(), "anyOf" | "oneOf")
    }

    fn json_path(&self) -> String {
        let mut path = "$".to_owned();
        for step in &self.path {
            match step {
                Step::Index(index) => path.push_str(&format!("[{index}]")),
                Step::Key(key) if is_plain(key) => path.push_str(&format!(".{key}")),
                Step::Key(key) => path.push_str(&format!("['{}']", key.replace('\\', "\\\\").replace('\'', "\\'"))),
            }
        }
        path
    }
}

/// A key that needs no quotes in a JSON path.
fn is_plain(key: &str) -> bool {
    let mut letters = key.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic()) && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

/// Greater is more relevant: nearer to the root, later among siblings, no mere `anyOf`.
fn relevance(one: &Finding, other: &Finding) -> Ordering {
    let (a, b) = (one.relative(), other.relative());
    b.len().cmp(&a.len()).then_with(|| a.cmp(b)).then_with(|| other.is_weak().cmp(&one.is_weak()))
}

fn best(findings: Vec<Finding>) -> Option<Finding> {
    // The first of the most relevant ones.
    let mut best = findings.into_iter().reduce(|best, next| if relevance(&next, &best) == Ordering::Greater { next } else { best })?;
    loop {
        let mut context = std::mem::take(&mut best.context);
        context.sort_by(relevance);
        match context.as_slice() {
            [] => return Some(best),
            [first, second, ..] if relevance(first, second) == Ordering::Equal => return Some(best),
            _ => best = context.swap_remove(0),
        }
    }
}

/// The message in Python's words.
fn message(error: &ValidationError<'_>) -> String {
    use ValidationErrorKind as Kind;
    let given = repr(error.instance());
    let extras = |unexpected: &[String]| {
        let mut sorted: Vec<String> = unexpected.to_vec();
        sorted.sort();
        let names = sorted.iter().map(|name| text(name)).collect::<Vec<_>>().join(", ");
        let verb = if sorted.len() == 1 { "was" } else { "were" };
        format!("({names} {verb} unexpected)")
    };
    match error.kind() {
        Kind::Type { kind } => {
            let kinds = match kind {
                jsonschema::error::TypeKind::Single(kind) => text(kind.as_str()),
                jsonschema::error::TypeKind::Multiple(kinds) => kinds.iter().map(|kind| text(kind.as_str())).collect::<Vec<_>>().join(", "),
            };
            format!("{given} is not of type {kinds}")
        }
        Kind::Required { property } => format!("{} is a required property", repr(property)),
        Kind::AdditionalProperties { unexpected } => format!("Additional properties are not allowed {}", extras(unexpected)),
        Kind::UnevaluatedProperties { unexpected } => format!("Unevaluated properties are not allowed {}", extras(unexpected)),
        Kind::UnevaluatedItems { unexpected } => format!("Unevaluated items are not allowed {}", extras(unexpected)),
        Kind::AnyOf { .. } | Kind::OneOfNotValid { .. } => format!("{given} is not valid under any of the given schemas"),
        Kind::OneOfMultipleValid { .. } => format!("{given} is valid under each of the given schemas"),
        Kind::Constant { expected_value } => format!("{} was expected", repr(expected_value)),
        Kind::Enum { options } => format!("{given} is not one of {}", repr(options)),
        Kind::Contains => format!("{given} does not contain items matching the given schema"),
        Kind::ExclusiveMaximum { limit } => format!("{given} is greater than or equal to the maximum of {}", repr(limit)),
        Kind::ExclusiveMinimum { limit } => format!("{given} is less than or equal to the minimum of {}", repr(limit)),
        Kind::Maximum { limit } => format!("{given} is greater than the maximum of {}", repr(limit)),
        Kind::Minimum { limit } => format!("{given} is less than the minimum of {}", repr(limit)),
        Kind::MaxItems { limit: 0 } | Kind::MaxLength { limit: 0 } | Kind::MaxProperties { limit: 0 } => {
            format!("{given} is expected to be empty")
        }
        Kind::MaxItems { .. } | Kind::MaxLength { .. } => format!("{given} is too long"),
        Kind::MaxProperties { .. } => format!("{given} has too many properties"),
        Kind::MinItems { limit: 1 } | Kind::MinLength { limit: 1 } | Kind::MinProperties { limit: 1 } => {
            format!("{given} should be non-empty")
        }
        Kind::MinItems { .. } | Kind::MinLength { .. } => format!("{given} is too short"),
        Kind::MinProperties { .. } => format!("{given} does not have enough properties"),
        Kind::MultipleOf { multiple_of } => format!("{given} is not a multiple of {multiple_of}"),
        Kind::Not { schema } => format!("{given} should not be valid under {}", repr(schema)),
        Kind::Pattern { pattern } => format!("{given} does not match {}", text(pattern)),
        Kind::Format { format } => format!("{given} is not a {}", text(format)),
        Kind::UniqueItems => format!("{given} has non-unique elements"),
        Kind::FalseSchema => format!("False schema does not allow {given}"),
        Kind::AdditionalItems { limit } => {
            let more = error.instance().as_array().map_or(0, Vec::len).saturating_sub(*limit);
            format!("Expected at most {limit} items but found {more} extra")
        }
        _ => error.to_string(),
    }
}

/// A value as Python's `repr` prints it.
pub fn repr(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(number) => number.to_string(),
        Value::String(given) => text(given),
        Value::Array(items) => format!("[{}]", items.iter().map(repr).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields: Vec<String> = fields.iter().map(|(key, value)| format!("{}: {}", text(key), repr(value))).collect();
            format!("{{{}}}", fields.join(", "))
        }
    }
}

/// A string as Python's `repr` prints it.
fn text(given: &str) -> String {
    let quote = if given.contains('\'') && !given.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(given.len() + 2);
    out.push(quote);
    for letter in given.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter if letter == quote => {
                out.push('\\');
                out.push(letter);
            }
            letter if letter.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn finding(values: Value, schema: Value, options: Options) -> String {
        validate(&values, &schema, options).expect_err("must be refused").to_string()
    }

    #[test]
    fn findings_are_worded_as_in_python() {
        let schema = json!({"type": "object", "properties": {
            "x": {"type": "string"}, "n": {"type": "integer", "maximum": 3}, "p": {"$ref": "#/definitions/P"},
        }, "required": ["x"], "definitions": {"P": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}}});
        let cases = [
            (json!({"x": 1}), "Validation failed for field 'x'. Failure reason: 1 is not of type 'string'"),
            (json!({}), "Validation failed. Failure reason: 'x' is a required property"),
            (json!({"x": "a", "n": 4}), "Validation failed for field 'n'. Failure reason: 4 is greater than the maximum of 3"),
            (json!({"x": "a", "p": {}}), "Validation failed for field 'p'. Failure reason: 'name' is a required property"),
            (
                json!({"x": "a", "n": {"it's": true}}),
                "Validation failed for field 'n'. Failure reason: {\"it's\": True} is not valid under any of the given schemas",
            ),
        ];
        for (values, message) in cases {
            assert_eq!(finding(values, schema.clone(), Options::default()), message);
        }
        let lax = Options { ignore_required: true, ..Options::default() };
        assert_eq!(validate(&json!({}), &schema, lax), Ok(()));
        assert_eq!(validate(&json!({"x": "a", "n": null}), &schema, Options::default()), Ok(()));
    }

    #[test]
    fn schemas_are_checked() {
        assert!(check_schema(&json!({"type": "object"})).is_ok());
        assert!(check_schema(&json!({"type": "objekt"})).is_err());
        let missing = json!({"properties": {"x": {"$ref": "#/definitions/none"}}});
        assert!(finding(json!({"x": 1}), missing, Options::default()).starts_with("Validation failed. Failure reason: "));
        let ring = json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}});
        assert_eq!(validate(&json!({}), &ring, Options::default()), Err(Invalid::Circular));
    }
}
