//! [`EventFilter`] as a condition on `events`.

use sea_query::{Cond, Condition, Expr, ExprTrait, LikeExpr, Query, SelectStatement};

use crate::model::filter::event::{EventFilter, EventOccurredFilter, ResourceSpecification};
use crate::model::text_search::TextSearch;
use crate::store::Dialect;
use crate::store::schema as t;

fn event(column: t::Events) -> Expr {
    Expr::col((t::Events::Table, column))
}

fn resource(column: t::EventResources) -> Expr {
    Expr::col((t::EventResources::Table, column))
}

fn given<T>(list: Option<&Vec<T>>) -> Option<&Vec<T>> {
    list.filter(|list| !list.is_empty())
}

/// The condition. The filter's range must be filled in ([`EventFilter::at`]).
pub fn condition(filter: &EventFilter, dialect: Dialect) -> Condition {
    let mut all = within(Cond::all(), &filter.occurred, || event(t::Events::Occurred));
    if let Some(name) = &filter.event {
        let begins =
            |prefixes: &Vec<String>| prefixes.iter().fold(Cond::any(), |any, prefix| any.add(starts_with(event(t::Events::Event), prefix)));
        if let Some(prefixes) = given(name.prefix.as_ref()) {
            all = all.add(begins(prefixes));
        }
        if let Some(prefixes) = given(name.exclude_prefix.as_ref()) {
            all = all.add(begins(prefixes).not());
        }
        if let Some(names) = given(name.name.as_ref()) {
            all = all.add(event(t::Events::Event).is_in(names));
        }
        if let Some(names) = given(name.exclude_name.as_ref()) {
            all = all.add(event(t::Events::Event).is_not_in(names));
        }
    }
    if let Some(resource_filter) = &filter.resource {
        if let Some(ids) = given(resource_filter.id.as_ref()) {
            all = all.add(event(t::Events::ResourceId).is_in(ids));
        }
        if let Some(prefixes) = given(resource_filter.id_prefix.as_ref()) {
            all = all.add(any_prefix(|| event(t::Events::ResourceId), prefixes));
        }
        if let Some(labels) = &resource_filter.labels {
            let part = specification(Cond::all().add(resource(t::EventResources::ResourceRole).eq("")), labels, dialect);
            all = all.add(event(t::Events::Id).in_subquery(involved(&filter.occurred, part)));
        }
    }
    for related in filter.related.iter().flatten() {
        let mut part = Cond::all();
        if let Some(ids) = given(related.id.as_ref()) {
            part = part.add(resource(t::EventResources::ResourceId).is_in(ids));
        }
        if let Some(roles) = given(related.role.as_ref()) {
            part = part.add(resource(t::EventResources::ResourceRole).is_in(roles));
        }
        if let Some(pairs) = given(related.resources_in_roles.as_ref()) {
            let both = |(id, role): &(String, String)| {
                resource(t::EventResources::ResourceId).eq(id.as_str()).and(resource(t::EventResources::ResourceRole).eq(role.as_str()))
            };
            part = part.add(pairs.iter().fold(Cond::any(), |any, pair| any.add(both(pair))));
        }
        if let Some(labels) = &related.labels {
            part = specification(part, labels, dialect);
        }
        if !part.is_empty() {
            if given(related.role.as_ref()).is_none() {
                part = part.add(resource(t::EventResources::ResourceRole).ne(""));
            }
            all = all.add(event(t::Events::Id).in_subquery(involved(&filter.occurred, part)));
        }
    }
    for any in filter.any_resource.iter().flatten() {
        let mut part = Cond::all();
        if let Some(ids) = given(any.id.as_ref()) {
            part = part.add(resource(t::EventResources::ResourceId).is_in(ids));
        }
        if let Some(prefixes) = given(any.id_prefix.as_ref()) {
            part = part.add(any_prefix(|| resource(t::EventResources::ResourceId), prefixes));
        }
        if let Some(labels) = &any.labels {
            part = specification(part, labels, dialect);
        }
        if !part.is_empty() {
            all = all.add(event(t::Events::Id).in_subquery(involved(&filter.occurred, part)));
        }
    }
    if let Some(ids) = given(filter.id.id.as_ref()) {
        all = all.add(dialect.any_id(event(t::Events::Id), ids));
    }
    if let Some(text) = &filter.text {
        all = all.add(searches(&TextSearch::parse(&text.query), dialect));
    }
    all
}

fn within(condition: Condition, occurred: &EventOccurredFilter, column: impl Fn() -> Expr) -> Condition {
    let condition = occurred.since.map_or(condition.clone(), |since| condition.add(column().gte(since)));
    occurred.until.map_or(condition.clone(), |until| condition.add(column().lte(until)))
}

/// Ids of events in the range that involve a resource which fits `part`.
fn involved(occurred: &EventOccurredFilter, part: Condition) -> SelectStatement {
    let mut select = Query::select();
    select.column((t::EventResources::Table, t::EventResources::EventId)).from(t::EventResources::Table);
    select.cond_where(within(Cond::all(), occurred, || resource(t::EventResources::Occurred))).cond_where(part);
    select
}

fn starts_with(column: Expr, prefix: &str) -> Expr {
    column.like(LikeExpr::new(format!("{}%", escaped(prefix))).escape('\\'))
}

fn any_prefix(column: impl Fn() -> Expr, prefixes: &[String]) -> Condition {
    prefixes.iter().fold(Cond::any(), |any, prefix| any.add(starts_with(column(), prefix)))
}

/// What LIKE would take for a wildcard, taken literally.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}

/// A pattern of a label: `*` and `?` are wildcards, a leading `!` negates.
fn fits(column: Expr, pattern: &str) -> Expr {
    let negated = pattern.strip_prefix('!');
    let like = LikeExpr::new(escaped(negated.unwrap_or(pattern)).replace('*', "%").replace('?', "_")).escape('\\');
    if negated.is_some() { column.not_like(like) } else { column.like(like) }
}

fn specification(mut part: Condition, labels: &ResourceSpecification, dialect: Dialect) -> Condition {
    for (label, patterns) in &labels.0 {
        part = match label.as_str() {
            // The id and the role have columns of their own.
            "prefect.resource.role" => part.add(resource(t::EventResources::ResourceRole).is_in(patterns)),
            "prefect.resource.id" => {
                part.add(patterns.iter().fold(Cond::any(), |any, one| any.add(fits(resource(t::EventResources::ResourceId), one))))
            }
            _ if patterns.is_empty() => part.add(Expr::cust("1 = 0")),
            label => {
                let value = || dialect.json_label(resource(t::EventResources::Resource), label);
                part.add(patterns.iter().fold(Cond::any(), |any, one| any.add(fits(value(), one))))
            }
        };
    }
    part
}

fn searches(search: &TextSearch, dialect: Dialect) -> Condition {
    let text = || {
        dialect.lower_concatenated([
            event(t::Events::Event),
            event(t::Events::Resource),
            event(t::Events::Related),
            event(t::Events::Payload),
        ])
    };
    let has = |term: &String| text().like(LikeExpr::new(format!("%{}%", escaped(term))).escape('\\'));
    let mut all = Cond::all();
    if !search.include.is_empty() {
        all = all.add(search.include.iter().fold(Cond::any(), |any, term| any.add(has(term))));
    }
    for term in &search.exclude {
        all = all.add(has(term).not());
    }
    for term in &search.required {
        all = all.add(has(term));
    }
    all
}
