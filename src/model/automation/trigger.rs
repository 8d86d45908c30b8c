//! Triggers: by single events, and over the firings of other triggers.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::ResourceSpecification;
use crate::id;
use crate::model::event::Event;
use crate::model::glob::{fnmatch, label_matches};
use crate::model::json;

/// Any trigger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Trigger {
    /// By the presence or absence of events.
    Event(EventTrigger),
    /// By a number of other triggers, in any order.
    Compound(CompoundTrigger),
    /// By other triggers, in their order.
    Sequence(SequenceTrigger),
}

/// Whether events or their absence makes a trigger fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Posture {
    Reactive,
    Proactive,
}

impl Posture {
    /// The reference's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reactive => "Reactive",
            Self::Proactive => "Proactive",
        }
    }
}

/// One specification, or several of which each must be fulfilled by some related resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RelatedSpecification {
    All(Vec<ResourceSpecification>),
    One(ResourceSpecification),
}

impl Default for RelatedSpecification {
    fn default() -> Self {
        Self::One(ResourceSpecification::default())
    }
}

impl RelatedSpecification {
    /// The specifications.
    pub fn as_slice(&self) -> &[ResourceSpecification] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::All(all) => all,
        }
    }
}

/// Fires when events happen, or do not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventTrigger {
    #[serde(default = "id::v4")]
    #[schemars(default)]
    pub id: Uuid,
    /// What the event must be about.
    #[serde(rename = "match", default)]
    pub r#match: ResourceSpecification,
    /// What else the event must have to do with.
    #[serde(default)]
    pub match_related: RelatedSpecification,
    /// Names (or globs) of events one of which opens a bucket; none: a bucket is always open.
    #[serde(default)]
    pub after: BTreeSet<String>,
    /// Names (or globs) of events that are counted; none: all are.
    #[serde(default)]
    pub expect: BTreeSet<String>,
    /// Labels for each of whose values there is a bucket of its own; `related:<role>:<label>` for those of related resources.
    #[serde(default)]
    pub for_each: BTreeSet<String>,
    pub posture: Posture,
    #[serde(default = "one")]
    pub threshold: i64,
    /// Seconds.
    #[serde(default)]
    pub within: f64,
}

fn one() -> i64 {
    1
}

/// Seconds as a span, within what a moment can be moved by.
fn span(seconds: f64) -> TimeDelta {
    const MICROSECONDS_MAX: f64 = 1000.0 * 366.0 * 86_400.0 * 1e6;
    TimeDelta::microseconds((seconds * 1e6).round().clamp(-MICROSECONDS_MAX, MICROSECONDS_MAX) as i64)
}

impl EventTrigger {
    /// The span of a bucket.
    pub fn within(&self) -> TimeDelta {
        span(self.within)
    }

    /// True where every event fires at once, if it reaches the threshold.
    pub fn is_immediate(&self) -> bool {
        self.posture == Posture::Reactive && self.within == 0.0
    }

    /// True where the trigger has to do with the event: by its name and its resources.
    pub fn covers(&self, event: &Event) -> bool {
        self.covers_name(&event.event) && self.covers_resources(event)
    }

    /// True where an event of this name may open a bucket or be counted. The reference looks twice: it finds candidates by
    /// globs, then asks again with a pattern in which `*` stands for at least one letter and nothing else is special. So
    /// `a.*` does not cover `a.`, and classes and negations cover nothing.
    pub fn covers_name(&self, event: &str) -> bool {
        if self.expect.is_empty() {
            return !event.is_empty();
        }
        let patterns = || self.expect.iter().chain(&self.after);
        patterns().any(|pattern| fnmatch(pattern, event)) && patterns().any(|pattern| begins_like(pattern, event))
    }

    fn covers_resources(&self, event: &Event) -> bool {
        self.r#match.includes([&event.resource]) && self.match_related.as_slice().iter().all(|wanted| wanted.includes(&event.related))
    }

    /// True where the event opens a bucket.
    pub fn starts_after(&self, event: &str) -> bool {
        self.after.iter().any(|pattern| label_matches(pattern, Some(event)))
    }

    /// True where the event is counted.
    pub fn expects(&self, event: &str) -> bool {
        self.expect.is_empty() || self.expect.iter().any(|pattern| label_matches(pattern, Some(event)))
    }

    /// The bucket of an event: the values of the `for_each` labels, in the labels' order; a missing one is empty.
    pub fn bucketing_key(&self, event: &Event) -> Vec<String> {
        self.for_each.iter().map(|label| label_of(event, label).unwrap_or_default().to_owned()).collect()
    }

    /// True where so many events make it fire.
    pub fn meets_threshold(&self, count: i64) -> bool {
        match self.posture {
            Posture::Reactive => count >= self.threshold,
            Posture::Proactive => count < self.threshold,
        }
    }
}

/// True where `text` begins with what fits `pattern`, whose `*` stands for one letter or more.
fn begins_like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    for part in parts {
        let Some(letter) = rest.chars().next() else { return false };
        let Some(at) = rest[letter.len_utf8()..].find(part) else { return false };
        rest = &rest[letter.len_utf8() + at + part.len()..];
    }
    true
}

/// The value of a label of the event's resource, or of the first related resource in a role: `related:<role>:<label>`.
fn label_of<'e>(event: &'e Event, label: &str) -> Option<&'e str> {
    if let Some((directive, related_label)) = label.rsplit_once(':')
        && let (directive, role) = directive.split_once(':').unwrap_or((directive, ""))
        && directive == "related"
        && let Some(resource) = event.related.iter().find(|resource| resource.get("prefect.resource.role").is_some_and(|of| of == role))
    {
        return resource.get(related_label).map(String::as_str);
    }
    event.resource.get(label).map(String::as_str)
}

/// How many of the triggers of a compound one must have fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum Require {
    Any,
    All,
    #[schemars(untagged)]
    Number(i64),
}

impl Serialize for Require {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => serializer.serialize_str("any"),
            Self::All => serializer.serialize_str("all"),
            Self::Number(number) => serializer.serialize_i64(*number),
        }
    }
}

impl<'de> Deserialize<'de> for Require {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Number(i64),
            Word(String),
        }
        match Wire::deserialize(deserializer)? {
            Wire::Number(number) => Ok(Self::Number(number)),
            Wire::Word(word) if word == "any" => Ok(Self::Any),
            Wire::Word(word) if word == "all" => Ok(Self::All),
            Wire::Word(_) => Err(json::invalid("literal_error", "Input should be 'any' or 'all'")),
        }
    }
}

/// Fires when so many of its triggers have fired, in any order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CompoundTrigger {
    #[serde(default = "id::v4")]
    #[schemars(default)]
    pub id: Uuid,
    pub triggers: Vec<Trigger>,
    /// Seconds; `None` for ever.
    #[serde(default)]
    pub within: Option<f64>,
    pub require: Require,
}

/// Fires when its triggers have fired in their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SequenceTrigger {
    #[serde(default = "id::v4")]
    #[schemars(default)]
    pub id: Uuid,
    pub triggers: Vec<Trigger>,
    /// Seconds; `None` for ever.
    #[serde(default)]
    pub within: Option<f64>,
}

impl Trigger {
    /// Its id.
    pub fn id(&self) -> Uuid {
        match self {
            Self::Event(trigger) => trigger.id,
            Self::Compound(trigger) => trigger.id,
            Self::Sequence(trigger) => trigger.id,
        }
    }

    /// The word of its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Event(_) => "event",
            Self::Compound(_) => "compound",
            Self::Sequence(_) => "sequence",
        }
    }

    /// The triggers right below it.
    pub fn children(&self) -> &[Self] {
        match self {
            Self::Event(_) => &[],
            Self::Compound(CompoundTrigger { triggers, .. }) | Self::Sequence(SequenceTrigger { triggers, .. }) => triggers,
        }
    }

    /// The span that a trigger over others looks back; `None` for ever.
    pub fn composite_within(&self) -> Option<TimeDelta> {
        match self {
            Self::Event(_) => None,
            Self::Compound(CompoundTrigger { within, .. }) | Self::Sequence(SequenceTrigger { within, .. }) => within.map(span),
        }
    }

    /// How many firings of its children it waits for.
    pub fn expected_firings(&self) -> usize {
        match self {
            Self::Compound(CompoundTrigger { require: Require::Any, .. }) => 1,
            Self::Compound(CompoundTrigger { require: Require::Number(number), .. }) => usize::try_from(*number).unwrap_or(0),
            _ => self.children().len(),
        }
    }

    /// It and all below it, each before its children.
    pub fn all(&self) -> Vec<&Self> {
        let mut all = vec![self];
        all.extend(self.children().iter().flat_map(Self::all));
        all
    }

    /// All triggers by events.
    pub fn event_triggers<'t>(&'t self) -> Vec<&'t EventTrigger> {
        let event = |trigger: &'t Self| match trigger {
            Self::Event(trigger) => Some(trigger),
            Self::Compound(_) | Self::Sequence(_) => None,
        };
        self.all().into_iter().filter_map(event).collect()
    }

    /// Gives it and all below it new ids.
    pub fn reset_ids(&mut self) {
        match self {
            Self::Event(trigger) => trigger.id = id::v4(),
            Self::Compound(CompoundTrigger { id, triggers, .. }) | Self::Sequence(SequenceTrigger { id, triggers, .. }) => {
                *id = id::v4();
                triggers.iter_mut().for_each(Self::reset_ids);
            }
        }
    }

    /// The posture, of a trigger by events.
    pub fn posture(&self) -> Option<Posture> {
        match self {
            Self::Event(trigger) => Some(trigger.posture),
            Self::Compound(_) | Self::Sequence(_) => None,
        }
    }
}
