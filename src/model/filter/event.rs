//! Filter over events: read from clients, kept in page tokens, matched against live events, turned into conditions by
//! `store/filter/event.rs`. Unknown keys are forbidden.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::model::automation::check::specification;
use crate::model::check::{self, Checker};
use crate::model::event::{Event, Resource};
use crate::model::glob::label_matches;
use crate::model::json::{self, invalid};
use crate::model::text_search::TextSearch;

/// Which events, and in which order of `occurred`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventFilter {
    pub occurred: EventOccurredFilter,
    pub event: Option<EventNameFilter>,
    pub resource: Option<EventResourceFilter>,
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "Option<OneOrMany<EventRelatedFilter>>")]
    pub related: Option<Vec<EventRelatedFilter>>,
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "Option<OneOrMany<EventAnyResourceFilter>>")]
    pub any_resource: Option<Vec<EventAnyResourceFilter>>,
    #[serde(deserialize_with = "crate::model::filter::null_is_default")]
    pub id: EventIdFilter,
    pub text: Option<EventTextFilter>,
    pub order: EventOrder,
}

/// Order of `occurred`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum EventOrder {
    Asc,
    #[default]
    Desc,
}

/// When it occurred; both ends belong to the range. Absent ends are the last 180 days until now ([`EventFilter::at`]).
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventOccurredFilter {
    #[serde(with = "json::optional_timestamp")]
    pub since: Option<Timestamp>,
    #[serde(with = "json::optional_timestamp")]
    pub until: Option<Timestamp>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventNameFilter {
    pub prefix: Option<Vec<String>>,
    pub exclude_prefix: Option<Vec<String>>,
    pub name: Option<Vec<String>>,
    pub exclude_name: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventResourceFilter {
    pub id: Option<Vec<String>>,
    pub id_prefix: Option<Vec<String>>,
    pub labels: Option<ResourceSpecification>,
    /// Only the first event of each resource, in the order asked for.
    pub distinct: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventRelatedFilter {
    pub id: Option<Vec<String>>,
    pub role: Option<Vec<String>>,
    pub resources_in_roles: Option<Vec<(String, String)>>,
    pub labels: Option<ResourceSpecification>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventAnyResourceFilter {
    pub id: Option<Vec<String>>,
    pub id_prefix: Option<Vec<String>>,
    pub labels: Option<ResourceSpecification>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventIdFilter {
    pub id: Option<Vec<Uuid>>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventTextFilter {
    /// At most 200 characters.
    #[serde(deserialize_with = "text_query")]
    pub query: String,
}

/// Labels with the patterns of which one must fit each.
#[derive(Debug, Clone, Default, PartialEq, JsonSchema)]
#[schemars(inline, with = "crate::model::automation::ResourceSpecification")]
pub struct ResourceSpecification(pub IndexMap<String, Vec<String>>);

impl<'de> Deserialize<'de> for ResourceSpecification {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Patterns {
            One(String),
            Many(Vec<String>),
        }
        let labels = IndexMap::<String, Patterns>::deserialize(deserializer)?;
        let many = |patterns| match patterns {
            Patterns::One(pattern) => vec![pattern],
            Patterns::Many(patterns) => patterns,
        };
        Ok(Self(labels.into_iter().map(|(label, patterns)| (label, many(patterns))).collect()))
    }
}

impl Serialize for ResourceSpecification {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl ResourceSpecification {
    /// Whether every label of the specification fits the resource.
    pub fn matches(&self, resource: &Resource) -> bool {
        self.0.iter().all(|(label, patterns)| {
            let value = resource.get(label).map(String::as_str);
            patterns.iter().any(|pattern| label_matches(pattern, value))
        })
    }
}

#[derive(JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
#[expect(dead_code, reason = "only its schema is looked at")]
enum OneOrMany<T> {
    Many(Vec<T>),
    One(T),
}

fn one_or_many<'de, D: Deserializer<'de>, T: DeserializeOwned + Told>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    let given = Value::deserialize(deserializer)?;
    let read = match given {
        Value::Null => return Ok(None),
        Value::Array(_) => serde_json::from_value(given.clone()).ok(),
        _ => serde_json::from_value(given.clone()).ok().map(|one| vec![one]),
    };
    if read.is_some() {
        return Ok(read);
    }
    // What is wrong with it as either is told.
    let mut checker = Checker::below(Vec::new());
    let told = checker.union(&[
        (T::NAMES[0], &|checker| T::tell(checker, &given)),
        (T::NAMES[1], &|checker| check::list(T::tell)(checker, &given).map(|_| ())),
    ]);
    checker.finish(told).map_err(check::complain)?;
    Err(invalid("value_error", "it is no filter"))
}

/// A filter whose findings are all told.
trait Told {
    /// What the reference's validator calls it, and a list of it.
    const NAMES: [&'static str; 2];

    fn tell(checker: &mut Checker, value: &Value) -> Option<()>;
}

impl Told for EventRelatedFilter {
    const NAMES: [&'static str; 2] = ["EventRelatedFilter", "list[EventRelatedFilter]"];

    fn tell(checker: &mut Checker, value: &Value) -> Option<()> {
        let fields = checker.object(value)?;
        let texts = ["id", "role"].map(|key| fields.or(checker, key, None, check::optional(check::list(check::string))));
        let roles = fields.or(checker, "resources_in_roles", None, check::optional(check::list(pair)));
        let labels = fields.or(checker, "labels", None, check::optional(specification));
        let others = fields.forbid_others(checker, &["id", "role", "resources_in_roles", "labels"]);
        texts.iter().all(Option::is_some).then_some(())?;
        roles.and(labels).and(others)
    }
}

impl Told for EventAnyResourceFilter {
    const NAMES: [&'static str; 2] = ["EventAnyResourceFilter", "list[EventAnyResourceFilter]"];

    fn tell(checker: &mut Checker, value: &Value) -> Option<()> {
        let fields = checker.object(value)?;
        let texts = ["id", "id_prefix"].map(|key| fields.or(checker, key, None, check::optional(check::list(check::string))));
        let labels = fields.or(checker, "labels", None, check::optional(specification));
        let others = fields.forbid_others(checker, &["id", "id_prefix", "labels"]);
        texts.iter().all(Option::is_some).then_some(())?;
        labels.and(others)
    }
}

/// Two texts.
fn pair(checker: &mut Checker, value: &Value) -> Option<()> {
    let Value::Array(items) = value else { return checker.find("tuple_type", "Input should be a valid tuple", value, None) };
    let texts = [0, 1].map(|at| {
        checker.at(at, |checker| match items.get(at) {
            Some(item) => check::string(checker, item),
            None => checker.find("missing", "Field required", value, None),
        })
    });
    if items.len() > 2 {
        let message = format!("Tuple should have at most 2 items after validation, not {}", items.len());
        let ctx = serde_json::json!({"field_type": "Tuple", "max_length": 2, "actual_length": items.len()});
        return checker.find("too_long", message, value, Some(ctx));
    }
    texts.iter().all(Option::is_some).then_some(())
}

fn text_query<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let query = String::deserialize(deserializer)?;
    if query.chars().count() > 200 {
        return Err(invalid("string_too_long", "String should have at most 200 characters"));
    }
    Ok(query)
}

fn restricts<T>(list: Option<&Vec<T>>) -> Option<&Vec<T>> {
    list.filter(|list| !list.is_empty())
}

impl EventFilter {
    /// Fills the absent ends of the range: from the start of the day 180 days ago until now.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        let midnight = now.date_naive().and_time(chrono::NaiveTime::MIN).and_utc();
        self.occurred.since.get_or_insert(midnight - chrono::TimeDelta::days(180));
        self.occurred.until.get_or_insert(now);
        self
    }

    /// Whether an event fits, its time aside.
    pub fn matches(&self, event: &Event) -> bool {
        self.event.as_ref().is_none_or(|name| name.matches(&event.event))
            && self.resource.as_ref().is_none_or(|filter| {
                resource_matches(filter.id.as_ref(), filter.id_prefix.as_ref(), filter.labels.as_ref(), &event.resource)
            })
            && self.related.iter().flatten().all(|filter| filter.matches(event))
            && self.any_resource.iter().flatten().all(|filter| {
                let fits = |resource| resource_matches(filter.id.as_ref(), filter.id_prefix.as_ref(), filter.labels.as_ref(), resource);
                fits(&event.resource) || event.related.iter().any(fits)
            })
            && restricts(self.id.id.as_ref()).is_none_or(|ids| ids.contains(&event.id))
            && self.text.as_ref().is_none_or(|text| TextSearch::parse(&text.query).matches(&searchable(event)))
    }

    /// Whether it occurred in the range, as far as the range is given.
    pub fn covers(&self, occurred: Timestamp) -> bool {
        self.occurred.since.is_none_or(|since| since <= occurred) && self.occurred.until.is_none_or(|until| occurred <= until)
    }
}

impl EventNameFilter {
    fn matches(&self, name: &str) -> bool {
        let begins = |prefix: &String| name.starts_with(prefix.as_str());
        restricts(self.prefix.as_ref()).is_none_or(|prefixes| prefixes.iter().any(begins))
            && !self.exclude_prefix.iter().flatten().any(begins)
            && restricts(self.name.as_ref()).is_none_or(|names| names.iter().any(|one| one == name))
            && !self.exclude_name.iter().flatten().any(|one| one == name)
    }
}

impl EventRelatedFilter {
    /// Whether one related resource fits all of it. (The reference lets every live event through here and only applies
    /// the filter to the database; a subscriber gets what it asked for from both with us.)
    fn matches(&self, event: &Event) -> bool {
        let restricted = self.id.is_some() || self.role.is_some() || self.resources_in_roles.is_some() || self.labels.is_some();
        !restricted
            || event.related.iter().any(|resource| {
                let (id, role) = (label(resource, "prefect.resource.id"), label(resource, "prefect.resource.role"));
                restricts(self.id.as_ref()).is_none_or(|ids| ids.iter().any(|one| one == id))
                    && restricts(self.role.as_ref()).is_none_or(|roles| roles.iter().any(|one| one == role))
                    && restricts(self.resources_in_roles.as_ref())
                        .is_none_or(|pairs| pairs.iter().any(|(one, in_role)| one == id && in_role == role))
                    && self.labels.as_ref().is_none_or(|labels| labels.matches(resource))
            })
    }
}

fn label<'a>(resource: &'a Resource, name: &str) -> &'a str {
    resource.get(name).map_or("", String::as_str)
}

fn resource_matches(
    ids: Option<&Vec<String>>,
    prefixes: Option<&Vec<String>>,
    labels: Option<&ResourceSpecification>,
    resource: &Resource,
) -> bool {
    let id = label(resource, "prefect.resource.id");
    restricts(ids).is_none_or(|ids| ids.iter().any(|one| one == id))
        && restricts(prefixes).is_none_or(|prefixes| prefixes.iter().any(|prefix| id.starts_with(prefix.as_str())))
        && labels.is_none_or(|labels| labels.matches(resource))
}

/// What a text search of live events looks at: name, label values, payload.
fn searchable(event: &Event) -> String {
    let mut text = event.event.clone();
    for value in event.resource.values().chain(event.related.iter().flat_map(IndexMap::values)) {
        text.push(' ');
        text.push_str(value);
    }
    text.push(' ');
    text.push_str(&serde_json::to_string(&event.payload).unwrap_or_default());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event() -> Event {
        serde_json::from_value(json!({
            "occurred": "2026-01-01T00:00:00Z", "event": "prefect.flow-run.Failed", "id": Uuid::nil(),
            "resource": {"prefect.resource.id": "prefect.flow-run.1", "name": "sad-fox"},
            "related": [{"prefect.resource.id": "prefect.flow.2", "prefect.resource.role": "flow"}],
            "payload": {"why": "Lost"},
        }))
        .expect("an event")
    }

    #[test]
    fn every_part_must_fit() {
        for (filter, fits) in [
            (json!({}), true),
            (json!({"event": {"prefix": ["prefect.flow-run."]}}), true),
            (json!({"event": {"prefix": ["prefect.flow-run."], "exclude_name": ["prefect.flow-run.Failed"]}}), false),
            (json!({"resource": {"labels": {"name": ["sad-*", "x"]}}}), true),
            (json!({"resource": {"labels": {"name": "!sad-*"}}}), false),
            (json!({"any_resource": {"id": ["prefect.flow.2"]}}), true),
            (json!({"any_resource": [{"id": ["prefect.flow.2"]}, {"id_prefix": ["prefect.work"]}]}), false),
            (json!({"related": {"id": ["prefect.flow.2"], "role": ["deployment"]}}), false),
            (json!({"related": {"resources_in_roles": [["prefect.flow.2", "flow"]]}}), true),
            (json!({"id": {"id": [Uuid::max()]}}), false),
            (json!({"text": {"query": "lost -found"}}), true),
        ] {
            let parsed: EventFilter = serde_json::from_value(filter.clone()).expect("a filter");
            assert_eq!(parsed.matches(&event()), fits, "{filter}");
        }
        assert!(serde_json::from_value::<EventFilter>(json!({"nonsense": 1})).is_err());
    }
}
