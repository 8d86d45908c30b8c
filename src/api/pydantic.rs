//! Reads a type out of a JSON value as pydantic does: with its lax conversions (`"5"` for a number, `"yes"` for a
//! boolean), and with all findings at once, fields in the order of their declaration, keys that nobody knows last.
//!
//! serde stops at the first error. So what was found is left out and the value is read again, until nothing new is
//! found: a valid body is read once, a body with n findings about n + 1 times, at most [`PASSES`] times.

#![expect(clippy::result_large_err, reason = "a finding is rare, and no longer kept than one reading takes")]

use std::borrow::Cow;
use std::fmt::Display;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, MapAccess, SeqAccess, Unexpected, Visitor};
use serde_json::{Value, json};

use crate::api::error::Issue;
use crate::model::json::Complaint;
use crate::model::run;

/// How often an invalid value is read at most, hence also a bound of the findings in one answer.
const PASSES: usize = 100;

/// Texts that stand in for a value that is missing, so that what follows it is looked at as well.
const STAND_INS: [&str; 4] = ["00000000-0000-0000-0000-000000000000", "2020-01-01T00:00:00Z", "a", "1"];

/// Enumerations that are literals of the reference: it names the finding otherwise.
const LITERALS: [&str; 3] = ["HolderType", "Mode", "RetryType"];

/// What settings say of values, wherever they are.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::exhaustive_structs, reason = "made where the settings are known")]
pub struct Bounds {
    /// Bytes of a run's parameters, 0 for no bound; see [`run::SIZED_PARAMETERS`].
    pub parameters_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { parameters_bytes: run::PARAMETERS_BYTES }
    }
}

/// Reads `T`, within the bounds that hold where no setting says otherwise; findings are located below `root`.
///
/// # Errors
/// What was found, in pydantic's order.
pub fn read<T: DeserializeOwned>(value: &Value, root: &str) -> Result<T, Vec<Issue>> {
    read_within(Bounds::default(), value, root)
}

/// Reads `T`; findings are located below `root`.
///
/// # Errors
/// What was found, in pydantic's order.
pub fn read_within<T: DeserializeOwned>(bounds: Bounds, value: &Value, root: &str) -> Result<T, Vec<Issue>> {
    let mut findings: Vec<Finding> = Vec::new();
    let mut plan = Plan::default();
    for _ in 0..PASSES {
        let reader = Reader { value: Some(value), stand_in: None, plan: &plan, place: None, bounds };
        let finding = match T::deserialize(reader) {
            Ok(read) if findings.is_empty() => return Ok(read),
            Ok(_) => break,
            Err(finding) => finding,
        };
        let path = finding.path();
        // A model is judged as a whole only when its fields are right.
        let judged = findings.iter().any(|other| starts_with(&other.path(), &path));
        let treated = plan.treated(&path);
        if !judged && treated.is_none() {
            let again = if finding.kind == "missing" { Treatment::StandIn(0) } else { Treatment::LeaveOut };
            plan.treat(path, again);
            findings.push(finding);
            continue;
        }
        let (at, next) = match treated {
            Some((at, Treatment::LeaveOut)) => (at, Treatment::StandIn(0)),
            Some((at, Treatment::StandIn(tried))) if tried + 1 < STAND_INS.len() => (at, Treatment::StandIn(tried + 1)),
            // Nothing passes in its place: what it is in is left out as a whole.
            Some((mut at, _)) if at.len() > 1 => {
                at.pop();
                (at, Treatment::LeaveOut)
            }
            None if !path.is_empty() => (path, Treatment::LeaveOut),
            _ => break,
        };
        plan.treat(at, next);
    }
    findings.sort_by_key(Finding::rank);
    Err(findings.into_iter().flat_map(|finding| finding.into_issues(value, root)).collect())
}

#[derive(Debug, Clone, PartialEq)]
enum Step<'a> {
    Key(Cow<'a, str>),
    Index(usize),
}

impl Step<'_> {
    fn of<'v>(&self, value: &'v Value) -> &'v Value {
        match self {
            Self::Key(key) => &value[&**key],
            Self::Index(index) => &value[*index],
        }
    }

    fn owned(&self) -> Step<'static> {
        match self {
            Self::Key(key) => Step::Key(key.clone().into_owned().into()),
            Self::Index(index) => Step::Index(*index),
        }
    }
}

fn starts_with(path: &[Step<'_>], start: &[Step<'_>]) -> bool {
    path.len() >= start.len() && path[..start.len()] == *start
}

#[derive(Debug, Clone, Copy)]
enum Treatment {
    /// As if it were not there.
    LeaveOut,
    /// Something that may pass in its place.
    StandIn(usize),
}

/// What not to look at again.
#[derive(Debug, Default)]
struct Plan(Vec<(Vec<Step<'static>>, Treatment)>);

impl Plan {
    fn treat(&mut self, path: Vec<Step<'static>>, treatment: Treatment) {
        self.0.retain(|(known, _)| *known == path || !starts_with(known, &path));
        match self.0.iter_mut().find(|(known, _)| *known == path) {
            Some((_, old)) => *old = treatment,
            None => self.0.push((path, treatment)),
        }
    }

    /// The treatment of the path, or of what it is in.
    fn treated(&self, path: &[Step<'_>]) -> Option<(Vec<Step<'static>>, Treatment)> {
        self.0.iter().find(|(known, _)| starts_with(path, known)).cloned()
    }

    fn at(&self, place: Place<'_>) -> Option<Treatment> {
        if self.0.is_empty() {
            return None;
        }
        let mut path = Vec::new();
        let mut next = Some(&place);
        while let Some(place) = next {
            path.push(place.step.owned());
            next = place.within;
        }
        path.reverse();
        self.0.iter().find(|(known, _)| *known == path).map(|(_, treatment)| *treatment)
    }
}

/// Where a reader is, by the way that led there.
#[derive(Clone)]
struct Place<'a> {
    step: Step<'a>,
    within: Option<&'a Place<'a>>,
}

/// One finding: pydantic's error before it is located.
#[derive(Debug, Clone)]
struct Finding {
    kind: String,
    message: String,
    ctx: Option<Value>,
    /// From the inside out, with the place among its siblings.
    steps: Vec<(Step<'static>, usize)>,
    /// Instead of the above: all that is wrong below that place.
    below: Vec<Complaint>,
}

/// The place of what no declaration knows.
const UNKNOWN: usize = usize::MAX / 2;

impl Finding {
    fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), message: message.into(), ctx: None, steps: Vec::new(), below: Vec::new() }
    }

    fn within(mut self, step: Step<'static>, rank: usize) -> Self {
        self.steps.push((step, rank));
        self
    }

    /// Gives a missing field its place among the declared ones.
    fn ranked(mut self, fields: &[&str]) -> Self {
        if let ("missing", [(Step::Key(key), rank @ UNKNOWN)]) = (self.kind.as_str(), self.steps.as_mut_slice()) {
            *rank = fields.iter().position(|field| field == key).unwrap_or(UNKNOWN);
        }
        self
    }

    fn path(&self) -> Vec<Step<'static>> {
        self.steps.iter().rev().map(|(step, _)| step.clone()).collect()
    }

    fn rank(&self) -> Vec<usize> {
        self.steps.iter().rev().map(|(_, rank)| *rank).collect()
    }

    fn into_issues(mut self, value: &Value, root: &str) -> Vec<Issue> {
        if self.below.is_empty() {
            return vec![self.into_issue(value, root)];
        }
        let at = self.path().iter().fold(value, |inner, step| step.of(inner));
        let below = std::mem::take(&mut self.below).into_iter().map(|complaint| {
            let Complaint { location, kind, message, input } = complaint;
            // Members of a union are no keys; of what is missing, the object is shown that lacks it.
            let seen = if kind == "missing" { &location[..location.len() - 1] } else { &location[..] };
            let step = |inner: &'_ Value, step: &Value| match step {
                Value::String(key) => inner.get(key.as_str()).cloned(),
                step => inner.get(step.as_u64()? as usize).cloned(),
            };
            let input = input.unwrap_or_else(|| seen.iter().fold(at.clone(), |inner, key| step(&inner, key).unwrap_or(inner)));
            let ctx = ctx_of(&kind, &message);
            let mut issue = Finding { steps: self.steps.clone(), ctx, ..Finding::new(kind, message) }.into_issue(value, root);
            issue.loc.extend(location);
            issue.input = input;
            issue
        });
        below.collect()
    }

    fn into_issue(self, value: &Value, root: &str) -> Issue {
        let path = self.path();
        let seen = if self.kind == "missing" { path.split_last().map_or(&path[..], |(_, before)| before) } else { &path[..] };
        let input = seen.iter().fold(value, |inner, step| step.of(inner));
        let loc = std::iter::once(json!(root)).chain(path.iter().map(|step| match step {
            Step::Key(key) => json!(key),
            Step::Index(index) => json!(index),
        }));
        Issue { kind: self.kind, loc: loc.collect(), msg: self.message, input: input.clone(), ctx: self.ctx }
    }
}

/// What a message was made from, where it says so itself.
fn ctx_of(kind: &str, message: &str) -> Option<Value> {
    let (name, words) = match kind {
        "literal_error" | "enum" => ("expected", json!(message.strip_prefix("Input should be ")?)),
        "uuid_parsing" => ("error", json!(message.strip_prefix("Input should be a valid UUID, ")?)),
        _ if message.starts_with("Value error, ") => ("error", json!({})),
        _ => return None,
    };
    Some(json!({ name: words }))
}

impl Display for Finding {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Finding {}

impl de::Error for Finding {
    fn custom<T: Display>(message: T) -> Self {
        let text = message.to_string();
        if let Some(error) = text.strip_prefix("UUID parsing failed: ") {
            // The same parser as pydantic's: the words are equal too.
            let finding = Self::new("uuid_parsing", format!("Input should be a valid UUID, {error}"));
            return Self { ctx: Some(json!({"error": error})), ..finding };
        }
        let Some(marked) = text.strip_prefix('\u{1}') else {
            return Self { ctx: Some(json!({"error": {}})), ..Self::new("value_error", format!("Value error, {text}")) };
        };
        if let Some(all) = marked.strip_prefix('\u{1}') {
            return Self { below: serde_json::from_str(all).unwrap_or_default(), ..Self::new("value_error", "Value error") };
        }
        let mut parts = marked.splitn(3, '\u{1}');
        let (kind, message) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let ctx = parts.next().map(|ctx| serde_json::from_str(ctx).ok().filter(|ctx: &Value| !ctx.is_null()));
        match ctx {
            None if kind == "value_error" => Self { ctx: Some(json!({"error": {}})), ..Self::new(kind, format!("Value error, {message}")) },
            ctx => Self { ctx: ctx.flatten(), ..Self::new(kind, message) },
        }
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        mistyped(&expected.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new("missing", "Field required").within(Step::Key(field.into()), UNKNOWN)
    }

    fn unknown_field(_: &str, _: &'static [&'static str]) -> Self {
        Self::new("extra_forbidden", "Extra inputs are not permitted")
    }

    fn unknown_variant(_: &str, variants: &'static [&'static str]) -> Self {
        let quoted: Vec<String> = variants.iter().map(|variant| format!("'{variant}'")).collect();
        let expected = match quoted.as_slice() {
            [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
            other => other.concat(),
        };
        Self { ctx: Some(json!({"expected": expected})), ..Self::new("enum", format!("Input should be {expected}")) }
    }
}

/// The finding of another type than the one that is `expected`, in serde's words.
fn mistyped(expected: &str) -> Finding {
    if expected.contains("UUID") {
        Finding::new("uuid_type", "UUID input should be a string, bytes or UUID object")
    } else if expected.contains("sequence") {
        Finding::new("list_type", "Input should be a valid list")
    } else if expected.contains("map") {
        Finding::new("dict_type", "Input should be a valid dictionary")
    } else if expected.contains("struct") {
        Finding::new("model_attributes_type", "Input should be a valid dictionary or object to extract fields from")
    } else if expected.contains("bool") {
        Finding::new("bool_type", "Input should be a valid boolean")
    } else if expected.contains("f64") {
        Finding::new("float_type", "Input should be a valid number")
    } else if ["i64", "u64", "i32", "u32", "usize", "integer"].iter().any(|name| expected.contains(name)) {
        Finding::new("int_type", "Input should be a valid integer")
    } else {
        Finding::new("string_type", "Input should be a valid string")
    }
}

fn lax_bool(value: &Value) -> Result<bool, Finding> {
    let unclear = || Finding::new("bool_parsing", "Input should be a valid boolean, unable to interpret input");
    match value {
        Value::Bool(value) => Ok(*value),
        Value::Number(number) => match number.as_f64() {
            Some(0.0) => Ok(false),
            Some(1.0) => Ok(true),
            _ if number.is_f64() => Err(mistyped("bool")),
            _ => Err(unclear()),
        },
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "0" | "off" | "f" | "false" | "n" | "no" => Ok(false),
            "1" | "on" | "t" | "true" | "y" | "yes" => Ok(true),
            _ => Err(unclear()),
        },
        _ => Err(mistyped("bool")),
    }
}

fn lax_integer(value: &Value) -> Result<i64, Finding> {
    let too_large = || Finding::new("int_parsing_size", "Unable to parse input string as an integer, exceeded maximum size");
    match value {
        Value::Bool(value) => Ok(i64::from(*value)),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => Ok(value),
            (None, Some(value)) if value.fract() != 0.0 => {
                Err(Finding::new("int_from_float", "Input should be a valid integer, got a number with a fractional part"))
            }
            (None, Some(value)) if value.abs() < 9.2e18 => Ok(value as i64),
            _ => Err(too_large()),
        },
        Value::String(text) => {
            let text = text.trim();
            let whole = text.split_once('.').filter(|(_, zeros)| zeros.bytes().all(|digit| digit == b'0')).map_or(text, |(whole, _)| whole);
            let unparsed = || Finding::new("int_parsing", "Input should be a valid integer, unable to parse string as an integer");
            whole.replace('_', "").parse().map_err(|_| unparsed())
        }
        _ => Err(mistyped("integer")),
    }
}

fn lax_float(value: &Value) -> Result<f64, Finding> {
    match value {
        Value::Bool(value) => Ok(f64::from(u8::from(*value))),
        Value::Number(number) => number.as_f64().ok_or_else(|| mistyped("f64")),
        Value::String(text) => {
            let unparsed = || Finding::new("float_parsing", "Input should be a valid number, unable to parse string as a number");
            text.trim().replace('_', "").parse().map_err(|_| unparsed())
        }
        _ => Err(mistyped("f64")),
    }
}

/// Reads one value; without one, gives its visitor something to go on with.
#[derive(Clone, Copy)]
struct Reader<'a> {
    value: Option<&'a Value>,
    stand_in: Option<usize>,
    plan: &'a Plan,
    place: Option<&'a Place<'a>>,
    bounds: Bounds,
}

impl<'a> Reader<'a> {
    fn stand_in(self) -> &'static str {
        STAND_INS[self.stand_in.unwrap_or_default()]
    }

    /// The value below `place`, unless the plan has something else for it: `None` leaves it out.
    fn below(&self, value: Option<&'a Value>, place: &'a Place<'a>) -> Option<Reader<'a>> {
        let reader = Reader { value, place: Some(place), ..*self };
        match self.plan.at(place.clone()) {
            Some(Treatment::LeaveOut) => None,
            Some(Treatment::StandIn(tried)) => Some(Reader { value: None, stand_in: Some(tried), ..reader }),
            None => value.map(|_| reader),
        }
    }
}

macro_rules! lax {
    ($($method:ident $visit:ident $read:ident $stand_in:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Finding> {
            match self.value {
                Some(value) => visitor.$visit($read(value)?),
                None => visitor.$visit($stand_in),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Finding;

    lax! {
        deserialize_bool visit_bool lax_bool false;
        deserialize_i8 visit_i64 lax_integer 1;
        deserialize_i16 visit_i64 lax_integer 1;
        deserialize_i32 visit_i64 lax_integer 1;
        deserialize_i64 visit_i64 lax_integer 1;
        deserialize_u8 visit_i64 lax_integer 1;
        deserialize_u16 visit_i64 lax_integer 1;
        deserialize_u32 visit_i64 lax_integer 1;
        deserialize_u64 visit_i64 lax_integer 1;
        deserialize_f32 visit_f64 lax_float 1.0;
        deserialize_f64 visit_f64 lax_float 1.0;
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Finding> {
        match self.value {
            None if self.stand_in == Some(2) => visitor.visit_map(Fields::new(self, &[])),
            None if self.stand_in == Some(3) => visitor.visit_seq(Items::new(self)),
            None => visitor.visit_str(self.stand_in()),
            Some(Value::Null) => visitor.visit_unit(),
            Some(Value::Bool(value)) => visitor.visit_bool(*value),
            Some(Value::String(text)) => visitor.visit_str(text),
            Some(Value::Array(_)) => visitor.visit_seq(Items::new(self)),
            Some(Value::Object(_)) => visitor.visit_map(Fields::new(self, &[])),
            Some(Value::Number(number)) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), ..) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (.., value) => visitor.visit_f64(value.unwrap_or_default()),
            },
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Finding> {
        match self.value {
            None => visitor.visit_str(self.stand_in()),
            Some(Value::String(text)) => visitor.visit_str(text),
            Some(_) => Err(de::Error::invalid_type(Unexpected::Other("value"), &visitor)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Finding> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Finding> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Finding> {
        match self.value {
            None | Some(Value::Null) => visitor.visit_none(),
            Some(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Finding> {
        if let (run::SIZED_PARAMETERS, Some(Value::Object(parameters))) = (name, self.value) {
            run::check_size(parameters, self.bounds.parameters_bytes).map_err(<Finding as de::Error>::custom)?;
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Finding> {
        match self.value {
            None | Some(Value::Array(_)) => visitor.visit_seq(Items::new(self)),
            Some(_) => Err(mistyped("sequence")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Finding> {
        match self.value {
            None | Some(Value::Object(_)) => visitor.visit_map(Fields::new(self, &[])),
            Some(_) => Err(mistyped("map")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Finding> {
        match self.value {
            None | Some(Value::Object(_)) => visitor.visit_map(Fields::new(self, fields)).map_err(|finding| finding.ranked(fields)),
            Some(_) => Err(mistyped("struct")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Finding> {
        let read = match self.value {
            None => visitor.visit_enum(Variant(variants.first().copied().unwrap_or_default())),
            Some(Value::String(text)) => visitor.visit_enum(Variant(text)),
            Some(_) => Err(de::Error::unknown_variant("", variants)),
        };
        read.map_err(|finding| match finding.kind.as_str() {
            "enum" if LITERALS.contains(&name) => Finding { kind: "literal_error".into(), ..finding },
            _ => finding,
        })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Finding> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! { i128 u128 bytes byte_buf unit unit_struct tuple tuple_struct identifier }
}

/// A variant that holds nothing, by its name.
struct Variant<'a>(&'a str);

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Finding;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Finding> {
        Ok((seed.deserialize(StrDeserializer::<Finding>::new(self.0))?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_> {
    type Error = Finding;

    fn unit_variant(self) -> Result<(), Finding> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Finding> {
        Err(mistyped("struct"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Finding> {
        Err(mistyped("struct"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Finding> {
        Err(mistyped("struct"))
    }
}

/// The items of a list.
struct Items<'a> {
    reader: Reader<'a>,
    next: usize,
}

impl<'a> Items<'a> {
    fn new(reader: Reader<'a>) -> Self {
        Self { reader, next: 0 }
    }
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Finding;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Finding> {
        let Some(Value::Array(items)) = self.reader.value else { return Ok(None) };
        while let Some(item) = items.get(self.next) {
            let index = self.next;
            self.next += 1;
            let place = Place { step: Step::Index(index), within: self.reader.place };
            if let Some(reader) = self.reader.below(Some(item), &place) {
                return seed.deserialize(reader).map(Some).map_err(|finding| finding.within(Step::Index(index), index));
            }
        }
        Ok(None)
    }
}

/// The fields of an object: the declared ones first, in their order, then the rest.
struct Fields<'a> {
    reader: Reader<'a>,
    declared: &'static [&'static str],
    /// How many keys were looked at.
    next: usize,
    given: Option<serde_json::map::Iter<'a>>,
    /// The key whose value is due.
    due: Option<(&'a str, usize)>,
}

impl<'a> Fields<'a> {
    fn new(reader: Reader<'a>, declared: &'static [&'static str]) -> Self {
        let given = reader.value.and_then(Value::as_object).map(serde_json::Map::iter);
        Self { reader, declared, next: 0, given, due: None }
    }

    /// The next key that is to be read, with its place.
    fn advance(&mut self) -> Option<(&'a str, usize)> {
        let object = self.reader.value.and_then(Value::as_object);
        loop {
            let place = self.next;
            self.next += 1;
            if let Some(name) = self.declared.get(place) {
                let treated = self.reader.plan.at(Place { step: Step::Key((*name).into()), within: self.reader.place });
                let given = match treated {
                    Some(Treatment::LeaveOut) => false,
                    Some(Treatment::StandIn(_)) => true,
                    None => self.reader.value.is_none() || object.is_some_and(|object| object.contains_key(*name)),
                };
                if given {
                    return Some((name, place));
                }
                continue;
            }
            let (name, _) = self.given.as_mut()?.next()?;
            let known = self.declared.contains(&name.as_str());
            let treated = self.reader.plan.at(Place { step: Step::Key(name.into()), within: self.reader.place });
            if !known && treated.is_none() {
                return Some((name, UNKNOWN + place));
            }
        }
    }
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Finding;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Finding> {
        let Some((key, rank)) = self.advance() else { return Ok(None) };
        self.due = Some((key, rank));
        seed.deserialize(StrDeserializer::<Finding>::new(key))
            .map(Some)
            .map_err(|finding| finding.within(Step::Key(key.to_owned().into()), rank))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Finding> {
        let (key, rank) = self.due.take().expect("serde asks for a value after its key");
        let value = self.reader.value.and_then(|value| value.get(key));
        let place = Place { step: Step::Key(key.into()), within: self.reader.place };
        let stand_in = Reader { value: None, place: Some(&place), ..self.reader };
        let reader = self.reader.below(value, &place).unwrap_or(stand_in);
        seed.deserialize(reader).map_err(|finding| finding.within(Step::Key(key.to_owned().into()), rank))
    }
}
